"""V* Bench: questions about small objects in large photographs, with the objects' boxes (Wu & Xie, arXiv 2312.14135).

Two protocols. `likelihood`, the paper's own: the model sees the bare question, every option sentence is scored as its
whole answer, and the smallest mean loss decides. `letter`: the published text with lettered options, and one letter
generated. The two word and order their options differently; each is used exactly as published.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

from semclip_eval.benchmarks import vstar_files
from semclip_eval.benchmarks.access import MAX_MEGAPIXELS, FileAccess
from semclip_eval.benchmarks.base import Benchmark, check_protocol
from semclip_eval.benchmarks.images import read_rgb
from semclip_eval.benchmarks.vstar_files import Annotation, PublishedRow
from semclip_eval.errors import DataError, QuestionError
from semclip_eval.places import data_folder, hub_folder, is_generated, path_text
from semclip_eval.scoring.choice import LETTERS, score_choice
from semclip_eval.scoring.likelihood import least_loss
from semclip_eval.types import Answer, Prompt, Question, Score

# The prompts. Likelihood asks the annotation's bare `question`; letter asks the row's `text`, which ends like this.
LETTER_INSTRUCTION = "Answer with the option's letter from the given choices directly."
LETTER_TOKENS = 16

# The questions of each folder as published; the folders OCR and GPT4V-hard are not part of the 191.
PUBLISHED = {"direct_attributes": 115, "relative_position": 76}
PATTERNS = (*(f"{category}/*" for category in PUBLISHED), vstar_files.ROWS)

_OPTION_LINE = re.compile(r"\(([A-Z])\)\s*(.*\S)\s*")


class VStar(Benchmark):
    """V* Bench from the Hub snapshot or, with `path`, from a local folder of the same layout.

    hub_id, revision: the dataset repository and its pinned commit. path: a local copy (`mini://vstar` for the
    miniature), which needs no Hub. follow_links, max_megapixels: what of the files may be opened (`FileAccess`). A
    likelihood question keeps the file's order, so its truth is option 0; a letter question has the published letters.
    """

    protocols = ("likelihood", "letter")
    has_boxes = True

    def __init__(
        self,
        name: str = "vstar",
        hub_id: str = "craigwu/vstar_bench",
        revision: str = "d9ae62c903da0c98336e85c5ee89cd863b04b4da",
        path: str | None = None,
        protocol: str = "likelihood",
        split: str = "test",
        follow_links: bool = False,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        super().__init__()
        self.name, self.hub_id, self.revision = name, hub_id, revision
        self.path = path_text(path)
        self.protocol, self.split = protocol, split
        check_protocol(self)
        self.access = FileAccess(None, follow_links, max_megapixels)
        self._letter_texts: dict[str, str] = {}
        self._questions: list[Question] | None = None

    def questions(self) -> list[Question]:
        """In the order of test_questions.jsonl; without that file by category and file stem, and the stem is the id."""
        if self._questions is None:
            self._questions = self._read()
        return list(self._questions)

    def prompt(self, question: Question) -> Prompt:
        """The bare question with the option sentences as continuations, or the published text with its letters."""
        if self.protocol == "likelihood":
            return Prompt(question.text, continuations=question.options)
        return Prompt(self._letter_texts[question.id], max_new_tokens=LETTER_TOKENS)

    def score(self, question: Question, answer: Answer) -> Score:
        """1 for the right option, else 0; `unparsed` where losses tie or the text names no one option."""
        if self.protocol == "likelihood":
            choice = _least(question, answer)
            if choice is None:
                return Score(0.0, status="unparsed", reason="tie")
            return Score(float(choice == question.truth), choice=choice)
        return score_choice(question, answer)

    def _read(self) -> list[Question]:
        if self.path is None:
            folder, self.dataset_revision = hub_folder(self.hub_id, self.revision, PATTERNS)
        else:
            folder = data_folder(self.path)
        self.notices = []
        self.access = self.access.inside(folder)
        files = vstar_files.read(folder, tuple(PUBLISHED), self.access)
        if self.path is not None:
            self.dataset_revision = vstar_files.content_revision(folder, files.paths)
        if self.protocol == "letter" and files.rows is None:
            raise DataError(
                f"{folder / vstar_files.ROWS}: missing, and the letter protocol asks its texts.\n"
                "Add it from the published repository, or use benchmark.protocol=likelihood."
            )
        if not is_generated(self.path):
            self._notice_counts(files)
        make = self._letter_question if self.protocol == "letter" else self._likelihood_question
        if files.rows is not None:
            return [make(files.annotations[row.key], row) for row in files.rows]
        stems = [annotation.stem for annotation in files.annotations.values()]
        return [
            self._likelihood_question(annotation, None, unique=stems.count(annotation.stem) == 1)
            for annotation in files.annotations.values()
        ]

    def _notice_counts(self, files: vstar_files.Files) -> None:
        counts = dict.fromkeys(PUBLISHED, 0)
        for annotation in files.annotations.values():
            counts[annotation.category] += 1
        if counts != PUBLISHED:
            found = " + ".join(f"{count} {category}" for category, count in counts.items())
            if self.path is None:
                # Offline, the Hub's client hands out a download that broke off as if it were the whole.
                raise DataError(
                    f"{self.hub_id} at {self.dataset_revision}: the Hub's cache holds {found} questions, published are "
                    f"{sum(PUBLISHED.values())}.\nRun once with the Hub in reach, or give a local copy with "
                    "benchmark.path=FOLDER."
                )
            self.notices.append(
                f"{self.name}: {sum(counts.values())} questions ({found}); V* publishes "
                f"{sum(PUBLISHED.values())} ({' + '.join(map(str, PUBLISHED.values()))})."
            )
        if files.rows_left_out:
            self.notices.append(
                f"{self.name}: {files.rows_left_out} rows of {vstar_files.ROWS} have no files here and are left out."
            )

    def _likelihood_question(self, annotation: Annotation, row: PublishedRow | None, unique: bool = True) -> Question:
        identity = row.question_id if row else annotation.stem if unique else annotation.name
        return self._question(annotation, identity, annotation.question, annotation.options, truth=0)

    def _letter_question(self, annotation: Annotation, row: PublishedRow) -> Question:
        shown = lettered(row)
        self._letter_texts[row.question_id] = shown.prompt
        return self._question(annotation, row.question_id, shown.question, shown.options, shown.truth)

    def _question(
        self, annotation: Annotation, identity: str, text: str, options: tuple[str, ...], truth: int
    ) -> Question:
        return Question(
            id=identity,
            text=text,
            category=annotation.category,
            image_id=annotation.name,
            load_image=partial(read_rgb, annotation.image, self.access),
            truth=truth,
            options=options,
            target_boxes=annotation.boxes,
        )


@dataclass(frozen=True)
class Lettered:
    """A published text taken apart: prompt to the byte, the question before the options, options in letter order."""

    prompt: str
    question: str
    options: tuple[str, ...]
    truth: int


def lettered(row: PublishedRow) -> Lettered:
    """Read the option lines `(A) ...` and the label of a row; the instruction is added where a mirror left it out.

    Raises DataError naming the row's place where the letters do not run A, B, ... or the label is none of them.
    """
    lines = row.text.split("\n")
    marked = [(number, match) for number, line in enumerate(lines) if (match := _OPTION_LINE.fullmatch(line))]
    letters = "".join(match[1] for _, match in marked)
    if len(letters) < 2 or letters != LETTERS[: len(letters)]:
        raise DataError(
            f"{row.place}: `text` has the option letters {letters or 'none'!r}; they must run (A), (B), ..."
        )
    if len(row.label) != 1 or row.label not in letters:
        raise DataError(f"{row.place}: label {row.label!r} is none of the letters {letters}.")
    prompt = row.text
    if not prompt.rstrip().endswith(LETTER_INSTRUCTION):
        prompt = f"{prompt.rstrip()}\n{LETTER_INSTRUCTION}"
    question = "\n".join(lines[: marked[0][0]]).strip()
    return Lettered(prompt, question, tuple(match[2] for _, match in marked), letters.index(row.label))


def _least(question: Question, answer: Answer) -> int | None:
    losses = answer.option_losses
    if losses is None or len(losses) != len(question.options):
        raise QuestionError(
            f"question {question.id}: {'no' if losses is None else len(losses)} option losses for "
            f"{len(question.options)} options (a model that only generates: benchmark.protocol=letter)."
        )
    return least_loss(losses)
