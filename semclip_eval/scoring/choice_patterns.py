"""The patterns by which `choice.py` reads an answer: what names a letter, announces, ties, denies, rules out.

Each is a compiled expression, or the text of one that others are built from. The traps that shaped them are in
`tests/test_choice_parser.py`.
"""

from __future__ import annotations

import re

NOT_IN_WORD = r"(?<![A-Za-z0-9\u00c0-\u024f'])"
WORD_ENDS = r"(?![A-Za-z0-9\u00c0-\u024f'])"
# A letter as a statement names it: `B`, `(B)`, `[b]`, `"B"`.
NAMED = r"[\"'(\[]*(?P<letter>[A-Za-z])" + WORD_ENDS
# What may follow a named letter so that it is not an article or an initial ("the answer is a dog").
SET_OFF = (
    r"(?=\s*(?:$|[)\]\"'.,:;!?\n/&(]|-(?![A-Za-z0-9(])|[\u2e80-\uffff]|"
    r"(?:is|because|since|as|for|based|or|and)\b))"
)

# Words that announce the answer, in the languages in which models are asked and sometimes reply.
ANSWER = (
    r"(?:(?:answer(?:\s+to\s+(?:the|this)\s+question)?|ans\.?|assistant(?=:)|antwort|réponse|reponse|respuesta|risposta|"
    r"resposta|ответ|الإجابة(?:\s+الصحيحة)?|(?:correct|right|best)\s+(?:option|choice|letter)(?:\s+letter)?|correct(?=\s*[:=])|"
    r"option\s+letter|(?:my|the)\s+(?:choice|letter)(?=\s+is\b))(?:\s+(?:correcta|correcte|correta|corretta))?"
    r"(?:\s+(?:would\s+be|should\s+be|must\s+be|is|ist|est|es|è|é|هي))?|答案|正解|答え|回答|정답)"
)
STRONG = re.compile(
    rf"{ANSWER}[\"'\s]*(?:[:=]|-|は|是|为|為|은|는)?\s*(?:(?:option|choice)\s+)?{NAMED}{SET_OFF}", re.IGNORECASE
)
WEAK = re.compile(
    r"(?:(?:option|choice|(?:i|i'd|i\s+would|i'll|i\s+will)\s+(?:think|believe|say|guess|choose|pick|select|go\s+with)"
    r"(?:\s+(?:it\s+is|it's|that))?|it\s+is|it's|that's|would\s+be|therefore|thus|hence|so)[\s,:]+|选项|选择|选|選)\s*"
    rf"{NAMED}{SET_OFF}",
    re.IGNORECASE,
)
BRACKETED = re.compile(r"(?<!\w)[(\[](?P<letter>[A-Z])[)\]]")

# Emphasis and code marks, and the dollars around a formula; a dollar before a number and a star between two terms are
# the answer's own.
DRESS = re.compile(r"`|\*{2,}|(?<![\w)])\*(?=\S)|(?<=\S)\*(?![\w(])|\$(?!\d)|(?<!\w)_+|_+(?!\w)")
MATHS = re.compile(r"\$(\S(?:[^$\n]*\S)?)\$")

ALONE = re.compile(r"[(\[]?([A-Za-z])[)\]]?[.):,;!]*")
LEADING_MARKED = re.compile(
    r"(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])[).:])[.:,]?(?:\s+-)?(?=\s|$)|([A-HJ-Z])(?=,\s|\s+[-–—]\s|\n)"
)
LEADING_BARE = re.compile(
    r"([A-Z])\s+(?=because\b|since\b|(?:is|would\s+be|seems(?:\s+to\s+be)?)\s+"
    r"(?:correct|right|my\s+(?:answer|choice)|the\s+(?:\w+\s+)?(?:answer|option|choice))\b)"
    r"|([A-Z])\s*(?=是?正确|是对的|が正解)"
)

# A second letter tied to the first one: "A or B", "(A), (C)", "B/C". An article after "and" is not one: "B, and a dog".
LINK = r"\s*(?:,\s*(?:or|and)\b|,|/|&|\+|\bor\b|\band\b|\boder\b|\bou\b|\bo\b|\bund\b|\bet\b|\by\b)\s*"
TIED_AFTER = re.compile(
    rf"[)\].:\"']*{LINK}(?:option\s+|choice\s+)?(?:[(\[]([A-Za-z])[)\]]|([A-Z])(?=\s*(?:$|[).:,;!?/&])))"
)
TIED_BEFORE = re.compile(rf"{NOT_IN_WORD}[(\[]?([A-Z])[)\].]*{LINK}(?:the\s+)?$")

# A full stop inside a number, or before one (".5"), ends no sentence.
SENTENCE_END = re.compile(r"\.(?!\d)|\n")
CLAUSE_END = re.compile(r"[.,;:!?\n]|\bbut\b", re.IGNORECASE)
DENIAL = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|can't|\w+n't|dont|cant|without|unable|unclear|unsure|impossible|nothing|none|"
    r"if|whether|unlike|except|instead|rather|than|either|or|wrong|incorrect|nicht|keine?\w*|weder|pas|aucun\w*|не|нет)\b"
    r"|[不没沒無无否]|\?",
    re.IGNORECASE,
)
DENIED_AFTER = re.compile(
    r"[)\]\"'.]*\s*(?:(?:is|was|seems|looks|are)\s+)?(?:\w+n't|not|wrong|incorrect|false|excluded)\b", re.IGNORECASE
)
# "Answer: ...", "**Final Answer:** ..." at the start of a line or sentence; then the rest of the line, or the next.
ANNOUNCED = re.compile(
    r"(?:^|[\n.!?;])[^\w\n]*(?:(?:so|therefore|thus|hence)[\s,]+)?(?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)?"
    r"(?:answer|ans|antwort|réponse|respuesta|risposta|resposta|ответ|答案|正解|答え|回答|정답)(?:\s+is)?\s*[:=]\s*"
    r"(?P<content>[^\n]*[^\s][^\n]*)",
    re.IGNORECASE,
)
# "not A", "rather than (B)": a letter that is named to be ruled out. "not A dog" has an article.
RULED_OUT = re.compile(
    r"(?i:(?:\b(?:(?:it|that|this|the\s+answer)\s+is|is|it's|its)\s+)?\b(?:not|isn't|never|rather\s+than|instead\s+of|excluding)\s+(?:option\s+|choice\s+)?)"
    r"(?:[(\[](?P<bracketed>[A-Za-z])[)\]]|(?P<bare>[A-Z])(?=\s*(?:$|[).,;:!?\n]|(?i:but|and|or|nor)\b)))[).]*",
)
JOINING = re.compile(r"^(?:[\s,;:.]+|(?:it\s+is|it's|but|and|so|rather)\b)+", re.IGNORECASE)
LISTED = re.compile(r"[^\w(\[\n]*[(\[]?(?P<letter>[A-Z])(?:[)\]][.:]?|[.:])\s*(?P<text>[^\n]*)")
