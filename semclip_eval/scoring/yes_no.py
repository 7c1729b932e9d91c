"""Does a free answer say yes or no? And what follows from many of them: precision, recall, F1, the part of yes.

Strict, like `scoring/choice.py`: the word must stand as the answer, at the start of a clause or after "the answer is",
and what a careful human could not decide stays unread. "There is no dog" says no word that answers; "I'm not sure",
"Yes and no" and "None" decide nothing. `official` is the rule of LLaVA's eval_pope.py, which reads everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from semclip_eval.scoring.choice import Choice
from semclip_eval.scoring.short_answer import unmarked

OPTIONS = ("yes", "no")
YES, NO = 0, 1

# Also the words of other languages in which a model asked in English sometimes replies.
_YES_WORDS = "yes yeah yep yup sí sì si oui ja да sim はい 是 是的 有 对 對 예 네"
_NO_WORDS = "no nope nah non nein nee нет não いいえ 不 不是 否 没有 沒有 不对 아니요 아니오"
_POLARITY = dict.fromkeys(_YES_WORDS.split(), YES) | dict.fromkeys(_NO_WORDS.split(), NO)
_WORD = "(?:" + "|".join(sorted(map(re.escape, _POLARITY), key=len, reverse=True)) + ")"
_SURELY = r"(?:definitely|absolutely|certainly|clearly|indeed|obviously)"
# What may follow the word without a comma: the clause that repeats the answer ("yes there is", "no it isn't").
_CLAUSE = rf"(?:there|it|it's|this|that|that's|i|i'm|i'd|the|they|he|she|we|you|because|since|{_SURELY})\b"
_STANDING = re.compile(
    rf"(?:(?:so|therefore|thus|hence|then|well|oh|ok|okay|and|but|{_SURELY})\s+)?"
    rf"(?:i(?:'d|\s+would)?\s+(?:say|think|believe|answer)\s+)?(?P<word>{_WORD})(?:\s+(?P=word))*(?=$|\s+{_CLAUSE})"
)
_STATED = re.compile(
    r"(?:answer|response|antwort|réponse|respuesta|risposta|resposta|ответ|答案|答え)(?:\s+to\s+[^.,:?]{1,80}?)?['\s]*"
    rf"(?:is|would\s+be|should\s+be|must\s+be|ist|est|es|è|是|は)[\s:']*(?:{_SURELY}\s+)?(?P<word>{_WORD})"
    rf"(?=$|[^\w/'-]|'(?:\W|$)|\s+{_CLAUSE})"
)
_BOTH = re.compile(r"\byes\b\W*(?:or|and|/)\W*\bno\b|\bno\b\W*(?:or|and|/)\W*\byes\b")
_IGNORANCE = re.compile(
    r"\b(?:not\s+(?:\w+\s+)?(?:sure|certain|clear)|unsure|uncertain|unclear|depends|(?:do\s+not|don't|dont)\s+know|"
    r"(?:cannot|can\s+not|can't|cant|unable\s+to|impossible\s+to|hard\s+to|difficult\s+to)\s+(?:\w+\s+)?"
    r"(?:tell|say|determine|determined|know|answer))\b"
)
_PERHAPS = r"(?:(?:most|very)\s+)?(?:maybe|perhaps|possibly|probably|likely)"
_HEDGE = re.compile(rf"(?:{_WORD}\s+)?{_PERHAPS}(?:\s+(?:so|not|{_WORD}))?|(?:if|unless)\s.*")
# "Yes, there is no dog", "No, there is.": the word and the clause that should repeat it say opposite things.
_AGAINST = re.compile(
    r"\b(?:yes|yeah|yep|yup)[\s,.]+(?:there|it|this|that|i|they|he|she|we)(?:'s|'re|'m|\s+\w+)?\s*"
    r"(?:\b(?:not|cannot|no(?!\s+(?:doubt|question)))\b|n't\b)"
    r"|\b(?:no|nope|nah)[\s,.]+(?:there\s+(?:is|are)|it\s+(?:is|does)|they\s+(?:are|do)|i\s+(?:can|do))\s*(?:$|[.!])"
)
_NUMERO = re.compile(r"\bno\.\s*(?=\d)")


def parse_yes_no(text: str) -> Choice:
    """Option 0 for yes, 1 for no, None with the reason where the answer is neither, both, or in doubt.

    Never raises. Repetitions and languages in `_POLARITY` are read; letters, `true` and `correct` are not.
    """
    plain = unmarked(text).casefold().replace('"', "").replace("\n", ". ")
    answer = " ".join(_NUMERO.sub("number ", plain).split())
    if not answer:
        return Choice(None, "empty answer")
    clauses = _clauses(answer)
    stated = {_POLARITY[found["word"]] for found in _STATED.finditer(answer)}
    standing = {_POLARITY[found["word"]] for clause in clauses if (found := _STANDING.match(clause))}
    readings = stated | standing
    if len(readings) > 1 or _BOTH.search(answer):
        return Choice(None, "both yes and no")
    doubt = _IGNORANCE.search(answer) or any(_HEDGE.fullmatch(clause) for clause in clauses)
    if doubt and not stated:
        return Choice(None, "in doubt")
    if not readings:
        return Choice(None, "no yes or no as the answer")
    if _AGAINST.search(answer):
        return Choice(None, "a yes or no that the rest contradicts")
    return Choice(readings.pop(), "stated" if stated else "yes or no")


def parse_officially(text: str) -> Choice:
    """LLaVA's rule (haotian-liu/LLaVA, llava/eval/eval_pope.py, `eval_pope`), never without an option.

    The text before the first full stop, commas taken out and split at spaces, says no where `No`, `no` or `not` is
    among the words, else yes: so do an empty answer, "Maybe" and "NO". LLaVA's runs store the answer stripped.
    """
    words = text.strip().split(".")[0].replace(",", "").split(" ")
    return Choice(NO if {"No", "not", "no"} & set(words) else YES, "official rule")


def yes_no_metrics(records: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Precision, recall and F1 of "yes", and the part of yes among the answers that could be read.

    Records carry `truth` and `choice` as indices into `OPTIONS`, `choice` None where the answer is unparsed. An
    unparsed answer is never a predicted yes (nor a no): to a yes question it is a missed yes, which lowers recall and
    F1; to a no question it touches none of these, only the accuracy. None where a denominator is zero: precision where
    no answer is yes, recall and F1 where no truth is. F1 = 2 TP / (2 TP + FP + FN), so missing every yes gives 0.
    """
    predicted = sum(record["choice"] == YES for record in records)
    actual = sum(record["truth"] == YES for record in records)
    read = sum(record["choice"] is not None for record in records)
    hits = sum(record["choice"] == YES == record["truth"] for record in records)
    return {
        "precision": hits / predicted if predicted else None,
        "recall": hits / actual if actual else None,
        "f1": 2 * hits / (predicted + actual) if actual else None,
        "yes_ratio": predicted / read if read else None,
    }


def _clauses(answer: str) -> list[str]:
    """What stands between punctuation, without the sentences that are questions."""
    sentences = re.findall(r"[^.!?;]+[.!?;]*", answer)
    statements = [sentence for sentence in sentences if "?" not in sentence]
    parts = (part for statement in statements for part in re.split(r"[^\w\s'/-]+|\s-+\s|\s-+$|^-+\s", statement))
    return [clause for part in parts if (clause := part.strip(" '-"))]
