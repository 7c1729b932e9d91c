"""One question on its way, and the record that is made of it at the end."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.components import error_place
from semclip_eval.crops import coverage, intersection, whole_image
from semclip_eval.errors import NotFiniteError, QuestionError, SemclipEvalError
from semclip_eval.models.transformers.memory import out_of_memory
from semclip_eval.results.records import Record
from semclip_eval.selectors.base import SelectionInput
from semclip_eval.types import BLACK, Answer, Box, Kept, Prompt, Question, Score, Selection, TraceStep, View

if TYPE_CHECKING:
    from semclip_eval.models.base import ModelInputs
    from semclip_eval.models.insight import TokenBoxes

Latencies = Callable[[int | None], dict[str, float] | None]


@dataclass
class Item:
    """One question on its way: each stage fills in its part, or `error` ends the way.

    `pruned` is the prompt with only the `kept` visual tokens; `prepared` stays whole, so that a stage can be repeated.
    `token_boxes` says for each view where its visual tokens lie, where some were dropped.
    `flops` are analytic, by stage.
    """

    question: Question
    image: Image.Image | None = None
    prompt: Prompt | None = None
    selection_input: SelectionInput | None = None
    selection: Selection | None = None
    prepared: ModelInputs | None = None
    pruned: ModelInputs | None = None
    kept: Kept | None = None
    token_boxes: Sequence[TokenBoxes] = ()
    answer: Answer | None = None
    flops: dict[str, int | None] | None = None
    error: Exception | None = field(default=None, repr=False)
    place: str = ""

    def fail(self, error: Exception) -> None:
        """End the way here; `place` is where in a user's own code, before the traceback is let go of."""
        self.error = error
        self.place = "" if isinstance(error, QuestionError) else error_place(error)


def record_of(item: Item, benchmark: Benchmark, is_scored: bool, latencies: Latencies) -> Record:
    """The question's record; a number in it that is not finite makes it an error record without that number.

    is_scored: false where the length of the answer was forced. latencies: milliseconds by stage for an answer of so
    many new tokens; None where nothing was timed.
    """
    score: Score | None = None
    if item.error is None and is_scored:
        try:
            if item.answer is None:
                raise RuntimeError("a question without an error has no answer")
            score = benchmark.score(item.question, item.answer)
        except SemclipEvalError:
            raise
        except Exception as error:
            item.fail(error)
    record = _written(item, score, benchmark, latencies)
    for part in ("answer", "selection", "pruned", "prepared"):
        place = not_finite(dataclasses.asdict(record))
        if place is None:
            break
        if item.error is None:
            item.error = NotFiniteError(f"{place}: a model, ψ or selector gave a number that is not finite")
        setattr(item, part, None)
        record = _written(item, None, benchmark, latencies)
    return record


def _written(item: Item, score: Score | None, benchmark: Benchmark, latencies: Latencies) -> Record:
    question = item.question
    answer, selection, prepared = item.answer, item.selection, item.pruned or item.prepared
    losses = answer.option_losses if answer else None
    new_tokens = answer.new_tokens if answer else None
    return Record(
        question_id=question.id,
        **as_recorded(question),
        answer=answer.text if answer else None,
        choice=score.choice if score else None,
        option_losses=None if losses is None else [round(loss, 6) for loss in losses],
        score=score.value if score else None,
        status="error" if item.error else (score.status if score else "ok"),
        reason=score.reason if score else "",
        error={"type": type(item.error).__name__, "message": explained(item)} if item.error else None,
        views=_views(selection.views, item.token_boxes) if selection else None,
        target_coverage=target_coverage(_visible(item), selection.views) if selection else None,
        visual_tokens=_count("visual_tokens", prepared, answer),
        text_tokens=_count("text_tokens", prepared, answer),
        new_tokens=new_tokens,
        chance=benchmark.chance(question),
        latency_ms=None if item.error else latencies(new_tokens),
        candidates=_candidates(item),
        cost=dataclasses.asdict(selection.cost) if selection else None,
        encoded_tokens=_encoded_tokens(prepared, answer),
        kept=[list(view) for view in item.kept.indices] if item.kept else None,
        trace=[_trace_step(step) for step in selection.trace] if selection else None,
        measures={name: round(value, 6) for name, value in selection.measures.items()} if selection else None,
        image_size=list(item.image.size) if item.image is not None else None,
        flops=None if item.error else item.flops,
    )


def explained(item: Item) -> str:
    """The error's own words; where memory ran out, with the views and sizes that were asked for."""
    message = " ".join(str(item.error).split())
    if item.place:
        message = f"{message} ({item.place})"
    if out_of_memory(item.error) and item.selection is not None:
        sizes = ", ".join(f"{view.kind} {view.size[0]}x{view.size[1]}" for view in item.selection.views)
        tokens = f"; {item.prepared.visual_tokens} visual tokens" if item.prepared else ""
        message = f"out of memory with {len(item.selection.views)} views ({sizes}){tokens}: {message}"
    return message[:2000]


def as_recorded(question: Question) -> dict[str, Any]:
    """What a record says of its question, beside the id; the same whatever was answered."""
    return {
        "category": question.category,
        "image_id": question.image_id,
        "cluster": question.cluster or question.image_id,
        "tags": dict(question.tags),
        "question": question.text,
        "hint": question.hint,
        "options": list(question.options),
        "truth": list(question.truth) if isinstance(question.truth, tuple) else question.truth,
        "target_boxes": [list(box) for box in question.target_boxes],
    }


def target_coverage(targets: Sequence[Box], views: Sequence[View]) -> float | None:
    """The part of the least covered target box that the union of the selected crops covers, in [0, 1].

    None where the question has no boxes or nothing but the overview was selected. The overview does not count: it
    covers everything and shows little.
    """
    boxes = [box for view in views if view.kind != "overview" for box in view.sources]
    if not targets or not boxes:
        return None
    return round(min(coverage(target, boxes) for target in targets), 6)


def _visible(item: Item) -> list[Box]:
    """The parts of the target boxes that lie in the image: an annotation may reach a pixel beyond it."""
    if item.image is None:
        return list(item.question.target_boxes)
    whole = whole_image(item.image.width, item.image.height)
    return [part for box in item.question.target_boxes if (part := intersection(box, whole)) is not None]


def not_finite(value: Any, place: str = "") -> str | None:
    """Where in a nested value the first number stands that is NaN or infinite; None where there is none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{place.lstrip('.')} is {value}"
    if isinstance(value, dict):
        steps = ((f"{place}.{key}", inner) for key, inner in value.items())
    elif isinstance(value, (list, tuple)):
        steps = ((f"{place}[{number}]", inner) for number, inner in enumerate(value))
    else:
        return None
    return next((found for step, inner in steps if (found := not_finite(inner, step)) is not None), None)


def _views(views: Sequence[View], token_boxes: Sequence[TokenBoxes]) -> list[dict[str, Any]]:
    written = [_view(view) for view in views]
    if token_boxes:
        from semclip_eval.models.transformers.layout import grids_of

        for view, tokens in zip(written, token_boxes, strict=True):
            view["token_grids"] = grids_of(tokens.boxes)
    return written


def _view(view: View) -> dict[str, Any]:
    written: dict[str, Any] = {"kind": view.kind, "box": list(view.box), "psi": _rounded(view.relevance)}
    if view.parts:
        written["parts"] = [{"source": list(part.source), "place": list(part.place)} for part in view.parts]
    if view.background != BLACK:
        written["background"] = list(view.background)
    if view.marks:
        written["marks"] = [{"box": list(mark.box), "color": list(mark.color)} for mark in view.marks]
    return written


def _candidates(item: Item) -> list[dict[str, Any]] | None:
    """Every candidate crop with ψ's score, row by row; None where the question never reached the selector."""
    if item.selection_input is None or item.selection is None:
        return None
    boxes, scores = item.selection_input.offered_candidates, item.selection.candidate_relevance
    rows = itertools.zip_longest(boxes, scores[: len(boxes)])
    return [{"box": list(box), "psi": _rounded(score)} for box, score in rows]


def _trace_step(step: TraceStep) -> dict[str, Any]:
    return {"kind": step.kind, "box": list(step.box), "score": _rounded(step.score)}


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)


def _encoded_tokens(*sources: ModelInputs | Answer | None) -> int | None:
    """Visual tokens that the vision encoder made, whether or not the language model read them."""
    pruned = _count("encoded_tokens", *sources)
    return pruned if pruned is not None else _count("visual_tokens", *sources)


def _count(name: str, *sources: ModelInputs | Answer | None) -> int | None:
    """The prompt's tokens, counted when it was prepared or, by a server, when it was answered."""
    return next((count for source in sources if (count := getattr(source, name, None)) is not None), None)
