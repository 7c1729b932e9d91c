"""The strict reader of free answers, row by row: what a careful human reads, and nothing where they could not say.

The first table holds the outputs on which the parsers of public harnesses disagree (each of them misreads some).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semclip_eval.scoring.choice import LETTERS, parse_choice

OPTIONS = ("blue", "red", "a dog", "green")

PEERS_DISAGREE = [
    ("B", "B"),
    ("b", "B"),
    ("B.", "B"),
    ("(B)", "B"),
    ("B. red", "B"),
    ("B red", "B"),
    ("Answer: B", "B"),
    ("answer: b", "B"),
    ("The answer is B.", "B"),
    ("The correct answer is **B**.", "B"),
    ("Red", "B"),
    ("red", "B"),
    ("Blue", "A"),
    ("A dog", "C"),
    ("A dog is on the left.", "C"),
    ("Black", None),
    ("Based on the image, the answer is C.", "C"),
    ("I cannot see a dog.", None),
    ("B or C", None),
    ("None", None),
    ("", None),
    ("Both A and B", None),
    ("The red car (option B) is closest.", "B"),
    ("D. green", "D"),
]

LETTER_FORMS = [
    ("A", "A"),
    (" C \n", "C"),
    ("c)", "C"),
    ("[D]", "D"),
    ("D:", "D"),
    ("**B**", "B"),
    ("**B.** red", "B"),
    ("`C`", "C"),
    ("> B", "B"),
    ("- B. red", "B"),
    ('"B"', "B"),
    ("(B) red", "B"),
    ("B) red", "B"),
    ("b. red", "B"),
    ("B - red", "B"),
    ("B: red", "B"),
    ("B, because the car is red.", "B"),
    ("B because it is red", "B"),
    ("A is correct.", "A"),
    ("C is the right answer.", "C"),
    ("B\nThe car is red.", "B"),
    ("C\n\nExplanation: the animal on the left is a dog, not a cat.", "C"),
    ("B. B. B.", "B"),
    ("Ｂ", "B"),
    ("（Ｂ）", "B"),
    ("B\u200b", "B"),
    ("Ⓒ", "C"),
    ("$\\boxed{B}$", "B"),
    ("\\boxed{\\text{C}}", "C"),
    ("<answer>B</answer>", "B"),
    ("B</s>", "B"),
    ('{"answer": "B"}', "B"),
]

STATEMENTS = [
    ("Option C", "C"),
    ("option c", "C"),
    ("option a", "A"),
    ("The answer is: B", "B"),
    ("The answer is option B", "B"),
    ("The correct option is (C).", "C"),
    ("Final Answer: (D)", "D"),
    ("The answer is A", "A"),
    ("I think it is B", "B"),
    ("I think B.", "B"),
    ("I'd go with D", "D"),
    ("I would choose option A.", "A"),
    ("Option B is correct.", "B"),
    ("So, B.", "B"),
    ("I'm not sure, but the answer is B.", "B"),
    ("The answer is B, not C.", "B"),
    ("Option A shows the sky. The answer is B.", "B"),
    ("(A) blue (B) red (C) a dog (D) green\nAnswer: C", "C"),
    ("答案是B。", "B"),
    ("正确答案：C", "C"),
    ("选B", "B"),
    ("正解はBです", "B"),
    ("정답은 B입니다", "B"),
    ("Die Antwort ist B.", "B"),
    ("La réponse est (C).", "C"),
    ("La respuesta correcta es D.", "D"),
    ("Ответ: B", "B"),
]

TEXTS = [
    ("The answer is a dog.", "C"),
    ("Dog.", "C"),
    ("The dog is barking.", "C"),
    ("a dog", "C"),
    ("The car is red.", "B"),
    ("I see a green ball.", "D"),
    ("A blue thing", "A"),
    ("GREEN!", "D"),
    ("**Red**", "B"),
    ("I think the car is red.", "B"),
    ("I, for one, see a red car.", "B"),
]

UNREADABLE = [
    (" \n", None),
    ("?", None),
    ("E", None),
    ("The answer is E.", None),
    ("(F) red", None),
    ("A. red", None),
    ("A: red", None),
    ("The answer is A, a dog", None),
    ("A, B", None),
    ("A. B.", None),
    ("B/C", None),
    ("A and C.", None),
    ("(A) or (B)", None),
    ("Either A or B.", None),
    ("Either option A or option B", None),
    ("A or option B", None),
    ("The answer is B or C", None),
    ("B\n\nThe answer is C.", None),
    ("The answer is B. The answer is D.", None),
    ("(A) blue (B) red (C) a dog (D) green", None),
    ("A. blue\nB. red\nC. a dog\nD. green", None),
    ("Not B", None),
    ("The answer is not B.", None),
    ("I don't think the answer is B.", None),
    ("Option B is incorrect.", None),
    ("B is not correct", None),
    ("I cannot tell whether the answer is B.", None),
    ("The answer is a", None),
    ("red or green", None),
    ("It is not blue.", None),
    ("It isn't red.", None),
    ("Is it red?", None),
    ("There is neither a red nor another car.", None),
    ("The color is reddish.", None),
    ("The wall is red-brown.", None),
    ("Cotton", None),
    ("Dark", None),
    ("Vitamin C", None),
    ("Plan B", None),
    ("I", None),
    ("I see nothing.", None),
    ("A cat", None),
    ("As an AI, I cannot see images.", None),
    ("I'm sorry, but I can't help with that.", None),
    ("La respuesta es A la izquierda", None),
    ("Ответ: \u0412", None),  # a Cyrillic letter that only looks like B
    ("2", None),
    ("BBBB", None),
    ("¯\\_(ツ)_/¯", None),
]


@pytest.mark.parametrize(("text", "letter"), PEERS_DISAGREE + LETTER_FORMS + STATEMENTS + TEXTS + UNREADABLE)
def test_reads_as_a_careful_human(text: str, letter: str | None) -> None:
    choice = parse_choice(text, OPTIONS)
    assert choice.option == (None if letter is None else LETTERS.index(letter)), choice.how
    assert choice.how


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("Yes.", ("yes", "no"), 0),
        ("No", ("yes", "no"), 1),
        ("No, there is no dog.", ("yes", "no"), 1),
        ("The dark red one.", ("red", "dark red"), 1),
        ("None of the above", ("red", "None of the above"), 1),
        ("A dog", ("a dog", "A dog"), None),
        ("A dog", ("dog", "a dog"), None),
        ("A dog", ("cat", "dog"), 1),
        ("A red car", ("red", "red car"), 1),
        ("E. coli", ("E. coli", "yeast"), 0),
        ("C", ("B", "C"), 1),
        ("B", ("left", "right"), 1),
        ("C", ("left", "right"), None),
        ("The tower is 1.5 m high.", ("1", "5"), None),
        ("-5", ("5", "-5"), 1),
        ("There are 2 dogs.", ("1", "2", "12"), 1),
        ("它是红色的", ("红色", "蓝色"), 0),
        (
            "The dog is not on the left side of the motorcycle.",
            ("The dog is on the left side of the motorcycle.", "The dog is on the right side of the motorcycle."),
            None,
        ),
        (
            "The dog is on the right side of the motorcycle",
            ("The dog is on the left side of the motorcycle.", "The dog is on the right side of the motorcycle."),
            1,
        ),
    ],
)
def test_other_options(text: str, options: tuple[str, ...], expected: int | None) -> None:
    assert parse_choice(text, options).option == expected


def test_says_how_it_was_read() -> None:
    assert parse_choice("B", OPTIONS).how == "letter"
    assert parse_choice("B. red", OPTIONS).how == "leading letter"
    assert parse_choice("The answer is B.", OPTIONS).how == "stated letter"
    assert parse_choice("It is red.", OPTIONS).how == "option text"
    assert parse_choice("E", OPTIONS).how == "letter E is beyond the 4 options"


@given(st.text(max_size=80), st.integers(2, 6))
def test_any_text_is_read_or_refused_with_a_reason(text: str, count: int) -> None:
    choice = parse_choice(text, [f"thing {number}" for number in range(count)])
    assert choice.option is None or 0 <= choice.option < count
    assert choice.how


@given(
    st.integers(0, 3),
    st.sampled_from(["{}", "{}.", "({})", "{})", "Answer: {}", "The answer is {}.", "Option {}", "{}. it", "**{}**"]),
)
def test_a_plain_letter_is_read_whatever_the_options_say(index: int, form: str) -> None:
    options = ("a bee", "be", "sea", "a dee")
    assert parse_choice(form.format(LETTERS[index]), options).option == index
