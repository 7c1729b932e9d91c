"""VQA accuracy with EvalAI's normalisation of answers, as LLaVA-1.5 scores TextVQA.

Source: `EvalAIAnswerProcessor` and `TextVQAAccuracyEvaluator`, which LLaVA (llava/eval/m4c_evaluator.py) and lmms-eval
(lmms_eval/tasks/_task_utils/vqa_eval_metric.py) take from Pythia (facebookresearch/mmf). Its oddities decide scores, so
they are kept, each under its name below; an answer and the references go through the same steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBER_WORDS = {"none": "0"} | {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
ARTICLES = frozenset(("a", "an", "the"))
# The published list holds "," and "?" as well, which the first step has removed by then. For the same reason its rule
# for "1,000" (no punctuation becomes a space where a comma stands between digits) never comes to bear.
PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
# Published as `(?!<=\d)(\.)(?!\d)`: a look-behind with two letters swapped, which asks that the full stop itself be no
# "<=" and a digit, and so asks nothing. Every full stop that is not before a digit goes, "5." and "a.m." alike.
_PERIOD = re.compile(r"(?!<=\d)\.(?!\d)")
# Published as `sub("", text, re.UNICODE)`: the flag stands where the count belongs, so only that many go.
PERIODS_REMOVED = int(re.UNICODE)

# The published table, whole: some entries can never match (answers are lower case and have lost their "'s" by then),
# and "somebody'd" is published the wrong way round.
_CONTRACTIONS = """
    aint ain't, arent aren't, cant can't, couldve could've, couldnt couldn't, couldn'tve couldn't've, couldnt've
    couldn't've, didnt didn't, doesnt doesn't, dont don't, hadnt hadn't, hadnt've hadn't've, hadn'tve hadn't've,
    hasnt hasn't, havent haven't, hed he'd, hed've he'd've, he'dve he'd've, hes he's, howd how'd, howll how'll,
    hows how's, Id've I'd've, I'dve I'd've, Im I'm, Ive I've, isnt isn't, itd it'd, itd've it'd've, it'dve
    it'd've, itll it'll, let's let's, maam ma'am, mightnt mightn't, mightnt've mightn't've, mightn'tve
    mightn't've, mightve might've, mustnt mustn't, mustve must've, neednt needn't, notve not've, oclock o'clock,
    oughtnt oughtn't, ow's'at 'ow's'at, 'ows'at 'ow's'at, 'ow'sat 'ow's'at, shant shan't, shed've she'd've,
    she'dve she'd've, she's she's, shouldve should've, shouldnt shouldn't, shouldnt've shouldn't've, shouldn'tve
    shouldn't've, somebody'd somebodyd, somebodyd've somebody'd've, somebody'dve somebody'd've, somebodyll
    somebody'll, somebodys somebody's, someoned someone'd, someoned've someone'd've, someone'dve someone'd've,
    someonell someone'll, someones someone's, somethingd something'd, somethingd've something'd've,
    something'dve something'd've, somethingll something'll, thats that's, thered there'd, thered've there'd've,
    there'dve there'd've, therere there're, theres there's, theyd they'd, theyd've they'd've, they'dve
    they'd've, theyll they'll, theyre they're, theyve they've, twas 'twas, wasnt wasn't, wed've we'd've, we'dve
    we'd've, weve we've, werent weren't, whatll what'll, whatre what're, whats what's, whatve what've, whens
    when's, whered where'd, wheres where's, whereve where've, whod who'd, whod've who'd've, who'dve who'd've,
    wholl who'll, whos who's, whove who've, whyll why'll, whyre why're, whys why's, wont won't, wouldve
    would've, wouldnt wouldn't, wouldnt've wouldn't've, wouldn'tve wouldn't've, yall y'all, yall'll y'all'll,
    y'allll y'all'll, yall'd've y'all'd've, y'alld've y'all'd've, y'all'dve y'all'd've, youd you'd, youd've
    you'd've, you'dve you'd've, youll you'll, youre you're, youve you've
"""
_WORDS = _CONTRACTIONS.replace(",", "").split()
CONTRACTIONS = dict(zip(_WORDS[::2], _WORDS[1::2], strict=True))


def evalai_normalized(text: str) -> str:
    """An answer as EvalAI compares it, in its order of steps.

    1. Lower case; every "," and "?" goes; "'s" becomes a word of its own ("what's" -> "what 's").
    2. Line ends and tabs become spaces.
    3. Each mark of `PUNCTUATION` goes where it touches a space anywhere in the answer, else it becomes a space:
       "t-shirt" -> "t shirt", but "x- y-z" -> "x yz", because one of its hyphens touches a space.
    4. Full stops go, see `_PERIOD` and `PERIODS_REMOVED`.
    5. Number words up to ten become digits ("none" -> "0"), articles go wherever they stand, contractions get their
       apostrophe.
    """
    answer = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    bare = answer
    for mark in PUNCTUATION:
        bare = bare.replace(mark, "" if f"{mark} " in answer or f" {mark}" in answer else " ")
    bare = _PERIOD.sub("", bare, count=PERIODS_REMOVED)
    words = (NUMBER_WORDS.get(word, word) for word in bare.split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """How many of the human answers agree, in [0, 1]: the mean of min(1, matches / 3) with each left out in turn.

    Of the ten answers of TextVQA, VQAv2 and VizWiz, four equal ones give 1, three 0.9, two 0.6, one 0.3. With fewer
    than four references all the others must agree for the full value, and a single one must be matched.
    Raises ValueError without references.
    """
    if not references:
        raise ValueError("VQA accuracy needs at least one reference answer")
    normalized = evalai_normalized(answer)
    matches = [evalai_normalized(reference) == normalized for reference in references]
    if len(matches) == 1:
        return float(matches[0])
    needed = min(3, len(matches) - 1)
    return sum(min(1.0, (sum(matches) - match) / needed) for match in matches) / len(matches)
