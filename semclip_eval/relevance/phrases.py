"""What a question is about: its noun phrases, by the rule of RAKE.

Rose, Engel, Cramer and Cowley, "Automatic keyword extraction from individual documents" (2010): a phrase is a run of
words between stop words and punctuation. No parser and no model: the same phrases on every machine. The stop words are
the function words of English and what benchmarks' questions ask by ("color", "side", "image"), which no crop shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_FUNCTION_WORDS = """
a an the this that these those there here it its he him his she her hers they them their theirs we us our you your i me
my who whom whose which what when where why how some any all both each every either neither no not none many much more
most few several other another same different such own and or but nor so than then if whether as of in on at by to from
for with without into onto over under between among through during about against near around is are was were be been
being am do does did done doing have has had having can could will would shall should may might must please tell say
says said see seen show shows shown appear appears visible located situated
"""
_QUESTION_WORDS = """
image images picture pictures photo photos photograph scene color colors colour colours shape kind type number material
side left right top bottom above below front behind direction position relative answer option options choose choice
describe question following according based
"""
_STOP_WORDS = frozenset((_FUNCTION_WORDS + _QUESTION_WORDS).split())
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]|_")


# What asks for all of a kind, among the words right before a phrase: with a plural, and with a singular.
_ALL = re.compile(r"\b(all|how many)\b|\bnumber of$")
_EVERY = re.compile(r"\b(every|each)\b")


class Target(NamedTuple):
    """A thing that a question is about. every: all of its kind are asked for, and `name` is the singular."""

    name: str
    every: bool


def noun_phrases(text: str) -> list[str]:
    """The phrases in order of appearance, each once, as written; empty where every word is a stop word.

    "Is the red star on the left side of the blue circle?" gives "red star" and "blue circle".
    """
    return list(dict.fromkeys(phrase for _, phrase in _runs(text)))


def targets(text: str) -> list[Target]:
    """`noun_phrases`, and of which of them the question asks for all: "How many cars are there?" gives every car.

    Such a question is ZoomEye's (om-ai-lab/ZoomEye, `zoom_eye.py`) and FOCUS's type 2. There the model itself names
    "all cars" after examples that ask "How many"; here "how many", "all", "every" or "each" stand before the phrase, or
    "number of" right before it. As in ZoomEye the plural loses a last "s".
    """
    found: dict[str, Target] = {}
    for before, phrase in _runs(text):
        words = " ".join(before)
        plural, single = _ALL.search(words) is not None, _EVERY.search(words) is not None
        found.setdefault(phrase, Target(phrase.removesuffix("s") if plural else phrase, plural or single))
    return list(found.values())


def _runs(text: str) -> Iterator[tuple[list[str], str]]:
    """Each phrase with the stop words right before it, in lower case."""
    before: list[str] = []
    words: list[str] = []
    for word in [*_WORD.findall(text), "."]:
        if word[0].isalnum() and word.lower() not in _STOP_WORDS:
            words.append(word)
            continue
        if words:
            yield before, " ".join(words)
            before, words = [], []
        before = [*before, word.lower()] if word[0].isalnum() else []
