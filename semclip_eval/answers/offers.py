"""What a run offers to selectors beyond ψ and the VLM: other images, and a judge that knows the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from PIL import Image

from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.errors import QuestionError
from semclip_eval.selectors.tools import SelectorVLM
from semclip_eval.types import Prompt, Question, Request, Verdict, View


class TruthJudge:
    """Scores the VLM's answers as the benchmark does; only for a selector that declares `uses_truth`."""

    def __init__(self, benchmark: Benchmark, vlm: SelectorVLM) -> None:
        self._benchmark, self._vlm = benchmark, vlm
        self._questions: dict[str, tuple[Question, Prompt]] = {}

    def begin(self, questions: Sequence[tuple[Question, Prompt]]) -> None:
        """These questions are selected next."""
        self._questions = {question.id: (question, prompt) for question, prompt in questions}

    def __call__(self, question_id: str, image: Image.Image, selections: Sequence[Sequence[View]]) -> list[Verdict]:
        """See `tools.Judge`."""
        question, prompt = self._questions[question_id]
        requests = [Request(tuple(view.pixels(image) for view in views), prompt, question_id) for views in selections]
        verdicts = []
        for answer in self._vlm.answer(requests):
            score = self._benchmark.score(question, answer)
            verdicts.append(Verdict(score.value, score.choice, len(question.options), answer.option_losses))
        return verdicts


class BenchmarkImages:
    """Other images of a benchmark, drawn by question and seed among all its images, whatever part of it is asked."""

    def __init__(self, benchmark: Benchmark) -> None:
        self._benchmark = benchmark
        self._image_of: dict[str, str] = {}
        self._by_image: dict[str, Question] = {}

    def __call__(self, question_id: str, seed: int) -> Image.Image:
        """See `tools.OtherImages`. QuestionError where the benchmark has one image only."""
        if not self._by_image:
            for question in self._benchmark.questions():
                self._image_of[question.id] = question.image_id
                self._by_image.setdefault(question.image_id, question)
        others = sorted(self._by_image.keys() - {self._image_of[question_id]})
        if not others:
            raise QuestionError(f"question {question_id}: the benchmark has no other image")
        digest = hashlib.sha256(f"{seed}\0{question_id}".encode()).digest()
        return self._by_image[others[int.from_bytes(digest[:8], "big") % len(others)]].load_image()
