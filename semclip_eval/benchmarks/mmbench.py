"""MMBench (English, dev): multiple choice about one image, every question once per rotation of its options.

Liu et al., arXiv 2307.06281. A question is right only if all of its rotations are (CircularEval): a model that always
says "A" gets nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from semclip_eval.benchmarks.access import MAX_MEGAPIXELS
from semclip_eval.benchmarks.table_benchmark import LETTER, TableBenchmark, lettered
from semclip_eval.benchmarks.tables import Published, Table
from semclip_eval.errors import DataError
from semclip_eval.places import is_generated
from semclip_eval.scoring.choice import option_of_letter, score_choice
from semclip_eval.scoring.metrics import CircularAccuracy
from semclip_eval.types import Answer, Prompt, Question, Score

# The prompt, to the byte: haotian-liu/LLaVA, llava/eval/model_vqa_mmbench.py with --single-pred-prompt.
#     {hint}\n{question}\nA. {A}\nB. {B}\n...\nAnswer with the option's letter from the given choices directly.
# A question without a hint begins with the question; options that a row does not have are left out.
HINT = "{hint}\n"
INSTRUCTION = LETTER

# LLaVA allows 1024 new tokens here. A letter ends after two, so the limit only meets a model that rambles; 1024 would
# take a quarter of LLaVA-1.5's context of 4096 away from the views (five views are 2880 visual tokens).
ANSWER_TOKENS = 128

OPTIONS = ("A", "B", "C", "D")
# The rotations of question 17 have the indices 17, 1000017, 2000017, ...
ROTATION_STEP = 1_000_000


class MMBench(TableBenchmark):
    """MMBench-EN dev, scored by CircularEval.

    The accuracy is over questions, not rows: 1 where all rotations of a question are right, else 0. A question with an
    error record, or of which not every rotation was asked, counts nowhere: what is not known is not wrong, and to count
    it only where another rotation is already wrong would lower the accuracy. `n`, `n_scored` and `n_unparsed` count
    rows. `plain_accuracy` in categories.csv is the mean over rows.
    """

    splits = ("dev",)  # the only one that is published with answers
    protocols = ("letter",)
    metric = CircularAccuracy()
    breakdowns = ("L2-category",)
    keeps_clusters_together = True
    published = Published(
        files=("en/dev-*.parquet",),
        columns=("index", "question", "hint", *OPTIONS, "answer", "category", "L2-category"),
        rows=4329,
        image="image",
    )

    def __init__(
        self,
        name: str = "mmbench",
        split: str = "dev",
        hub_id: str = "lmms-lab/MMBench",
        revision: str | None = "56ba1af8954932c4804bd3f522e05ed96e63b654",
        path: str | None = None,
        protocol: str = "letter",
        parser: str = "strict",
        follow_links: bool = False,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        super().__init__(name, split, hub_id, revision, path, protocol, parser, follow_links, max_megapixels)

    def prompt(self, question: Question) -> Prompt:
        """LLaVA's prompt: hint, question, lettered options, instruction."""
        hint = HINT.format(hint=question.hint) if question.hint else ""
        return Prompt(
            hint + lettered(question.text, question.options) + INSTRUCTION,
            max_new_tokens=ANSWER_TOKENS,
        )

    def score(self, question: Question, answer: Answer) -> Score:
        """1 for the right option of this rotation, else 0."""
        return score_choice(question, answer)

    def chance(self, question: Question) -> float | None:
        """The chance that guesses at all rotations are right, carried by the first rotation alone.

        The others have None, so that the mean over the records, which skips None, is a mean over questions, as the
        accuracy is.
        """
        if question.tags["rotation"] != "0":
            return None
        return (1 / len(question.options)) ** int(question.tags["rotations"])

    def _read(self) -> list[Question]:
        table = self._table()
        rows = list(table.rows())
        indices = [_index(row["index"], table.place(number)) for number, row in enumerate(rows)]
        members: dict[int, list[int]] = {}
        for number, index in enumerate(indices):
            members.setdefault(index % ROTATION_STEP, []).append(number)
        questions = []
        for number, index in enumerate(indices):
            group = index % ROTATION_STEP
            questions.append(_question(table, rows, number, index, members[group], str(group)))
        if not is_generated(self.path):
            self._notice_rotations(questions, len(members))
        return questions

    def _notice_rotations(self, questions: Sequence[Question], groups: int) -> None:
        odd = {question.cluster for question in questions if len(question.options) != int(question.tags["rotations"])}
        if odd:
            self.notices.append(
                f"{self.name}: {len(odd)} of {groups} questions do not have one row for each rotation of their options "
                f"(the first is {min(odd, key=int)}); CircularEval is easier on such."
            )


def is_absent(value: object) -> bool:
    """Is this how the table says that there is no hint or option: nothing, NaN, an empty text or the text "nan"?"""
    return value is None or value != value or str(value).strip().lower() in ("", "nan")


def _question(
    table: Table, rows: Sequence[Mapping[str, Any]], number: int, index: int, group: Sequence[int], cluster: str
) -> Question:
    row, main = rows[number], rows[group[0]]
    options: list[str] = []
    for letter in OPTIONS:
        if is_absent(row[letter]):
            break  # LLaVA, too, stops at the first that is missing
        options.append(table.text(number, row, letter))
    truth = option_of_letter(row["answer"], len(options))
    if truth is None or len(options) < 2:
        raise DataError(f"{table.place(number)}: answer {row['answer']!r} is none of its {len(options)} options.")
    return Question(
        id=str(index),
        text=table.text(number, row, "question"),
        category=table.text(group[0], main, "category"),
        image_id=cluster,
        load_image=table.image_loader(number),
        truth=truth,
        options=tuple(options),
        # LLaVA drops a hint that reads "none" as well.
        hint="" if is_absent(row["hint"]) or str(row["hint"]).lower() == "none" else table.text(number, row, "hint"),
        cluster=cluster,
        tags={
            "L2-category": table.text(group[0], main, "L2-category"),
            "rotation": str(group.index(number)),
            "rotations": str(len(group)),
        },
    )


def _index(value: object, place: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise DataError(f"{place}: index {value!r} is not a whole number.") from None
