"""A model of VLMEvalKit around one of its own: every question's image is replaced by the views of a selector.

    from vlmeval.config import supported_VLM
    supported_VLM["qwen_semclip"] = partial(SelectedViews, inner="Qwen2.5-VL-7B-Instruct", selector="semclip")

Prompts and answers stay the inner model's, whose own prompts for a dataset are used where it has some.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from vlmeval.vlm.base import BaseModel

from semclip_eval.errors import ConfigError
from semclip_eval.plugins.chooser import ViewChooser, only_image

# How VLMEvalKit writes a question with options: what ψ reads stands between.
QUESTION = re.compile(r"Question:\s*(.*?)\s*(?:\nOptions:|\nHint:|\nPlease |\Z)", re.DOTALL)


class SelectedViews(BaseModel):
    """inner: a name of `supported_VLM`, or a model that is there already. settings: `selector`, `crops`, `psi`,
    `profile`, and keys with dots (`**{"selector.top_k": 2}`).
    """

    is_api = False

    def __init__(self, inner: Any, **settings: Any) -> None:
        self.chooser = ViewChooser(settings)
        self.inner = _built(inner) if isinstance(inner, str) else inner
        self.INTERLEAVE = bool(getattr(self.inner, "INTERLEAVE", False))
        super().__init__()

    def use_custom_prompt(self, dataset: str) -> bool:
        return bool(self.inner.use_custom_prompt(dataset))

    def build_prompt(self, line: Any, dataset: str | None = None) -> Any:
        return self.inner.build_prompt(line, dataset)

    def set_dump_image(self, dump_image_func: Any) -> None:
        super().set_dump_image(dump_image_func)
        self.inner.set_dump_image(dump_image_func)

    def generate_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> Any:
        """The inner model's answer to the message with the views in place of its image."""
        path = only_image([part["value"] for part in message if part["type"] != "text"], str(dataset))
        text = "\n".join(part["value"] for part in message if part["type"] == "text")
        asked = QUESTION.search(text)
        with Image.open(path) as image:
            views = self.chooser.views(f"{dataset}/{Path(path).stem}", image, asked.group(1) if asked else text)
        with tempfile.TemporaryDirectory(prefix="semclip_eval_views_") as folder:
            shown: list[dict[str, Any]] = []
            for part in message:
                if part["type"] == "text":
                    shown.append(dict(part))
                    continue
                for number, view in enumerate(views):
                    place = Path(folder) / f"{number}.png"
                    view.save(place)
                    shown.append({**part, "value": str(place)})
            return self.inner.generate(shown, dataset)


def _built(name: str) -> Any:
    from vlmeval.config import supported_VLM

    if name not in supported_VLM:
        raise ConfigError(f"inner={name}: VLMEvalKit has no such model in supported_VLM.")
    return supported_VLM[name]()
