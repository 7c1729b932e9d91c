"""Answers that real models wrote, and their kinds: thoughts, announcements, closing letters, signs, denials."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from semclip_eval.scoring.choice import LETTERS, parse_choice
from semclip_eval.scoring.markup import has_thoughts, without_thoughts
from semclip_eval.scoring.option_text import words
from semclip_eval.scoring.short_answer import is_match, normalized
from semclip_eval.scoring.yes_no import parse_yes_no

BOOLS = ("true", "false")
SIZES = ("BB", "a normal-sized body")
PRICES = ("$5", "5%", "50", "$5.50")
LANGUAGES = ("C", "C++", "C#")
FORMULAS = ("(a+b)*(a+b)", "a*b", "a+b", "a-b")
ODD = ("true", "incorrect data", "maybe", "false")
COLOURS = ("red", "yellow", "gray", "white")
NUMBERS = ("-3", "3", "0.3", "30")

CASES = [
    (BOOLS, "B. false", "B"), (BOOLS, "B) false", "B"), (BOOLS, "(B) false", "B"), (BOOLS, "**B. false**", "B"),
    (BOOLS, "B: false", "B"), (BOOLS, "The answer is B. false", "B"), (BOOLS, "A. false", None),
    (("wrong", "right"), "A) wrong", "A"), (("not visible", "left"), "The answer is A. not visible", "A"),
    (("neither", "both"), "A. neither", "A"), (("excluded", "included"), "A. excluded", "A"),
    (("no", "yes"), "A. no", "A"),
    (SIZES, "A. BB", "A"), (SIZES, "B. BB", None),
    (PRICES, "$5", "A"), (PRICES, "5%", "B"), (PRICES, "50", "C"), (PRICES, "D. $5", None), (PRICES, "5", None),
    (PRICES, "The answer is D. $5.50", "D"), (PRICES, "It costs $5.50.", "D"), (PRICES, "The price is $5.", "A"),
    (PRICES, "B. 5%", "B"), (PRICES, "A. $5.50", None),
    (LANGUAGES, "C++", "B"), (LANGUAGES, "It is C#.", "C"), (LANGUAGES, "B. C++", "B"), (LANGUAGES, "A. C++", None),
    (FORMULAS, "It is a-b.", "D"), (FORMULAS, "a+b", "C"), (FORMULAS, "A. (a+b)*(a+b)", "A"), (FORMULAS, "a*b", "B"),
    (ODD, "The answer is D. incorrect data", None), (ODD, "B. incorrect data", "B"),
    (ODD, "The answer is B. incorrect data", "B"), (ODD, "D. incorrect data", None),
    (COLOURS, "D, not A.", "D"), (COLOURS, "Not A, but D.", "D"), (COLOURS, "correct: D", "D"),
    (COLOURS, "It is not A but D.", "D"), (COLOURS, "D rather than A", "D"), (COLOURS, "(D), not (A)", "D"),
    (COLOURS, "not A", None), (COLOURS, "A, not A", None), (COLOURS, "The correct answer is not A. It is C.", "C"),
    (COLOURS, "The options are (A) red, (B) yellow, (C) gray, (D) white.\n\nB", "B"),
    (COLOURS, "- (A) red - No\n- (B) yellow - Yes\n\n(B) yellow", "B"),
    (COLOURS, "The sky is red, the candle yellow.\n\n✅ Final Answer: **B** (yellow)", "B"),
    (COLOURS, "If forced to choose, **(D) white** is a prominent color, but it is not a stool.\n\n"
              "**Answer:** The object is not present in the image.", None),
    (COLOURS, "(A) red\n(B) yellow\n(C) gray\n(D) white", None), (COLOURS, "A\nB\nC\nD", None),
    (COLOURS, "I think it's A.\n\nB", None), (COLOURS, "A. It is red.\n\nB", None),
    (COLOURS, "Step 1: look.\n\nAnswer: B\n\nExplanation: A is wrong.", "B"),
    (COLOURS, "Answer: A\nWait.\nFinal answer: B", "B"), (COLOURS, "The final answer is: $\\boxed{B}$", "B"),
    (COLOURS, "### Answer\n\nB", "B"), (COLOURS, "Answer:\nB", "B"), (COLOURS, "Answer: gray", "C"),
    (COLOURS, "Answer: none of the above", None), (COLOURS, "Answer: A or B", None),
    (COLOURS, "It could be (B).\n</think>\n\nA", "A"), (COLOURS, "<think>It is B", None),
    (COLOURS, "<think>B</think>", None),
    (NUMBERS, "-3", "A"), (NUMBERS, "3", "B"), (NUMBERS, "The answer is C. 0.3", "C"), (NUMBERS, "A. 3", None),
]  # fmt: skip


@pytest.mark.parametrize(("options", "text", "letter"), CASES)
def test_cases(options: tuple[str, ...], text: str, letter: str | None) -> None:
    choice = parse_choice(text, options)
    assert choice.option == (None if letter is None else LETTERS.index(letter)), choice.how


WORD = st.text(string.ascii_lowercase, min_size=2, max_size=7)
OPTION = st.one_of(
    WORD,
    st.lists(WORD, min_size=2, max_size=3).map(" ".join),
    st.integers(-99, 999).map(str),
    st.integers(1, 99).map(lambda number: f"${number}"),
    st.integers(1, 99).map(lambda number: f"{number}%"),
    st.sampled_from(
        ["not red", "false", "incorrect", "none", "no", "never", "a dog", "the answer", "C++", "U.S.A", "BB"]
    ),
)
OPTIONS = st.lists(OPTION, min_size=2, max_size=6, unique_by=words)
MARK = st.sampled_from(["{}. ", "{}) ", "({}) ", "[{}] ", "{}: ", "**{}.** ", "**({})** ", "{} - ", "Answer: {}. ",
                        "The answer is {}. ", "Final Answer: ({}) ", "\n\n{}. ", "> {}) "])  # fmt: skip
END = st.sampled_from(["", ".", "\n", " ", "**", '"', "\n\n"])


@given(OPTIONS, st.integers(0, 5), MARK, END)
@settings(max_examples=400, deadline=None)
def test_a_letter_with_its_own_options_text_is_that_letter(
    options: list[str], position: int, mark: str, end: str
) -> None:
    assume(position < len(options))
    text = mark.format(LETTERS[position]) + options[position] + end
    choice = parse_choice(text, options)
    assert choice.option == position, (text, options, choice.how)


@given(OPTIONS, st.integers(0, 5), st.integers(0, 5), MARK)
@settings(max_examples=300, deadline=None)
def test_a_letter_with_another_options_text_is_never_that_letter(
    options: list[str], position: int, other: int, mark: str
) -> None:
    assume(position != other and max(position, other) < len(options))
    # "A. 5" where B is "5%": the text is that of no option, or begins another one.
    assume(not any(words(text).startswith(words(options[other])) for text in options if text != options[other]))
    assume(not words(options[other]).startswith(words(options[position])))
    choice = parse_choice(mark.format(LETTERS[position]) + options[other], options)
    assert choice.option is None, (options, choice)


PIECES = st.sampled_from(
    ["A", "B", "(C)", "D.", "red", "yellow", "not", "or", "The answer is", "Answer:", "\n", "\n\n", ".", ",", "it is",
     "a", "dog", "<think>", "</think>", "**", "?", "because", "I", "option", "none", "E", "-", "$", "5"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=9).map(" ".join))
@settings(max_examples=500, deadline=None)
def test_no_letter_comes_back_that_the_answer_does_not_contain(text: str) -> None:
    choice = parse_choice(text, COLOURS)
    if choice.option is None:
        return
    kept = without_thoughts(text)
    letter = re.search(rf"(?<![A-Za-z]){LETTERS[choice.option]}(?![a-z])", kept, re.IGNORECASE)
    assert letter or COLOURS[choice.option] in kept.casefold()


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_nothing_makes_a_reader_fail(text: str) -> None:
    parse_choice(text, COLOURS)
    parse_yes_no(text)
    normalized(text)


# --- thoughts ----------------------------------------------------------------------------------------------------

MARKS = [
    ("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<thought>", "</thought>"), ("<THINK>", "</THINK>"),
    ("<reasoning>", "</reasoning>"), ("<analysis>", "</analysis>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"), ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"), ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<unused94>thought\n", "<unused95>"), ("<think type=\"deep\">", "</think>"), ("<scratchpad>", "</scratchpad>"),
]  # fmt: skip
THOUGHT = "I first thought of A. Yes, it may be (A) red. The answer is A. No."


@pytest.mark.parametrize(("opened", "closed"), MARKS)
def test_thoughts_in_any_marks_are_no_part_of_any_answer(opened: str, closed: str) -> None:
    text = f"{opened}{THOUGHT}{closed}\n\n"
    assert has_thoughts(text)
    assert parse_choice(f"{text}B", COLOURS).option == 1
    assert parse_yes_no(f"{text}no").option == 1
    assert is_match(f"{text}dog", "dog", "strict")
    for cut in (f"{opened}{THOUGHT}", opened, text):  # cut off, or thought alone
        assert parse_choice(cut, COLOURS).option is None
        assert parse_choice(cut, COLOURS).how == "nothing but thoughts"
        assert parse_yes_no(cut).option is None
        assert normalized(cut) == ""


@pytest.mark.parametrize(("opened", "closed"), [pair for pair in MARKS if "channel" not in pair[0]])
def test_a_thought_that_the_template_opened_ends_at_the_closing_mark(opened: str, closed: str) -> None:
    text = f"{THOUGHT}\n{closed}\n\n"
    assert parse_choice(f"{text}B", COLOURS).option == 1
    assert parse_yes_no(f"{text}no").option == 1
    assert is_match(f"{text}dog", "dog", "strict")
    assert parse_choice(f"{opened}x{closed}y{closed}B", COLOURS).option == 1


def test_channels_without_their_special_tokens() -> None:
    assert parse_choice("analysisThe sky is red, so A.assistantfinalB", COLOURS).option == 1
    assert without_thoughts("analysis of the picture: B") == "analysis of the picture: B"


@given(st.text(max_size=40))
def test_an_answer_without_marks_keeps_every_character(text: str) -> None:
    assume(not has_thoughts(text))
    assert without_thoughts(text) == text
