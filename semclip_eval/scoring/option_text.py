"""The text of an option in an answer: equal, leading, or mentioned; signs count where they tell options apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_ARTICLE = re.compile(r"^(?:a|an|the)\s+(?=\S)")
# What an option can be told from another by: currency, percent, arithmetic, the names of programming languages.
_SIGN = r"[^\w\s.,;:!?'\"()\[\]{}…–—-]"


def words(text: str) -> str:
    """Casefolded words without punctuation around them; marks inside numbers and a minus sign stay."""
    folded = _folded(text)
    folded = re.sub(r"(?<!\d)[^\w\s'-]|[^\w\s'-](?!\d)", " ", folded)
    folded = re.sub(r"(?<!\w)'|'(?!\w)|-(?!\w)", " ", folded)
    return " ".join(folded.split())


def signed(text: str) -> str:
    """Like `words`, with the signs: `$5`, `5 %` as `5%`, `C++`, `(a+b)*c` without the brackets."""
    folded = re.sub(r"[\"()\[\]{}…]", " ", _folded(text))
    folded = re.sub(r"[.,;:!?](?!\d)|(?<!\d)[,;:!?]|(?<![\d\s])\.(?=\D)", " ", folded)
    folded = re.sub(r"(?<!\w)'|'(?!\w)|(?<![\w+])-(?!\w)|[–—]", " ", folded)
    folded = re.sub(r"([$€£¥])\s+(?=\d)|(?<=\d)\s+(?=%)|\s*([+*/=<>^])\s*", r"\1\2", folded)
    return " ".join(folded.split())


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().replace("’", "'")


def core(text: str) -> str:
    """The words without a leading article."""
    return _ARTICLE.sub("", words(text), count=1)


def signs_matter(options: Sequence[str]) -> bool:
    """Are there options that only signs tell apart, or that are nothing but signs?"""
    plain = [words(option) for option in options]
    return len(set(plain)) < len(plain) or "" in plain


def equal_option(answer: str, options: Sequence[str]) -> int | None:
    """The only option whose text the whole answer is: to the sign, else to the word, else but for a leading article."""
    exact = _only(signed(answer), [signed(option) for option in options])
    if exact is not None or signs_matter(options):
        return exact
    plain = _only(words(answer), [words(option) for option in options])
    return plain if plain is not None else _only(core(answer), [core(option) for option in options])


def same_option(answer: str, options: Sequence[str]) -> int | None:
    """`equal_option` without the leniency for an article."""
    exact = _only(signed(answer), [signed(option) for option in options])
    if exact is not None or signs_matter(options):
        return exact
    return _only(words(answer), [words(option) for option in options])


def begins_with(answer: str, option: str) -> bool:
    """Does the answer begin with the option's text, as whole words and with the same signs?"""
    answer_text, text = signed(answer), signed(option)
    if not text or not answer_text.startswith(text):
        return False
    rest = answer_text[len(text) :]
    return not rest or (rest[0].isspace() and not re.match(rf"\s*{_SIGN}", rest))


def mentioned(answer: str, options: Sequence[str]) -> tuple[set[int], str]:
    """The options whose text occurs in the answer as whole words, and the answer's words with `…` in their places.

    An occurrence inside that of a longer option ("red" in "dark red") does not count.
    """
    by_sign = signs_matter(options)
    folded = signed(answer) if by_sign else words(answer)
    spans = [
        (start, end, index)
        for index, option in enumerate(options)
        for start, end in _occurrences(_ARTICLE.sub("", signed(option)) if by_sign else core(option), folded, by_sign)
    ]
    spans = [s for s in spans if not any(o[0] <= s[0] and s[1] <= o[1] and o[1] - o[0] > s[1] - s[0] for o in spans)]
    around = folded
    for start, end, _ in sorted(spans, reverse=True):
        around = around[:start] + " … " + around[end:]
    return {index for _, _, index in spans}, around


def _only(wanted: str, texts: Sequence[str]) -> int | None:
    """The index of the only text that is the wanted one."""
    return texts.index(wanted) if wanted and texts.count(wanted) == 1 else None


def _occurrences(needle: str, text: str, by_sign: bool) -> list[tuple[int, int]]:
    if not needle:
        return []
    return [
        m.span() for m in re.finditer(re.escape(needle), text) if all(_is_edge(text, cut, by_sign) for cut in m.span())
    ]


def _is_edge(text: str, cut: int, by_sign: bool) -> bool:
    """Is the place a word's boundary? Scripts without spaces (from U+2E80 on) have one anywhere."""
    if cut in (0, len(text)):
        return True
    left, right = text[cut - 1], text[cut]
    if ord(left) >= 0x2E80 or ord(right) >= 0x2E80:
        return True
    if by_sign:
        return left.isspace() or right.isspace()
    return not all(character.isalnum() or character in "'-" for character in (left, right))
