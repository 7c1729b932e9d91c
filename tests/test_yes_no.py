"""The readers of yes-or-no answers row by row, and the measures against a naive count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semclip_eval.scoring.yes_no import NO, OPTIONS, YES, parse_officially, parse_yes_no, yes_no_metrics

READ_YES = [
    "Yes",
    "yes.",
    " YES \n",
    "**Yes**",
    "`yes`",
    '"Yes"',
    "Yes!",
    "Yes...",
    "Yes</s>",
    "<answer>Yes</answer>",
    "\\boxed{Yes}",
    "Ｙｅｓ",
    "Yes\u200b",
    "Yes 👍",
    "Yes, there is",
    "Yes, there is a dog with no collar.",
    "Yes there is a dog.",
    "Yes, yes, yes",
    "yes - there is one",
    "Yes (a dog)",
    "Yes\nExplanation: there is no cat",
    "Yes, but not clearly visible",
    "Yes, I can see a dog.",
    "Yeah, there are two.",
    "yep",
    "Definitely yes",
    "Answer: Yes",
    '{"answer": "yes"}',
    "The answer is yes.",
    'The answer is "yes"',
    "The answer to the question is yes",
    "The answer is yes, there's no doubt",
    "I'm not sure, but the answer is yes.",
    "I think yes.",
    "<think>Is there a dog? No, a cat. Or no: a dog.</think>Yes",
    "Looking at the image, yes.",
    "There's a dog on the sofa, so yes.",
    "Is there a dog? Yes.",
    "Sí",
    "sí, hay un perro",
    "oui",
    "Ja.",
    "да",
    "是",
    "是的，图中有一只狗。",
    "はい、あります。",
    "네",
]

READ_NO = [
    "No",
    "no.",
    "**No**",
    "nO",
    "'no'",
    "No, there is no dog",
    "No, there are no dogs or cats.",
    "no it isn't",
    "No there is not.",
    "No, not at all",
    "No — only a cat",
    "No, but there is a cat",
    "No, there is a cat.",
    "No, it might be a cat.",
    "No, I cannot see a dog.",
    "Nope",
    "The answer is no.",
    "The answer is 'no'.",
    "Final answer: **No**",
    "It shows a cat. Therefore, no.",
    "I would say no.",
    "nein",
    "non",
    "No, no hay ningún perro.",
    "нет",
    "不是",
    "没有",
    "いいえ",
    "答案是不是",
]

UNREAD = [
    ("", "empty answer"),
    (" \n ", "empty answer"),
    ("...", "no yes or no as the answer"),
    ("None", "no yes or no as the answer"),
    ("nothing", "no yes or no as the answer"),
    ("know", "no yes or no as the answer"),
    ("not", "no yes or no as the answer"),
    ("Yesterday", "no yes or no as the answer"),
    ("Y", "no yes or no as the answer"),
    ("True", "no yes or no as the answer"),
    ("1", "no yes or no as the answer"),
    ("No. 5", "no yes or no as the answer"),
    ("No idea", "no yes or no as the answer"),
    ("No doubt", "no yes or no as the answer"),
    ("No dog is visible.", "no yes or no as the answer"),
    ("There is no dog.", "no yes or no as the answer"),
    ("There is a dog.", "no yes or no as the answer"),
    ("Unanswerable", "no yes or no as the answer"),
    ('The word "no" appears on the sign', "no yes or no as the answer"),
    ("not yes", "no yes or no as the answer"),
    ("The answer is not no.", "no yes or no as the answer"),
    ("I would not say yes.", "no yes or no as the answer"),
    ("Yes?", "no yes or no as the answer"),
    ("Yes if you look closely", "no yes or no as the answer"),
    ("有一只狗", "no yes or no as the answer"),
    ("Yes and no", "both yes and no"),
    ("yes/no", "both yes and no"),
    ("Yes or no", "both yes and no"),
    ("The answer is yes or no", "both yes and no"),
    ("Options: yes, no", "both yes and no"),
    ("No\n\nYes", "both yes and no"),
    ("Sí. No.", "both yes and no"),
    ("not sure", "in doubt"),
    ("Maybe", "in doubt"),
    ("Probably yes", "in doubt"),
    ("Yes, probably", "in doubt"),
    ("No, maybe not.", "in doubt"),
    ("I don't know", "in doubt"),
    ("It is unclear", "in doubt"),
    ("cannot be determined", "in doubt"),
    ("No, I can't tell.", "in doubt"),
    ("I'm not sure, but yes.", "in doubt"),
    ("Yes, if you count the toy", "in doubt"),
    ("Yes, there is no dog", "a yes or no that the rest contradicts"),
    ("Yes, it is not there", "a yes or no that the rest contradicts"),
    ("Yes. There isn't one.", "a yes or no that the rest contradicts"),
    ("No, there is.", "a yes or no that the rest contradicts"),
]


@pytest.mark.parametrize(("text", "option"), [(text, YES) for text in READ_YES] + [(text, NO) for text in READ_NO])
def test_an_answer_that_a_careful_human_can_read(text: str, option: int) -> None:
    assert parse_yes_no(text).option == option


@pytest.mark.parametrize(("text", "reason"), UNREAD)
def test_what_decides_nothing_stays_unread_with_the_reason(text: str, reason: str) -> None:
    assert parse_yes_no(text) == (None, reason)


@given(st.text(max_size=40))
def test_no_text_makes_the_readers_raise(text: str) -> None:
    assert parse_yes_no(text).option in (YES, NO, None)
    assert parse_officially(text).option in (YES, NO)


@given(
    st.lists(st.sampled_from("yes no not sure maybe the answer is there dog . , ? ! or and / -".split()), max_size=8)
)
def test_an_option_is_never_read_without_its_word(words: list[str]) -> None:
    option = parse_yes_no(" ".join(words)).option
    assert option is None or OPTIONS[option] in words


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("Yes", YES),
        ("No", NO),
        ("no, there is none", NO),
        ("There is no dog.", NO),
        ("It is not there", NO),
        ("There is a dog. No cat.", YES),  # only what stands before the first full stop counts
        ("NO", YES),  # only `No`, `no` and `not` count
        ("None", YES),
        ("Maybe", YES),
        ("**No**", YES),
        ("No!", YES),
        ("", YES),
    ],
)
def test_the_official_rule_reads_everything_its_own_way(text: str, option: int) -> None:
    assert parse_officially(text).option == option


def naive_measures(pairs: list[tuple[str, str | None]]) -> dict[str, float | None]:
    """As eval_pope.py counts, with (truth, said) in words; an answer that is not read says neither."""
    tp = fp = fn = yes = no = 0
    for truth, said in pairs:
        yes += said == "yes"
        no += said == "no"
        if said == "yes" and truth == "yes":
            tp += 1
        elif said == "yes":
            fp += 1
        elif truth == "yes":
            fn += 1
    precision = tp / (tp + fp) if tp + fp else None
    recall = tp / (tp + fn) if tp + fn else None
    if recall is None:
        f1 = None
    elif tp == 0:
        f1 = 0.0
    else:
        assert precision is not None
        f1 = 2 * precision * recall / (precision + recall)
    return {"precision": precision, "recall": recall, "f1": f1, "yes_ratio": yes / (yes + no) if yes + no else None}


@given(st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["yes", "no", None])), max_size=60))
def test_measures_are_those_of_a_naive_count(pairs: list[tuple[str, str | None]]) -> None:
    records = [
        {"truth": OPTIONS.index(truth), "choice": None if said is None else OPTIONS.index(said)}
        for truth, said in pairs
    ]
    found, expected = yes_no_metrics(records), naive_measures(pairs)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value))


def test_a_zero_denominator_is_not_measured_rather_than_zero() -> None:
    never_yes = [{"truth": YES, "choice": NO}, {"truth": NO, "choice": NO}]
    assert yes_no_metrics(never_yes) == {"precision": None, "recall": 0.0, "f1": 0.0, "yes_ratio": 0.0}
    no_yes_question = [{"truth": NO, "choice": YES}]
    assert yes_no_metrics(no_yes_question) == {"precision": 0.0, "recall": None, "f1": None, "yes_ratio": 1.0}
    nothing_read = [{"truth": YES, "choice": None}]
    assert yes_no_metrics(nothing_read) == {"precision": None, "recall": 0.0, "f1": 0.0, "yes_ratio": None}
    assert set(yes_no_metrics([]).values()) == {None}
