"""The way of a block of questions through the stages: load, select, prepare, vision, prefill, decode, score.

A stage sees only what it is handed. Measurement wraps the stages from outside. What fails for one question becomes that
question's error record: a stage that fails for a batch is repeated question by question, so that only the one at fault
is lost. Errors that are the whole run's fault (SemclipEvalError) go up to the user. Answers that were made elsewhere
(`Replay`) skip everything up to the score: no image is opened, and what was not seen here stays empty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from PIL import Image

from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.config import RunConfig
from semclip_eval.crops import coverage
from semclip_eval.errors import SemclipEvalError
from semclip_eval.measure.stages import StageClock
from semclip_eval.models.memory import out_of_memory
from semclip_eval.models.replay import Replay
from semclip_eval.relevance.base import Relevance, psi_text
from semclip_eval.results.records import Record
from semclip_eval.selectors.base import Selector, selection_input
from semclip_eval.types import Answer, Box, Prompt, Question, Request, Score, Selection, View

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
    selection: Selection | None = None
    prompt: Prompt | None = None
    prepared: Prepared | None = None
    answer: Answer | None = None
    error: Exception | None = field(default=None, repr=False)


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
            item.error = error
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
            return [self._record(item) for item in items]
        _present(self.vlm).begin_block(keep=not self.clock.on)
        with self.clock.stage("select"):
            self._batched(items, self._select)
        with self.clock.stage("prepare"):
            alive = [item for item in items if item.error is None]
            for _ in executor.map(self._prepare, alive) if executor else map(self._prepare, alive):
                pass
        self._batched(items, self._answer)
        return [self._record(item) for item in items]

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
            empty_device_cache(self.run.device, error)
            if len(alive) == 1:
                alive[0].error = error
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
            item.error = error

    def _select(self, items: list[Item]) -> None:
        selector = _present(self.selector)
        inputs = []
        for item in items:
            image = _present(item.image)
            candidates = self.crops.candidates(image.width, image.height) if self.crops else ()
            text = psi_text(item.question, self.psi_reads)
            inputs.append(selection_input(selector, item.question, image, text, candidates, self.run.seed))
        for item, selection in zip(items, selector.select(inputs, self.relevance), strict=True):
            item.selection = selection

    def _prepare(self, item: Item) -> None:
        image = _present(item.image)
        try:
            prompt = self.benchmark.prompt(item.question)
            if self.clock.on and not prompt.continuations:
                prompt = dataclasses.replace(prompt, max_new_tokens=self.run.new_tokens)
            item.prompt = prompt
            images = tuple(view.cut(image) for view in _present(item.selection).views)
            item.prepared = _present(self.vlm).prepare(Request(images, prompt, item.question.id))
        except SemclipEvalError:
            raise
        except Exception as error:
            item.error = error

    def _answer(self, items: list[Item]) -> None:
        batch = [_present(item.prepared) for item in items]
        vlm = _present(self.vlm)
        with self._stage("vision"):
            features = vlm.encode(batch)
        with self._stage("prefill"):
            state = vlm.prefill(batch, features)
        with self._stage("decode"):
            answers = vlm.decode(batch, state, ignore_end_token=self.clock.on)
        for item, answer in zip(items, answers, strict=True):
            item.answer = answer

    def _stage(self, name: str) -> AbstractContextManager[None]:
        """The clock around a stage that the model has; what it has not is not measured rather than zero."""
        return self.clock.stage(name) if name in _present(self.vlm).stages else nullcontext()

    def _record(self, item: Item) -> Record:
        question = item.question
        score: Score | None = None
        if item.error is None:
            try:
                score = self._score(item)
            except SemclipEvalError:
                raise
            except Exception as error:
                item.error = error
        answer, selection, prepared = item.answer, item.selection, item.prepared
        failed = item.error is not None
        return Record(
            question_id=question.id,
            category=question.category,
            image_id=question.image_id,
            cluster=question.cluster or question.image_id,
            tags=dict(question.tags),
            question=question.text,
            hint=question.hint,
            options=list(question.options),
            truth=question.truth if not isinstance(question.truth, tuple) else list(question.truth),
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
            target_boxes=[list(box) for box in question.target_boxes],
            target_coverage=target_coverage(question.target_boxes, selection.views) if selection else None,
            visual_tokens=_count("visual_tokens", prepared, answer),
            text_tokens=_count("text_tokens", prepared, answer),
            new_tokens=answer.new_tokens if answer else None,
            extra_forwards=selection.extra_forwards if selection else None,
            chance=self.benchmark.chance(question),
            latency_ms=self.clock.report(answer.new_tokens if answer else None) if not failed else None,
        )

    def _score(self, item: Item) -> Score | None:
        """The benchmark's score; None where latency mode forced the length of a generated answer."""
        if self.clock.on and not _present(item.prompt).continuations:
            return None
        return self.benchmark.score(item.question, _present(item.answer))

    def _explain(self, item: Item) -> str:
        """The error's own words; where memory ran out, with the views and sizes that were asked for."""
        message = " ".join(str(item.error).split())
        if out_of_memory(item.error) and item.selection is not None:
            sizes = ", ".join(f"{view.kind} {view.box.width}x{view.box.height}" for view in item.selection.views)
            tokens = f"; {item.prepared.visual_tokens} visual tokens" if item.prepared else ""
            message = f"out of memory with {len(item.selection.views)} views ({sizes}){tokens}: {message}"
        return message[:2000]


def target_coverage(targets: Sequence[Box], views: Sequence[View]) -> float | None:
    """The part of the least covered target box that the union of the selected crops covers, in [0, 1].

    None where the question has no boxes or nothing but the overview was selected. The overview does not count: it
    covers everything and shows little.
    """
    boxes = [view.box for view in views if view.kind == "crop"]
    if not targets or not boxes:
        return None
    return round(min(coverage(target, boxes) for target in targets), 6)


def empty_device_cache(device: str, error: Exception) -> None:
    """Give cached device memory back after a failure, so that the next question does not inherit it."""
    error.__traceback__ = None  # its frames hold the tensors
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def _view(view: View) -> dict[str, Any]:
    relevance = None if view.relevance is None else round(view.relevance, 6)
    return {"kind": view.kind, "box": list(view.box), "psi": relevance}


def _count(name: str, *sources: Prepared | Answer | None) -> int | None:
    """The prompt's tokens, counted when it was prepared or, by a server, when it was answered."""
    return next((count for source in sources if (count := getattr(source, name, None)) is not None), None)


def _present(value: T | None) -> T:
    if value is None:
        raise RuntimeError("a stage was reached before the one that feeds it")
    return value
