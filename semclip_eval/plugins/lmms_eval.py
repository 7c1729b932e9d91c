"""A model of lmms-eval around one of its own: every question's image is replaced by the views that a selector chooses.

    lmms-eval --model semclip_eval --model_args inner=qwen2_5_vl,selector=semclip,pretrained=... --tasks vstar_bench

Registered by the entry point `lmms_eval.models`. Prompts, batches and answers stay the inner model's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmms_eval.api.model import lmms
from PIL import Image

from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.plugins.chooser import ViewChooser, only_image

# Keys of --model_args that are ours; dotted ones (`selector.top_k`) too, all others are the inner model's.
OURS = ("selector", "crops", "psi", "profile")
SECTIONS = ("selector.", "crops.", "psi.", "run.")


class SelectedViews(lmms):
    """The inner model's `simple` class. inner: its name. question_key: the document's key with what ψ reads."""

    is_simple = True

    def __init__(self, inner: str = "", question_key: str = "question", **arguments: Any) -> None:
        super().__init__()
        if not inner:
            raise ConfigError("--model_args inner=NAME: name the lmms-eval model that answers (lmms-eval models).")
        settings = {key: value for key, value in arguments.items() if key in OURS or key.startswith(SECTIONS)}
        self.question_key = question_key
        self.chooser = ViewChooser(settings)
        self.inner = _class_of(inner, self.is_simple)(**{k: v for k, v in arguments.items() if k not in settings})
        # The evaluator puts every task's documents into this mapping, and the inner model looks them up there.
        self.inner.task_dict = self.task_dict
        self._rank, self._world_size = self.inner.rank, self.inner.world_size

    def generate_until(self, requests: Sequence[Any]) -> Any:
        return self.inner.generate_until([self._changed(request) for request in requests])

    def loglikelihood(self, requests: Sequence[Any]) -> Any:
        return self.inner.loglikelihood([self._changed(request) for request in requests])

    def generate_until_multi_round(self, requests: Sequence[Any]) -> Any:
        raise NotImplementedError("semclip_eval: a task of several rounds asks for other images as it goes on")

    def set_cache_hook(self, cache_hook: Any) -> None:
        super().set_cache_hook(cache_hook)
        self.inner.set_cache_hook(cache_hook)

    @property
    def rank(self) -> Any:
        return self.inner.rank

    @property
    def world_size(self) -> Any:
        return self.inner.world_size

    def clean(self) -> None:
        self.inner.clean()

    def __getattr__(self, name: str) -> Any:
        """What lmms-eval reads of a model beside (`accelerator`, `device`, `tokenizer`, `batch_size`)."""
        if name == "inner":  # not made yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    def _changed(self, request: Any) -> Any:
        """The request with the views in place of its image."""
        place = next(index for index, value in enumerate(request.args) if callable(value) and self._reads(value))
        changed = copy.copy(request)
        arguments = list(request.args)
        arguments[place] = self._replaced(arguments[place], request)
        changed.arguments = tuple(arguments)
        return changed

    def _reads(self, value: Callable[..., Any]) -> bool:
        """Is it the argument that reads a document's images? Its place differs between the kinds of requests."""
        return "doc_to_visual" in getattr(value, "__name__", "")

    def _replaced(self, read: Callable[..., Any], request: Any) -> Callable[..., Any]:
        chosen: list[Any] = []

        def views(document: Any) -> list[Any]:
            if not chosen:
                chosen.extend(self._views(read(document), document, request))
            return list(chosen)

        return views

    def _views(self, images: Any, document: Mapping[str, Any], request: Any) -> list[Image.Image]:
        identity = f"{request.task_name}/{request.doc_id}"
        image = only_image(list(images), identity)
        if not isinstance(image, Image.Image):
            raise QuestionError(f"{identity}: {type(image).__name__} is no image; a selector chooses from one image.")
        told = document.get(self.question_key) if isinstance(document, Mapping) else None
        return self.chooser.views(identity, image, str(told or request.args[0]))


class SelectedViewsChat(SelectedViews):
    """The inner model's `chat` class, whose requests are messages."""

    is_simple = False

    def _reads(self, value: Callable[..., Any]) -> bool:
        return "doc_to_messages" in getattr(value, "__name__", "")

    def _replaced(self, read: Callable[..., Any], request: Any) -> Callable[..., Any]:
        def messages(document: Any, **keys: Any) -> list[Any]:
            asked = read(document, **keys)
            media = [part for message in asked for part in _parts(message) if part["type"] != "text"]
            images = [part["url"] if part["type"] == "image" else part["type"] for part in media]
            views = [{"type": "image", "url": view} for view in self._views(images, document, request)]
            return [
                {
                    **message,
                    "content": [
                        one for part in _parts(message) for one in ([part] if part["type"] == "text" else views)
                    ],
                }
                for message in asked
            ]

        return messages


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _class_of(name: str, is_simple: bool) -> Any:
    """lmms-eval's class of that name of our kind; ConfigError where it has none."""
    from lmms_eval.models import MODEL_REGISTRY_V2

    try:
        manifest = MODEL_REGISTRY_V2.get_manifest(name)
    except ValueError as error:
        raise ConfigError(f"inner={name}: lmms-eval has no such model (lmms-eval models lists them).") from error
    if not is_simple and manifest.chat_class_path is None:
        raise ConfigError(f"inner={name}: has no chat class in lmms-eval: add --force_simple.")
    if is_simple and manifest.simple_class_path is None:
        raise ConfigError(f"inner={name}: has only a chat class in lmms-eval: leave out --force_simple.")
    return MODEL_REGISTRY_V2.get_model_class(name, force_simple=is_simple)
