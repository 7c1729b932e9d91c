"""From `psi.model` and `psi.pretrained` to an open_clip model that is ready to score, or an error that says what to do.

open_clip itself goes on with a warning where weights are missing (random scores) or the activation does not fit them
(slightly wrong scores); here the first is an error and the second is set right.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from semclip_eval.checks import first_line
from semclip_eval.digest import folder_digest
from semclip_eval.errors import ConfigError, ModelError
from semclip_eval.hub import offline_if_unreachable
from semclip_eval.lazy import library
from semclip_eval.pixels import FILTERS, Preprocess, looked_up, same_bits, torch_resized, value_table
from semclip_eval.places import psi_model
from semclip_eval.relevance.trained import is_trained, load_trained, read_provenance, revision_of

if TYPE_CHECKING:
    import open_clip
    import torch
else:
    open_clip, torch = library("open_clip"), library("torch")

LOCAL_DIR = "local-dir:"
DUMMY_SEED = 0
NO_HUB = "Give psi.pretrained=FILE or psi.model=local-dir:FOLDER with a local copy, or use profile=mini."


@dataclass(frozen=True)
class Source:
    """Where weights come from, checked as far as that goes without loading them.

    model: what open_clip is asked for, an architecture or `local-dir:FOLDER`. pretrained: a tag or a file; None for a
    folder. revision: the tag, or `local:` and the digest of the files. force_quick_gelu: the tag was trained with an
    activation that the architecture does not name. preprocessing: settings that open_clip would not find by itself.
    trained: the folder of `train-psi` whose weights lie over these. random: no weights were asked for (`dummy`).
    """

    model: str
    pretrained: str | None
    revision: str
    force_quick_gelu: bool = False
    preprocessing: dict[str, Any] = field(default_factory=dict)
    trained: Path | None = None
    random: bool = False


@dataclass(frozen=True)
class LoadedClip:
    """A model in evaluation mode with its preprocessing (RGB image -> float tensor 3 x H x W) and its tokenizer.

    stretch: the same preprocessing, but every picture fills the model's square: for maps over the whole picture.
    published: the preprocessing with the bits of open_clip's own, whatever resizes.
    """

    model: Any
    preprocess: Callable[[Image.Image], torch.Tensor]
    stretch: Callable[[Image.Image], torch.Tensor]
    tokenizer: Any
    context_length: int
    published: Callable[[Image.Image], torch.Tensor]

    def text_length(self, text: str) -> int:
        """Number of tokens of a text, special tokens included, before it is cut at `context_length`."""
        hf_tokenizer = getattr(self.tokenizer, "tokenizer", None)
        if hf_tokenizer is None:
            # open_clip's SimpleTokenizer puts one start and one end token around the text.
            return len(self.tokenizer.encode(text)) + 2
        cleaned = self.tokenizer.clean_fn(text)
        if self.tokenizer.tokenizer_mode == "clips":
            # This mode drops the tokenizer's own special tokens and adds start, end and class token.
            return len(hf_tokenizer(cleaned, add_special_tokens=False, verbose=False)["input_ids"]) + 3
        return len(hf_tokenizer(cleaned, truncation=False, verbose=False)["input_ids"])


@dataclass(frozen=True)
class DummyTokenizer:
    """For random weights whose own tokenizer only the Hub has (SigLIP's): CLIP's ids, folded into the vocabulary."""

    context_length: int
    vocabulary: int

    def encode(self, text: str) -> list[int]:
        """The ids of a text without start and end token, uncut."""
        return [number % self.vocabulary for number in open_clip.SimpleTokenizer().encode(text)]

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """(texts, context length), cut and padded."""
        ids: torch.Tensor = open_clip.SimpleTokenizer(context_length=self.context_length)(list(texts))
        return ids % self.vocabulary


def resolve(model: str, pretrained: str | None, load_format: str = "auto") -> Source:
    """The source that `psi.model` and `psi.pretrained` name; ModelError where there is no such thing.

    With `load_format='dummy'` the named architecture gets random weights, and nothing is fetched. `pretrained` may be a
    folder that `train-psi` wrote.
    """
    trained = None if pretrained is None else Path(pretrained).expanduser()
    if trained is not None and trained.is_dir() and is_trained(trained):
        return _trained_source(model, trained, load_format)
    if load_format == "dummy":
        return _random_source(model)
    model = psi_model(model, LOCAL_DIR)
    if model.startswith(LOCAL_DIR):
        return _folder_source(model, pretrained)
    if model.startswith("hf-hub:"):
        raise ModelError(
            f"psi.model={model}: a Hub name carries no revision, so a result could not say what it used. "
            f"Download the repository and give psi.model={LOCAL_DIR}FOLDER."
        )
    return _named_source(model, pretrained)


def _trained_source(model: str, folder: Path, load_format: str) -> Source:
    provenance = read_provenance(folder)
    if provenance.model != model:
        raise ModelError(
            f"psi.pretrained={folder}: was trained from psi.model={provenance.model}, not from psi.model={model}."
        )
    base = resolve(model, provenance.pretrained, load_format)
    if base.revision != provenance.base_revision:
        raise ModelError(
            f"psi.pretrained={folder}: was trained from weights {provenance.base_revision}, and psi.model={model} is "
            f"{base.revision} here. Train again, or give the weights that it was trained from."
        )
    return replace(base, revision=revision_of(folder), trained=folder)


def _random_source(model: str) -> Source:
    architecture = model.replace("/", "-")
    known = open_clip.list_models()
    if architecture not in known:
        raise ModelError(
            f"psi.load_format=dummy: psi.model={model} is no architecture of open_clip."
            f"{_close(architecture, known)} Random weights have a shape by name only, such as ViT-L-14-336-quickgelu."
        )
    return Source(architecture, None, f"dummy:seed{DUMMY_SEED}", random=True)


def _folder_source(model: str, pretrained: str | None) -> Source:
    if pretrained is not None:
        raise ModelError(
            f"psi.pretrained={pretrained}: psi.model={model} has its own weights; set psi.pretrained=null."
        )
    folder = Path(model.removeprefix(LOCAL_DIR)).expanduser()
    if not folder.is_dir():
        raise ModelError(f"psi.model={model}: there is no such folder.")
    if not (folder / "open_clip_config.json").is_file():
        raise ModelError(f"psi.model={model}: the folder has no open_clip_config.json.")
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in folder.iterdir()):
        raise ModelError(f"psi.model={model}: the folder has no weights (such as open_clip_model.safetensors).")
    return Source(f"{LOCAL_DIR}{folder}", None, _local_revision("psi.model", folder))


def _named_source(model: str, pretrained: str | None) -> Source:
    architecture = model.replace("/", "-")
    known = open_clip.list_models()
    if architecture not in known:
        raise ModelError(
            f"psi.model={model}: unknown architecture.{_close(architecture, known)} "
            f"open_clip.list_models() has all {len(known)}; a folder goes as {LOCAL_DIR}FOLDER."
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    listed = f"Tags of {architecture}: {', '.join(tags) or 'none'}."
    if pretrained is None:
        raise ModelError(f"psi.pretrained=null: {architecture} needs a tag or a file of weights. {listed}")
    if open_clip.is_pretrained_cfg(architecture, pretrained):
        # open_clip only warns here, and the plain architecture with these weights computes something else.
        wanted = bool(open_clip.get_pretrained_cfg(architecture, pretrained).get("quick_gelu", False))
        return Source(architecture, pretrained, pretrained, force_quick_gelu=wanted)
    file = Path(pretrained).expanduser()
    if file.is_file():
        revision = _local_revision("psi.pretrained", file)
        return Source(architecture, str(file), revision, preprocessing=_preprocessing_of_tags(architecture, tags, file))
    if file.is_dir():
        raise ModelError(
            f"psi.pretrained={pretrained}: is a folder; give the file in it, or psi.model={LOCAL_DIR}FOLDER."
        )
    if file.suffix or len(file.parts) > 1:
        raise ModelError(f"psi.pretrained={pretrained}: there is no such file. {listed}")
    raise ModelError(f"psi.pretrained={pretrained}: no such tag and no such file.{_close(pretrained, tags)} {listed}")


def _preprocessing_of_tags(architecture: str, tags: Sequence[str], file: Path) -> dict[str, Any]:
    """How the published weights of an architecture want their pixels.

    A file does not say, and open_clip's default is OpenAI's normalisation, which is wrong for SigLIP.
    """
    settings = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
    if len({(tuple(each["mean"]), tuple(each["std"])) for each in settings}) > 1:
        raise ModelError(
            f"psi.pretrained={file}: weights of {architecture} differ in how they normalise pixels, and a file does "
            f"not say how. Give psi.model={LOCAL_DIR}FOLDER with the preprocess_cfg in open_clip_config.json."
        )
    return {key: settings[0][key] for key in ("mean", "std", "interpolation", "resize_mode")} if settings else {}


def _local_revision(key: str, path: Path) -> str:
    try:
        return f"local:{folder_digest(path)}"
    except OSError as error:
        raise ModelError(f"{key}={path}: cannot be read ({error.strerror}).") from error


def _close(value: str, known: Sequence[str]) -> str:
    by_lower_case = {name.lower(): name for name in known}
    close = difflib.get_close_matches(value.lower(), list(by_lower_case), n=3, cutoff=0.5)
    return f" Did you mean {', '.join(by_lower_case[name] for name in close)}?" if close else ""


def load(
    source: Source, device: str, precision: str, resize_mode: Literal["squash", "longest"], resize_with: str = "pillow"
) -> LoadedClip:
    """The model on `device`, with the preprocessing that shows it the whole crop; ModelError where that fails.

    A model whose own preprocessing already shows everything (`squash`, `longest`) keeps it; one that cuts the sides
    off (`shortest`, CLIP's own) gets `resize_mode` instead.
    """
    local = source.model.startswith(LOCAL_DIR)
    # The libraries below read files and speak to the network, and raise whatever comes to them.
    random_weights = source.random
    text = {} if local else open_clip.get_model_config(source.model)["text_cfg"]
    alone = local or (random_weights and "hf_model_name" not in text)
    with _quiet_root_logger(), _seeded(device), nullcontext() if alone else offline_if_unreachable() as reason:
        try:
            model = open_clip.create_model(
                source.model,
                source.pretrained,
                precision=precision,
                device=device,
                force_quick_gelu=source.force_quick_gelu,
                force_preprocess_cfg=source.preprocessing,
                require_pretrained=not random_weights,
            )
        except Exception as error:
            raise ModelError(_loading_message(source, error, reason)) from error
        if source.trained is not None:
            load_trained(model, source.trained)
        try:
            tokenizer: Any
            if random_weights and "hf_tokenizer_name" in text:
                tokenizer = DummyTokenizer(model.context_length, model.vocab_size)
            else:
                tokenizer = open_clip.get_tokenizer(source.model)
        except Exception as error:
            raise ModelError(
                f"psi.model={source.model}: its tokenizer could not be loaded ({reason or first_line(error)}). "
                f"Without the Hub, give psi.model={LOCAL_DIR}FOLDER with config, weights and tokenizer files."
            ) from error
    settings = dict(open_clip.get_model_preprocess_cfg(model))
    if settings["resize_mode"] == "shortest":
        settings["resize_mode"] = resize_mode
    transform, config = open_clip.transform.image_transform_v2, open_clip.transform.PreprocessCfg
    published = by_table(transform(config(**settings), is_train=False))
    preprocess = by_table(transform(config(**settings), is_train=False), resize_with)
    stretch = by_table(transform(config(**{**settings, "resize_mode": "squash"}), is_train=False), resize_with)
    return LoadedClip(model.eval(), preprocess, stretch, tokenizer, int(tokenizer.context_length), published)


def by_table(preprocess: Any, resize_with: str = "pillow") -> Preprocess:
    """The same preprocessing with its last two steps, to tensor and normalise, looked up; itself where bits differ.

    resize_with: `torch` replaces the resize too (`pixels.torch_resized`), whose bits differ; ConfigError where the
    preprocessing is not a stretch to a square, to tensor and normalise.
    """
    steps = list(getattr(preprocess, "transforms", ()))
    names = [type(step).__name__.removeprefix("Maybe") for step in steps]

    def resized(image: Image.Image) -> Image.Image:
        for step in steps[:-2]:
            image = step(image)
        return image

    def pixels(image: Image.Image) -> torch.Tensor:
        return looked_up(values, resized(image))

    is_exact = names[-2:] == ["ToTensor", "Normalize"]
    if is_exact:
        values = value_table(lambda image: steps[-1](steps[-2](image)))
        is_exact = same_bits(pixels, preprocess, ((1, 1), (3, 5), (64, 64), (91, 40)))
    if resize_with == "pillow":
        return pixels if is_exact else preprocess
    stretch = _stretch(steps, names) if is_exact else None
    if stretch is None:
        raise ConfigError(
            f"psi.resize_with={resize_with}: this ψ's preprocessing is more than a stretch to a square and a "
            "normalisation; set psi.resize_with=pillow."
        )
    side, resample = stretch
    return lambda image: looked_up(values, torch_resized(image.convert("RGB"), side, resample))


def _stretch(steps: Sequence[Any], names: Sequence[str]) -> tuple[int, int] | None:
    """Side and filter (Pillow's number) of a preprocessing whose one step before the last two is a stretch."""
    if list(names) != ["Resize", "ConvertMode", "ToTensor", "Normalize"] or isinstance(steps[0].size, int):
        return None
    sides = set(steps[0].size)
    numbers = [number for number, name in FILTERS.items() if name == getattr(steps[0].interpolation, "value", "")]
    return (int(sides.pop()), numbers[0]) if len(sides) == 1 and numbers else None


def _loading_message(source: Source, error: Exception, hub_reason: str | None) -> str:
    key = f"psi.model={source.model}" if source.pretrained is None else f"psi.pretrained={source.pretrained}"
    if "Failed to download" in str(error):
        why = hub_reason or first_line(error)
        return f"{key}: the weights of {source.model} are not cached and could not be fetched ({why}). {NO_HUB}"
    if "state_dict" in str(error):
        return f"{key}: these weights do not fit the architecture {source.model} ({first_line(error)})"
    return f"{key}: the weights could not be read ({type(error).__name__}: {first_line(error)})"


@contextmanager
def _seeded(device: str) -> Iterator[None]:
    """Random weights are the same in every process; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(DUMMY_SEED)
        yield


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """open_clip reports every step to the root logger, which would land in the run's log and on the screen."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    root = logging.getLogger()
    root.addFilter(drop)
    try:
        yield
    finally:
        root.removeFilter(drop)
