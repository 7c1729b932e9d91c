"""SEED-Bench, image part: 14,233 multiple-choice questions of nine types (Li et al., arXiv 2307.16125)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semclip_eval.benchmarks.access import MAX_MEGAPIXELS
from semclip_eval.benchmarks.table_benchmark import LETTER, TableBenchmark, lettered
from semclip_eval.benchmarks.tables import Published, Table
from semclip_eval.errors import DataError
from semclip_eval.places import is_generated
from semclip_eval.scoring.choice import option_of_letter, parse_choice, score_choice
from semclip_eval.scoring.official_letters import read_seedbench
from semclip_eval.types import Answer, Prompt, Question, Score

# The prompt, to the byte: LLaVA's question file llava-seed-bench.jsonl, asked by llava/eval/model_vqa_loader.py.
#     {question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nAnswer with the option's letter from the given choices directly.
INSTRUCTION = LETTER

# model_vqa_loader.py's limit. A letter ends after two.
ANSWER_TOKENS = 128

CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")

# AILab-CVC/SEED-Bench, DATASET.md: `question_type` (an older version of that page had 3 and 4 the other way round).
QUESTION_TYPES = {
    1: "Scene Understanding",
    2: "Instance Identity",
    3: "Instance Attributes",
    4: "Instance Location",
    5: "Instances Counting",
    6: "Spatial Relation",
    7: "Instance Interaction",
    8: "Visual Reasoning",
    9: "Text Understanding",
}
IMAGE_QUESTIONS = 14_233


class SEEDBench(TableBenchmark):
    """The image questions of SEED-Bench; the table also holds 3,757 about videos, which are left out.

    Categories are the question types. Questions about one image are one cluster. parser=official: LLaVA's rule, the
    answer must be the letter and nothing else.
    """

    splits = ("test",)
    # As published, question_id 49914 stands twice, with different images.
    repeats_ids = True
    protocols = ("letter",)
    parsers = ("strict", "official")
    published = Published(
        files=("data/test-*.parquet",),
        columns=("question_id", "question_type_id", "data_id", "data_type", "question", *CHOICES, "answer"),
        rows=17_990,
        image="image",
    )

    def __init__(
        self,
        name: str = "seedbench",
        split: str = "test",
        hub_id: str = "lmms-lab/SEED-Bench",
        revision: str | None = None,
        path: str | None = None,
        protocol: str = "letter",
        parser: str = "strict",
        follow_links: bool = False,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        super().__init__(name, split, hub_id, revision, path, protocol, parser, follow_links, max_megapixels)

    def prompt(self, question: Question) -> Prompt:
        """LLaVA's prompt: question, lettered options, instruction."""
        return Prompt(lettered(question.text, question.options) + INSTRUCTION, max_new_tokens=ANSWER_TOKENS)

    def score(self, question: Question, answer: Answer) -> Score:
        """1 for the right option, else 0."""
        return score_choice(question, answer, parse_choice if self.parser == "strict" else read_seedbench)

    def _read(self) -> list[Question]:
        table = self._table()
        questions = [
            _question(table, number, row)
            for number, row in enumerate(table.rows())
            if str(row["data_type"]).lower() == "image"
        ]
        if not questions:
            raise DataError(f"{table.origin}: has no row with the data_type image.")
        if len(questions) != IMAGE_QUESTIONS and not is_generated(self.path):
            self.notices.append(
                f"{self.name}: {len(questions)} questions about images; SEED-Bench publishes {IMAGE_QUESTIONS}."
            )
        return questions


def _question(table: Table, number: int, row: Mapping[str, Any]) -> Question:
    place = table.place(number)
    type_id = table.identity(number, row, "question_type_id")
    if not type_id.isdecimal() or int(type_id) not in QUESTION_TYPES:
        raise DataError(f"{place}: question_type_id {type_id!r} is none of the image types 1 to {len(QUESTION_TYPES)}.")
    truth = option_of_letter(row["answer"], len(CHOICES))
    if truth is None:
        raise DataError(f"{place}: answer {row['answer']!r} is none of the letters A to D.")
    image = table.identity(number, row, "data_id")
    return Question(
        id=table.identity(number, row, "question_id"),
        text=table.text(number, row, "question"),
        category=QUESTION_TYPES[int(type_id)],
        image_id=image,
        load_image=table.image_loader(number),
        truth=truth,
        options=tuple(table.text(number, row, name) for name in CHOICES),
        cluster=image,
    )
