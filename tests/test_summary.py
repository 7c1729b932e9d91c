"""Rows that are derived from records: units, intervals, breakdowns, and limits that keep clusters whole."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from semclip_eval.benchmarks.base import Benchmark, stratified_limit
from semclip_eval.results.summary import accuracy_row, category_rows, csv_text, mean_with_interval, read_rows
from semclip_eval.scoring.metrics import Metric
from semclip_eval.scoring.statistics import clustered_accuracy_interval, wilson_interval
from semclip_eval.types import Answer, Prompt, Question, Score


class AllRotations(Metric):
    """A question counts as right only where all of its rotations are."""

    further_names = ("plain",)

    def units(self, records):
        groups: dict[str, list[float]] = {}
        for record in records:
            groups.setdefault(record["cluster"], []).append(record["score"])
        return [(min(scores), cluster) for cluster, scores in groups.items()]

    def further(self, records):
        return {"plain": sum(record["score"] for record in records) / len(records) if records else None}


class Circular(Benchmark):
    name, protocol, protocols = "circular", "letter", ("letter",)
    breakdowns = ("subject",)
    metric = AllRotations()

    def questions(self) -> list[Question]:
        return []

    def prompt(self, question: Question) -> Prompt:
        return Prompt(question.text)

    def score(self, question: Question, answer: Answer) -> Score:
        return Score(0.0)


def record(score: float | None, cluster: str = "a", category: str = "c", status: str = "ok", **tags: str) -> dict:
    return {
        "score": score,
        "cluster": cluster,
        "category": category,
        "status": status,
        "tags": tags,
        "chance": 0.25,
        "target_coverage": None,
        "target_boxes": [],
        "views": [{}],
        "visual_tokens": 10,
        "text_tokens": 5,
        "new_tokens": None,
    }


def test_single_questions_get_wilson_and_repeated_images_one_that_counts_images():
    single = [(1.0, "a"), (0.0, "b"), (1.0, "c"), (1.0, "d")]
    assert mean_with_interval(single) == (0.75, *wilson_interval(3, 4))
    repeated = [(1.0, "a"), (0.0, "a"), (1.0, "b"), (1.0, "c")]
    expected = clustered_accuracy_interval([1.0, 0.0, 1.0, 1.0], ["a", "a", "b", "c"])
    assert mean_with_interval(repeated) == (0.75, expected.low, expected.high)
    perfect = [(1.0, "a"), (1.0, "a"), (1.0, "b"), (1.0, "b"), (1.0, "c")]
    mean, low, high = mean_with_interval(perfect)
    assert (mean, high) == (1.0, 1.0)
    assert low < wilson_interval(5, 5)[0], "three images, five questions: not certain"
    assert mean_with_interval([(1.0, "a"), (0.0, "a")]) == (0.5, None, None), "one cluster has no spread to estimate"
    assert mean_with_interval([]) == (None, None, None)


def test_a_benchmarks_own_unit_decides_its_accuracy():
    records = [record(1.0, "q1"), record(1.0, "q1"), record(1.0, "q2"), record(0.0, "q2"), record(None, status="error")]
    row = accuracy_row(records, Circular().metric.units)
    assert (row["accuracy"], row["n"], row["n_scored"], row["n_units"], row["n_error"]) == (0.5, 5, 4, 2, 1)
    # One of two groups right, each a cluster of its own: Wilson over two, not over four.
    assert (row["accuracy_ci_low"], row["accuracy_ci_high"]) == wilson_interval(1, 2)


@given(st.lists(st.integers(0, 10), min_size=20, max_size=80), st.integers(0, 3))
def test_wilsons_interval_is_never_too_short_for_partial_credit(tenths, seed):
    """Against the bootstrap of the very scores, whose spread is the real one.

    Wilson divides by 1 + z²/n, which is 1.19 at 20 scores: the room that it gets is for that and for whole tenths.
    """
    scores = [value / 10 for value in tenths]
    _, low, high = mean_with_interval([(score, str(number)) for number, score in enumerate(scores)])
    draws = np.random.default_rng(seed).choice(scores, (2000, len(scores))).mean(axis=1)
    resampled = np.quantile(draws, [0.025, 0.975])
    assert high - low >= 0.88 * (resampled[1] - resampled[0]) - 0.02


def test_breakdowns_have_rows_of_their_own_and_measures_columns():
    records = [
        record(1.0, "q1", "c1", subject="physics"),
        record(0.0, "q2", "c1", subject="biology"),
        record(1.0, "q3", "c2", subject="physics"),
        record(1.0, "q4", "c2"),
    ]
    rows = category_rows(records, "id", Circular())
    assert [(row["breakdown"], row["category"], row["accuracy"], row["plain"]) for row in rows] == [
        ("category", "c1", 0.5, 0.5),
        ("category", "c2", 1.0, 1.0),
        ("subject", "physics", 1.0, 1.0),
        ("subject", "biology", 0.0, 0.0),
        ("all", "all", 0.75, 0.75),
    ]


def test_what_was_not_measured_is_an_empty_cell():
    assert csv_text(["a", "b", "c", "d"], [{"a": None, "b": 0, "c": True}]) == "a,b,c,d\n,0,true,\n"


def question(index: int, category: str, cluster: str) -> Question:
    return Question(str(index), "?", category, cluster, lambda: Image.new("RGB", (1, 1)), truth=0, cluster=cluster)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(1, 30), st.integers(0, 5))
def test_a_limit_with_whole_clusters_never_takes_a_part_of_one(sizes, limit, seed):
    questions = [
        question(10 * cluster + place, f"category {cluster % 2}", f"cluster {cluster}")
        for cluster, size in enumerate(sizes)
        for place in range(size)
    ]
    chosen = stratified_limit(questions, limit, seed, whole_clusters=True)
    whole = Counter(each.cluster for each in questions)
    assert chosen
    assert all(count == whole[cluster] for cluster, count in Counter(each.cluster for each in chosen).items())
    assert [each.id for each in chosen] == [each.id for each in questions if each in chosen]
    assert len(chosen) <= max(limit, max(sizes))


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_without_clusters_a_limit_is_exact(limit):
    questions = [question(index, "c", "one image") for index in range(8)]
    assert len(stratified_limit(questions, limit, 0)) == limit


@example("\r")
@example("a\rb\r\nc")
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0")))
def test_no_cell_begins_like_a_formula_and_every_text_comes_back(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_text(csv_text(["category", "n"], [{"category": text, "n": -3}]), encoding="utf-8", newline="")
    with path.open(encoding="utf-8", newline="") as file:
        raw = list(csv.reader(file))[1]
    assert not raw[0].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert raw[1] == "-3"  # a number stays one
    (row,) = read_rows(path)
    assert row == {"category": text, "n": "-3"}
