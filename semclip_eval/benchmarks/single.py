"""One question about one image, asked like a benchmark's."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash
from PIL import Image

from semclip_eval.benchmarks.base import Benchmark, check_protocol
from semclip_eval.benchmarks.table_benchmark import LETTER, SHORT, lettered
from semclip_eval.errors import QuestionError
from semclip_eval.scoring.choice import score_choice
from semclip_eval.scoring.likelihood import least_loss
from semclip_eval.types import Answer, Box, Prompt, Question, Score

PROTOCOLS = ("likelihood", "letter", "short_answer", "plain")


class SingleQuestion(Benchmark):
    """A question without a known truth: what is scored is which option the answer picks, never whether it is right.

    protocol: `likelihood` scores each option as the whole answer, `letter` shows them and reads a letter,
    `short_answer` asks for a word or phrase, `plain` adds nothing to the text. boxes: where the answer is to be seen,
    in pixels of the image; for selectors that use the truth.
    """

    protocols = PROTOCOLS
    name, split, dataset_revision = "single", "none", "none"

    def __init__(
        self,
        image: Image.Image,
        text: str,
        options: Sequence[str] = (),
        protocol: str | None = None,
        boxes: Sequence[Box] = (),
        max_new_tokens: int = 128,
    ) -> None:
        super().__init__()
        self.protocol = protocol or ("likelihood" if options else "short_answer")
        check_protocol(self)
        if self.protocol in ("likelihood", "letter") and len(options) < 2:
            raise QuestionError(f"protocol={self.protocol}: needs at least two options")
        self.has_boxes = bool(boxes)
        self.max_new_tokens = max_new_tokens
        self.question = Question(
            id="single",
            text=text,
            category="single",
            # By its pixels: ψ must not take another image, asked before, for this one.
            image_id=f"single:{xxhash.xxh3_128_hexdigest(image.tobytes())}",
            load_image=lambda: image,
            truth=-1,
            options=tuple(options),
            target_boxes=tuple(boxes),
        )

    def questions(self) -> list[Question]:
        """The one question."""
        return [self.question]

    def prompt(self, question: Question) -> Prompt:
        """LLaVA-1.5's wording of the protocol (github.com/haotian-liu/LLaVA, docs/Evaluation.md)."""
        if self.protocol == "likelihood":
            return Prompt(question.text, continuations=question.options)
        if self.protocol == "letter":
            text = lettered(question.text, question.options) + LETTER
        else:
            text = question.text + (SHORT if self.protocol == "short_answer" else "")
        return Prompt(text, max_new_tokens=self.max_new_tokens)

    def score(self, question: Question, answer: Answer) -> Score:
        """Value 0, with the option that the answer picks."""
        if answer.option_losses is not None:
            choice = least_loss(answer.option_losses)
            return Score(0.0, choice=choice) if choice is not None else Score(0.0, "unparsed", reason="tie")
        if self.protocol == "letter":
            return score_choice(question, answer)
        return Score(0.0)
