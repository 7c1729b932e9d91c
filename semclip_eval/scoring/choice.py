"""Which option does a free answer pick? Strict: ambiguous answers are `unparsed`, never guessed.

Readings are tried, surest first: the answer is a letter or one option's text; it starts with a letter set off from what
follows; it announces one ("Answer: B"); its last line is a letter; it states one ("the answer is B", "option B"); it
says the text of exactly one option. Readings that contradict each other are no reading, and an announced answer that
names no option is none either. The traps (the article in "A dog", "Black" read as B, "$5" and "5%") are in `tests`;
docs/reading_answers.md has the rules in words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from semclip_eval.errors import QuestionError
from semclip_eval.scoring.choice_patterns import (
    ALONE,
    ANNOUNCED,
    BRACKETED,
    CLAUSE_END,
    DENIAL,
    DENIED_AFTER,
    DRESS,
    JOINING,
    LEADING_BARE,
    LEADING_MARKED,
    LISTED,
    MATHS,
    NAMED,
    NOT_IN_WORD,
    RULED_OUT,
    SENTENCE_END,
    SET_OFF,
    STRONG,
    TIED_AFTER,
    TIED_BEFORE,
    WEAK,
)
from semclip_eval.scoring.markup import has_thoughts, plain_characters, unboxed, without_tags, without_thoughts
from semclip_eval.scoring.option_text import begins_with, core, equal_option, mentioned, same_option
from semclip_eval.types import Answer, Question, Score


class Choice(NamedTuple):
    """Index of the `option` picked and `how` it was read; without an option, `how` says why it was not."""

    option: int | None
    how: str


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def parse_choice(text: str, options: Sequence[str]) -> Choice:
    """The option that an answer picks. Options are in letter order: index 0 is A.

    Never raises and never guesses: an empty, hedging, denying, contradictory or foreign answer has no option.
    """
    answer = _bare_text(text)
    if not answer:
        return Choice(None, "nothing but thoughts" if has_thoughts(text) else "empty answer")
    if (single := _single_letter(answer, options)) is not None:
        return single
    if (text_option := same_option(answer, options)) is not None:
        is_consistent = _leading_letter(answer, options).option in (None, text_option)
        return (
            Choice(text_option, "option text") if is_consistent else Choice(None, "a letter and another option's text")
        )
    rest, denials = _without_denials(answer, options)
    reading = _read(rest, options)
    if reading.option in denials:
        return Choice(None, "a letter that is denied")
    return reading


def _read(answer: str, options: Sequence[str]) -> Choice:
    if (single := _single_letter(answer, options)) is not None:
        return single
    lead = _leading_letter(answer, options)
    announcement = _announcement(answer, options)
    if announcement.how:
        return _unless_contradicted(announcement, lead)
    statement = _statement(answer, options, STRONG)
    ending = _closing_letter(answer, options)
    if ending.how:
        return _unless_contradicted(ending, lead, statement, _statement(answer, options, WEAK))
    if lead.option is not None and statement.option not in (None, lead.option):
        return Choice(None, "two different letters")
    for reading in (lead, statement):
        if reading.how:
            return reading
    if (text_option := equal_option(answer, options)) is not None:
        return Choice(text_option, "option text")
    for mention in (WEAK, BRACKETED):
        if (reading := _statement(answer, options, mention)).how:
            return reading
    return _option_in_passing(answer, options)


def _unless_contradicted(surest: Choice, *others: Choice) -> Choice:
    """The surest reading, unless another one picks another option."""
    rivals = {reading.option for reading in others} - {None, surest.option}
    return Choice(None, "two different letters") if rivals and surest.option is not None else surest


def _single_letter(answer: str, options: Sequence[str]) -> Choice | None:
    """The reading of an answer that is one letter and nothing else; None for any other answer."""
    letter = ALONE.fullmatch(answer)
    if letter is None:
        return None
    index = LETTERS.index(letter[1].upper())
    if index < len(options):
        return Choice(index, "letter")
    text_option = same_option(answer, options)
    return Choice(text_option, "option text") if text_option is not None else _beyond(index, options)


def _without_denials(answer: str, options: Sequence[str]) -> tuple[str, set[int]]:
    """The answer without letters that are named to be ruled out ("D, not A." is "D"), and which these are."""
    denials: set[int] = set()

    def drop(match: re.Match[str]) -> str:
        index = LETTERS.index((match["bracketed"] or match["bare"]).upper())
        if index >= len(options) or begins_with(answer[match.end() :], options[index]):
            return match[0]
        denials.add(index)
        return " "

    rest = RULED_OUT.sub(drop, answer)
    if not denials:
        return answer, denials
    rest = re.sub(r"[ \t]+", " ", rest)
    # What joined the two: ", but D." is D.
    return JOINING.sub("", rest).strip(" \n,;"), denials


def _announcement(answer: str, options: Sequence[str]) -> Choice:
    """What the last "Answer: ..." says; it wins over all that was only mentioned, also where it names no option."""
    announcements = list(ANNOUNCED.finditer(answer))
    content = _line_content(announcements[-1]["content"]) if announcements else ""
    if not content:
        return Choice(None, "")
    if (single := _single_letter(content, options)) is not None:
        return single
    lead = _leading_letter(content, options)
    if lead.how:
        return lead
    if (text_option := equal_option(content, options)) is not None:
        return Choice(text_option, "option text")
    letter = re.match(rf"(?:(?:option|choice)\s+)?{NAMED}{SET_OFF}", content, re.IGNORECASE)
    if letter is not None and (letter["letter"].isupper() or "(" in letter[0]):
        return _statement(f"answer: {content}", options, STRONG)
    for cue in (STRONG, WEAK, BRACKETED):
        if (reading := _statement(content, options, cue)).how:
            return reading
    mention = _option_in_passing(content, options)
    return mention if mention.option is not None else Choice(None, f"an announced answer: {mention.how}")


def _closing_letter(answer: str, options: Sequence[str]) -> Choice:
    """The letter that the last line is, alone or with its own option's text; a list of the options closes nothing."""
    lines = [content for line in answer.split("\n") if (content := _line_content(line))]
    if len(lines) < 2:
        return Choice(None, "")
    last = lines[-1]
    letter = re.fullmatch(r"[(\[]?([A-Z])[)\]]?[.):,;!]*", last)
    if letter is not None:
        index = LETTERS.index(letter[1])
        if index >= len(options):
            return Choice(None, "")
        others = {line.strip("()[].:,;! ") for line in lines[:-1]} & set(LETTERS[: len(options)])
        return Choice(index, "closing letter") if others <= {letter[1]} else Choice(None, "")
    own = _own_text(last, options)
    if own is None:
        return Choice(None, "")
    repeats = [other for line in lines[:-1] if (other := _repeated_option(line, options)) is not None]
    return Choice(own, "closing letter") if not repeats or own in repeats else Choice(None, "")


def _own_text(line: str, options: Sequence[str]) -> int | None:
    """The index of the letter that a line is together with its own option's text and nothing else: `(B) yellow`."""
    match = LISTED.fullmatch(line) or re.fullmatch(r"(?P<letter>[A-Z])\s+(?P<text>.+)", line)
    if match is None or (index := LETTERS.index(match["letter"])) >= len(options):
        return None
    return index if same_option(match["text"], options) == index else None


def _repeated_option(line: str, options: Sequence[str]) -> int | None:
    """The index of an option that a line repeats with its letter, whatever it says of it."""
    match = LISTED.match(line)
    if match is None or (index := LETTERS.index(match["letter"])) >= len(options):
        return None
    return index if begins_with(match["text"], options[index]) else None


def _line_content(line: str) -> str:
    """A line without what decorates its start (bullets, emoji) and quotes around it."""
    return re.sub(r"^(?:(?![-+$€£¥#.]?\d)[^\w(\[])+", "", line).strip().strip("\"'{}").strip()


def score_choice(
    question: Question, answer: Answer, read: Callable[[str, Sequence[str]], Choice] = parse_choice
) -> Score:
    """1 where the answer picks the option `question.truth`, else 0; `unparsed`, with the reason, where it picks none.

    `read` takes the text and the options and gives the option picked. Raises QuestionError for an answer without text.
    """
    if answer.text is None:
        raise QuestionError(f"question {question.id}: the letter protocol needs an answer text.")
    option, how = read(answer.text, question.options)
    if option is None:
        return Score(0.0, status="unparsed", reason=how)
    return Score(float(option == question.truth), choice=option)


def option_of_letter(letter: object, count: int) -> int | None:
    """The index of the option that a published letter names, None where it is none of the first `count` letters."""
    text = str(letter).strip()
    return LETTERS.index(text) if len(text) == 1 and text in LETTERS[:count] else None


def _bare_text(text: str) -> str:
    """The answer without markup: full-width letters to ASCII, no thoughts, emphasis, tags, LaTeX or leading bullets."""
    bare_text = unboxed(without_thoughts(plain_characters(text)))
    bare_text = without_tags(re.sub(r"\\[()\[\]]", " ", bare_text))
    bare_text = DRESS.sub("", MATHS.sub(r"\1", bare_text))
    bare_text = re.sub(r"[ \t]+", " ", bare_text)
    bare_text = re.sub(r"\s*\n\s*", "\n", bare_text)
    return re.sub(r"^(?:(?![-+$€£¥#.]?\d)[^\w(\[])+", "", bare_text).strip().strip("\"'{}").strip()


def _beyond(index: int, options: Sequence[str]) -> Choice:
    return Choice(None, f"letter {LETTERS[index]} is beyond the {len(options)} options")


def _leading_letter(answer: str, options: Sequence[str]) -> Choice:
    """A letter that the answer starts with: set off by a mark, followed by its own option's text, or by a reason."""
    letter = LEADING_MARKED.match(answer) or LEADING_BARE.match(answer)
    if letter is None:
        bare = re.match(r"([A-Z])\s+(.+)", answer)
        if bare is None or (index := LETTERS.index(bare[1])) >= len(options):
            return Choice(None, "")
        # "B red" names the letter and its own option; "A dog" where A is "blue" does not.
        own = same_option(bare[2].split("\n")[0], options) == index
        return Choice(index, "leading letter") if own else Choice(None, "")
    index = LETTERS.index(next(group for group in letter.groups() if group).upper())
    if index >= len(options):
        return _beyond(index, options)
    rest = re.sub(r"^(?:[\s,:–—]|-(?!\d))+", "", answer[letter.end() :]).rstrip(" \n-–—,:")
    if _has_own_text(rest, index, options):
        return Choice(index, "leading letter")
    if _other_letter(TIED_AFTER.match(answer, letter.end(letter.lastindex or 0)), index, options):
        return Choice(None, "more than one letter")
    if any(_lists_option(rest, other, options) for other in range(len(options)) if other != index):
        return Choice(None, "")  # the options repeated: the answer, if any, is stated further on
    if _has_other_text(rest, index, options) or _repeats_other_letter(rest, index, options):
        return Choice(None, "a letter and another option's text")
    if DENIED_AFTER.match(rest):
        return Choice(None, "a letter that is denied")
    return Choice(index, "leading letter")


def _has_own_text(rest: str, index: int, options: Sequence[str]) -> bool:
    """Is what follows the letter its own option's text, alone or as the first sentence or line? Then it is no denial.

    With options that begin alike the longest one that fits counts. A list of the options says nothing.
    """
    if any(_lists_option(rest, other, options) for other in range(len(options)) if other != index):
        return False
    first = SENTENCE_END.split(rest)[0]
    if index in (same_option(first, options), same_option(rest, options)):
        return True
    candidates = [number for number, option in enumerate(options) if begins_with(first, option)]
    if not candidates or max(candidates, key=lambda number: len(options[number])) != index:
        return False
    return not DENIED_AFTER.match(first[len(options[index].strip()) :])


def _has_other_text(rest: str, index: int, options: Sequence[str]) -> bool:
    """Is what follows the letter another option's text, alone or as the first sentence or line?"""
    first = SENTENCE_END.split(rest)[0]
    return any(equal_option(text, options) not in (None, index) for text in (rest, first))


def _lists_option(text: str, index: int, options: Sequence[str]) -> bool:
    """Does the text repeat an option with its letter, as the prompt shows it: `(B) red`, `B. red`?"""
    mark = rf"{NOT_IN_WORD}[(\[]?{LETTERS[index]}[)\].:]+\s*"
    return re.search(mark + re.escape(options[index].strip()), text, re.IGNORECASE) is not None


def _repeats_other_letter(rest: str, index: int, options: Sequence[str]) -> bool:
    """Is all that follows another letter, as in "A. B." or "A) B) C)"?"""
    letters = re.findall(r"[A-Z]", rest) if re.fullmatch(r"(?:[(\[]?[A-Z][)\].:,;]*\s*)+", rest) else []
    return any(letter != LETTERS[index] for letter in letters if LETTERS.index(letter) < len(options))


def _statement(answer: str, options: Sequence[str], cue: re.Pattern[str]) -> Choice:
    """The one letter that the answer names after a cue, in a clause that does not deny or doubt it."""
    letters: set[int] = set()
    for match in cue.finditer(answer):
        before, end = answer[: match.start()], match.end("letter")
        if (
            match["letter"] == "a"
            and not re.search(r"(?:[(\[:=]|option|choice)\s*[\"']*$", answer[: end - 1])
            and answer[end:].strip() == ""
        ):
            continue  # "The answer is a", cut off: the article of what was to come
        index = LETTERS.index(match["letter"].upper())
        ties = (TIED_AFTER.match(answer, end), TIED_BEFORE.search(before))
        if any(_other_letter(tie, index, options) for tie in ties):
            return Choice(None, "more than one letter")
        if DENIAL.search(CLAUSE_END.split(before)[-1]):
            continue
        rest = re.sub(r"^(?:[\s)\].:,\"'–—]|-(?!\d))+", "", answer[end:])
        if _has_other_text(rest, index, options):
            return Choice(None, "a letter and another option's text")
        if not _has_own_text(rest, index, options) and DENIED_AFTER.match(answer, end):
            continue
        letters.add(index)
    if len(letters) > 1:
        return Choice(None, "more than one letter")
    if not letters:
        return Choice(None, "")
    index = letters.pop()
    return Choice(index, "stated letter") if index < len(options) else _beyond(index, options)


def _other_letter(match: re.Match[str] | None, index: int, options: Sequence[str]) -> bool:
    if match is None:
        return False
    other = LETTERS.index(next(group for group in match.groups() if group).upper())
    return other != index and other < len(options)


def _option_in_passing(answer: str, options: Sequence[str]) -> Choice:
    """The only option whose text occurs in the answer as whole words, where nothing around it denies or hedges."""
    indices, around = mentioned(answer, options)
    if not indices:
        return Choice(None, "no option named")
    if len(indices) > 1:
        return Choice(None, "more than one option named")
    index = indices.pop()
    first_clause = CLAUSE_END.split(answer)[0]
    if first_clause != answer and core(first_clause) == core(options[index]):
        return Choice(index, "option text")  # "No, there is no dog." with the option "no"
    if DENIAL.search(around) or "?" in answer:
        return Choice(None, "an option named, but denied or in doubt")
    return Choice(index, "option text")
