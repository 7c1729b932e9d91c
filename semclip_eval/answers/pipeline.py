"""The way of a block of questions through the stages: load, select, prepare, vision, prune, prefill, decode, score.

A stage sees only what it is handed. Measurement wraps the stages from outside. What fails for one question becomes that
question's error record (`failures`); errors that are the whole run's fault (SemclipEvalError) go up to the user.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from semclip_eval.answers.failures import Attempts
from semclip_eval.answers.offers import BenchmarkImages, TruthJudge
from semclip_eval.answers.recording import Item, record_of
from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.benchmarks.decoded import DECODED
from semclip_eval.config import RunConfig
from semclip_eval.errors import ConfigError, QuestionError, SemclipEvalError
from semclip_eval.measure.stages import StageClock
from semclip_eval.modes import Mode, mode_of
from semclip_eval.relevance.base import Relevance, psi_text
from semclip_eval.results.records import Record
from semclip_eval.selectors.base import PruneInput, SelectionInput, Selector, Undeclared, selection_input
from semclip_eval.selectors.tools import VLM_NEEDS, SelectorVLM, Tools
from semclip_eval.types import Box, Cost, Question, Request

if TYPE_CHECKING:
    from semclip_eval.models.base import VLM, ModelInputs

T = TypeVar("T")


class CropScheme(Protocol):
    """What the section `crops` builds."""

    def candidates(self, width: int, height: int) -> tuple[Box, ...]:
        """The candidate crops of an image of that many pixels, row by row."""


class Pipeline:
    """Asks blocks of questions of a model; the components are built once and stay. mode: None for the run's own."""

    def __init__(
        self,
        benchmark: Benchmark,
        selector: Selector,
        crops: CropScheme | None,
        relevance: Relevance | None,
        vlm: VLM,
        run: RunConfig,
        psi_reads: str = "question",
        mode: Mode | None = None,
    ) -> None:
        self.benchmark, self.selector, self.crops = benchmark, selector, crops
        self.relevance, self.vlm, self.run, self.psi_reads = relevance, vlm, run, psi_reads
        self.mode = mode or mode_of(run)
        self.clock = StageClock(run.device, on=self.mode.times)
        self.prunes = "prune" in selector.needs
        needs = selector.needs
        facade = None
        if needs.intersection(VLM_NEEDS):
            facade = SelectorVLM(vlm, needs, selector.max_forwards, self.clock)
        self._judge = None
        if "judge" in needs and selector.uses_truth and facade is not None:
            self._judge = TruthJudge(benchmark, facade)
        # Only what the selector names in its `needs`.
        self.tools = Tools(
            relevance if "psi" in needs else None,
            facade,
            self._judge,
            BenchmarkImages(benchmark) if "other_image" in needs else None,
        )
        self._asked = 0
        # Held by whoever lets ψ and the selector compute.
        self._choosing = threading.Lock()
        self._selecting, self._answering = Attempts(vlm, run.device), Attempts(vlm, run.device)

    def load(self, question: Question) -> Item:
        """Read one image (a thread of its own may do this ahead)."""
        item = Item(question)
        try:
            with DECODED.shared(self.mode.keeps):
                item.image = question.load_image()
            item.image.load()  # a file that is opened lazily is decoded here, by one thread
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

    @property
    def chooses_ahead(self) -> bool:
        """May views be chosen while the VLM answers another block? Not where choosing or pruning needs it."""
        has_own_psi = self.relevance is None or not self.relevance.needs_vlm
        return self.tools.vlm is None and has_own_psi and not self.prunes

    def choose(self, items: Sequence[Item], executor: Executor) -> list[Future[None]]:
        """Choose the views of a loaded block that will be asked, and begin to prepare them in the executor's threads.

        What fails here for a question or a batch is left as it is: `ask_loaded` tries again, and finds who is at fault.
        """
        alive = [item for item in items if item.error is None]

        def select(some: list[Item]) -> None:
            for batch in self._selecting.batches(some):
                self._select(batch)

        try:
            self._choose(alive, executor, select)
        except SemclipEvalError:
            raise
        except Exception as error:
            error.__traceback__ = None  # its frames hold the images
            return []
        return [executor.submit(self._prepare, item) for item in alive]

    def ask_loaded(self, items: list[Item], executor: Executor | None = None) -> list[Record]:
        """`ask` for items whose images are loaded, and whose views may be chosen."""
        self._go_through(items, executor)
        return [self._record(item) for item in items]

    def answer(self, questions: Sequence[Question]) -> list[Item]:
        """The questions at the end of their way, each with its answer or its error, not scored."""
        self.clock.reset()
        with self.clock.stage("load"):
            items = [self.load(question) for question in questions]
        self._go_through(items)
        return items

    def _go_through(self, items: list[Item], executor: Executor | None = None) -> None:
        """All stages but load and score."""
        self.vlm.begin_block(keep=self.mode.keeps)
        unready = [item for item in items if item.error is None and item.prepared is None]
        if unready:
            self._choose(unready, executor, lambda some: self._selecting.run(some, self._select))
            with self.clock.stage("prepare"):
                chosen = [item for item in unready if item.error is None]
                for _ in executor.map(self._prepare, chosen) if executor else map(self._prepare, chosen):
                    pass
        self._answering.others = self._choosing if executor is not None and self.chooses_ahead else None
        self._answering.run(items, self._answer)

    def _choose(self, items: list[Item], executor: Executor | None, select: Callable[[list[Item]], None]) -> None:
        """Let ψ and the selector compute for some items of a block, and for nobody else meanwhile."""
        if not items:
            return
        with self._choosing:
            if self.relevance is not None:
                self.relevance.watch(self.clock.stage)  # one ψ may serve several pipelines
                self.relevance.begin_block(keep=self.mode.keeps)
                self.relevance.executor = executor
            try:
                with self.clock.stage("select"):
                    select(items)
            finally:
                if self.relevance is not None:
                    self.relevance.executor = None  # it may be closed before the next block

    def _record(self, item: Item) -> Record:
        is_scored = item.prompt is None or self.mode.scores(item.prompt)
        return record_of(item, self.benchmark, is_scored, self.clock.report)

    def _select(self, items: list[Item]) -> None:
        inputs = [self._selection_input(item) for item in items]
        facade = self.tools.vlm
        if facade is not None:
            facade.begin(item.question.id for item in items)
        if self._judge is not None:
            self._judge.begin([(item.question, _present(item.prompt)) for item in items])
        selections = self.selector.select(inputs, self.tools)
        self._require_as_many("select", "selections", selections, inputs)
        for item, given, selection in zip(items, inputs, selections, strict=True):
            cost = facade.cost(item.question.id) if facade is not None else Cost()
            item.selection_input, item.selection = given, dataclasses.replace(selection, cost=cost)

    def _selection_input(self, item: Item) -> SelectionInput:
        image = _present(item.image)
        # A run gives no crop scheme to a selector that does not name its candidates.
        candidates = self.crops.candidates(image.width, image.height) if self.crops else Undeclared()
        text = psi_text(item.question, self.psi_reads)
        item.prompt = self.benchmark.prompt(item.question)
        given = selection_input(self.selector, item.question, image, text, candidates, self.run.seed, item.prompt.text)
        if self.mode.keeps:
            return given
        # A ψ or selector with a cache of its own must not find an image by its name (the pixels were just read anew).
        self._asked += 1
        return dataclasses.replace(given, image_id=f"{given.image_id}#{self._asked}")

    def _prepare(self, item: Item) -> None:
        image, prompt = _present(item.image), _present(item.prompt)
        try:
            if not prompt.continuations:
                forced = self.mode.forced_tokens is not None
                prompt = dataclasses.replace(prompt, max_new_tokens=self.mode.new_tokens(prompt), forces_length=forced)
            item.prompt = prompt
            with self.clock.stage("crop"):
                images = tuple(view.pixels(image) for view in _present(item.selection).views)
            wants_attention = "class_attention" in self.selector.needs
            item.prepared = self.vlm.prepare(
                Request(
                    images,
                    prompt,
                    item.question.id,
                    prunes=self.prunes,
                    class_attention=wants_attention,
                    drops=self.selector.drops,
                )
            )
        except SemclipEvalError:
            raise
        except Exception as error:
            item.fail(error)

    def _answer(self, items: list[Item]) -> None:
        batch = [_present(item.prepared) for item in items]
        with self._stage("vision"):
            features = self.vlm.encode(batch)
        if self.prunes:
            with self.clock.stage("prune"):
                batch, features = self._prune(items, batch, features)
        with self._stage("prefill"):
            state = self.vlm.prefill(batch, features)
        with self._stage("decode"):
            answers = self.vlm.decode(batch, state, ignore_end_token=self.mode.forced_tokens is not None)
        for item, answer in zip(items, answers, strict=True):
            item.answer = answer
            item.flops = self._flops(item)

    def _flops(self, item: Item) -> dict[str, int | None] | None:
        """Analytic FLOPs by stage of the question alone; `psi` and `select_vlm` only where the selector has them."""
        prepared, selection = _present(item.prepared), _present(item.selection)
        counts = self.vlm.flops(prepared, item.pruned or prepared, _present(item.answer).new_tokens)
        if counts is None:
            return None
        choice: dict[str, int | None] = {}
        if self.tools.psi is not None:
            choice["psi"] = self._psi_flops(item, self.tools.psi)
            if counts["vision"] is not None:
                candidates = _present(item.selection_input).offered_candidates
                scored = [view for view in selection.views if view.kind == "crop" and view.box in candidates]
                counts = {**counts, "vision": counts["vision"] - self.tools.psi.shared_flops(len(scored))}
        if self.tools.vlm is not None:
            choice["select_vlm"] = self.tools.vlm.flops(item.question.id)
        return {**choice, **counts}

    def _psi_flops(self, item: Item, psi: Relevance) -> int | None:
        """Of the candidates' scores, and of the maps by which tokens were pruned; None where one is not known."""
        asked, selection = _present(item.selection_input), _present(item.selection)
        work = self.selector.psi_work(asked, selection)
        maps = self.selector.psi_maps(asked, selection) if item.kept is not None else 0
        scores = None if work is None else psi.flops(*work)
        of_maps = psi.map_flops(maps) if maps else 0
        return None if scores is None or of_maps is None else scores + of_maps

    def _prune(self, items: list[Item], batch: list[ModelInputs], features: Any) -> tuple[list[ModelInputs], Any]:
        """The batch with the visual tokens that the selector keeps."""
        inputs = [
            PruneInput(
                item=_present(item.selection_input),
                selection=_present(item.selection),
                tokens=tuple(tokens),
                boxes=tuple(self.vlm.token_boxes([view.size for view in _present(item.selection).views])),
            )
            for item, tokens in zip(items, features, strict=True)
        ]
        kept = self.selector.prune(inputs, self.tools)
        self._require_as_many("prune", "results", kept, inputs)
        if any(choice is not None and not any(choice.indices) for choice in kept):
            raise QuestionError(f"selector={self.selector.name}: keeps none of the question's visual tokens.")
        batch, features = self.vlm.prune(batch, features, kept)
        for item, prepared, choice, given in zip(items, batch, kept, inputs, strict=True):
            item.pruned, item.kept = prepared, choice
            item.token_boxes = () if choice is None else given.boxes
        return batch, features

    def _require_as_many(self, method: str, what: str, given: Sequence[object], inputs: Sequence[object]) -> None:
        if len(given) != len(inputs):
            raise ConfigError(
                f"selector={self.selector.name}: `{method}` gave {len(given)} {what} for {len(inputs)} questions; it "
                "must give one for each, in the same order."
            )

    def _stage(self, name: str) -> AbstractContextManager[None]:
        """The clock around a stage that the model has; what it has not is not measured rather than zero."""
        return self.clock.stage(name) if name in self.vlm.stages else nullcontext()


def _present(value: T | None) -> T:
    if value is None:
        raise RuntimeError("a stage was reached before the one that feeds it")
    return value
