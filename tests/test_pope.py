"""POPE on files in the published schema: questions, prompts, scores, measures, and what malformed data says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semclip_eval.benchmarks.pope import Pope
from semclip_eval.errors import ConfigError, DataError, QuestionError
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.types import Answer
from tests.published import picture, write_pope

GOLDEN = Path(__file__).parent / "golden"
SNOWBOARD = {"question": "Is there a snowboard in the image?", "image_source": "COCO_val2014_000000310196"}


def pope(path: Path | None, **keys: Any) -> Pope:
    settings = {"name": "pope", "split": "test", "hub_id": "lmms-lab/POPE", "revision": None, "protocol": "yes_no"}
    return Pope(**{**settings, "path": None if path is None else str(path), **keys})


def test_questions(tmp_path: Path) -> None:
    benchmark = pope(write_pope(tmp_path, 18, shards=3))
    questions = benchmark.questions()
    assert [question.category for question in questions] == ["adversarial"] * 6 + ["popular"] * 6 + ["random"] * 6
    assert [question.id for question in questions[:7]] == [*(f"adversarial_{n}" for n in range(1, 7)), "popular_1"]
    first, second = questions[:2]
    assert (first.text, first.options, first.truth, second.truth) == (
        "Is there a thing0 in the image?",
        ("yes", "no"),
        0,
        1,
    )
    assert {question.cluster for question in questions} == {"COCO_val2014_000000000000"}
    assert benchmark.chance(first) == 0.5
    image = questions[8].load_image()
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (40, 30), (0, 120, 40))
    assert benchmark.dataset_revision.startswith("local:")
    assert benchmark.notices == [f"pope: 18 rows in {tmp_path}; the published table has 9000."]
    assert benchmark.described_protocol == "yes_no"
    assert pope(tmp_path, parser="official").described_protocol == "yes_no/official"


def test_the_whole_prompt(tmp_path: Path) -> None:
    benchmark = pope(write_pope(tmp_path, [SNOWBOARD]))
    (question,) = benchmark.questions()
    prompt = benchmark.prompt(question)
    assert CONVERSATIONS["vicuna_v1"].prompt(prompt.text, 1) + "\n" == (GOLDEN / "pope.txt").read_text()
    assert (prompt.continuations, prompt.max_new_tokens) == ((), 128)


@pytest.mark.parametrize("inside", [False, True])
def test_a_copy_of_the_configuration_full(tmp_path: Path, inside: bool) -> None:
    full = tmp_path / "Full"
    full.mkdir()
    for start, category in enumerate(("adversarial", "popular", "random")):
        rows = [{"category": category, "question_id": str(n), "image": picture(start)} for n in range(3)]
        written = write_pope(tmp_path / category, rows, shards=1) / "data" / "test-00000-of-00001.parquet"
        written.rename(full / f"{category}-00000-of-00001.parquet")
    questions = pope(full if inside else tmp_path).questions()
    assert [question.category for question in questions] == ["adversarial"] * 3 + ["popular"] * 3 + ["random"] * 3
    assert [question.load_image().getpixel((0, 0))[0] for question in questions] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_scores_under_both_parsers(tmp_path: Path) -> None:
    folder = write_pope(tmp_path, [{"answer": "yes"}, {"answer": "no"}])
    strict, official = pope(folder), pope(folder, parser="official")
    present, absent = strict.questions()
    for answer, on_present, on_absent in [("Yes", 1, 0), ("No, there is none.", 0, 1), ("yes.", 1, 0)]:
        for benchmark in (strict, official):
            assert benchmark.score(present, Answer(answer)).value == on_present
            assert benchmark.score(absent, Answer(answer)).value == on_absent
    unread = strict.score(present, Answer("There is a dog."))
    assert (unread.value, unread.status, unread.choice) == (0, "unparsed", None)
    assert strict.score(present, Answer("")).reason == "empty answer"
    read = official.score(present, Answer("There is a dog."))
    assert (read.value, read.status, read.choice) == (1, "ok", 0)
    with pytest.raises(QuestionError, match="needs an answer text"):
        strict.score(present, Answer(option_losses=(1.0, 2.0)))


def record(category: str, truth: int, choice: int | None) -> dict[str, Any]:
    return {"category": category, "truth": truth, "choice": choice, "score": float(truth == choice)}


@given(
    st.lists(
        st.builds(
            record,
            st.sampled_from(["random", "popular", "adversarial"]),
            st.sampled_from([0, 1]),
            st.sampled_from([0, 1, None]),
        ),
        max_size=60,
    )
)
def test_category_mean_f1_is_the_mean_of_the_categories_f1(records: list[dict[str, Any]]) -> None:
    benchmark = pope(None)
    found = benchmark.metric.further(records)
    assert tuple(found) == benchmark.metric.further_names
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in records:
        groups.setdefault(one["category"], []).append(one)
    scores = []
    for members in groups.values():
        hits = sum(one["truth"] == 0 and one["choice"] == 0 for one in members)
        wrong = sum((one["truth"] == 0) != (one["choice"] == 0) for one in members)
        has_yes = any(one["truth"] == 0 for one in members)
        scores.append(2 * hits / (2 * hits + wrong) if has_yes else None)
    if len(scores) < 2 or None in scores:
        assert found["category_mean_f1"] is None
    else:
        assert found["category_mean_f1"] == pytest.approx(sum(score or 0.0 for score in scores) / len(scores))


def test_measures_leave_out_what_was_not_scored() -> None:
    timed_only = {"category": "random", "truth": 0, "choice": None, "score": None}
    assert set(pope(None).metric.further([timed_only]).values()) == {None}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "maybe"}, "row 1: answer 'maybe' must be yes or no"),
        ({"answer": None}, "row 1: answer is empty"),
        ({"category": "odd"}, "row 1: category 'odd' must be adversarial, popular, random"),
        ({"question": " "}, "row 1: question is empty"),
        ({"question_id": None}, "row 1: question_id is empty"),
        ({"image_source": ""}, "row 1: image_source is empty"),
        ({"question_id": "1", "category": "adversarial"}, "two questions have the id 'adversarial_1'"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        pope(write_pope(tmp_path, [{}, row])).questions()


def test_a_broken_image_is_its_questions_error_alone(tmp_path: Path) -> None:
    good, broken = pope(write_pope(tmp_path, [{}, {"image": b"no image"}])).questions()
    good.load_image()
    with pytest.raises(QuestionError, match="row 1: cannot be read as an image"):
        broken.load_image()


@pytest.mark.parametrize(("key", "value"), [("protocol", "letter"), ("parser", "lenient"), ("split", "train")])
def test_a_wrong_key_is_named(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"benchmark\.{key}={value}"):
        pope(None, **{key: value})
