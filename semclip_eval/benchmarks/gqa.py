"""GQA testdev-balanced: questions about objects, attributes and relations (Hudson & Manning, arXiv 1902.09506).

12,578 questions about 398 photographs, published as two tables, of questions and of images. The prompt is LLaVA-1.5's,
`{question}` and its short-answer instruction. There is one reference answer, nearly always a single word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

from PIL import Image

from semclip_eval.benchmarks.table_benchmark import SHORT, TableBenchmark
from semclip_eval.benchmarks.tables import Published, Table
from semclip_eval.errors import DataError, QuestionError
from semclip_eval.scoring.metrics import Metric
from semclip_eval.scoring.short_answer import is_match, normalized
from semclip_eval.types import Answer, Prompt, Question, Score

QUESTIONS, IMAGES = "testdev_balanced_instructions", "testdev_balanced_images"


class Gqa(TableBenchmark):
    """GQA from the Hub or a local copy that holds both tables, joined by `imageId` = `id`.

    Categories are GQA's structural types (verify, query, choose, logical, compare); `categories.csv` also has its
    semantic types and its `open` (query) and `binary` (all others) questions. The cluster is the photograph. parser:
    `strict` or `official`, see `scoring.short_answer`.
    """

    splits = ("testdev",)
    protocols = ("short_answer",)
    parsers = ("strict", "official")
    metric = Metric("exact_match")
    breakdowns = ("answer_type", "semantic")
    published = Published(
        files=(f"{QUESTIONS}/testdev-*.parquet",),
        columns=("id", "imageId", "question", "answer", "types"),
        rows=12578,
    )
    published_images = Published(files=(f"{IMAGES}/testdev-*.parquet",), columns=("id",), rows=398, image="image")

    def prompt(self, question: Question) -> Prompt:
        """LLaVA-1.5's: the question and the instruction for short answers."""
        return Prompt(question.text + SHORT)

    def score(self, question: Question, answer: Answer) -> Score:
        """1 where the answer is the reference, else 0; `unparsed` where there is no word in it."""
        if answer.text is None:
            raise QuestionError(f"question {question.id}: the short_answer protocol needs an answer text.")
        if not normalized(answer.text):
            return Score(0.0, status="unparsed", reason="empty answer")
        return Score(float(is_match(answer.text, str(question.truth), self.parser)))

    def _read(self) -> list[Question]:
        """A question whose image is missing stays, and loading that image is its QuestionError."""
        table = self._table(part=QUESTIONS)
        images = self._table(self.published_images, part=IMAGES)
        loaders = {
            images.identity(row, ids, "id"): images.image_loader(row) for row, ids in enumerate(images.rows("id"))
        }
        questions = [_question(table, number, row, loaders) for number, row in enumerate(table.rows())]
        absent = [question.image_id for question in questions if question.image_id not in loaders]
        if len(absent) == len(questions):
            raise DataError(
                f"{images.origin}: has the image of no question of {table.origin} (the first: {absent[0]}).\n"
                "The two tables must be of the same split."
            )
        if absent:
            self.notices.append(
                f"{self.name}: {images.origin} lacks {len(set(absent))} images; {len(absent)} questions are errors."
            )
        return questions


def _question(
    table: Table, number: int, row: Mapping[str, Any], loaders: Mapping[str, Callable[[], Image.Image]]
) -> Question:
    identity, image, text, answer = (
        (table.identity if name in ("id", "imageId") else table.text)(number, row, name).strip()
        for name in ("id", "imageId", "question", "answer")
    )
    types = row["types"]
    structural, semantic = (types.get(name) if isinstance(types, dict) else None for name in ("structural", "semantic"))
    if not structural or not semantic:
        raise DataError(f"{table.place(number)}: types {types!r} must name a structural and a semantic type.")
    return Question(
        id=identity,
        text=text,
        category=structural,
        image_id=image,
        load_image=loaders.get(image) or partial(_no_image, f"{table.place(number)}: no image has the id {image}."),
        truth=answer,
        cluster=image,
        # As GQA's eval.py names them.
        tags={"answer_type": "open" if structural == "query" else "binary", "semantic": semantic},
    )


def _no_image(message: str) -> NoReturn:
    raise QuestionError(message)
