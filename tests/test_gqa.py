"""GQA on files in the published schema: the join of its two tables, prompts, scores, and malformed data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from semclip_eval.benchmarks.gqa import Gqa
from semclip_eval.errors import ConfigError, DataError, QuestionError
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.types import Answer
from tests.published import picture, write_gqa

GOLDEN = Path(__file__).parent / "golden"
RED, BLUE = picture(200), picture(20)


def gqa(path: Path | None, **keys: Any) -> Gqa:
    settings = {"name": "gqa", "split": "testdev", "hub_id": "lmms-lab/GQA", "revision": None}
    settings |= {"protocol": "short_answer", "path": None if path is None else str(path)}
    return Gqa(**{**settings, **keys})


def types(structural: str | None, semantic: str | None) -> dict[str, str | None]:
    return {"structural": structural, "semantic": semantic, "detailed": "x"}


def test_questions_find_their_images_by_id_and_not_by_row(tmp_path: Path) -> None:
    rows = [
        {
            "id": "11",
            "imageId": "n2",
            "question": "Is it overcast?",
            "answer": "no",
            "types": types("verify", "global"),
        },
        {
            "id": "12",
            "imageId": "n1",
            "question": "Who is wearing it?",
            "answer": "man",
            "types": types("query", "rel"),
        },
        {
            "id": "13",
            "imageId": "n2",
            "question": "Is it red or blue?",
            "answer": "red",
            "types": types("choose", "attr"),
        },
    ]
    write_gqa(tmp_path, rows, images=[{"id": "n1", "image": BLUE}, {"id": "n2", "image": RED}])
    benchmark = gqa(tmp_path)
    questions = benchmark.questions()
    assert [question.id for question in questions] == ["11", "12", "13"]
    assert [question.load_image().getpixel((0, 0))[0] for question in questions] == [200, 20, 200]
    assert [question.cluster for question in questions] == ["n2", "n1", "n2"]
    assert [question.category for question in questions] == ["verify", "query", "choose"]
    assert [question.tags["answer_type"] for question in questions] == ["binary", "open", "binary"]
    assert [question.tags["semantic"] for question in questions] == ["global", "rel", "attr"]
    assert set(benchmark.breakdowns) == set(questions[0].tags)
    assert (questions[1].truth, questions[1].options, benchmark.chance(questions[1])) == ("man", (), None)
    first, second = benchmark.notices
    assert first.startswith("gqa: 3 rows in ")
    assert first.endswith("; the published table has 12578.")
    assert second.endswith("testdev_balanced_images/testdev-00000-of-00001.parquet; the published table has 398.")


def test_the_revision_names_both_tables(tmp_path: Path) -> None:
    def revision(name: str, answer: str, image: Any) -> str:
        benchmark = gqa(write_gqa(tmp_path / name, [{"answer": answer}], images=[{"id": "n0", "image": image}]))
        benchmark.questions()
        return benchmark.dataset_revision

    first = revision("a", "yes", RED)
    assert first.startswith("local:")
    assert revision("b", "yes", RED) == first
    assert len({first, revision("c", "no", RED), revision("d", "yes", BLUE)}) == 3


def test_the_whole_prompt(tmp_path: Path) -> None:
    benchmark = gqa(write_gqa(tmp_path, [{"question": "Is it overcast?"}]))
    (question,) = benchmark.questions()
    prompt = benchmark.prompt(question)
    assert CONVERSATIONS["vicuna_v1"].prompt(prompt.text, 1) + "\n" == (GOLDEN / "gqa.txt").read_text()
    assert (prompt.continuations, prompt.max_new_tokens) == ((), 128)


def test_scores_under_both_parsers(tmp_path: Path) -> None:
    folder = write_gqa(tmp_path, [{"answer": "man"}])
    strict, official = gqa(folder), gqa(folder, parser="official")
    (question,) = strict.questions()
    for answer, by_strict, by_official in [("Man.", 1, 1), ("the man", 1, 0), ("woman", 0, 0), ("A man!", 1, 0)]:
        assert strict.score(question, Answer(answer)).value == by_strict
        assert official.score(question, Answer(answer)).value == by_official
    for benchmark in (strict, official):
        for nothing in ("", " \n", "...", "**"):
            score = benchmark.score(question, Answer(nothing))
            assert (score.value, score.status, score.reason) == (0, "unparsed", "empty answer")
    with pytest.raises(QuestionError, match="needs an answer text"):
        strict.score(question, Answer(option_losses=(1.0,)))
    assert (strict.described_protocol, official.described_protocol) == ("short_answer", "short_answer/official")


def test_a_missing_image_is_the_error_of_its_questions(tmp_path: Path) -> None:
    rows = [{"imageId": "n0"}, {"imageId": "n9"}, {"imageId": "n9"}]
    benchmark = gqa(write_gqa(tmp_path, rows, images=[{"id": "n0"}]))
    questions = benchmark.questions()
    questions[0].load_image()
    for row in (1, 2):
        with pytest.raises(QuestionError, match=f"row {row}: no image has the id n9"):
            questions[row].load_image()
    assert "lacks 1 images; 2 questions are errors" in benchmark.notices[-1]


def test_images_of_another_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has the image of no question .*\(the first: n0\)"):
        gqa(write_gqa(tmp_path, 2, images=[{"id": "m0"}])).questions()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "201100000"}, "instructions.*: two questions have the id '201100000'"),
        ({"id": ""}, "row 1: id is empty"),
        ({"imageId": None}, "row 1: imageId is empty"),
        ({"question": ""}, "row 1: question is empty"),
        ({"answer": None}, "row 1: answer is empty"),
        ({"types": None}, "row 1: types None must name a structural and a semantic type"),
        ({"types": types("query", None)}, "row 1: types .* must name a structural and a semantic type"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        gqa(write_gqa(tmp_path, [{}, row], images=[{"id": "n0"}])).questions()


def test_one_file_cannot_be_both_tables(tmp_path: Path) -> None:
    file = write_gqa(tmp_path, 2) / "testdev_balanced_instructions" / "testdev-00000-of-00001.parquet"
    with pytest.raises(DataError, match="Give the folder that holds both"):
        gqa(file).questions()


def test_a_wrong_parser_is_named() -> None:
    with pytest.raises(ConfigError, match=r"benchmark\.parser=lenient: must be strict or official"):
        gqa(None, parser="lenient")
    with pytest.raises(ConfigError, match=r"benchmark\.split=val: must be testdev for benchmark=gqa"):
        gqa(None, split="val")
