"""`model=replay`: answers that were made elsewhere, looked up by question id instead of computed.

The file is JSON Lines, one object a question: `question_id` (text or whole number), `answer` (text) and, for protocols
that score options, `option_losses` (nats per token, in the order of the benchmark's options). Other keys are left
alone, so the `samples.jsonl` of a finished run is such a file. Everything that could go wrong with the file is refused
before the run; what the benchmark then does with an answer is what it does with any model's.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semclip_eval.errors import ConfigError, DataError, QuestionError
from semclip_eval.files import open_regular, shown
from semclip_eval.types import Answer, Prompt, Question

EXTERNAL = "external"
# What a revision of answers begins with: it names a file of answers, not weights.
REVISION_MARK = "answers:"

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Entry:
    """One line of the file.

    error: what went wrong there, where it is the record of a question that failed. asked: question and options of a
    run's own record. words: the question or prompt that a line from elsewhere carries.
    """

    line: int
    answer: str | None
    option_losses: tuple[float, ...] | None
    error: str | None
    asked: tuple[str, tuple[str, ...]] | None
    words: str | None


class Replay:
    """The answers of one file, by question id.

    name: how the results name the model that answered. path: the file. selector_name: how the views were chosen there,
    where that is known; `selector` is what the results say: `external`, or `external_` and that name. `revision` is
    `answers:` and a digest of the file's bytes. Raises ConfigError for a missing file or a wrong name, DataError naming
    file and line for a malformed or doubled entry.
    """

    def __init__(self, name: str, path: str | None, selector_name: str | None = None) -> None:
        if path is None:
            raise ConfigError(
                f"model={name}: model.path is not set; give the file of answers, one JSON object a question: "
                "model.path=ANSWERS.jsonl (docs/replay.md)."
            )
        if selector_name is not None and not _FOLDER_NAME.fullmatch(str(selector_name)):
            raise ConfigError(
                f"model.selector_name={selector_name!r}: names a folder of the results; use letters, digits, _ and -."
            )
        self.name = name
        # Hydra reads a file named 2024 as a number.
        self.path = Path(str(path)).expanduser()
        self.selector = EXTERNAL if selector_name is None else f"{EXTERNAL}_{selector_name}"
        content = _content(self.path)
        self.revision = f"{REVISION_MARK}{hashlib.sha256(content).hexdigest()[:12]}"
        # In the order of the file; an id can stand there twice where the benchmark publishes it twice.
        self._lines = _entries(self.path, content)
        self._entries = {identity: entries[0] for identity, entries in self._lines.items()}

    def check(
        self,
        questions: Sequence[Question],
        asked: Sequence[Question],
        prompt: Callable[[Question], Prompt],
        protocol: str,
    ) -> list[str]:
        """Refuse the file where it cannot serve the questions asked; return what the user should know of it.

        questions: all that the benchmark has; asked: those of this run. Raises ConfigError naming the question: no
        answer for one asked; an answer for one that the benchmark does not have (a notice where not all are asked); an
        answer that the protocol cannot read; a run's record of a question that was put in other words.
        """
        self._entries = self._by_question({question.id for question in questions})
        missing = [question.id for question in asked if question.id not in self._entries]
        if missing:
            raise ConfigError(
                f"model.path={self.path}: has no answer for {len(missing)} of {len(asked)} questions, the first is "
                f"question_id {missing[0]!r}{self._example()}.\n"
                "Add them, or ask fewer questions with run.limit=N."
            )
        known = {question.id for question in questions}
        strangers = [identity for identity in self._entries if identity not in known]
        notices = []
        if strangers:
            text = (
                f"{self.path}, line {self._entries[strangers[0]].line}: the benchmark has no question "
                f"{strangers[0]!r} ({len(strangers)} such of {len(self._entries)} answers)"
            )
            if len(asked) == len(questions):
                raise ConfigError(f"{text}. Remove them, or choose the benchmark.* that these answers are for.")
            notices.append(f"{text}; they are left aside.")
        for question in asked:
            self._check_kind(question, prompt, protocol)
        failed = [question.id for question in asked if self._entries[question.id].error is not None]
        if failed:
            first = self._entries[failed[0]]
            notices.append(
                f"{self.path}: {len(failed)} of its records ended in an error where they were made and stay errors "
                f"here; the first is question {failed[0]!r} (line {first.line}: {first.error})."
            )
        return notices

    def _by_question(self, known: set[str]) -> dict[str, Entry]:
        """The entries by question id: the second line under an id is `ID_2` where the benchmark tells two apart so.

        Raises DataError for an id that stands twice and is one question.
        """
        entries: dict[str, Entry] = {}
        for identity, lines in self._lines.items():
            for number, entry in enumerate(lines, start=1):
                name = identity if number == 1 else f"{identity}_{number}"
                if number > 1 and (name not in known or name in self._lines):
                    raise DataError(
                        f"{self.path}, line {entry.line}: question_id {identity!r} is already in line "
                        f"{lines[0].line}. Keep one of the two."
                    )
                entries[name] = entry
        return entries

    def answer(self, question_id: str) -> Answer:
        """What the file says; QuestionError where the question ended in an error where the answers were made."""
        entry = self._entries[question_id]
        if entry.error is not None:
            raise QuestionError(f"ended in an error where the answers were made: {entry.error}")
        return Answer(text=entry.answer, option_losses=entry.option_losses)

    def _example(self) -> str:
        """An id of the file, so that two ways of writing ids show."""
        first = next(iter(self._entries), None)
        return "; the file is empty" if first is None else f"; the file's first is {first!r}"

    def _check_kind(self, question: Question, prompt: Callable[[Question], Prompt], protocol: str) -> None:
        entry = self._entries[question.id]
        if entry.error is not None:
            return
        place = f"{self.path}, line {entry.line}: question {question.id!r}"
        if entry.asked is not None and entry.asked != (question.text, question.options):
            raise ConfigError(
                f"{place} was put in other words or with other options than benchmark.protocol={protocol} does here: "
                "replay a run's answers on the benchmark, data and protocol of that run."
            )
        try:
            asked = prompt(question)
        except QuestionError:
            return  # this question cannot be asked of any model: its own error record says so
        if entry.words is not None and not _same_question(entry.words, question.text, asked.text):
            raise ConfigError(
                f"{place} is an answer to another question: {_short(entry.words)} there, {_short(question.text)} here. "
                "Choose the benchmark.* and the data that these answers are for."
            )
        options = len(asked.continuations)
        if options and entry.option_losses is None:
            raise ConfigError(
                f"{place} has no `option_losses`, and benchmark.protocol={protocol} compares the losses of its "
                f"{options} options. Add them, or choose a benchmark.protocol that reads answers."
            )
        if options and entry.option_losses is not None and len(entry.option_losses) != options:
            raise ConfigError(f"{place} has {len(entry.option_losses)} `option_losses` for {options} options.")
        if not options and entry.answer is None:
            raise ConfigError(
                f"{place} has no `answer` (missing or null), and benchmark.protocol={protocol} reads one. "
                "An answer that said nothing is an empty text."
            )


def _same_question(words: str, question: str, prompt: str) -> bool:
    """Do the words of an answer line hold the question, or are they a part of the prompt that it belongs to?

    Files carry the bare question, or the question with options, hints and instructions of whoever asked.
    """
    given, bare, whole = (" ".join(text.casefold().split()) for text in (words, question, prompt))
    return bool(given) and (bare in given or given == whole)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 80 else f"{line[:77]}...")


def _content(path: Path) -> bytes:
    if path.is_dir():
        inside = path / "samples.jsonl"
        remedy = f"did you mean {inside}?" if inside.is_file() else "name the file with the answers in it."
        raise ConfigError(f"model.path={path}: is a folder; {remedy}")
    if not path.exists():
        raise ConfigError(f"model.path={shown(path)}: there is no such file of answers.")
    with open_regular(path, ConfigError) as stream:
        return stream.read()


def _entries(path: Path, content: bytes) -> dict[str, list[Entry]]:
    """The lines by question id, in file order; blank lines do not count."""
    entries: dict[str, list[Entry]] = {}
    # Only a newline ends a line: a text may hold the other characters that Python would split at.
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{place}: not JSON ({' '.join(str(error).split())}). The file needs one JSON object a line."
            ) from error
        if not isinstance(record, dict):
            raise DataError(f"{place}: must be one JSON object, not a {type(record).__name__}.")
        identity = _identity(record, place)
        entry = Entry(
            line=number,
            answer=_answer(record, place),
            option_losses=_option_losses(record, place),
            error=_error(record),
            asked=_asked(record),
            words=_words(record),
        )
        entries.setdefault(identity, []).append(entry)
    return entries


def _identity(record: dict[str, Any], place: str) -> str:
    if "question_id" not in record:
        raise DataError(f"{place}: the key `question_id` is missing.")
    value = record["question_id"]
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas writes 34602.0
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f"{place}: question_id {value!r} must be a text or a whole number.")
    return str(value)


def _answer(record: dict[str, Any], place: str) -> str | None:
    # `text` is the key of LLaVA's answer files (github.com/haotian-liu/LLaVA, llava/eval/model_vqa_loader.py).
    value = record.get("answer", record.get("text"))
    if value is not None and not isinstance(value, str):
        raise DataError(f"{place}: answer {json.dumps(value)} must be a text in quotes.")
    return value


def _option_losses(record: dict[str, Any], place: str) -> tuple[float, ...] | None:
    values = record.get("option_losses")
    if values is None:
        return None
    if not isinstance(values, list) or not all(_finite(value) for value in values):
        raise DataError(f"{place}: option_losses must be a list of finite numbers, one for each option.")
    return tuple(float(value) for value in values)


def _finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 10**9


def _error(record: dict[str, Any]) -> str | None:
    """What a run's own record says went wrong with its question."""
    if record.get("status") != "error":
        return None
    error = record.get("error")
    return f"{error.get('type')}: {error.get('message')}" if isinstance(error, dict) else "no reason given"


def _words(record: dict[str, Any]) -> str | None:
    """The question as a line from elsewhere carries it; a run's own record says more (`_asked`)."""
    if "status" in record:
        return None
    return next((record[key] for key in ("prompt", "question") if isinstance(record.get(key), str)), None)


def _asked(record: dict[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    """Question and options of a run's own record; in a file from elsewhere these keys may mean anything."""
    question, options = record.get("question"), record.get("options")
    if "status" not in record or not isinstance(question, str) or not isinstance(options, list):
        return None
    return question, tuple(str(option) for option in options)
