"""TextVQA validation: questions that take reading in the image (Singh et al., arXiv 1904.08920).

5,000 questions about 3,166 photographs, ten human answers each. The prompt is that of LLaVA-1.5's question file
(haotian-liu/LLaVA, llava_textvqa_val_v051_ocr.jsonl): the question with its first letter as a capital and all others
small, on request the words that an OCR system read, and the short-answer instruction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from semclip_eval.benchmarks.access import MAX_MEGAPIXELS
from semclip_eval.benchmarks.table_benchmark import SHORT, TableBenchmark
from semclip_eval.benchmarks.tables import Published, Table
from semclip_eval.errors import ConfigError, DataError, QuestionError
from semclip_eval.scoring.evalai import evalai_normalized, vqa_accuracy
from semclip_eval.scoring.metrics import Metric
from semclip_eval.types import Answer, Prompt, Question, Score

ANSWERS = 10


class TextVqa(TableBenchmark):
    """TextVQA from the Hub or a local copy.

    ocr_tokens: whether the prompt holds the data set's OCR tokens (Rosetta's), as for LLaVA's published 58.2. They hand
    the model most of what it was to read in the image, so a comparison of crop selectors leaves them out; the column
    `protocol` says `short_answer+ocr` where they are in. The metric is VQA accuracy with EvalAI's normalisation. One
    category; `categories.csv` also tells apart by what most of the human answers are: yes or no, a number, or text.
    """

    splits = ("validation",)
    protocols = ("short_answer",)
    parsers = ("official",)
    metric = Metric("vqa_accuracy")
    breakdowns = ("answer_type",)
    published = Published(
        files=("data/validation-*.parquet",),
        columns=("image_id", "question_id", "question", "answers", "ocr_tokens"),
        rows=5000,
        image="image",
    )

    def __init__(
        self,
        name: str,
        split: str,
        hub_id: str,
        revision: str | None,
        path: str | None,
        protocol: str,
        parser: str = "official",
        ocr_tokens: bool = False,
        follow_links: bool = False,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        super().__init__(name, split, hub_id, revision, path, protocol, parser, follow_links, max_megapixels)
        if not isinstance(ocr_tokens, bool):
            raise ConfigError(f"benchmark.ocr_tokens={ocr_tokens}: must be true or false.")
        self.ocr_tokens = ocr_tokens

    @property
    def described_protocol(self) -> str:
        """`short_answer` or `short_answer+ocr`: the two ask different things. There is but one parser."""
        return f"{self.protocol}+ocr" if self.ocr_tokens else self.protocol

    def prompt(self, question: Question) -> Prompt:
        """LLaVA-1.5's: the question, a line with the OCR tokens where they are asked for, the instruction."""
        hint = f"\n{question.hint}" if self.ocr_tokens else ""
        return Prompt(question.text.capitalize() + hint + SHORT)

    def score(self, question: Question, answer: Answer) -> Score:
        """The part of the human answers that agree, in [0, 1]; `unparsed` where there is no text at all."""
        if answer.text is None:
            raise QuestionError(f"question {question.id}: the short_answer protocol needs an answer text.")
        if not answer.text.strip():
            return Score(0.0, status="unparsed", reason="empty answer")
        references = question.truth if isinstance(question.truth, tuple) else (str(question.truth),)
        return Score(vqa_accuracy(answer.text, references))

    def _read(self) -> list[Question]:
        table = self._table()
        questions = [self._question(table, number, row) for number, row in enumerate(table.rows())]
        if others := sum(isinstance(q.truth, tuple) and len(q.truth) != ANSWERS for q in questions):
            self.notices.append(f"{self.name}: {others} questions have another number of answers than {ANSWERS}.")
        return questions

    def _question(self, table: Table, number: int, row: Mapping[str, Any]) -> Question:
        identity, image, text = (
            (table.text if name == "question" else table.identity)(number, row, name).strip()
            for name in ("question_id", "image_id", "question")
        )
        answers, tokens = row["answers"], row["ocr_tokens"]
        if not _are_texts(answers) or not answers:
            raise DataError(
                f"{table.place(number)}: answers {answers!r} must be a list of texts (those of the test split are not "
                "published)."
            )
        if not _are_texts(tokens):
            raise DataError(f"{table.place(number)}: ocr_tokens {tokens!r} must be a list of texts.")
        return Question(
            id=identity,
            text=text,
            category=self.split,
            image_id=image,
            load_image=table.image_loader(number),
            truth=tuple(answers),
            # Without tokens LLaVA's line ends with its space.
            hint=f"Reference OCR token: {', '.join(tokens)}" if self.ocr_tokens else "",
            cluster=image,
            tags={"answer_type": answer_type(answers)},
        )


def answer_type(answers: Sequence[str]) -> str:
    """`yes_no`, `number` or `text`: what the most frequent of the human answers is (of several, the first)."""
    (most, _), *_ = Counter(map(evalai_normalized, answers)).most_common(1)
    if most in ("yes", "no"):
        return "yes_no"
    return "number" if most.replace(".", "", 1).isdecimal() else "text"


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
