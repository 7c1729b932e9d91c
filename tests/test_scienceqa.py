"""ScienceQA: rows in the published schema, LLaVA's prompt, the two ways to read an answer, the paper's columns."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from semclip_eval.benchmarks.scienceqa import ScienceQA
from semclip_eval.errors import ConfigError, DataError
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.results.summary import category_rows
from semclip_eval.types import Answer
from tests.published import picture, write_scienceqa
from tests.test_official_letters import PIECES, naive_scienceqa

GOLDEN = Path(__file__).parent / "golden"

STATES = {
    "question": "Which of these states is farthest north?",
    "choices": ["West Virginia", "Louisiana", "Arizona", "Oklahoma"],
    "answer": 0,
    "hint": "",
    "grade": "grade2",
    "subject": "social science",
    "image": picture(5),
}
PARACHUTE = {
    "question": "Which of the following could Gordon's test show?",
    "choices": ["how steady the parachute was", "whether it would swing too much"],
    "answer": 1,
    "hint": "Select the better answer.\nFigure: a parachute in a wind tunnel.",
    "grade": "grade12",
    "subject": "natural science",
    "image": picture(6),
}
NO_IMAGE = {"image": None, "subject": "language science"}


def scienceqa(path: Path, **keywords: Any) -> ScienceQA:
    return ScienceQA(path=str(path), **keywords)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_scienceqa(tmp_path, [STATES, PARACHUTE])


def test_questions_are_the_rows(folder: Path) -> None:
    states, parachute = scienceqa(folder).questions()
    assert (states.id, states.text, states.truth, states.hint) == ("0", STATES["question"], 0, "")
    assert states.options == ("West Virginia", "Louisiana", "Arizona", "Oklahoma")
    assert (parachute.id, parachute.truth, parachute.hint) == ("1", 1, PARACHUTE["hint"])
    assert len(parachute.options) == 2
    assert (states.category, parachute.category) == ("social science", "natural science")
    assert states.tags == {"context": "image only", "grade": "G1-6"}
    assert parachute.tags == {"context": "text and image", "grade": "G7-12"}
    assert [question.load_image().getpixel((0, 0))[0] for question in (states, parachute)] == [5, 6]


@pytest.mark.parametrize(("number", "golden"), [(0, "scienceqa.txt"), (1, "scienceqa_hint.txt")])
def test_the_whole_prompt(folder: Path, number: int, golden: str) -> None:
    benchmark = scienceqa(folder)
    prompt = benchmark.prompt(benchmark.questions()[number])
    assert CONVERSATIONS["vicuna_v1"].prompt(prompt.text, 1) + "\n" == (GOLDEN / golden).read_text()
    assert prompt.continuations == ()


def test_a_placeholder_in_the_text_is_taken_out_as_llava_does(tmp_path: Path) -> None:
    row = {**STATES, "question": "<image>\nWhich of these states is farthest north?", "choices": ["Ohio", "Iowa "]}
    benchmark = scienceqa(write_scienceqa(tmp_path, [row]))
    assert benchmark.prompt(benchmark.questions()[0]).text == (
        "Which of these states is farthest north?\nA. Ohio\nB. Iowa\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_the_full_test_set_gives_the_same_questions(tmp_path: Path) -> None:
    pictured = scienceqa(write_scienceqa(tmp_path / "img", [STATES, PARACHUTE]))
    full = scienceqa(write_scienceqa(tmp_path / "full", [NO_IMAGE, STATES, NO_IMAGE, NO_IMAGE, PARACHUTE], full=True))
    assert full.questions() == pictured.questions()
    assert [question.load_image().getpixel((0, 0))[0] for question in full.questions()] == [5, 6]
    assert full.notices[-1] == "scienceqa: 3 questions without an image are left out."
    assert all("without an image" not in notice for notice in pictured.notices)


def test_a_table_without_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no question with an image"):
        scienceqa(write_scienceqa(tmp_path, [NO_IMAGE], full=True)).questions()


def test_scores_against_the_reference(tmp_path: Path) -> None:
    rows = [
        {"choices": [f"choice {letter}" for letter in "ABCDE"[:count]], "answer": count - 2} for count in range(2, 6)
    ]
    folder = write_scienceqa(tmp_path, rows)
    official, strict = scienceqa(folder, parser="official"), scienceqa(folder)
    generator = random.Random(5)
    for question in official.questions():
        for _ in range(1000):
            text = "".join(generator.choices(PIECES, k=generator.randint(0, 5)))
            expected = naive_scienceqa(text, len(question.options))
            score = official.score(question, Answer(text))
            assert score.choice == expected
            assert score.value == float(expected is not None and expected == question.truth)
            assert score.status == ("unparsed" if expected is None else "ok")
        letter = "ABCDE"[int(str(question.truth))]
        assert strict.score(question, Answer(f"({letter})")).value == 1.0
        assert official.score(question, Answer(f"({letter})")).status == "unparsed"


def test_rows_of_the_papers_table(tmp_path: Path) -> None:
    rows = [{**STATES, "answer": 0}, {**PARACHUTE, "answer": 0}, {**STATES, "grade": "grade7", "answer": 1}]
    benchmark = scienceqa(write_scienceqa(tmp_path, rows))
    records = [
        {"category": q.category, "cluster": q.image_id, "tags": dict(q.tags), "status": "ok"}
        | {"score": benchmark.score(q, Answer("A")).value, "chance": benchmark.chance(q), "target_coverage": None}
        | {"views": [], "visual_tokens": None, "text_tokens": None, "new_tokens": None}
        for q in benchmark.questions()
    ]
    found = {(row["breakdown"], row["category"]): row["accuracy"] for row in category_rows(records, "run", benchmark)}
    assert found == {
        ("category", "social science"): 0.5,
        ("category", "natural science"): 1.0,
        ("context", "image only"): 0.5,
        ("context", "text and image"): 1.0,
        ("grade", "G1-6"): 1.0,
        ("grade", "G7-12"): 0.5,
        ("all", "all"): pytest.approx(2 / 3),
    }
    assert benchmark.chance(benchmark.questions()[1]) == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 4}, r"row 1: answer 4 is not the index of one of 4 choices"),
        ({"answer": -1}, r"row 1: answer -1 is not the index of one of 4 choices"),
        ({"answer": None}, r"row 1: answer None is not the index"),
        ({"question": None}, "row 1: question is empty"),
        ({"subject": None}, "row 1: subject is empty"),
        ({"choices": ["wood", None]}, "row 1: choices .* must be a list of 2 to 5 texts"),
        ({"choices": ["only"]}, r"row 1: choices \['only'\] must be a list of 2 to 5 texts"),
        ({"choices": list("abcdef")}, r"row 1: choices .* must be a list of 2 to 5 texts"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        scienceqa(write_scienceqa(tmp_path, [STATES, {**STATES, **change}])).questions()


def test_a_hint_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = write_scienceqa(tmp_path, 2) / "ScienceQA-IMG" / "test-00000-of-00001.parquet"
    table = parquet.read_table(file)
    column = table.schema.get_field_index("hint")
    parquet.write_table(table.set_column(column, "hint", pa.array([None, ["Figure", "1"]])), file)
    with pytest.raises(DataError, match=r"row 1: hint .* must be a text"):
        scienceqa(tmp_path).questions()


@pytest.mark.parametrize(("grade", "half"), [("grade1", "G1-6"), ("grade6", "G1-6"), ("grade7", "G7-12")])
def test_the_grades_are_cut_after_the_sixth(tmp_path: Path, grade: str, half: str) -> None:
    (question,) = scienceqa(write_scienceqa(tmp_path, [{**STATES, "grade": grade}])).questions()
    assert question.tags["grade"] == half


def test_a_grade_that_cannot_be_read_has_no_row(tmp_path: Path) -> None:
    (question,) = scienceqa(write_scienceqa(tmp_path, [{**STATES, "grade": "kindergarten"}])).questions()
    assert question.tags == {"context": "image only"}


def test_keys_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"benchmark\.split=validation: must be test"):
        ScienceQA(split="validation")
    with pytest.raises(ConfigError, match=r"benchmark\.parser=gpt: must be strict or official"):
        ScienceQA(parser="gpt")
