"""TextVQA on files in the published schema: prompts with and without OCR tokens, VQA accuracy, malformed data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from semclip_eval.benchmarks.textvqa import TextVqa, answer_type
from semclip_eval.errors import ConfigError, DataError, QuestionError
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.types import Answer
from tests.published import write_textvqa

GOLDEN = Path(__file__).parent / "golden"
# The first question of the validation split, with its human answers (in another order) and OCR tokens as published.
CAMERA = {
    "image_id": "003a8ae2ef43b901",
    "question_id": 34602,
    "question": "what is the brand of this camera?",
    "answers": ["nous les gosses", "clos culombu", *["dakota"] * 5, *["dakota digital"] * 3],
    "ocr_tokens": ["DAKOTA", "DIGITAL", "Single-Use", "Camera", "Pire", "digitat"],
}
YARD_LINE = {
    "question_id": 34638,
    "question": "whats the lowest number yard line that you can see?",
    "ocr_tokens": [],
}


def textvqa(path: Path | None, **keys: Any) -> TextVqa:
    settings = {"name": "textvqa", "split": "validation", "hub_id": "lmms-lab/textvqa", "revision": None}
    settings |= {"protocol": "short_answer", "path": None if path is None else str(path)}
    return TextVqa(**{**settings, **keys})


def test_questions(tmp_path: Path) -> None:
    benchmark = textvqa(write_textvqa(tmp_path, [CAMERA, YARD_LINE, {}]))
    camera, yard_line, third = benchmark.questions()
    assert (camera.id, camera.image_id, camera.cluster) == ("34602", "003a8ae2ef43b901", "003a8ae2ef43b901")
    assert (camera.text, camera.hint) == ("what is the brand of this camera?", "")
    assert camera.truth == tuple(CAMERA["answers"])
    assert (camera.category, camera.tags) == ("validation", {"answer_type": "text"})
    assert (camera.options, benchmark.chance(camera)) == ((), None)
    assert third.load_image().getpixel((0, 0)) == (1, 120, 40)
    assert yard_line.id == "34638"
    assert benchmark.notices == [f"textvqa: 3 rows in {tmp_path}; the published table has 5000."]


@pytest.mark.parametrize(
    ("row", "ocr_tokens", "golden"),
    [
        (CAMERA, False, "textvqa.txt"),
        (CAMERA, True, "textvqa_ocr.txt"),
        (YARD_LINE, True, "textvqa_ocr_none_read.txt"),  # the published line without tokens ends with its space
    ],
)
def test_the_whole_prompt(tmp_path: Path, row: dict[str, Any], ocr_tokens: bool, golden: str) -> None:
    benchmark = textvqa(write_textvqa(tmp_path, [row]), ocr_tokens=ocr_tokens)
    (question,) = benchmark.questions()
    prompt = benchmark.prompt(question)
    assert CONVERSATIONS["vicuna_v1"].prompt(prompt.text, 1) + "\n" == (GOLDEN / golden).read_text()
    assert (prompt.continuations, prompt.max_new_tokens) == ((), 128)


def test_the_question_begins_with_its_only_capital(tmp_path: Path) -> None:
    benchmark = textvqa(write_textvqa(tmp_path, [{"question": "is this Denny's?"}]))
    (question,) = benchmark.questions()
    assert benchmark.prompt(question).text.startswith("Is this denny's?\n")  # as in LLaVA's question file


def test_ocr_tokens_are_a_protocol_of_their_own_and_no_other_data(tmp_path: Path) -> None:
    folder = write_textvqa(tmp_path, [CAMERA])
    without, with_tokens = textvqa(folder), textvqa(folder, ocr_tokens=True)
    assert (without.described_protocol, with_tokens.described_protocol) == ("short_answer", "short_answer+ocr")
    (question,) = with_tokens.questions()
    assert question.hint == "Reference OCR token: DAKOTA, DIGITAL, Single-Use, Camera, Pire, digitat"
    assert "DAKOTA" not in question.text  # which is what ψ reads
    without.questions()
    assert without.dataset_revision == with_tokens.dataset_revision


def test_scores(tmp_path: Path) -> None:
    benchmark = textvqa(write_textvqa(tmp_path, [CAMERA]))
    (question,) = benchmark.questions()
    # "dakota" was said five times, "dakota digital" three times
    for answer, value in [
        ("Dakota", 1),
        ("the Dakota.", 1),
        ("dakota digital", 0.9),
        ("Clos Culombu", 0.3),
        ("nikon", 0),
    ]:
        score = benchmark.score(question, Answer(answer))
        assert (score.value, score.status, score.choice) == (pytest.approx(value), "ok", None)
    score = benchmark.score(question, Answer(" \n"))
    assert (score.value, score.status, score.reason) == (0, "unparsed", "empty answer")
    with pytest.raises(QuestionError, match="needs an answer text"):
        benchmark.score(question, Answer(option_losses=(1.0,)))


def test_another_number_of_answers_is_noticed(tmp_path: Path) -> None:
    benchmark = textvqa(write_textvqa(tmp_path, [{"answers": ["red"]}, {"answers": ["red"] * 4}, {}]))
    one, four, _ = benchmark.questions()
    assert [benchmark.score(question, Answer("red")).value for question in (one, four)] == [1, 1]
    assert benchmark.notices[-1] == "textvqa: 2 questions have another number of answers than 10."


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["yes"] * 6 + ["no"] * 4, "yes_no"),
        (["No."] * 6 + ["yes"] * 4, "yes_no"),
        (["two"] * 5 + ["2"] * 5, "number"),
        (["1,000"] * 10, "number"),
        (["3.5"] * 10, "number"),
        (["$5"] * 10, "text"),
        (["2 dogs"] * 10, "text"),
        (["red", "5", "5", "red"], "text"),
        ([""] * 10, "text"),
    ],
)
def test_the_type_of_most_answers(answers: list[str], expected: str) -> None:
    assert answer_type(answers) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question_id": 34602}, "two questions have the id '34602'"),
        ({"question_id": None}, "row 1: question_id is empty"),
        ({"image_id": ""}, "row 1: image_id is empty"),
        ({"question": " "}, "row 1: question is empty"),
        ({"answers": []}, r"row 1: answers \[\] must be a list of texts \(those of the test split are not published\)"),
        ({"answers": None}, "row 1: answers None must be a list of texts"),
        ({"answers": ["a", None]}, "row 1: answers .* must be a list of texts"),
        ({"ocr_tokens": None}, "row 1: ocr_tokens None must be a list of texts"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        textvqa(write_textvqa(tmp_path, [{}, row])).questions()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ocr_tokens": "yes"}, r"benchmark\.ocr_tokens=yes: must be true or false"),
        ({"parser": "strict"}, r"benchmark\.parser=strict: must be official"),
        ({"split": "test"}, r"benchmark\.split=test: must be validation for benchmark=textvqa"),
        ({"protocol": "letter"}, r"benchmark\.protocol=letter: must be short_answer"),
    ],
)
def test_a_wrong_key_is_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        textvqa(None, **keys)
