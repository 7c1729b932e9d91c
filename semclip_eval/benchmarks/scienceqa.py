"""ScienceQA-IMG: the 2,017 test questions of ScienceQA that come with an image (Lu et al., arXiv 2209.09513)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from semclip_eval.benchmarks.access import MAX_MEGAPIXELS
from semclip_eval.benchmarks.table_benchmark import LETTER, TableBenchmark, lettered
from semclip_eval.benchmarks.tables import Published, Table
from semclip_eval.errors import DataError
from semclip_eval.scoring.choice import parse_choice, score_choice
from semclip_eval.scoring.official_letters import read_scienceqa
from semclip_eval.types import Answer, Prompt, Question, Score

# The prompt, to the byte: LLaVA-1.5's question file llava_test_CQM-A.json (in the eval.zip of docs/Evaluation.md),
# asked by llava/eval/model_vqa_science.py with --single-pred-prompt.
#     Context: {hint}\n{question}\nA. {A}\nB. {B}\n...\nAnswer with the option's letter from the given choices directly.
# A question without a hint begins with the question. (scripts/convert_sqa_to_llava.py, which made the file of the first
# LLaVA, writes "Context: N/A", "Question:" and "Options: (A) ..." instead.) model_vqa_science.py takes every "<image>"
# out of the text and strips it.
CONTEXT = "Context: {hint}\n"
INSTRUCTION = LETTER
PLACEHOLDER = "<image>"

# LLaVA allows 1024 new tokens here. A letter ends after two, so the limit only meets a model that rambles; 1024 would
# take a quarter of LLaVA-1.5's context of 4096 away from the views (five views are 2880 visual tokens).
ANSWER_TOKENS = 128

MOST_CHOICES = 5
_GRADE = re.compile(r"grade\s*(\d+)", re.IGNORECASE)


class ScienceQA(TableBenchmark):
    """ScienceQA-IMG test. A local table of all 4,241 test questions works too: those without an image are left out.

    Questions are numbered among those with an image, so that both tables give the same ids. Categories are the
    subjects; the tags are the other columns of the paper's result table: `context` says whether text comes with the
    image, `grade` whether the question is of grades 1 to 6 or 7 to 12. parser=official: LLaVA's rule
    (`scoring/official_letters.py`).
    """

    splits = ("test",)
    protocols = ("letter",)
    parsers = ("strict", "official")
    breakdowns = ("context", "grade")
    published = Published(
        files=("ScienceQA-IMG/test-*.parquet",),
        columns=("question", "choices", "answer", "hint", "grade", "subject"),
        rows=2017,
        image="image",
    )

    def __init__(
        self,
        name: str = "scienceqa",
        split: str = "test",
        hub_id: str = "lmms-lab/ScienceQA",
        revision: str | None = "69dd4d6b67373d38f96a5badd5d24d0eb5bcdc50",
        path: str | None = None,
        protocol: str = "letter",
        parser: str = "strict",
        follow_links: bool = False,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        super().__init__(name, split, hub_id, revision, path, protocol, parser, follow_links, max_megapixels)

    def prompt(self, question: Question) -> Prompt:
        """LLaVA's prompt: context, question, lettered choices, instruction."""
        context = CONTEXT.format(hint=question.hint) if question.hint else ""
        text = (context + lettered(question.text, question.options)).replace(PLACEHOLDER, "").strip()
        return Prompt(text + INSTRUCTION, max_new_tokens=ANSWER_TOKENS)

    def score(self, question: Question, answer: Answer) -> Score:
        """1 for the right choice, else 0."""
        return score_choice(question, answer, parse_choice if self.parser == "strict" else read_scienceqa)

    def _read(self) -> list[Question]:
        table = self._table()
        rows = [
            (number, row)
            for (number, row), pictured in zip(enumerate(table.rows()), table.has_image(), strict=True)
            if pictured
        ]
        if len(rows) < len(table):
            self.notices.append(f"{self.name}: {len(table) - len(rows)} questions without an image are left out.")
        if not rows:
            raise DataError(f"{table.origin}: has no question with an image.")
        return [_question(table, number, row, str(position)) for position, (number, row) in enumerate(rows)]


def _question(table: Table, number: int, row: Mapping[str, Any], identity: str) -> Question:
    choices, answer = row["choices"], row["answer"]
    are_texts = isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    if not are_texts or not 2 <= len(choices) <= MOST_CHOICES:
        raise DataError(f"{table.place(number)}: choices {choices!r} must be a list of 2 to {MOST_CHOICES} texts.")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise DataError(f"{table.place(number)}: answer {answer!r} is not the index of one of {len(choices)} choices.")
    hint = "" if row["hint"] in (None, "") or str(row["hint"]).isspace() else table.text(number, row, "hint")
    tags = {"context": "text and image" if hint else "image only"}
    if grade := _GRADE.fullmatch(str(row["grade"]).strip()):
        tags["grade"] = "G1-6" if int(grade[1]) <= 6 else "G7-12"
    return Question(
        id=identity,
        text=table.text(number, row, "question"),
        category=table.text(number, row, "subject"),
        image_id=identity,
        load_image=table.image_loader(number),
        truth=answer,
        options=tuple(choices),
        hint=hint,
        tags=tags,
    )
