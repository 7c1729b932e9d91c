"""The way of a block of questions through the stages: load, select, prepare, vision, prune, prefill, decode, score.

A stage sees only what it is handed. Measurement wraps the stages from outside. What fails for one question becomes that
question's error record: a stage that fails for a batch is repeated question by question, so that only the one at fault
is lost. Errors that are the whole run's fault (SemclipEvalError) go up to the user. Answers that were made elsewhere
(`Replay`) skip everything up to the score: no image is opened, and what was not seen here stays empty.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from PIL import Image

from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.components import error_place
from semclip_eval.config import RunConfig
from semclip_eval.crops import coverage, intersection, whole_image
from semclip_eval.errors import NotFiniteError, QuestionError, SemclipEvalError
from semclip_eval.measure.stages import StageClock
from semclip_eval.models.replay import Replay
from semclip_eval.models.transformers.memory import out_of_memory
from semclip_eval.relevance.base import Relevance, psi_text
from semclip_eval.results.records import Record
from semclip_eval.selectors.base import PruneInput, SelectionInput, Selector, selection_input
from semclip_eval.selectors.tools import VLM_NEEDS, SelectorVLM, Tools
from semclip_eval.types import (
    Answer,
    Box,
    Cost,
    Kept,
    Prompt,
    Question,
    Request,
    Score,
    Selection,
    TraceStep,
    View,
)

if TYPE_CHECKING:
    from semclip_eval.models.base import VLM, Prepared

T = TypeVar("T")


class CropScheme(Protocol):
    """What the section `crops` builds."""

    def candidates(self, width: int, height: int) -> tuple[Box, ...]:
        """The candidate crops of an image of that many pixels, row by row."""


@dataclass
class Item:
    """One question on its way: each stage fills in its part, or `error` ends the way."""

    question: Question
    image: Image.Image | None = None
    prompt: Prompt | None = None
    selection_input: SelectionInput | None = None
    selection: Selection | None = None
    prepared: Prepared | None = None
    kept: Kept | None = None
    answer: Answer | None = None
    error: Exception | None = field(default=None, repr=False)
    place: str = ""

    def fail(self, error: Exception) -> None:
        """End the way here; `place` is where in a user's own code, before the traceback is let go of."""
        self.error = error
        self.place = "" if isinstance(error, QuestionError) else error_place(error)


class Pipeline:
    """Asks blocks of questions; the components are built once and stay. `selector` is None for answers of a Replay."""

    def __init__(
        self,
        benchmark: Benchmark,
        selector: Selector | None,
        crops: CropScheme | None,
        relevance: Relevance | None,
        vlm: VLM | Replay,
        run: RunConfig,
        psi_reads: str = "question",
    ) -> None:
        self.benchmark = benchmark
        self.selector = selector
        self.crops = crops
        self.relevance = relevance
        self.answers = vlm if isinstance(vlm, Replay) else None
        self.vlm = None if isinstance(vlm, Replay) else vlm
        self.run = run
        self.psi_reads = psi_reads
        self.clock = StageClock(run.device, on=run.mode == "latency")
        self._asked = 0
        self.tools = self._tools(relevance)
        self.prunes = selector is not None and "prune" in selector.needs

    def _tools(self, relevance: Relevance | None) -> Tools:
        """Only what the selector names in its `needs`."""
        needs = self.selector.needs if self.selector else frozenset()
        facade = None
        if self.vlm is not None and self.selector is not None and needs.intersection(VLM_NEEDS):
            facade = SelectorVLM(self.vlm, needs, self.selector.max_forwards, self.clock)
        return Tools(relevance if "psi" in needs else None, facade)

    def load(self, question: Question) -> Item:
        """Read one image (a thread of its own may do this ahead)."""
        item = Item(question)
        if self.answers is not None:
            return item
        try:
            item.image = question.load_image()
        except SemclipEvalError:
            raise
        except Exception as error:
            item.fail(error)
        return item

    def ask(self, questions: Sequence[Question], executor: Executor | None = None) -> list[Record]:
        """The records of a block, in its order. `executor` may prepare views in threads (accuracy mode)."""
        self.clock.reset()
        with self.clock.stage("load"):
            items = [self.load(question) for question in questions]
        return self.ask_loaded(items, executor)

    def ask_loaded(self, items: list[Item], executor: Executor | None = None) -> list[Record]:
        """`ask` for items whose images are loaded."""
        if self.answers is not None:
            for item in items:
                self._look_up(item, self.answers)
        else:
            self._go_through(items, executor)
        return [self._record(item) for item in items]

    def answer(self, questions: Sequence[Question]) -> list[Item]:
        """The questions at the end of their way, each with its answer or its error, not scored."""
        items = [self.load(question) for question in questions]
        self._go_through(items)
        return items

    def _go_through(self, items: list[Item], executor: Executor | None = None) -> None:
        """All stages but load and score."""
        _present(self.vlm).begin_block(keep=not self.clock.on)
        if self.relevance is not None:
            self.relevance.begin_block(keep=not self.clock.on)
        with self.clock.stage("select"):
            self._batched(items, self._select)
        with self.clock.stage("prepare"):
            alive = [item for item in items if item.error is None]
            for _ in executor.map(self._prepare, alive) if executor else map(self._prepare, alive):
                pass
        self._batched(items, self._answer)

    def _batched(self, items: Sequence[Item], stage: Callable[[list[Item]], None]) -> None:
        alive = [item for item in items if item.error is None]
        if not alive:
            return
        try:
            stage(alive)
        except SemclipEvalError:
            raise
        except Exception as error:
            if out_of_memory(error) and self.vlm is not None:
                self.vlm.release_memory()
            if len(alive) == 1:
                alive[0].fail(error)
            empty_device_cache(self.run.device, error)
            if len(alive) == 1:
                return
            for item in alive:
                self._batched([item], stage)

    def _look_up(self, item: Item, answers: Replay) -> None:
        try:
            item.prompt = self.benchmark.prompt(item.question)
            item.answer = answers.answer(item.question.id)
        except SemclipEvalError:
            raise
        except Exception as error:
            item.fail(error)

    def _select(self, items: list[Item]) -> None:
        selector = _present(self.selector)
        inputs = [self._selection_input(selector, item) for item in items]
        if self.tools.vlm is not None:
            self.tools.vlm.begin(item.question.id for item in items)
        for item, given, selection in zip(items, inputs, selector.select(inputs, self.tools), strict=True):
            cost = self.tools.vlm.cost(item.question.id) if self.tools.vlm is not None else Cost()
            item.selection_input, item.selection = given, dataclasses.replace(selection, cost=cost)

    def _selection_input(self, selector: Selector, item: Item) -> SelectionInput:
        image = _present(item.image)
        candidates = self.crops.candidates(image.width, image.height) if self.crops else ()
        text = psi_text(item.question, self.psi_reads)
        item.prompt = self.benchmark.prompt(item.question)
        given = selection_input(selector, item.question, image, text, candidates, self.run.seed, item.prompt.text)
        if not self.clock.on:
            return given
        # A ψ or selector with a cache of its own must not find an image by its name (the pixels were just read anew).
        self._asked += 1
        return dataclasses.replace(given, image_id=f"{given.image_id}#{self._asked}")

    def _prepare(self, item: Item) -> None:
        image = _present(item.image)
        try:
            prompt = _present(item.prompt)
            if self.clock.on and not prompt.continuations:
                prompt = dataclasses.replace(prompt, max_new_tokens=self.run.new_tokens)
            item.prompt = prompt
            images = tuple(view.pixels(image) for view in _present(item.selection).views)
            request = Request(images, prompt, item.question.id, prunes=self.prunes)
            item.prepared = _present(self.vlm).prepare(request)
        except SemclipEvalError:
            raise
        except Exception as error:
            item.fail(error)

    def _answer(self, items: list[Item]) -> None:
        batch = [_present(item.prepared) for item in items]
        vlm = _present(self.vlm)
        with self._stage("vision"):
            features = vlm.encode(batch)
        if self.prunes:
            with self._stage("prune"):
                batch, features = self._prune(items, batch, features)
        with self._stage("prefill"):
            state = vlm.prefill(batch, features)
        with self._stage("decode"):
            answers = vlm.decode(batch, state, ignore_end_token=self.clock.on)
        for item, answer in zip(items, answers, strict=True):
            item.answer = answer

    def _prune(self, items: list[Item], batch: list[Prepared], features: Any) -> tuple[list[Prepared], Any]:
        """The batch with the visual tokens that the selector keeps."""
        vlm = _present(self.vlm)
        inputs = [
            PruneInput(
                item=_present(item.selection_input),
                selection=_present(item.selection),
                tokens=tuple(tokens),
                boxes=tuple(vlm.token_boxes([view.size for view in _present(item.selection).views])),
            )
            for item, tokens in zip(items, features, strict=True)
        ]
        kept = _present(self.selector).prune(inputs, self.tools)
        batch, features = vlm.prune(batch, features, kept)
        for item, prepared, choice in zip(items, batch, kept, strict=True):
            item.prepared, item.kept = prepared, choice
        return batch, features

    def _stage(self, name: str) -> AbstractContextManager[None]:
        """The clock around a stage that the model has; what it has not is not measured rather than zero."""
        measured = name == "prune" or name in _present(self.vlm).stages
        return self.clock.stage(name) if measured else nullcontext()

    def _record(self, item: Item) -> Record:
        """The question's record; a number in it that is not finite makes it an error record without that number."""
        score: Score | None = None
        if item.error is None:
            try:
                score = self._score(item)
            except SemclipEvalError:
                raise
            except Exception as error:
                item.fail(error)
        record = self._written(item, score)
        for part in ("answer", "selection", "prepared"):
            place = not_finite(dataclasses.asdict(record))
            if place is None:
                break
            if item.error is None:
                item.error = NotFiniteError(f"{place}: a model, ψ or selector gave a number that is not finite")
            setattr(item, part, None)
            record = self._written(item, None)
        return record

    def _written(self, item: Item, score: Score | None) -> Record:
        question = item.question
        answer, selection, prepared = item.answer, item.selection, item.prepared
        failed = item.error is not None
        return Record(
            question_id=question.id,
            **as_recorded(question),
            answer=answer.text if answer else None,
            choice=score.choice if score else None,
            option_losses=[round(loss, 6) for loss in answer.option_losses]
            if answer and answer.option_losses is not None
            else None,
            score=score.value if score else None,
            status="error" if failed else (score.status if score else "ok"),
            reason=score.reason if score else "",
            error={"type": type(item.error).__name__, "message": self._explain(item)} if item.error else None,
            views=[_view(view) for view in selection.views] if selection else None,
            target_coverage=target_coverage(_visible(item), selection.views) if selection else None,
            visual_tokens=_count("visual_tokens", prepared, answer),
            text_tokens=_count("text_tokens", prepared, answer),
            new_tokens=answer.new_tokens if answer else None,
            chance=self.benchmark.chance(question),
            latency_ms=self.clock.report(answer.new_tokens if answer else None) if not failed else None,
            candidates=_candidates(item),
            cost=dataclasses.asdict(selection.cost) if selection else None,
            encoded_tokens=_encoded_tokens(prepared, answer),
            kept=[list(view) for view in item.kept.indices] if item.kept else None,
            trace=[_trace_step(step) for step in selection.trace] if selection else None,
        )

    def _score(self, item: Item) -> Score | None:
        """The benchmark's score; None where latency mode forced the length of a generated answer."""
        if self.clock.on and not _present(item.prompt).continuations:
            return None
        return self.benchmark.score(item.question, _present(item.answer))

    def _explain(self, item: Item) -> str:
        """The error's own words; where memory ran out, with the views and sizes that were asked for."""
        message = " ".join(str(item.error).split())
        if item.place:
            message = f"{message} ({item.place})"
        if out_of_memory(item.error) and item.selection is not None:
            sizes = ", ".join(f"{view.kind} {view.box.width}x{view.box.height}" for view in item.selection.views)
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


def empty_device_cache(device: str, error: Exception) -> None:
    """Give cached device memory back after a failure, so that the next question does not inherit it."""
    error.__traceback__ = None  # its frames hold the tensors
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


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


def _view(view: View) -> dict[str, Any]:
    written: dict[str, Any] = {"kind": view.kind, "box": list(view.box), "psi": _rounded(view.relevance)}
    if view.parts:
        written["parts"] = [{"source": list(part.source), "place": list(part.place)} for part in view.parts]
    return written


def _candidates(item: Item) -> list[dict[str, Any]] | None:
    """Every candidate crop with ψ's score, row by row; None where the question never reached the selector."""
    if item.selection_input is None or item.selection is None:
        return None
    boxes, scores = item.selection_input.candidates, item.selection.candidate_relevance
    rows = itertools.zip_longest(boxes, scores[: len(boxes)])
    return [{"box": list(box), "psi": _rounded(score)} for box, score in rows]


def _trace_step(step: TraceStep) -> dict[str, Any]:
    return {"kind": step.kind, "box": list(step.box), "score": _rounded(step.score)}


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)


def _encoded_tokens(*sources: Prepared | Answer | None) -> int | None:
    """Visual tokens that the vision encoder made, whether or not the language model read them."""
    pruned = _count("encoded_tokens", *sources)
    return pruned if pruned is not None else _count("visual_tokens", *sources)


def _count(name: str, *sources: Prepared | Answer | None) -> int | None:
    """The prompt's tokens, counted when it was prepared or, by a server, when it was answered."""
    return next((count for source in sources if (count := getattr(source, name, None)) is not None), None)


def _present(value: T | None) -> T:
    if value is None:
        raise RuntimeError("a stage was reached before the one that feeds it")
    return value
