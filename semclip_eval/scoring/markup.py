"""What the parsers take off an answer before they read it: the dress of a text, which says nothing about the answer."""

from __future__ import annotations

import re
import unicodedata

_MARKS = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "。": ".", "、": ","})
_LATEX = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_TAG = re.compile(r"</?[A-Za-z|_][\w|]*>")

# What a reasoning model marks as its thoughts is not its answer. Marks seen in published models: <think> (DeepSeek,
# Qwen), <thinking>, <thought>, <reasoning>, [THINK] (Magistral), ◁think▷ (Kimi), <seed:think> (Seed-OSS),
# <|begin_of_thought|> (Sky-T1), <|START_THINKING|> (Command A), <|inner_prefix|> (Apertus), <unused94>thought (Gemma).
_THINKING = r"(?:think(?:ing)?|thoughts?)"
_REASONING = rf"(?:{_THINKING}|reason(?:ing)?|analysis|reflection|scratchpad|(?:inner_?)?monologue|cot)"
_PREFIX = r"(?:\w+:)?"
_OPEN = (
    rf"<{_PREFIX}{_REASONING}(?:\s[^<>]*)?>|<\|{_PREFIX}(?:(?:begin|start)_(?:of_)?)?{_REASONING}\|>|<\|inner_prefix\|>|"
    rf"\[{_THINKING}\]|\{{{_THINKING}\}}|[◁⟨〈【]{_THINKING}[▷⟩〉】]|<unused94>(?:thought\b)?"
)
_CLOSE = (
    rf"</{_PREFIX}{_REASONING}>|<\|{_PREFIX}(?:/|end_(?:of_)?){_REASONING}\|>|<\|inner_suffix\|>|"
    rf"\[/{_THINKING}\]|\{{/{_THINKING}\}}|[◁⟨〈【]/{_THINKING}[▷⟩〉】]|<unused95>"
)
_MARK = re.compile(rf"(?P<close>{_CLOSE})|(?P<open>{_OPEN})", re.IGNORECASE)
# Channels of a chat format (gpt-oss): only the final one is the answer. Decoding may have dropped the special tokens.
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\b[^<]*(?:<\|message\|>)?|(?<=assistant)final(?=\W|[A-Z0-9])")
_CHANNEL = re.compile(r"<\|channel\|>|\A\s*analysis(?=[A-Z\s])(?=.*assistantfinal)", re.DOTALL)
_CHANNEL_END = re.compile(r"<\|(?:end|return|start|call)\|>.*\Z", re.DOTALL)


def plain_characters(text: str) -> str:
    """Full-width forms and typographic quotes as ASCII, no control characters but line ends and tabs."""
    plain = unicodedata.normalize("NFKC", text).translate(_MARKS)
    return "".join(c for c in plain if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf"))


def without_thoughts(text: str) -> str:
    """The text without what is marked as thought; empty where all of it is.

    A closing mark without its opening one ends a thought that the chat template opened: all before it is thought. An
    opening mark without its closing one begins a thought that was cut off: all after it is.
    """
    text = _final_channel(text)
    kept: list[str] = []
    start, depth = 0, 0
    for mark in _MARK.finditer(text):
        if mark["open"]:
            if depth == 0:
                kept.append(text[start : mark.start()])
            depth += 1
        elif depth <= 1:
            if depth == 0:
                kept.clear()
            start, depth = mark.end(), 0
        else:
            depth -= 1
    if depth == 0:
        kept.append(text[start:])
    return " ".join(kept)


def has_thoughts(text: str) -> bool:
    """Does the text hold marks of a thought or of a chat format's channels?"""
    return _MARK.search(text) is not None or _CHANNEL.search(text) is not None


def _final_channel(text: str) -> str:
    if _CHANNEL.search(text) is None:
        return text
    finals = list(_FINAL_CHANNEL.finditer(text))
    return _CHANNEL_END.sub("", text[finals[-1].end() :]) if finals else ""


def unboxed(text: str) -> str:
    """What LaTeX boxes and fonts hold, in place of them; two deep."""
    return _LATEX.sub(r"\1", _LATEX.sub(r"\1", text))


def without_tags(text: str) -> str:
    """The text with a space in place of every tag, the special tokens of a model among them."""
    return _TAG.sub(" ", text)
