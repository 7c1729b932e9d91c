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
from semclip_eval.scoring.markup import has_thoughts, plain_characters, unboxed, without_tags, without_thoughts
from semclip_eval.scoring.option_text import begins_with, core, equal_option, mentioned, same_option
from semclip_eval.types import Answer, Question, Score


class Choice(NamedTuple):
    """Index of the `option` picked and `how` it was read; without an option, `how` says why it was not."""

    option: int | None
    how: str


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_NOT_IN_WORD = r"(?<![A-Za-z0-9\u00c0-\u024f'])"
_WORD_ENDS = r"(?![A-Za-z0-9\u00c0-\u024f'])"
# A letter as a statement names it: `B`, `(B)`, `[b]`, `"B"`.
_NAMED = r"[\"'(\[]*(?P<letter>[A-Za-z])" + _WORD_ENDS
# What may follow a named letter so that it is not an article or an initial ("the answer is a dog").
_SET_OFF = (
    r"(?=\s*(?:$|[)\]\"'.,:;!?\n/&(]|-(?![A-Za-z0-9(])|[\u2e80-\uffff]|"
    r"(?:is|because|since|as|for|based|or|and)\b))"
)

# Words that announce the answer, in the languages in which models are asked and sometimes reply.
_ANSWER = (
    r"(?:(?:answer(?:\s+to\s+(?:the|this)\s+question)?|ans\.?|assistant(?=:)|antwort|réponse|reponse|respuesta|risposta|"
    r"resposta|ответ|الإجابة(?:\s+الصحيحة)?|(?:correct|right|best)\s+(?:option|choice|letter)(?:\s+letter)?|correct(?=\s*[:=])|"
    r"option\s+letter|(?:my|the)\s+(?:choice|letter)(?=\s+is\b))(?:\s+(?:correcta|correcte|correta|corretta))?"
    r"(?:\s+(?:would\s+be|should\s+be|must\s+be|is|ist|est|es|è|é|هي))?|答案|正解|答え|回答|정답)"
)
_STRONG = re.compile(
    rf"{_ANSWER}[\"'\s]*(?:[:=]|-|は|是|为|為|은|는)?\s*(?:(?:option|choice)\s+)?{_NAMED}{_SET_OFF}", re.IGNORECASE
)
_WEAK = re.compile(
    r"(?:(?:option|choice|(?:i|i'd|i\s+would|i'll|i\s+will)\s+(?:think|believe|say|guess|choose|pick|select|go\s+with)"
    r"(?:\s+(?:it\s+is|it's|that))?|it\s+is|it's|that's|would\s+be|therefore|thus|hence|so)[\s,:]+|选项|选择|选|選)\s*"
    rf"{_NAMED}{_SET_OFF}",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"(?<!\w)[(\[](?P<letter>[A-Z])[)\]]")

# Emphasis and code marks, and the dollars around a formula; a dollar before a number and a star between two terms are
# the answer's own.
_DRESS = re.compile(r"`|\*{2,}|(?<![\w)])\*(?=\S)|(?<=\S)\*(?![\w(])|\$(?!\d)|(?<!\w)_+|_+(?!\w)")
_MATHS = re.compile(r"\$(\S(?:[^$\n]*\S)?)\$")

_ALONE = re.compile(r"[(\[]?([A-Za-z])[)\]]?[.):,;!]*")
_LEADING_MARKED = re.compile(
    r"(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])[).:])[.:,]?(?:\s+-)?(?=\s|$)|([A-HJ-Z])(?=,\s|\s+[-–—]\s|\n)"
)
_LEADING_BARE = re.compile(
    r"([A-Z])\s+(?=because\b|since\b|(?:is|would\s+be|seems(?:\s+to\s+be)?)\s+"
    r"(?:correct|right|my\s+(?:answer|choice)|the\s+(?:\w+\s+)?(?:answer|option|choice))\b)"
    r"|([A-Z])\s*(?=是?正确|是对的|が正解)"
)

# A second letter tied to the first one: "A or B", "(A), (C)", "B/C". An article after "and" is not one: "B, and a dog".
_LINK = r"\s*(?:,\s*(?:or|and)\b|,|/|&|\+|\bor\b|\band\b|\boder\b|\bou\b|\bo\b|\bund\b|\bet\b|\by\b)\s*"
_TIED_AFTER = re.compile(
    rf"[)\].:\"']*{_LINK}(?:option\s+|choice\s+)?(?:[(\[]([A-Za-z])[)\]]|([A-Z])(?=\s*(?:$|[).:,;!?/&])))"
)
_TIED_BEFORE = re.compile(rf"{_NOT_IN_WORD}[(\[]?([A-Z])[)\].]*{_LINK}(?:the\s+)?$")

# A full stop inside a number, or before one (".5"), ends no sentence.
_SENTENCE_END = re.compile(r"\.(?!\d)|\n")
_CLAUSE_END = re.compile(r"[.,;:!?\n]|\bbut\b", re.IGNORECASE)
_DENIAL = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|can't|\w+n't|dont|cant|without|unable|unclear|unsure|impossible|nothing|none|"
    r"if|whether|unlike|except|instead|rather|than|either|or|wrong|incorrect|nicht|keine?\w*|weder|pas|aucun\w*|не|нет)\b"
    r"|[不没沒無无否]|\?",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"[)\]\"'.]*\s*(?:(?:is|was|seems|looks|are)\s+)?(?:\w+n't|not|wrong|incorrect|false|excluded)\b", re.IGNORECASE
)
# "Answer: ...", "**Final Answer:** ..." at the start of a line or sentence; then the rest of the line, or the next.
_ANNOUNCED = re.compile(
    r"(?:^|[\n.!?;])[^\w\n]*(?:(?:so|therefore|thus|hence)[\s,]+)?(?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)?"
    r"(?:answer|ans|antwort|réponse|respuesta|risposta|resposta|ответ|答案|正解|答え|回答|정답)(?:\s+is)?\s*[:=]\s*"
    r"(?P<content>[^\n]*[^\s][^\n]*)",
    re.IGNORECASE,
)
# "not A", "rather than (B)": a letter that is named to be ruled out. "not A dog" has an article.
_RULED_OUT = re.compile(
    r"(?i:(?:\b(?:(?:it|that|this|the\s+answer)\s+is|is|it's|its)\s+)?\b(?:not|isn't|never|rather\s+than|instead\s+of|excluding)\s+(?:option\s+|choice\s+)?)"
    r"(?:[(\[](?P<bracketed>[A-Za-z])[)\]]|(?P<bare>[A-Z])(?=\s*(?:$|[).,;:!?\n]|(?i:but|and|or|nor)\b)))[).]*",
)
_JOINING = re.compile(r"^(?:[\s,;:.]+|(?:it\s+is|it's|but|and|so|rather)\b)+", re.IGNORECASE)
_LISTED = re.compile(r"[^\w(\[\n]*[(\[]?(?P<letter>[A-Z])(?:[)\]][.:]?|[.:])\s*(?P<text>[^\n]*)")


def parse_choice(text: str, options: Sequence[str]) -> Choice:
    """The option that an answer picks. Options are in letter order: index 0 is A.

    Never raises and never guesses: an empty, hedging, denying, contradictory or foreign answer has no option.
    """
    answer = _plain(text)
    if not answer:
        return Choice(None, "nothing but thoughts" if has_thoughts(text) else "empty answer")
    if (alone := _alone(answer, options)) is not None:
        return alone
    if (said := same_option(answer, options)) is not None:
        agreed = _leading(answer, options).option in (None, said)
        return Choice(said, "option text") if agreed else Choice(None, "a letter and another option's text")
    rest, ruled_out = _without_ruled_out(answer, options)
    reading = _read(rest, options)
    if reading.option in ruled_out:
        return Choice(None, "a letter that is denied")
    return reading


def _read(answer: str, options: Sequence[str]) -> Choice:
    if (alone := _alone(answer, options)) is not None:
        return alone
    leading = _leading(answer, options)
    announced = _announced(answer, options)
    if announced.how:
        return _agreed(announced, leading)
    stated = _stated(answer, options, _STRONG)
    closing = _closing(answer, options)
    if closing.how:
        return _agreed(closing, leading, stated, _stated(answer, options, _WEAK))
    if leading.option is not None and stated.option not in (None, leading.option):
        return Choice(None, "two different letters")
    for reading in (leading, stated):
        if reading.how:
            return reading
    if (said := equal_option(answer, options)) is not None:
        return Choice(said, "option text")
    for mention in (_WEAK, _BRACKETED):
        if (reading := _stated(answer, options, mention)).how:
            return reading
    return _mentioned_option(answer, options)


def _agreed(surest: Choice, *others: Choice) -> Choice:
    """The surest reading, unless another one picks another option."""
    picked = {reading.option for reading in others} - {None, surest.option}
    return Choice(None, "two different letters") if picked and surest.option is not None else surest


def _alone(answer: str, options: Sequence[str]) -> Choice | None:
    """The reading of an answer that is one letter and nothing else; None for any other answer."""
    letter = _ALONE.fullmatch(answer)
    if letter is None:
        return None
    index = LETTERS.index(letter[1].upper())
    if index < len(options):
        return Choice(index, "letter")
    said = same_option(answer, options)
    return Choice(said, "option text") if said is not None else _beyond(index, options)


def _without_ruled_out(answer: str, options: Sequence[str]) -> tuple[str, set[int]]:
    """The answer without letters that are named to be ruled out ("D, not A." is "D"), and which these are."""
    ruled_out: set[int] = set()

    def drop(match: re.Match[str]) -> str:
        index = LETTERS.index((match["bracketed"] or match["bare"]).upper())
        if index >= len(options) or begins_with(answer[match.end() :], options[index]):
            return match[0]
        ruled_out.add(index)
        return " "

    rest = _RULED_OUT.sub(drop, answer)
    if not ruled_out:
        return answer, ruled_out
    rest = re.sub(r"[ \t]+", " ", rest)
    # What joined the two: ", but D." is D.
    return _JOINING.sub("", rest).strip(" \n,;"), ruled_out


def _announced(answer: str, options: Sequence[str]) -> Choice:
    """What the last "Answer: ..." says; it wins over all that was only mentioned, also where it names no option."""
    announcements = list(_ANNOUNCED.finditer(answer))
    content = _trimmed(announcements[-1]["content"]) if announcements else ""
    if not content:
        return Choice(None, "")
    if (alone := _alone(content, options)) is not None:
        return alone
    leading = _leading(content, options)
    if leading.how:
        return leading
    if (said := equal_option(content, options)) is not None:
        return Choice(said, "option text")
    named = re.match(rf"(?:(?:option|choice)\s+)?{_NAMED}{_SET_OFF}", content, re.IGNORECASE)
    if named is not None and (named["letter"].isupper() or "(" in named[0]):
        return _stated(f"answer: {content}", options, _STRONG)
    for cue in (_STRONG, _WEAK, _BRACKETED):
        if (reading := _stated(content, options, cue)).how:
            return reading
    mention = _mentioned_option(content, options)
    return mention if mention.option is not None else Choice(None, f"an announced answer: {mention.how}")


def _closing(answer: str, options: Sequence[str]) -> Choice:
    """The letter that the last line is, alone or with its own option's text; a list of the options closes nothing."""
    lines = [trimmed for line in answer.split("\n") if (trimmed := _trimmed(line))]
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
    listed = [other for line in lines[:-1] if (other := _listed(line, options)) is not None]
    return Choice(own, "closing letter") if not listed or own in listed else Choice(None, "")


def _own_text(line: str, options: Sequence[str]) -> int | None:
    """The index of the letter that a line is together with its own option's text and nothing else: `(B) yellow`."""
    match = _LISTED.fullmatch(line) or re.fullmatch(r"(?P<letter>[A-Z])\s+(?P<text>.+)", line)
    if match is None or (index := LETTERS.index(match["letter"])) >= len(options):
        return None
    return index if same_option(match["text"], options) == index else None


def _listed(line: str, options: Sequence[str]) -> int | None:
    """The index of an option that a line repeats with its letter, whatever it says of it."""
    match = _LISTED.match(line)
    if match is None or (index := LETTERS.index(match["letter"])) >= len(options):
        return None
    return index if begins_with(match["text"], options[index]) else None


def _trimmed(line: str) -> str:
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


def _plain(text: str) -> str:
    """The answer without markup: full-width letters to ASCII, no thoughts, emphasis, tags, LaTeX or leading bullets."""
    plain = unboxed(without_thoughts(plain_characters(text)))
    plain = without_tags(re.sub(r"\\[()\[\]]", " ", plain))
    plain = _DRESS.sub("", _MATHS.sub(r"\1", plain))
    plain = re.sub(r"[ \t]+", " ", plain)
    plain = re.sub(r"\s*\n\s*", "\n", plain)
    return re.sub(r"^(?:(?![-+$€£¥#.]?\d)[^\w(\[])+", "", plain).strip().strip("\"'{}").strip()


def _beyond(index: int, options: Sequence[str]) -> Choice:
    return Choice(None, f"letter {LETTERS[index]} is beyond the {len(options)} options")


def _leading(answer: str, options: Sequence[str]) -> Choice:
    """A letter that the answer starts with: set off by a mark, followed by its own option's text, or by a reason."""
    found = _LEADING_MARKED.match(answer) or _LEADING_BARE.match(answer)
    if found is None:
        bare = re.match(r"([A-Z])\s+(.+)", answer)
        if bare is None or (index := LETTERS.index(bare[1])) >= len(options):
            return Choice(None, "")
        # "B red" names the letter and its own option; "A dog" where A is "blue" does not.
        own = same_option(bare[2].split("\n")[0], options) == index
        return Choice(index, "leading letter") if own else Choice(None, "")
    index = LETTERS.index(next(group for group in found.groups() if group).upper())
    if index >= len(options):
        return _beyond(index, options)
    rest = re.sub(r"^(?:[\s,:–—]|-(?!\d))+", "", answer[found.end() :]).rstrip(" \n-–—,:")
    if _says_own(rest, index, options):
        return Choice(index, "leading letter")
    if _other_letter(_TIED_AFTER.match(answer, found.end(found.lastindex or 0)), index, options):
        return Choice(None, "more than one letter")
    if any(_lists_option(rest, other, options) for other in range(len(options)) if other != index):
        return Choice(None, "")  # the options repeated: the answer, if any, is stated further on
    if _says_another(rest, index, options) or _repeats_other_letter(rest, index, options):
        return Choice(None, "a letter and another option's text")
    if _DENIED_AFTER.match(rest):
        return Choice(None, "a letter that is denied")
    return Choice(index, "leading letter")


def _says_own(rest: str, index: int, options: Sequence[str]) -> bool:
    """Is what follows the letter its own option's text, alone or as the first sentence or line? Then it is no denial.

    With options that begin alike the longest one that fits counts. A list of the options says nothing.
    """
    if any(_lists_option(rest, other, options) for other in range(len(options)) if other != index):
        return False
    first = _SENTENCE_END.split(rest)[0]
    if index in (same_option(first, options), same_option(rest, options)):
        return True
    fitting = [number for number, option in enumerate(options) if begins_with(first, option)]
    if not fitting or max(fitting, key=lambda number: len(options[number])) != index:
        return False
    return not _DENIED_AFTER.match(first[len(options[index].strip()) :])


def _says_another(rest: str, index: int, options: Sequence[str]) -> bool:
    """Is what follows the letter another option's text, alone or as the first sentence or line?"""
    first = _SENTENCE_END.split(rest)[0]
    return any(equal_option(said, options) not in (None, index) for said in (rest, first))


def _lists_option(text: str, index: int, options: Sequence[str]) -> bool:
    """Does the text repeat an option with its letter, as the prompt shows it: `(B) red`, `B. red`?"""
    mark = rf"{_NOT_IN_WORD}[(\[]?{LETTERS[index]}[)\].:]+\s*"
    return re.search(mark + re.escape(options[index].strip()), text, re.IGNORECASE) is not None


def _repeats_other_letter(rest: str, index: int, options: Sequence[str]) -> bool:
    """Is all that follows another letter, as in "A. B." or "A) B) C)"?"""
    letters = re.findall(r"[A-Z]", rest) if re.fullmatch(r"(?:[(\[]?[A-Z][)\].:,;]*\s*)+", rest) else []
    return any(letter != LETTERS[index] for letter in letters if LETTERS.index(letter) < len(options))


def _stated(answer: str, options: Sequence[str], cue: re.Pattern[str]) -> Choice:
    """The one letter that the answer names after a cue, in a clause that does not deny or doubt it."""
    found: set[int] = set()
    for match in cue.finditer(answer):
        before, end = answer[: match.start()], match.end("letter")
        if (
            match["letter"] == "a"
            and not re.search(r"(?:[(\[:=]|option|choice)\s*[\"']*$", answer[: end - 1])
            and answer[end:].strip() == ""
        ):
            continue  # "The answer is a", cut off: the article of what was to come
        index = LETTERS.index(match["letter"].upper())
        ties = (_TIED_AFTER.match(answer, end), _TIED_BEFORE.search(before))
        if any(_other_letter(tie, index, options) for tie in ties):
            return Choice(None, "more than one letter")
        if _DENIAL.search(_CLAUSE_END.split(before)[-1]):
            continue
        rest = re.sub(r"^(?:[\s)\].:,\"'–—]|-(?!\d))+", "", answer[end:])
        if _says_another(rest, index, options):
            return Choice(None, "a letter and another option's text")
        if not _says_own(rest, index, options) and _DENIED_AFTER.match(answer, end):
            continue
        found.add(index)
    if len(found) > 1:
        return Choice(None, "more than one letter")
    if not found:
        return Choice(None, "")
    index = found.pop()
    return Choice(index, "stated letter") if index < len(options) else _beyond(index, options)


def _other_letter(match: re.Match[str] | None, index: int, options: Sequence[str]) -> bool:
    if match is None:
        return False
    other = LETTERS.index(next(group for group in match.groups() if group).upper())
    return other != index and other < len(options)


def _mentioned_option(answer: str, options: Sequence[str]) -> Choice:
    """The only option whose text occurs in the answer as whole words, where nothing around it denies or hedges."""
    named, around = mentioned(answer, options)
    if not named:
        return Choice(None, "no option named")
    if len(named) > 1:
        return Choice(None, "more than one option named")
    index = named.pop()
    first_clause = _CLAUSE_END.split(answer)[0]
    if first_clause != answer and core(first_clause) == core(options[index]):
        return Choice(index, "option text")  # "No, there is no dog." with the option "no"
    if _DENIAL.search(around) or "?" in answer:
        return Choice(None, "an option named, but denied or in doubt")
    return Choice(index, "option text")
