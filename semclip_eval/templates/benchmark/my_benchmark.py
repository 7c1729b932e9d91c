"""A benchmark of your own: where its questions come from, how each is put, and how an answer is scored.

Put your data in place of `data/`, and change the three methods below. docs/adding_a_benchmark.md has what else one can
say, and a shorter way for published tables (parquet, CSV, TSV).
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from semclip_eval.benchmarks.base import Benchmark, check_protocol
from semclip_eval.benchmarks.images import read_rgb
from semclip_eval.benchmarks.table_benchmark import LETTER, lettered
from semclip_eval.digest import folder_digest
from semclip_eval.errors import ConfigError, DataError
from semclip_eval.scoring.choice import score_choice
from semclip_eval.scoring.likelihood import least_loss
from semclip_eval.types import Answer, Box, Prompt, Question, Score


class MyBenchmark(Benchmark):
    """Questions about small shapes, from `questions.jsonl` in the folder `path`.

    The parameters are the keys of configs/benchmark/my_benchmark.yaml: `benchmark.protocol=letter` sets one.
    """

    # How a question may be put; the first one is the YAML's default.
    protocols = ("likelihood", "letter")
    # True where questions carry `target_boxes`: hit rates are measured then, and `selector=oracle` can be run.
    has_boxes = True

    def __init__(self, name: str, path: str | None = None, protocol: str = "likelihood", split: str = "test") -> None:
        super().__init__()
        self.name, self.protocol, self.split = name, protocol, split
        check_protocol(self)
        if path is None:
            raise ConfigError("benchmark.path=null: name the folder with questions.jsonl.")
        self.folder = Path(path).expanduser()

    def questions(self) -> list[Question]:
        """All questions in their order. The images stay on disk until their question is asked."""
        file = self.folder / "questions.jsonl"
        if not file.is_file():
            raise ConfigError(f"benchmark.path={self.folder}: has no questions.jsonl; name the folder with the data.")
        # Part of the run's identity: other data is another run. For data from the Hub name the commit.
        self.dataset_revision = f"local:{folder_digest(self.folder)}"
        lines = file.read_text(encoding="utf-8").splitlines()
        questions = []
        for number, line in enumerate(lines, start=1):
            try:
                questions.append(self._question(json.loads(line)))
            except (
                ValueError,
                KeyError,
                TypeError,
            ) as error:  # what is malformed ends the command
                raise DataError(f"{file}, line {number}: not a question ({error!r}).") from error
        return questions

    def _question(self, row: dict[str, Any]) -> Question:
        left, top, width, height = row["box"]
        return Question(
            id=row["id"],  # unique; results are kept, resumed and compared by it
            text=row["question"],  # what ψ reads (psi.text=question)
            category=row["category"],  # a row of its own in categories.csv
            image_id=row["image"],  # the same for questions about the same image: crop embeddings are shared by it
            # Called when the question is asked, perhaps in another thread. Upright RGB; a QuestionError makes it that
            # question's error record, and the run goes on.
            load_image=partial(read_rgb, self.folder / row["image"]),
            truth=row["answer"],  # index of the right option; without options the reference answer, or a tuple of them
            options=tuple(row["options"]),  # empty where the answer is free text
            # Where the answer can be seen: (left, top, right, bottom) in pixels. No selector but an oracle gets them.
            target_boxes=(Box(left, top, left + width, top + height),),
            hint="",  # a passage or OCR tokens: yours to put into the prompt; ψ does not read it
            cluster="",  # what belongs together in an interval, where that is not the image
            tags={},  # further properties; those that `breakdowns` names get rows in categories.csv
        )

    def prompt(self, question: Question) -> Prompt:
        """What the VLM is asked after the image placeholders, to the byte.

        Prompt has two fields more: `specials`, strings of the text that are single tokens of the model (`<ref>`), and
        `forces_length`, which latency mode sets.
        """
        if self.protocol == "likelihood":
            # Each continuation is scored as the whole answer; nothing is generated.
            return Prompt(question.text, continuations=question.options)
        # At most so many tokens are generated, greedily.
        return Prompt(lettered(question.text, question.options) + LETTER, max_new_tokens=16)

    def score(self, question: Question, answer: Answer) -> Score:
        """A value in [0, 1] with the option chosen, or `unparsed` with the reason: never a guess.

        Of the answer, `text` and `option_losses` count; `new_tokens`, `visual_tokens` and `text_tokens` are for the
        results.
        """
        # `answer.option_losses`: nats a token for each continuation, in their order. None where text was generated.
        if answer.option_losses is not None:
            choice = least_loss(answer.option_losses)
            if choice is None:
                return Score(0.0, status="unparsed", reason="tie")
            return Score(float(choice == question.truth), choice=choice)
        # `answer.text`: as generated. `score_choice` reads the letter; for other answers see semclip_eval/scoring/.
        return score_choice(question, answer)
