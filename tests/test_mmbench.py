"""MMBench: rows in the published schema, LLaVA's prompt, CircularEval against a reference written here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semclip_eval.benchmarks.base import stratified_limit
from semclip_eval.benchmarks.mmbench import MMBench, is_absent
from semclip_eval.errors import ConfigError, DataError
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.results.summary import category_rows
from semclip_eval.types import Answer, Question
from tests.published import picture, write_mmbench, write_mmbench_tsv

GOLDEN = Path(__file__).parent / "golden"
NAN = "nan"

# Two questions: three options with a hint, two without; rotations as published, `k` million apart.
SEEDS = {
    "question": "Which question can the experiment best answer?",
    "hint": "The passage below describes an experiment.\nTwo groups of seeds were watered.",
    "category": "scienceqa_logic",
    "L2-category": "logic_reasoning",
}
SEED_OPTIONS = ["Do seeds need water?", "Do seeds need light?", "Are seeds heavy?"]
ISLAND = {
    "question": "Which of these countries is shown?",
    "hint": NAN,
    "category": "geography",
    "L2-category": "attribute_reasoning",
}
ISLAND_OPTIONS = ["Dominica", "Haiti"]


def rotations(index: int, common: dict[str, Any], options: list[str], right: str, **more: Any) -> list[dict[str, Any]]:
    rows = []
    for turn in range(len(options)):
        turned = options[turn:] + options[:turn]
        cells = dict(zip("ABCD", turned + [NAN] * (4 - len(turned)), strict=True))
        rows.append(
            {"index": index + turn * 1_000_000, **common, **cells, "answer": "ABCD"[turned.index(right)], **more}
        )
    return rows


def in_blocks(*groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The published order: all first rotations, then all second ones, ..."""
    return sorted((row for group in groups for row in group), key=lambda row: row["index"])


ROWS = in_blocks(
    rotations(7, SEEDS, SEED_OPTIONS, "Do seeds need water?", image=picture(7)),
    rotations(1042, ISLAND, ISLAND_OPTIONS, "Haiti", image=picture(42)),
)


def mmbench(path: Path, **keywords: Any) -> MMBench:
    return MMBench(path=str(path), **keywords)


def record(benchmark: MMBench, question: Question, score: float | None, status: str = "ok") -> dict[str, Any]:
    return {
        "question_id": question.id,
        "category": question.category,
        "cluster": question.cluster,
        "tags": dict(question.tags),
        "status": status,
        "score": score,
        "chance": benchmark.chance(question),
        "target_coverage": None,
        "views": [],
        "visual_tokens": None,
        "text_tokens": None,
        "new_tokens": None,
    }


def row_of(benchmark: MMBench, records: list[dict[str, Any]], breakdown: str, value: str) -> dict[str, Any]:
    rows = category_rows(records, "run", benchmark)
    return next(row for row in rows if (row["breakdown"], row["category"]) == (breakdown, value))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_mmbench(tmp_path, ROWS)


def test_questions_are_the_rows(folder: Path) -> None:
    questions = {question.id: question for question in mmbench(folder).questions()}
    assert list(questions) == ["7", "1042", "1000007", "1001042", "2000007"]
    first, turned, island = questions["7"], questions["1000007"], questions["1042"]
    assert (first.text, first.hint) == (SEEDS["question"], SEEDS["hint"])
    assert first.options == tuple(SEED_OPTIONS)
    assert first.truth == 0
    assert turned.options == (*SEED_OPTIONS[1:], SEED_OPTIONS[0])
    assert turned.truth == 2
    assert (island.options, island.truth, island.hint) == (("Dominica", "Haiti"), 1, "")
    assert first.category == "scienceqa_logic"
    assert first.tags == {"L2-category": "logic_reasoning", "rotation": "0", "rotations": "3"}
    assert questions["1001042"].tags["rotation"] == "1"
    assert {questions[key].cluster for key in ("7", "1000007", "2000007")} == {"7"}
    assert {questions[key].image_id for key in ("1042", "1001042")} == {"1042"}
    assert island.load_image().getpixel((0, 0)) == (42, 120, 40)


def test_the_tsv_gives_the_same_questions(folder: Path, tmp_path: Path) -> None:
    # There a rotation shares its image by naming the row that has it.
    shared = [dict(row) for row in ROWS]
    for row in shared:
        if row["index"] > 1_000_000:
            row["image"] = str(row["index"] % 1_000_000)
    file = write_mmbench_tsv(tmp_path, shared)
    from_tsv, from_parquet = mmbench(file).questions(), mmbench(folder / "en").questions()
    assert from_tsv == from_parquet
    assert [q.tags for q in from_tsv] == [q.tags for q in from_parquet]
    assert [q.load_image().getpixel((0, 0))[0] for q in from_tsv] == [7, 42, 7, 42, 7]


@pytest.mark.parametrize(("identity", "golden"), [("1042", "mmbench.txt"), ("7", "mmbench_hint.txt")])
def test_the_whole_prompt(folder: Path, identity: str, golden: str) -> None:
    benchmark = mmbench(folder)
    question = next(question for question in benchmark.questions() if question.id == identity)
    prompt = benchmark.prompt(question)
    assert CONVERSATIONS["vicuna_v1"].prompt(prompt.text, 1) + "\n" == (GOLDEN / golden).read_text()
    assert prompt.continuations == ()


@pytest.mark.parametrize("absent", [None, "", " ", "nan", "NaN", float("nan")])
def test_what_counts_as_absent(absent: object) -> None:
    assert is_absent(absent)


@pytest.mark.parametrize("given", ["none", "None of these", "0", 0, "banana"])
def test_what_does_not(given: object) -> None:
    assert not is_absent(given)


@pytest.mark.parametrize("hint", [None, "", "nan", "none"])
def test_an_absent_hint_leaves_no_trace(tmp_path: Path, hint: str | None) -> None:
    rows = rotations(1042, {**ISLAND, "hint": hint}, ISLAND_OPTIONS, "Haiti")
    benchmark = mmbench(write_mmbench(tmp_path, rows))
    question = benchmark.questions()[0]
    assert benchmark.prompt(question).text.startswith(ISLAND["question"] + "\n")


def test_options_end_at_the_first_that_is_missing(tmp_path: Path) -> None:
    row = {**rotations(1, ISLAND, ISLAND_OPTIONS, "Haiti")[0], "D": "left over"}
    (question,) = mmbench(write_mmbench(tmp_path, [row])).questions()
    assert question.options == ("Dominica", "Haiti")


def test_only_a_question_right_in_every_rotation_counts(folder: Path) -> None:
    benchmark = mmbench(folder)
    questions = benchmark.questions()
    # "A" everywhere: right in one rotation of each question, and worth nothing.
    records = [record(benchmark, q, benchmark.score(q, Answer("A")).value) for q in questions]
    everything = row_of(benchmark, records, "all", "all")
    assert (everything["accuracy"], everything["plain_accuracy"]) == (0.0, pytest.approx(2 / 5))
    assert everything["n"] == 5
    right = [record(benchmark, q, benchmark.score(q, Answer("ABCD"[q.truth])).value) for q in questions]
    assert row_of(benchmark, right, "all", "all")["accuracy"] == 1.0
    half = [record(benchmark, q, float(q.cluster == "7")) for q in questions]
    assert row_of(benchmark, half, "all", "all")["accuracy"] == 0.5
    assert row_of(benchmark, half, "category", "geography")["accuracy"] == 0.0
    assert row_of(benchmark, half, "L2-category", "logic_reasoning")["accuracy"] == 1.0


@pytest.mark.parametrize("other", [0.0, 1.0])
def test_an_error_takes_its_question_out_whatever_the_other_rotations_say(folder: Path, other: float) -> None:
    benchmark = mmbench(folder)
    records = [
        record(benchmark, q, None, "error")
        if q.id == "2000007"
        else record(benchmark, q, other if q.id == "7" else 1.0)
        for q in benchmark.questions()
    ]
    everything = row_of(benchmark, records, "all", "all")
    assert (everything["accuracy"], everything["n"], everything["n_error"]) == (1.0, 5, 1)
    assert row_of(benchmark, records, "category", "scienceqa_logic")["accuracy"] is None


def test_an_unparsed_rotation_is_wrong(folder: Path) -> None:
    benchmark = mmbench(folder)
    records = [
        record(benchmark, q, 0.0, "unparsed") if q.id == "1042" else record(benchmark, q, 1.0)
        for q in benchmark.questions()
    ]
    assert row_of(benchmark, records, "all", "all")["accuracy"] == 0.5


def test_chance_is_comparable_with_the_accuracy(folder: Path) -> None:
    benchmark = mmbench(folder)
    records = [record(benchmark, question, 0.0) for question in benchmark.questions()]
    # Guessing: (1/3)^3 for the one question, (1/2)^2 for the other.
    expected = ((1 / 3) ** 3 + (1 / 2) ** 2) / 2
    assert row_of(benchmark, records, "all", "all")["chance_accuracy"] == pytest.approx(expected)


def naive_circular(rows: list[tuple[int, int, str, float | None]]) -> tuple[float | None, float | None]:
    """(group, published rotations, status, score) -> circular and plain accuracy, group by group."""
    values = []
    for group in sorted({row[0] for row in rows}):
        mine = [row for row in rows if row[0] == group]
        if any(row[3] is None for row in mine) or len(mine) < mine[0][1]:
            continue
        values.append(1.0 if min(row[3] for row in mine) == 1.0 else 0.0)
    scores = [row[3] for row in rows if row[3] is not None]
    circular = sum(values) / len(values) if values else None
    return circular, sum(scores) / len(scores) if scores else None


OUTCOMES = st.sampled_from([("ok", 1.0), ("ok", 1.0), ("ok", 0.0), ("unparsed", 0.0), ("error", None)])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_circular_eval_against_the_reference(data: st.DataObject) -> None:
    benchmark = MMBench(path="nowhere")
    rows, records = [], []
    for group in range(data.draw(st.integers(1, 6))):
        published = data.draw(st.integers(2, 4))
        for turn in range(data.draw(st.integers(1, published)) if data.draw(st.booleans()) else published):
            status, score = data.draw(OUTCOMES)
            rows.append((group, published, status, score))
            records.append(
                {
                    "cluster": str(group),
                    "score": score,
                    "status": status,
                    "tags": {"rotation": str(turn), "rotations": str(published)},
                }
            )
    circular, plain = naive_circular(rows)
    units = benchmark.metric.units([item for item in records if item["status"] != "error"])
    assert (sum(value for value, _ in units) / len(units) if units else None) == circular
    assert len({cluster for _, cluster in units}) == len(units)
    assert benchmark.metric.further([item for item in records if item["status"] != "error"])["plain_accuracy"] == plain


@pytest.mark.parametrize("limit", [1, 4, 5, 8, 11])
def test_a_limit_keeps_rotations_together(tmp_path: Path, limit: int) -> None:
    benchmark = mmbench(write_mmbench(tmp_path, 24))
    chosen = stratified_limit(benchmark.questions(), limit, seed=0, whole_clusters=benchmark.keeps_clusters_together)
    assert len(chosen) == max(4, limit // 4 * 4)
    records = [record(benchmark, question, 1.0) for question in chosen]
    assert len(benchmark.metric.units(records)) == len(chosen) // 4


def test_rows_without_all_rotations_are_a_notice(tmp_path: Path) -> None:
    benchmark = mmbench(write_mmbench(tmp_path, [row for row in ROWS if row["index"] < 1_000_000]))
    benchmark.questions()
    assert benchmark.notices == [
        f"mmbench: 2 rows in {tmp_path / 'en' / 'dev-00000-of-00001.parquet'}; the published table has 4329.",
        "mmbench: 2 of 2 questions do not have one row for each rotation of their options (the first is 7); "
        "CircularEval is easier on such.",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "C"}, r"row 1: answer 'C' is none of its 2 options"),
        ({"answer": NAN}, r"row 1: answer 'nan' is none of its 2 options"),
        ({"B": NAN, "answer": "A"}, r"row 1: answer 'A' is none of its 1 options"),
        ({"question": None}, "row 1: question is empty"),
        ({"index": 7}, r"\.parquet: two questions have the id '7'"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = [dict(row) for row in ROWS]
    rows[1] |= change
    with pytest.raises(DataError, match=message):
        mmbench(write_mmbench(tmp_path, rows)).questions()


def test_an_index_that_is_no_number_is_named(tmp_path: Path) -> None:
    rows = [{**row, "image": "x" * 80} for row in ROWS]
    rows[2]["index"] = "two"
    with pytest.raises(DataError, match="row 2: index 'two' is not a whole number"):
        mmbench(write_mmbench_tsv(tmp_path, rows)).questions()


def test_keys_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"benchmark\.split=test: must be dev"):
        MMBench(split="test")
    with pytest.raises(ConfigError, match=r"benchmark\.parser=official: must be strict"):
        MMBench(parser="official")
    with pytest.raises(ConfigError, match=r"benchmark\.protocol=likelihood: must be letter"):
        MMBench(protocol="likelihood")
