"""benchmark=custom: a user's own questions, one row each, in any of the usual table formats."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from semclip_eval.benchmarks.access import MAX_MEGAPIXELS, FileAccess
from semclip_eval.benchmarks.base import Benchmark, check_protocol
from semclip_eval.benchmarks.custom_rows import IMAGE, Row, Rows, read_rows
from semclip_eval.benchmarks.images import decode_rgb, read_rgb
from semclip_eval.benchmarks.table_benchmark import LETTER, SHORT, lettered
from semclip_eval.digest import add_file
from semclip_eval.errors import ConfigError, DataError, QuestionError
from semclip_eval.places import path_text
from semclip_eval.scoring.choice import LETTERS, option_of_letter, score_choice
from semclip_eval.scoring.evalai import vqa_accuracy
from semclip_eval.scoring.likelihood import least_loss
from semclip_eval.scoring.metrics import Metric
from semclip_eval.scoring.short_answer import is_match, normalized
from semclip_eval.scoring.yes_no import OPTIONS as YES_NO
from semclip_eval.scoring.yes_no import parse_yes_no
from semclip_eval.types import Answer, Box, Prompt, Question, Score

CHOICES = ("letter", "likelihood")
IDS = ("id", "index", "question_id")
TEXT_TOKENS, LETTER_TOKENS = 128, 16
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# Shorter texts are file names; the smallest picture is longer in base64.
LEAST_BASE64 = 60


class Custom(Benchmark):
    """Questions from a file or folder of one's own (docs/custom_data.md).

    path: a .jsonl, .json, .csv, .tsv, .parquet or .arrow file, or a folder with one of them. Columns: `image` (a path
    below the file's folder, bytes, or base64), `question`, `options` (a list, or columns A, B, C, ...), `answer` (an
    option's text, its letter or its index from 0; free text without options) or `answers` (a list of texts); where
    given `id`, `category`, `boxes` ([x, y, width, height] in pixels, or a list of those), `hint`, `image_id`.
    VLMEvalKit's TSV files are read as they are, an image that is named by another row's index included.

    protocol: `auto` is `letter` with options, `yes_no` where every answer is yes or no, `vqa` where a question has
    three answers or more, else `short_answer`; or one of those, or `likelihood`. instruction: behind the question; null
    for LLaVA-1.5's. Raises DataError that names row and column.
    """

    protocols = ("auto", "letter", "likelihood", "yes_no", "short_answer", "vqa")

    def __init__(
        self,
        name: str = "custom",
        path: str | None = None,
        protocol: str = "auto",
        split: str = "all",
        instruction: str | None = None,
        follow_links: bool = False,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        super().__init__()
        self.name, self.split, self.protocol = str(name), str(split), protocol
        self.path = path_text(path)
        if self.path is None:
            raise ConfigError("benchmark.path=null: name the file or folder with your questions (docs/custom_data.md).")
        check_protocol(self)
        self.instruction = instruction
        self.access = FileAccess(None, follow_links, max_megapixels)
        self._questions: list[Question] | None = None

    def questions(self) -> list[Question]:
        """In file order; `protocol` and `metric` are settled then."""
        if self._questions is None:
            self._questions = self._read()
        return list(self._questions)

    def prompt(self, question: Question) -> Prompt:
        """Hint, question, lettered options where they are shown, instruction."""
        text = f"{question.hint}\n{question.text}" if question.hint else question.text
        if self.protocol == "likelihood":
            return Prompt(text + (self.instruction or ""), continuations=question.options)
        if self.protocol == "letter":
            ending = LETTER if self.instruction is None else self.instruction
            return Prompt(lettered(text, question.options) + ending, max_new_tokens=LETTER_TOKENS)
        return Prompt(text + (SHORT if self.instruction is None else self.instruction), max_new_tokens=TEXT_TOKENS)

    def score(self, question: Question, answer: Answer) -> Score:
        """1 for the right option or a reference answer; for `vqa` the part of the answers that agree."""
        if self.protocol == "likelihood":
            if answer.option_losses is None:
                raise QuestionError(f"question {question.id}: the likelihood protocol needs option losses.")
            choice = least_loss(answer.option_losses)
            if choice is None:
                return Score(0.0, status="unparsed", reason="tie")
            return Score(float(choice == question.truth), choice=choice)
        if self.protocol == "letter":
            return score_choice(question, answer)
        if answer.text is None:
            raise QuestionError(f"question {question.id}: the {self.protocol} protocol needs an answer text.")
        if self.protocol == "yes_no":
            reading = parse_yes_no(answer.text)
            if reading.option is None:
                return Score(0.0, status="unparsed", reason=reading.how)
            return Score(float(reading.option == question.truth), choice=reading.option)
        if not normalized(answer.text):
            return Score(0.0, status="unparsed", reason="empty answer")
        references = question.truth if isinstance(question.truth, tuple) else (str(question.truth),)
        if self.protocol == "vqa":
            return Score(vqa_accuracy(answer.text, references))
        return Score(float(any(is_match(answer.text, reference, "strict") for reference in references)))

    def _read(self) -> list[Question]:
        table = read_rows(str(self.path))
        self.access = self.access.inside(table.folder)
        self.notices = []
        for wanted in (IMAGE, "question"):
            if wanted not in table.columns and not (wanted == IMAGE and "image_path" in table.columns):
                raise DataError(
                    f"{table.files[0]}: column {wanted} missing; it has {', '.join(table.columns)} "
                    "(docs/custom_data.md)."
                )
        self.protocol = self._settled(table)
        self.metric = Metric("vqa_accuracy" if self.protocol == "vqa" else "accuracy")
        check_protocol(self)
        ids = _ids(table)
        by_id = dict(zip(ids, table.rows, strict=True))
        questions = [self._question(row, identity, table, by_id) for row, identity in zip(table.rows, ids, strict=True)]
        self.has_boxes = any(question.target_boxes for question in questions)
        self.dataset_revision = _revision(table)
        return questions

    def _settled(self, table: Rows) -> str:
        if self.protocol != "auto":
            return self.protocol
        with_options = sum(bool(_options(row)) for row in table.rows)
        if with_options == len(table.rows):
            return "letter"
        if with_options:
            row = next(row for row in table.rows if not _options(row))
            raise DataError(
                f"{row.place}: has no options, and other rows have. Make two files of them, or choose "
                "benchmark.protocol=short_answer."
            )
        answers = [_answers(row) for row in table.rows]
        if all(len(each) == 1 and each[0].strip().lower() in YES_NO for each in answers):
            return "yes_no"
        return "vqa" if any(len(each) >= 3 for each in answers) else "short_answer"

    def _question(self, row: Row, identity: str, table: Rows, by_id: Mapping[str, Row]) -> Question:
        text = row.values.get("question")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{row.place}: question is empty.")
        options = tuple(_options(row)) if self.protocol in CHOICES else ()
        shown = YES_NO if self.protocol == "yes_no" else options
        image_id, load = self._image(row, identity, table, by_id)
        hint = row.values.get("hint")
        return Question(
            id=identity,
            text=text,
            category=str(row.values.get("category") or self.split),
            image_id=image_id,
            load_image=load,
            truth=self._truth(row, options),
            options=tuple(shown),
            target_boxes=_boxes(row),
            hint=hint if isinstance(hint, str) and hint.strip() else "",
            cluster=image_id,
        )

    def _truth(self, row: Row, options: Sequence[str]) -> int | str | tuple[str, ...]:
        if self.protocol in CHOICES:
            return _right_option(row, options)
        answers = _answers(row)
        if not answers:
            raise DataError(f"{row.place}: answer is empty (column answer or answers).")
        if self.protocol == "yes_no":
            word = answers[0].strip().lower()
            if word not in YES_NO:
                raise DataError(f"{row.place}: answer {answers[0]!r} must be yes or no.")
            return YES_NO.index(word)
        return tuple(answers) if len(answers) > 1 or self.protocol == "vqa" else answers[0]

    def _image(
        self, row: Row, identity: str, table: Rows, by_id: Mapping[str, Row]
    ) -> tuple[str, Callable[[], Image.Image]]:
        named = row.values.get("image_id")
        path = row.values.get("image_path")
        if path and IMAGE not in table.columns:
            row = Row(row.values, partial(str, path), row.place)
        # A Parquet file's images stay on disk; a text is looked at, since it may name a file or another row.
        image = row.image() if table.files[0].suffix.lower() not in (".parquet", ".arrow") else None
        if isinstance(image, str):
            if _URL.match(image) and not image.startswith("data:"):
                raise DataError(f"{row.place}: image {image[:80]} is a URL, and nothing is fetched. Save the file.")
            if image in by_id and len(image) < LEAST_BASE64 and by_id[image] is not row:
                return image, partial(_load, by_id[image], table.folder, self.access)
            if len(image) < LEAST_BASE64 or _is_file(table.folder, image):
                return str(named or image), partial(_load, row, table.folder, self.access)
            # The same picture in two rows is one image: its questions are resampled together.
            named = named or hashlib.sha256(image.encode()).hexdigest()[:16]
        return str(named or identity), partial(_load, row, table.folder, self.access)


def _load(row: Row, folder: Path, access: FileAccess) -> Image.Image:
    """Upright RGB; QuestionError that names the row where there is no image or it cannot be read."""
    try:
        value = row.image()
    except (OSError, ValueError) as error:
        raise QuestionError(f"{row.place}: image cannot be read ({error}).") from error
    if isinstance(value, list):
        if len(value) != 1:
            raise QuestionError(f"{row.place}: has {len(value)} images, expected one.")
        value = value[0]
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not value:
        raise QuestionError(f"{row.place}: has no image.")
    if isinstance(value, str):
        if len(value) < LEAST_BASE64 or _is_file(folder, value):
            return read_rgb(folder / value, access)
        try:
            value = base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
        except (binascii.Error, ValueError):
            return read_rgb(folder / value, access)  # a long file name that is not there
    try:
        return decode_rgb(value, access)
    except QuestionError as error:
        raise QuestionError(f"{row.place}: {error}.") from error


def _is_file(folder: Path, name: str) -> bool:
    try:
        return len(name) < 1024 and (folder / name).is_file()
    except (OSError, ValueError):
        return False


def _ids(table: Rows) -> list[str]:
    """The ids of all rows: column id, index or question_id, else the row's number. DataError where two are the same."""
    column = next((name for name in IDS if name in table.columns), None)
    ids = [_identity(row, column, number) for number, row in enumerate(table.rows)]
    if (most := Counter(ids).most_common(1)[0])[1] > 1:
        raise DataError(f"{table.files[0]}: two rows have the {column} {most[0]!r}, and results are kept by id.")
    return ids


def _identity(row: Row, column: str | None, number: int) -> str:
    value = row.values.get(column) if column else number
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    if not text:
        raise DataError(f"{row.place}: {column} is empty.")
    whole = re.fullmatch(r"(\d+)\.0+", text)
    return whole[1] if whole else text


def _options(row: Row) -> list[str]:
    """The list in `options` (in CSV as JSON), or the columns A, B, C, ... up to the first that is empty."""
    given = row.values.get("options")
    if isinstance(given, str):
        given = _json(row, "options", given)
    if given is not None:
        if not isinstance(given, list) or not all(isinstance(item, (str, int, float)) for item in given):
            raise DataError(f"{row.place}: options {str(given)[:80]!r} must be a list of texts.")
        options = [str(item) for item in given]
    else:
        options = []
        for letter in LETTERS:
            value = row.values.get(letter)
            if value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip():
                break
            options.append(str(value))
    if len(options) == 1 or len(set(options)) < len(options):
        raise DataError(f"{row.place}: options {options} must be two or more, each another.")
    if len(options) > len(LETTERS):
        raise DataError(f"{row.place}: has {len(options)} options, at most {len(LETTERS)} have letters.")
    return options


def _right_option(row: Row, options: Sequence[str]) -> int:
    """The option that `answer` names by text, letter or index; DataError where it is none or could be two."""
    if not options:
        raise DataError(f"{row.place}: has no options (column options, or A, B, C, ...).")
    answer = row.values.get("answer")
    if isinstance(answer, bool) or answer is None or not str(answer).strip():
        raise DataError(f"{row.place}: answer is empty.")
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    text = str(answer).strip()
    by_text = [place for place, option in enumerate(options) if option.strip() == text]
    by_letter = option_of_letter(text.upper(), len(options)) if len(text) == 1 else None
    by_index = int(text) if text.isdecimal() and int(text) < len(options) else None
    readings = {place for place in (*by_text, by_letter, by_index) if place is not None}
    if isinstance(answer, int) and by_index is not None and not by_text:
        return by_index
    if len(readings) == 1:
        return readings.pop()
    if readings:
        raise DataError(
            f"{row.place}: answer {text!r} is one option's text and another one's letter or index. Write the letter "
            "of the right option, and texts that are no letters."
        )
    raise DataError(f"{row.place}: answer {text!r} is no option's text, letter or index; options are {list(options)}.")


def _answers(row: Row) -> list[str]:
    given = row.values.get("answers")
    if isinstance(given, str) and given.lstrip().startswith("["):
        given = _json(row, "answers", given)
    if given is None:
        given = row.values.get("answer")
    values = given if isinstance(given, list) else [] if given is None else [given]
    if not all(isinstance(value, (str, int, float)) for value in values):
        raise DataError(f"{row.place}: answers {str(given)[:80]!r} must be texts.")
    return [str(value) for value in values if str(value).strip()]


def _boxes(row: Row) -> tuple[Box, ...]:
    """`boxes` as [x, y, width, height] in pixels, one or a list of them; DataError for anything else."""
    given = row.values.get("boxes")
    if isinstance(given, str):
        given = _json(row, "boxes", given)
    if given is None or given == []:
        return ()
    boxes = given if isinstance(given[0] if isinstance(given, list) else None, list) else [given]
    found = []
    for box in boxes:
        numbers = isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)
        if not numbers or box[2] <= 0 or box[3] <= 0:
            raise DataError(f"{row.place}: boxes {box!r} must be [x, y, width, height] in pixels, both above 0.")
        left, top, width, height = (round(value) for value in box)
        found.append(Box(left, top, left + max(1, width), top + max(1, height)))
    return tuple(found)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _json(row: Row, column: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f'{row.place}: {column} {text[:80]!r} must be a JSON list, such as ["red", "blue"].') from error


def _revision(table: Rows) -> str:
    """`local:` and a digest of the files' names, sizes and ends, every row's texts, and the sizes of images by path."""
    digest = hashlib.sha256()
    for file in table.files:
        add_file(digest, file.name, file)
    for row in table.rows:
        digest.update(repr(sorted(row.values.items(), key=lambda item: item[0])).encode("utf-8", "surrogatepass"))
    if table.files[0].suffix.lower() not in (".parquet", ".arrow"):
        for row in table.rows:
            name = row.values.get("image_path") or row.image()
            if isinstance(name, str) and _is_file(table.folder, name):
                digest.update(f"{name}\0{(table.folder / name).stat().st_size}\0".encode())
    return f"local:{digest.hexdigest()[:12]}"
