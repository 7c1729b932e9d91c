"""POPE: is this object in the image? Half of the objects are, the others tempt (Li et al., arXiv 2305.10355).

9,000 questions about 500 COCO photographs, 3,000 for each way of choosing the absent objects: random ones, popular
ones, and those that often go with what is there (adversarial). The prompt is LLaVA-1.5's, `{question}` and its
short-answer instruction; truth and choice are indices into ("yes", "no").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semclip_eval.benchmarks.table_benchmark import SHORT, TableBenchmark
from semclip_eval.benchmarks.table_files import matching
from semclip_eval.benchmarks.tables import Published, Table
from semclip_eval.errors import DataError, QuestionError
from semclip_eval.scoring.metrics import YesNoMeasures
from semclip_eval.scoring.yes_no import OPTIONS, parse_officially, parse_yes_no
from semclip_eval.types import Answer, Prompt, Question, Score

# In the order of the published table.
CATEGORIES = ("adversarial", "popular", "random")
# The configuration `Full`: the same questions, a file for each category. A local copy may be that folder alone.
FULL = tuple(f"{category}-*.parquet" for category in CATEGORIES)


class Pope(TableBenchmark):
    """POPE from the Hub's configuration `default`, or from a local copy of that or of the configuration `Full`.

    LLaVA's own list of random questions has 2,910 in place of 3,000; a local table with 8,910 rows is taken with a
    notice. The cluster is the photograph. parser: `strict` (`scoring.yes_no.parse_yes_no`), or `official`, which never
    leaves an answer unread.
    """

    splits = ("test",)
    protocols = ("yes_no",)
    parsers = ("strict", "official")
    metric = YesNoMeasures()
    published = Published(
        files=("data/test-*.parquet",),
        columns=("question_id", "question", "answer", "image_source", "category"),
        rows=9000,
        image="image",
    )

    def prompt(self, question: Question) -> Prompt:
        """LLaVA-1.5's: the question and the instruction for short answers."""
        return Prompt(question.text + SHORT)

    def score(self, question: Question, answer: Answer) -> Score:
        """1 where the answer says what is true, else 0; `unparsed` where it says neither yes nor no."""
        if answer.text is None:
            raise QuestionError(f"question {question.id}: the yes_no protocol needs an answer text.")
        reading = parse_officially(answer.text) if self.parser == "official" else parse_yes_no(answer.text)
        if reading.option is None:
            return Score(0.0, status="unparsed", reason=reading.how)
        return Score(float(reading.option == question.truth), choice=reading.option)

    def _read(self) -> list[Question]:
        table = self._table(self._layout())
        return [_question(table, number, row) for number, row in enumerate(table.rows())]

    def _layout(self) -> Published:
        """The published table, or its local copy in three files."""
        if self.path is None:
            return self.published
        folder = Path(self.path).expanduser()
        for patterns in (self.published.files, tuple(f"Full/{name}" for name in FULL), FULL):
            if matching(folder, patterns):
                return dataclasses.replace(self.published, files=patterns)
        return self.published


def _question(table: Table, number: int, row: Mapping[str, Any]) -> Question:
    identity, text, answer, category, image = (
        (table.identity if name in ("question_id", "image_source") else table.text)(number, row, name).strip()
        for name in ("question_id", "question", "answer", "category", "image_source")
    )
    if answer.lower() not in OPTIONS:
        raise DataError(f"{table.place(number)}: answer {answer!r} must be yes or no.")
    if category.lower() not in CATEGORIES:
        raise DataError(f"{table.place(number)}: category {category!r} must be {', '.join(CATEGORIES)}.")
    return Question(
        id=f"{category.lower()}_{identity}",
        text=text,
        category=category.lower(),
        image_id=image,
        load_image=table.image_loader(number),
        truth=OPTIONS.index(answer.lower()),
        options=OPTIONS,
        cluster=image,
    )
