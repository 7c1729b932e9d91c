"""HR-Bench: rows in the published schema, the authors' prompt, four orders of one question, the average over cycles."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semclip_eval.benchmarks.base import stratified_limit
from semclip_eval.benchmarks.hrbench import HRBench
from semclip_eval.errors import ConfigError, DataError, QuestionError
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.results.summary import category_rows
from semclip_eval.types import Answer, Question
from tests.published import picture, write_hrbench

GOLDEN = Path(__file__).parent / "golden"

ENTRANCE = "What is the number displayed above the entrance where the woman is standing?"
NUMBERS = ["27B", "37B", "27D", "27E"]


def orders(question: str, options: list[str], category: str, image: int, step: int = 1) -> list[dict[str, Any]]:
    """The four rows of one question; the first option is the right one, and moves on by `step` with each."""
    rows = []
    for cycle in range(4):
        shift = cycle * step % 4
        turned = options[-shift:] + options[:-shift] if shift else list(options)
        rows.append(
            {
                "question": question,
                "category": category,
                "cycle_category": str(cycle),
                "answer": "ABCD"[turned.index(options[0])],
                **dict(zip("ABCD", turned, strict=True)),
                "image": picture(image),
            }
        )
    return rows


def numbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "index": number} for number, row in enumerate(rows)]


ROWS = numbered(
    orders(ENTRANCE, NUMBERS, "single", 11)
    + orders("Which flag is nearest?", ["red", "blue", "green", "white"], "cross", 12)
    + orders("Which flag is nearest?", ["blue", "red", "green", "white"], "cross", 13)  # another right option
)


def hrbench(path: Path, **keywords: Any) -> HRBench:
    return HRBench(path=str(path), **keywords)


def record(question: Question, score: float | None, status: str = "ok") -> dict[str, Any]:
    return {
        "category": question.category,
        "cluster": question.cluster,
        "tags": dict(question.tags),
        "status": status,
        "score": score,
        "chance": 0.25,
        "target_coverage": None,
        "views": [],
        "visual_tokens": None,
        "text_tokens": None,
        "new_tokens": None,
    }


def test_questions_are_the_rows(tmp_path: Path) -> None:
    questions = hrbench(write_hrbench(tmp_path, ROWS)).questions()
    assert [question.id for question in questions] == [str(number) for number in range(12)]
    first, second = questions[:2]
    assert (first.text, first.options, first.truth) == (ENTRANCE, tuple(NUMBERS), 0)
    assert (second.options, second.truth) == (("27E", "27B", "37B", "27D"), 1)
    assert (first.category, questions[5].category) == ("single", "cross")
    assert [question.tags["cycle"] for question in questions] == ["0", "1", "2", "3"] * 3
    assert [question.cluster for question in questions] == ["0"] * 4 + ["4"] * 4 + ["8"] * 4
    assert [question.image_id for question in questions] == [question.cluster for question in questions]
    assert [question.load_image().getpixel((0, 0))[0] for question in questions] == [11] * 4 + [12] * 4 + [13] * 4


@pytest.mark.parametrize("seed", range(5))
def test_the_four_orders_find_each_other_in_any_order_and_direction(tmp_path: Path, seed: int) -> None:
    rows = [{**row, "index": number} for number, row in enumerate(ROWS)]
    rows += [{**row, "index": 12 + n} for n, row in enumerate(orders("Who?", list("wxyz"), "cross", 14, step=3))]
    random.Random(seed).shuffle(rows)
    questions = hrbench(write_hrbench(tmp_path, rows)).questions()
    clusters: dict[str, set[int]] = {}
    for question in questions:
        clusters.setdefault(question.cluster, set()).add(int(question.id) // 4)
    assert sorted(map(sorted, clusters.values())) == [[0], [1], [2], [3]]


def test_questions_alike_but_for_their_images_share_no_image(tmp_path: Path) -> None:
    twins = numbered(orders("Which?", list("wxyz"), "single", 1) + orders("Which?", list("wxyz"), "single", 2))
    questions = hrbench(write_hrbench(tmp_path, twins)).questions()
    assert len({question.image_id for question in questions}) == 8
    assert {question.cluster for question in questions} == {"0"}
    assert [question.load_image().getpixel((0, 0))[0] for question in questions] == [1] * 4 + [2] * 4


def test_the_whole_prompt(tmp_path: Path) -> None:
    rows = [{**row, "question": f" {row['question']} "} for row in ROWS]
    benchmark = hrbench(write_hrbench(tmp_path, rows))
    prompt = benchmark.prompt(benchmark.questions()[0])
    assert CONVERSATIONS["vicuna_v1"].prompt(prompt.text, 1) + "\n" == (GOLDEN / "hrbench.txt").read_text()
    assert prompt.continuations == ()


@pytest.mark.parametrize(("split", "resolution"), [("hrbench_4k", "4k"), ("hrbench_8k", "8k")])
def test_the_split_is_the_version(tmp_path: Path, split: str, resolution: str) -> None:
    for number, version in enumerate(("4k", "8k")):
        write_hrbench(tmp_path, [{**row, "image": picture(40 + 4 * number)} for row in ROWS], version)
    benchmark = hrbench(tmp_path, split=split, name=f"hrbench{resolution}")
    red = benchmark.questions()[0].load_image().getpixel((0, 0))[0]
    assert red == (40 if resolution == "4k" else 44)
    assert benchmark.notices == [
        f"hrbench{resolution}: 12 rows in {tmp_path / f'hr_bench_{resolution}.parquet'}; the published table has 800."
    ]


def naive_average(rows: list[tuple[str, float | None]]) -> float | None:
    """lmms-eval's `hrbench_aggregate_results`, told plainly: the mean of the four accuracies by cycle."""
    cycles = sorted({cycle for cycle, score in rows if score is not None})
    means = []
    for cycle in cycles:
        scores = [score for other, score in rows if other == cycle and score is not None]
        means.append(sum(scores) / len(scores))
    return sum(means) / len(means) if means else None


OUTCOMES = st.sampled_from([("ok", 1.0), ("ok", 0.0), ("unparsed", 0.0), ("error", None)])


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    return hrbench(write_hrbench(tmp_path_factory.mktemp("hrbench"), ROWS)).questions()


@settings(max_examples=150, deadline=None)
@given(outcomes=st.lists(OUTCOMES, min_size=12, max_size=12))
def test_cycle_average_against_the_reference(
    questions: list[Question], outcomes: list[tuple[str, float | None]]
) -> None:
    benchmark = HRBench(path="nowhere")
    records = [record(q, score, status) for q, (status, score) in zip(questions, outcomes, strict=True)]
    rows = {(row["breakdown"], row["category"]): row for row in category_rows(records, "run", benchmark)}
    pairs = [(q.tags["cycle"], score) for q, (_, score) in zip(questions, outcomes, strict=True)]
    expected = naive_average(pairs)
    everything = rows["all", "all"]
    assert everything["cycle_average"] == pytest.approx(expected)
    if all(score is not None for _, score in pairs):
        assert everything["accuracy"] == pytest.approx(expected)
    for cycle in "0123":
        alone = [pair for pair in pairs if pair[0] == cycle]
        assert rows["cycle", cycle]["accuracy"] == pytest.approx(naive_average(alone))
    single = [pair for q, pair in zip(questions, pairs, strict=True) if q.category == "single"]
    assert rows["category", "single"]["cycle_average"] == pytest.approx(naive_average(single))


def test_one_letter_for_everything_is_a_quarter_right(tmp_path: Path) -> None:
    benchmark = hrbench(write_hrbench(tmp_path, 16))
    scores = [benchmark.score(question, Answer("C")).value for question in benchmark.questions()]
    assert sum(scores) / len(scores) == 0.25 == benchmark.chance(benchmark.questions()[0])


@pytest.mark.parametrize("limit", [1, 4, 7, 8, 100])
def test_a_limit_keeps_the_orders_together(tmp_path: Path, limit: int) -> None:
    benchmark = hrbench(write_hrbench(tmp_path, 24))
    chosen = stratified_limit(benchmark.questions(), limit, seed=3, whole_clusters=benchmark.keeps_clusters_together)
    assert len(chosen) == min(24, max(4, limit // 4 * 4))
    assert all(sum(q.cluster == other.cluster for other in chosen) == 4 for q in chosen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "E"}, r"row 3: answer 'E' is none of the letters A to D"),
        ({"question": None}, "row 3: question is empty"),
        ({"cycle_category": None}, "row 3: cycle_category is empty"),
        ({"D": None}, r"row 3: D is empty"),
        ({"index": 0}, r"hr_bench_4k\.parquet: two questions have the id '0'"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = [dict(row) for row in ROWS]
    rows[3] |= change
    with pytest.raises(DataError, match=message):
        hrbench(write_hrbench(tmp_path, rows)).questions()


def test_a_broken_image_is_its_rows_alone(tmp_path: Path) -> None:
    rows = [dict(row) for row in ROWS]
    rows[2]["image"] = b"no image"
    questions = hrbench(write_hrbench(tmp_path, rows)).questions()
    questions[1].load_image()
    with pytest.raises(QuestionError, match="row 2"):
        questions[2].load_image()


def test_keys_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"benchmark\.split=test: must be hrbench_4k or hrbench_8k"):
        HRBench(split="test")
    with pytest.raises(ConfigError, match=r"benchmark\.parser=official: must be strict"):
        HRBench(parser="official")
