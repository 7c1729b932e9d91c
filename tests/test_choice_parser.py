"""The strict reader of free answers, row by row: what a careful human reads, and nothing where they could not say.

The first table holds the outputs on which the parsers of public harnesses disagree (each of them misreads some).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semclip_eval.errors import QuestionError
from semclip_eval.scoring.choice import LETTERS, option_of_letter, parse_choice, score_choice
from semclip_eval.types import Answer, Question, Score

OPTIONS = ("blue", "red", "a dog", "green")
QUESTION = Question(
    id="7",
    text="What color is the car?",
    category="color",
    image_id="7",
    load_image=lambda: Image.new("RGB", (4, 4)),
    truth=1,
    options=OPTIONS,
)

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

MARKDOWN = [
    ("**Answer:** B", "B"),
    ("**Answer: B**", "B"),
    ("### Answer\nB", "B"),
    ("## Final answer: (C)", "C"),
    ("Answer:\nB", "B"),
    ("Answer:\n\nB. red", "B"),
    ("The answer is **(B) red**.", "B"),
    ("***B***", "B"),
    ("__B__", "B"),
    ("* B", "B"),
    ("B)", "B"),
    ("(B).", "B"),
    ("{B}", "B"),
    ("[B] red", "B"),
]

MORE_STATEMENTS = [
    ("Option (B)", "B"),
    ("Option B: red", "B"),
    ("option C is the one", "C"),
    ("Choice D", "D"),
    ("I choose (D).", "D"),
    ("I pick C", "C"),
    ("My answer is B.", "B"),
    ("My choice is B.", "B"),
    ("The correct choice is D", "D"),
    ("The right answer is (A).", "A"),
    ("The best answer is C.", "C"),
    ("Correct answer: D", "D"),
    ("ANSWER: B", "B"),
    ("ANSWER IS B", "B"),
    ("Ans: B", "B"),
    ("Ans. B", "B"),
    ("answer - C", "C"),
    ("Answer = C", "C"),
    ("Answer (C)", "C"),
    ("Answer C", "C"),
    ("The answer would be B", "B"),
    ("The answer should be (B).", "B"),
    ("The answer must be D.", "D"),
    ("The answer is: **B. red**", "B"),
    ("B is my answer", "B"),
    ("B would be correct", "B"),
    ("B seems right", "B"),
    ("The letter is B.", "B"),
    ("The correct letter is B", "B"),
    ("Letter B", None),
    ("USER: what? ASSISTANT: B", "B"),
    ("ASSISTANT: B", "B"),
    ("Assistant: (B)", "B"),
    ("The answer to the question is B.", "B"),
    ("The answer is (b) red", "B"),
    ("the answer is b", "B"),
    ("the answer is c.", "C"),
    ("The answer is a.", "A"),
    ("The answer is B because the car is red, not blue.", "B"),
    ("The answer is B, red.", "B"),
    ("The answer is red.", "B"),
    ("The answer is red, not blue.", None),
]

LATEX = [
    ("$B$", "B"),
    ("\\boxed{B}", "B"),
    ("The answer is \\boxed{C}.", "C"),
    ("$\\boxed{\\textbf{(D)}}$", "D"),
    ("\\text{B}", "B"),
    ("\\(B\\)", "B"),
    ("\\[\\boxed{B}\\]", "B"),
    ("Final answer: $\\boxed{B}$", "B"),
    ("\\mathbf{A}", "A"),
    ("$$\\boxed{C}$$", "C"),
]

REASONING = [
    ("Let's think step by step. The sky is blue, but the car is red. So the answer is B.", "B"),
    ("First, I look at the image. I see a dog and a car. The car is red.\nTherefore, the answer is (B).", "B"),
    ("The image shows A, B, and C. The answer is D.", "D"),
    ("Option A is wrong because it is not blue. Option B is right.", "B"),
    ("It could be A or B, but the answer is B.", "B"),
    ("Step 1: look. Step 2: compare. Answer: C", "C"),
    ("<think>It may be A. No.</think>B", "B"),
    ("<think>The answer is A? no</think>\nThe answer is C", "C"),
]

REFUSALS = [
    ("I'm sorry, I can't assist with that.", None),
    ("I cannot determine the answer from the image.", None),
    ("Unable to determine.", None),
    ("There is not enough information.", None),
    ("N/A", None),
    ("I don't know.", None),
    ("Sorry", None),
    ("As a language model I can't choose A.", None),
    ("None of the above", None),
    ("Unanswerable", None),
    ("It is impossible to say whether it is blue or red.", None),
]

OTHER_LANGUAGES = [
    ("Die richtige Antwort ist B.", "B"),
    ("Antwort: C", "C"),
    ("La bonne réponse est B.", "B"),
    ("La respuesta es B.", "B"),
    ("Respuesta: C", "C"),
    ("La risposta è B.", "B"),
    ("A resposta é C.", "C"),
    ("答案：B", "B"),
    ("答案是（B）", "B"),
    ("我选择C。", "C"),
    ("选项B", "B"),
    ("B。", "B"),
    ("B是正确的", "B"),
    ("答え：B", "B"),
    ("정답: C", "C"),
    ("Правильный ответ: B", "B"),
    ("الإجابة هي B", "B"),
]

ARTICLES = [
    ("a", "A"),
    ("A.", "A"),
    ("A dog.", "C"),
    ("A man is walking.", None),
    ("A is for apple", None),
    ("An apple", None),
    ("A green ball", "D"),
    ("A bluish thing", None),
    ("A, because the sky is blue.", "A"),
    ("A - blue", "A"),
    ("A blue car", "A"),
    ("A red car", "B"),
    ("A person with a dog", "C"),
]

SEVERAL_LINES = [
    ("B\nB\nB", "B"),
    ("A\nB\nC\nD", None),
    ("B\n\nred", "B"),
    ("B\n\nblue", None),
    ("\n\nB", "B"),
    ("B.\n\nExplanation: A is wrong.", "B"),
    ("Red\n\nThe car is red.", "B"),
]

HEDGES = [
    ("B, C", None),
    ("B & C", None),
    ("B and D", None),
    ("A/B", None),
    ("A + B", None),
    ("B?", None),
    ("B!", "B"),
    ("Maybe B", None),
    ("Probably B.", None),
    ("B, I think.", "B"),
    ("Either", None),
    ("Neither A nor B", None),
    ("not A", None),
    ("All of the above", None),
    ("B or maybe C", None),
    ("The answer is A or B.", None),
    ("The answer isn't B.", None),
    ("Not B, but C.", "C"),
]

MORE_TEXTS = [
    ("The dog is red.", None),
    ("red dog", None),
    ("blue and red", None),
    ("It's red", "B"),
    ("It's a dog", "C"),
    ("Looks green to me.", "D"),
    ("Reddish", None),
    ("dark green", "D"),
    ("Greenland", None),
    ("Red.", "B"),
    ("'red'", "B"),
    ('"Red"', "B"),
    ("color: red", "B"),
]

LETTERS_OF_OTHER_THINGS = [
    ("C.D", None),
    ("AB", None),
    ("ABCD", None),
    ("B1", None),
    ("B-", None),
    ("A+", None),
    ("C#", None),
    ("Grade A", None),
    ("Hepatitis B", None),
    ("Type C", None),
]

ROWS = [
    *PEERS_DISAGREE,
    *LETTER_FORMS,
    *STATEMENTS,
    *TEXTS,
    *UNREADABLE,
    *MARKDOWN,
    *MORE_STATEMENTS,
    *LATEX,
    *REASONING,
    *REFUSALS,
    *OTHER_LANGUAGES,
    *ARTICLES,
    *SEVERAL_LINES,
    *HEDGES,
    *MORE_TEXTS,
    *LETTERS_OF_OTHER_THINGS,
]


@pytest.mark.parametrize(("text", "letter"), ROWS)
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


def test_no_row_of_the_table_stands_twice() -> None:
    texts = [text for text, _ in ROWS]
    assert len(set(texts)) == len(texts) >= 24 + 60


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("B", Score(1.0, choice=1)),
        ("It is red.", Score(1.0, choice=1)),
        ("C", Score(0.0, choice=2)),
        ("The answer is B or C.", Score(0.0, status="unparsed", reason="more than one letter")),
        ("", Score(0.0, status="unparsed", reason="empty answer")),
    ],
)
def test_a_score_says_right_wrong_or_unparsed(text: str, score: Score) -> None:
    assert score_choice(QUESTION, Answer(text)) == score


def test_a_score_needs_a_text() -> None:
    with pytest.raises(QuestionError, match="question 7: the letter protocol needs an answer text"):
        score_choice(QUESTION, Answer(option_losses=(1.0, 2.0, 3.0, 4.0)))


@pytest.mark.parametrize(
    ("letter", "index"),
    [("A", 0), ("D", 3), (" B ", 1), ("E", None), ("a", None), ("", None), ("AB", None), (None, None)],
)
def test_published_letters_name_an_option_or_none(letter: object, index: int | None) -> None:
    assert option_of_letter(letter, 4) == index
