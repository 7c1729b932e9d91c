"""The Python interface: models, ψ and selectors by their config names, one question about one image, results as frames.

    from semclip_eval.api import ask
    reply = ask("street.jpg", "What is the color of the bicycle?", options=["red", "blue"], selector="semclip")
    print(reply.answer, reply.visual_tokens, reply.boxes)

Nothing heavy is imported before it is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from semclip_eval.components import build
from semclip_eval.compose import compose
from semclip_eval.config import RunConfig, run_config
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.types import Box, View

if TYPE_CHECKING:
    import pandas as pd

    from semclip_eval.answers.pipeline import CropScheme
    from semclip_eval.models.base import VLM
    from semclip_eval.relevance.base import Relevance
    from semclip_eval.selectors.base import Selector

__all__ = ["Reply", "ask", "load_crops", "load_psi", "load_results", "load_selector", "load_vlm"]


@dataclass(frozen=True)
class Reply:
    """What the VLM answered, and what it was shown.

    answer: the text, or the option with the smallest loss; None where several options tie or the text names none of
    them (`status` is `unparsed` then, `reason` says why). choice: the option's index. option_losses: nats per token.
    views: in the order shown, boxes in pixels of the image; `images` are their pixels. candidates: every candidate
    crop with ψ's score (None without ψ). forwards: VLM forwards that the selector spent. latency_ms: by
    stage as docs/latency.md names them, `e2e` from the decoded image to the answer; None unless `timed`.
    """

    answer: str | None
    status: str
    reason: str
    choice: int | None
    option_losses: tuple[float, ...] | None
    views: tuple[View, ...]
    images: tuple[Image.Image, ...]
    candidates: tuple[tuple[Box, float | None], ...]
    visual_tokens: int | None
    text_tokens: int | None
    forwards: int
    latency_ms: Mapping[str, float] | None = field(default=None, compare=False)

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The boxes that were shown beside the overview."""
        return tuple(box for view in self.views if view.kind != "overview" for box in view.sources)


def load_vlm(name: str | None = None, *, profile: str = "auto", device: str = "auto", dtype: str = "auto",
             config_dir: str | Path | None = None, **keys: Any) -> VLM:  # fmt: skip
    """A vision-language model by its config's name (`semclip-eval list model`); None for the profile's own.

    keys: those of its config (`path="folder"`, `load_format="dummy"`). Raises ConfigError and ModelError like a run.
    """
    config = _composed("model", name, profile, config_dir)
    run = _run(config, device, dtype)
    vlm: VLM = build("model", {**config["model"], **keys}, device=run.device, dtype=run.dtype)
    return vlm


def load_psi(name: str | None = None, *, profile: str = "auto", device: str = "auto", dtype: str = "auto",
             config_dir: str | Path | None = None, **keys: Any) -> Relevance:  # fmt: skip
    """A ψ by its config's name (`semclip-eval list psi`), its weights loaded; None for the profile's own."""
    config = _composed("psi", name, profile, config_dir)
    run = _run(config, device, dtype)
    psi: Relevance = build("psi", {**config["psi"], **keys}, device=run.device, dtype=run.dtype)
    psi.load()
    return psi


def load_selector(name: str = "semclip", *, config_dir: str | Path | None = None, **keys: Any) -> Selector:
    """A selector by its config's name (`semclip-eval list selector`); keys are those of its config (`top_k=2`)."""
    selector: Selector = build("selector", {**_composed("selector", name, "mini", config_dir)["selector"], **keys})
    return selector


def load_crops(name: str | None = None, *, profile: str = "auto", config_dir: str | Path | None = None,
               **keys: Any) -> CropScheme:  # fmt: skip
    """A crop scheme by its config's name (`semclip-eval list crops`); None for the profile's own."""
    scheme: CropScheme = build("crops", {**_composed("crops", name, profile, config_dir)["crops"], **keys})
    return scheme


def ask(
    image: Image.Image | str | Path,
    question: str,
    *,
    options: Sequence[str] = (),
    protocol: str | None = None,
    selector: Selector | str = "semclip",
    vlm: VLM | str | None = None,
    psi: Relevance | str | None = None,
    crops: CropScheme | str | None = None,
    boxes: Sequence[tuple[int, int, int, int]] = (),
    max_new_tokens: int = 128,
    seed: int = 0,
    profile: str = "auto",
    timed: bool = False,
) -> Reply:
    """One question about one image, through the very stages of a run.

    protocol: `likelihood` (the default with options), `letter`, `short_answer` (the default without) or `plain`.
    selector, vlm, psi, crops: a config's name or a loaded object; None for the profile's own. Load a VLM once and hand
    it over where several questions follow. boxes: (left, top, right, bottom) in pixels of the image, for selectors that
    use the truth. timed: nothing of an earlier question is reused and `latency_ms` is given; a first call still loads
    and warms up. Raises QuestionError where the question cannot be answered; nothing else is an answer.
    """
    from semclip_eval.answers.pipeline import Pipeline
    from semclip_eval.answers.sources import check_capabilities
    from semclip_eval.benchmarks.images import read_rgb
    from semclip_eval.benchmarks.single import SingleQuestion
    from semclip_eval.modes import SINGLE

    picture = image.convert("RGB") if isinstance(image, Image.Image) else read_rgb(Path(image).expanduser())
    benchmark = SingleQuestion(picture, question, options, protocol, [Box(*box) for box in boxes], max_new_tokens)
    chooser = load_selector(selector) if isinstance(selector, str) else selector
    if "judge" in chooser.needs:
        raise ConfigError(
            f"selector={chooser.name}: scores answers against the right one, which a single question does not have; "
            "it needs a benchmark."
        )
    if chooser.uses_truth and not boxes:
        raise ConfigError(
            f"selector={chooser.name}: sees the annotated boxes; give them, as boxes=[(left, top, right, bottom)] or "
            "--box X,Y,W,H."
        )
    model = load_vlm(vlm, profile=profile) if vlm is None or isinstance(vlm, str) else vlm
    check_capabilities(chooser, type(model), model.name)
    relevance: Relevance | None = None
    if "psi" in chooser.needs:
        relevance = load_psi(psi, profile=profile) if psi is None or isinstance(psi, str) else psi
        if relevance.needs_vlm:
            relevance.attach(model)
    scheme: CropScheme | None = None
    if "candidates" in chooser.needs:
        scheme = load_crops(crops, profile=profile) if crops is None or isinstance(crops, str) else crops
    run = RunConfig(seed=seed, device=model.device, dtype=model.dtype)
    reads = relevance.text if relevance is not None else "question"
    pipeline = Pipeline(benchmark, chooser, scheme, relevance, model, run, reads, SINGLE if timed else None)
    (item,) = pipeline.answer(benchmark.questions())
    if item.error is not None:
        raise item.error if isinstance(item.error, QuestionError) else QuestionError(str(item.error)) from item.error
    selection, answer, prepared = item.selection, item.answer, item.pruned or item.prepared
    if selection is None or answer is None or item.selection_input is None:
        raise QuestionError("the question was not answered")
    score = benchmark.score(item.question, answer)
    text = answer.text if answer.option_losses is None else None
    if score.choice is not None:
        text = benchmark.question.options[score.choice]
    candidates = item.selection_input.offered_candidates
    scores = selection.candidate_relevance or (None,) * len(candidates)
    return Reply(
        answer=text if score.status == "ok" else None,
        status=score.status,
        reason=score.reason,
        choice=score.choice,
        option_losses=answer.option_losses,
        views=selection.views,
        images=tuple(view.pixels(picture) for view in selection.views),
        candidates=tuple(zip(candidates, scores, strict=True)),
        visual_tokens=answer.visual_tokens if prepared is None else prepared.visual_tokens,
        text_tokens=answer.text_tokens if prepared is None else prepared.text_tokens,
        forwards=selection.cost.forwards,
        latency_ms=pipeline.clock.report(answer.new_tokens),
    )


def load_results(folder: str | Path) -> pd.DataFrame:
    """The rows of all finished runs below a results folder (docs/files.md), one a run; `folder` is the run's own.

    Numbers are numbers, an empty cell is NaN. Raises ConfigError where there is no finished run.
    """
    import pandas as pd

    from semclip_eval.results.columns import SUMMARY_NAMES, TEXT_NAMES
    from semclip_eval.results.summary import finished_runs, unguarded

    summaries = finished_runs(Path(folder).expanduser())
    if not summaries:
        raise ConfigError(f"{folder}: there is no finished run below it.")
    frames = [
        pd.read_csv(path, converters=dict.fromkeys(TEXT_NAMES, unguarded))
        .replace("", None)
        .assign(folder=str(path.parent))
        for path in summaries
    ]
    filled = pd.concat([frame.dropna(axis="columns", how="all") for frame in frames], ignore_index=True)
    return filled.reindex(columns=[*SUMMARY_NAMES, "folder"])


def _composed(group: str, name: str | None, profile: str, config_dir: str | Path | None) -> dict[str, Any]:
    return compose([] if name is None else [f"{group}={name}"], profile, config_dir)


def _run(config: dict[str, Any], device: str, dtype: str) -> RunConfig:
    wanted = {key: value for key, value in (("device", device), ("dtype", dtype)) if value != "auto"}
    return run_config({**config["run"], **wanted})
