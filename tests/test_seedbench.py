"""SEED-Bench: rows in the published schema, LLaVA's prompt, the two ways to read an answer."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from semclip_eval.benchmarks.seedbench import QUESTION_TYPES, SEEDBench
from semclip_eval.errors import ConfigError, DataError, QuestionError
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.results.summary import accuracy_row
from semclip_eval.types import Answer
from tests.published import picture, write_seedbench

GOLDEN = Path(__file__).parent / "golden"

TOWELS = {
    "answer": "A",
    "choice_a": "One",
    "choice_b": "Two",
    "choice_c": "Three",
    "choice_d": "Four",
    "data_id": "1454426_2591111986",
    "data_type": "image",
    "question": "How many towels are in the image?",
    "question_id": "101669",
    "question_type_id": 5,
    "image": [picture(9)],
}
VIDEO = {
    "data_type": "video",
    "question_id": "v1738",
    "question_type_id": 10,
    "image": [picture(number) for number in range(8)],
}


def seedbench(path: Path, **keywords: Any) -> SEEDBench:
    return SEEDBench(path=str(path), **keywords)


def test_only_the_image_part_is_asked(tmp_path: Path) -> None:
    rows = [VIDEO, TOWELS, {**VIDEO, "question_id": "v2"}, {"data_id": "1454426_2591111986", "question_type_id": 1}]
    benchmark = seedbench(write_seedbench(tmp_path, rows))
    towels, scene = benchmark.questions()
    assert (towels.id, towels.text, towels.truth) == ("101669", "How many towels are in the image?", 0)
    assert towels.options == ("One", "Two", "Three", "Four")
    assert (towels.category, scene.category) == ("Instances Counting", "Scene Understanding")
    assert towels.image_id == towels.cluster == scene.cluster == "1454426_2591111986"
    assert towels.load_image().getpixel((0, 0)) == (9, 120, 40)
    assert benchmark.notices[1:] == ["seedbench: 2 questions about images; SEED-Bench publishes 14233."]


def test_the_nine_types_have_their_names(tmp_path: Path) -> None:
    questions = seedbench(write_seedbench(tmp_path, 9)).questions()
    # AILab-CVC/SEED-Bench, DATASET.md; the order of the paper's Table 1.
    assert [question.category for question in questions] == [
        "Scene Understanding",
        "Instance Identity",
        "Instance Attributes",
        "Instance Location",
        "Instances Counting",
        "Spatial Relation",
        "Instance Interaction",
        "Visual Reasoning",
        "Text Understanding",
    ]
    assert [question.truth for question in questions[:5]] == [0, 1, 2, 3, 0]


def test_the_whole_prompt(tmp_path: Path) -> None:
    benchmark = seedbench(write_seedbench(tmp_path, [TOWELS]))
    prompt = benchmark.prompt(benchmark.questions()[0])
    assert CONVERSATIONS["vicuna_v1"].prompt(prompt.text, 1) + "\n" == (GOLDEN / "seedbench.txt").read_text()
    assert prompt.continuations == ()


@pytest.mark.parametrize(
    ("text", "strict", "official"),
    [
        ("A", 1.0, "ok"),
        ("A\n", 1.0, "ok"),
        ("a", 1.0, "unparsed"),
        ("A. One", 1.0, "unparsed"),
        ("One", 1.0, "unparsed"),
        ("B", 0.0, "ok"),
        ("A or B", 0.0, "unparsed"),
    ],
)
def test_the_official_parser_reads_the_letter_alone(tmp_path: Path, text: str, strict: float, official: str) -> None:
    folder = write_seedbench(tmp_path, [TOWELS])
    loose, exact = seedbench(folder), seedbench(folder, parser="official")
    question = loose.questions()[0]
    assert loose.score(question, Answer(text)).value == strict
    assert exact.score(question, Answer(text)).status == official
    assert (loose.described_protocol, exact.described_protocol) == ("letter", "letter/official")


def test_official_accuracy_against_llavas_count(tmp_path: Path) -> None:
    benchmark = seedbench(write_seedbench(tmp_path, 4), parser="official")
    questions = benchmark.questions()
    pieces = ["A", "B", "C", "D", "E", "a", ".", " ", "(", ")", "\n", "Answer: "]
    predictions = ["".join(parts) for count in range(4) for parts in itertools.product(pieces, repeat=count)]
    assert len(predictions) > 1800
    for question in questions:
        scores = [benchmark.score(question, Answer(text)).value for text in predictions]
        # scripts/convert_seed_for_submission.py: `row['text'] == question_data['answer']`, the text stored stripped.
        letter = "ABCD"[int(str(question.truth))]
        assert sum(scores) == sum(text.strip() == letter for text in predictions) > 0


def test_questions_about_one_image_are_resampled_together(tmp_path: Path) -> None:
    rows = [{"data_id": f"picture{number // 3}"} for number in range(30)]
    benchmark = seedbench(write_seedbench(tmp_path, rows))
    records = [
        {"cluster": q.cluster, "score": float(int(q.cluster[7:]) % 2), "status": "ok", "chance": benchmark.chance(q)}
        | {"target_coverage": None, "views": [], "visual_tokens": None, "text_tokens": None, "new_tokens": None}
        for q in benchmark.questions()
    ]
    row = accuracy_row(records, benchmark.metric.units)
    alone = accuracy_row([{**r, "cluster": str(n)} for n, r in enumerate(records)], benchmark.metric.units)
    assert row["accuracy"] == alone["accuracy"] == 0.5
    assert row["chance_accuracy"] == 0.25
    width = row["accuracy_ci_high"] - row["accuracy_ci_low"]
    assert width > 1.3 * (alone["accuracy_ci_high"] - alone["accuracy_ci_low"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "E"}, r"row 1: answer 'E' is none of the letters A to D"),
        ({"answer": None}, r"row 1: answer None is none of the letters A to D"),
        ({"question_type_id": 10}, r"row 1: question_type_id '10' is none of the image types 1 to 9"),
        ({"question": None}, "row 1: question is empty"),
        ({"data_id": None}, "row 1: data_id is empty"),
        ({"choice_c": None}, r"row 1: choice_c is empty"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = write_seedbench(tmp_path, [TOWELS, {"question_id": "5", **change}])
    with pytest.raises(DataError, match=message):
        seedbench(folder).questions()


def test_a_table_of_videos_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no row with the data_type image"):
        seedbench(write_seedbench(tmp_path, [VIDEO])).questions()


def test_an_image_row_with_several_pictures_fails_alone(tmp_path: Path) -> None:
    rows = [TOWELS, {"image": [picture(1), picture(2)]}]
    good, bad = seedbench(write_seedbench(tmp_path, rows, shards=1)).questions()
    good.load_image()
    with pytest.raises(QuestionError, match=r"row 1: has 2 images"):
        bad.load_image()


def test_keys_are_checked() -> None:
    assert len(QUESTION_TYPES) == 9
    with pytest.raises(ConfigError, match=r"benchmark\.split=dev: must be test"):
        SEEDBench(split="dev")
    with pytest.raises(ConfigError, match=r"benchmark\.parser=first: must be strict or official"):
        SEEDBench(parser="first")
