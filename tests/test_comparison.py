"""`semclip-eval compare` on run folders with known answers."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from semclip_eval.errors import ConfigError, DataError, RunFailed
from semclip_eval.results.comparison import compare, render, run_compare
from tests.test_summary import Circular

ROW = {
    "run_id": "aaaaaaaaaa",
    "profile": "mini",
    "benchmark": "vstar",
    "split": "test",
    "protocol": "likelihood",
    "metric": "accuracy",
    "mode": "accuracy",
    "model": "mini_llava",
    "selector": "no_crop",
}


DRAWN = "tests.fakes.DrawnBenchmark"
CIRCULAR = "tests.test_comparison.Rotations"


class Rotations(Circular):
    """Right where all rotations are, built from a config."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def write_run(folder: Path, scores: list[float | None], tokens: int = 100, target: str = DRAWN, **row: str) -> Path:
    """A run folder with one record for each score; None is an error."""
    folder.mkdir()
    with (folder / "samples.jsonl").open("w") as file:
        for number, score in enumerate(scores):
            record: dict[str, Any] = {
                "question_id": f"q{number}",
                "image_id": f"image{number}",
                "cluster": "",
                "question": f"What is {number}?",
                "options": ["one", "two"],
                "truth": 0,
                "score": score,
                "status": "error" if score is None else "ok",
                "error": {"type": "E", "message": "m"} if score is None else None,
                "visual_tokens": None if score is None else tokens,
            }
            file.write(json.dumps(record) + "\n")
    with (folder / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROW))
        writer.writeheader()
        writer.writerow({**ROW, **row})
    benchmark = {"_target_": target, "name": row.get("benchmark", "vstar")}
    (folder / "config.yaml").write_text(yaml.safe_dump({"benchmark": benchmark}))
    return folder


def rewrite(folder: Path, number: int, **keys: Any) -> None:
    path = folder / "samples.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[number].update(keys)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def printed(*folders: Path, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False)
    render(compare(folders), console)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_numbers_of_a_pair(tmp_path: Path) -> None:
    # 12 questions: 8 better, 1 worse, 1 right in both, 1 wrong in both, 1 an error in the other run.
    first = write_run(tmp_path / "first", [0.0] * 8 + [1.0, 1.0, 0.0, 1.0])
    second = write_run(tmp_path / "second", [1.0] * 8 + [0.0, 1.0, 0.0, None], tokens=250, selector="semclip")
    (pair,) = compare([first, second]).pairs
    assert (pair.n, pair.n_left_out) == (11, 1)
    assert pair.reference_accuracy == pytest.approx(2 / 11)
    assert pair.other_accuracy == pytest.approx(9 / 11)
    assert pair.only_other == tuple(f"q{number}" for number in range(8))
    assert pair.only_reference == ("q8",)
    assert pair.p == pytest.approx(2 * (1 + 9) / 2**9)
    assert pair.visual_tokens_ratio == pytest.approx(2.5)
    assert pair.difference is not None
    assert pair.difference.mean == pytest.approx(7 / 11)
    # Bonett and Price: one more discordant pair each way; t with 12 degrees of freedom, cut at 1.
    error = math.sqrt((2 / 13 + 9 / 13 - (7 / 13) ** 2) / 13)
    assert pair.difference.low == pytest.approx(7 / 13 - 2.1788 * error, abs=1e-4)
    assert pair.difference.high == pytest.approx(min(1, 7 / 13 + 2.1788 * error), abs=1e-4)
    assert pair.difference.low < 7 / 11 < pair.difference.high


def test_the_order_of_the_files_does_not_matter_and_the_sides_mirror(tmp_path: Path) -> None:
    scores = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    first = write_run(tmp_path / "first", scores)
    second = write_run(tmp_path / "second", [0.0, *scores[:-1]], tokens=50)
    forward = compare([first, second]).pairs[0]
    lines = (second / "samples.jsonl").read_text().splitlines(keepends=True)
    (second / "samples.jsonl").write_text("".join(reversed(lines)))
    again = compare([first, second]).pairs[0]
    assert (again.difference, again.p, again.only_other) == (forward.difference, forward.p, forward.only_other)
    backward = compare([second, first]).pairs[0]
    assert set(backward.only_other) == set(forward.only_reference)
    assert backward.p == forward.p
    assert backward.visual_tokens_ratio == pytest.approx(2.0)


def test_questions_about_one_image_are_drawn_together(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [0.0] * 40)
    second = write_run(tmp_path / "second", [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0] * 5)
    alone = compare([first, second]).pairs[0].difference
    for number in range(40):
        rewrite(first, number, image_id=f"image{number // 4}")
    together = compare([first, second]).pairs[0].difference
    for number in range(40):
        rewrite(first, number, image_id="all one", cluster=f"cluster{number // 4}")
    by_cluster = compare([first, second]).pairs[0].difference
    assert alone is not None
    assert together is not None
    # Ten images say a quarter of what forty say, so twice the width, and a little more for so few.
    assert 2 < (together.high - together.low) / (alone.high - alone.low) < 2.6
    assert by_cluster == together


def test_equal_runs_do_not_differ(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [1.0, 0.0, 1.0])
    second = write_run(tmp_path / "second", [1.0, 0.0, 1.0])
    (pair,) = compare([first, second]).pairs
    assert (pair.p, pair.only_other, pair.only_reference) == (1.0, (), ())
    assert pair.difference is not None
    assert pair.difference.mean == 0.0
    assert pair.difference.low == pytest.approx(-pair.difference.high)
    assert pair.difference.high > 0.3  # three questions cannot show that two runs are equal


@pytest.mark.parametrize("column", ["benchmark", "split", "protocol", "metric", "mode"])
def test_runs_of_another_kind_are_refused(tmp_path: Path, column: str) -> None:
    first = write_run(tmp_path / "first", [1.0, 0.0])
    second = write_run(tmp_path / "second", [1.0, 0.0], **{column: "letter"})
    with pytest.raises(
        RunFailed, match=rf"compare refused: {column} is '{ROW[column]}' in .* and 'letter' in"
    ) as caught:
        compare([first, second])
    assert caught.value.exit_code == 1


def test_runs_over_other_questions_are_refused(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [1.0, 0.0])
    longer = write_run(tmp_path / "longer", [1.0, 0.0, 1.0, 1.0])
    for pair in ([first, longer], [longer, first]):
        with pytest.raises(RunFailed, match=r"2 questions differ between .* for instance q2\."):
            compare(pair)


@pytest.mark.parametrize("keys", [{"question": "Who?"}, {"options": ["two", "one"]}, {"truth": 1}])
def test_one_id_for_two_questions_is_refused(tmp_path: Path, keys: dict[str, Any]) -> None:
    first = write_run(tmp_path / "first", [1.0, 0.0])
    second = write_run(tmp_path / "second", [1.0, 0.0])
    rewrite(second, 1, **keys)
    with pytest.raises(RunFailed, match=r"1 questions differ .* for instance q1"):
        compare([first, second])


def test_nothing_answered_in_both_is_refused(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [1.0, None])
    second = write_run(tmp_path / "second", [None, 1.0])
    with pytest.raises(RunFailed, match="no question was answered and scored in both"):
        compare([first, second])


def test_wrong_folders_and_files_name_themselves(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [1.0, 0.0])
    second = write_run(tmp_path / "second", [1.0, 0.0])
    with pytest.raises(ConfigError, match="1 run folders given"):
        compare([first])
    with pytest.raises(ConfigError, match=r"nowhere has no summary\.csv"):
        compare([first, tmp_path / "nowhere"])
    lines = (second / "samples.jsonl").read_text()
    (second / "samples.jsonl").write_text("{oops\n" + lines)
    with pytest.raises(DataError, match=r"samples\.jsonl, line 1"):
        compare([first, second])
    (second / "samples.jsonl").write_text(lines.replace('"truth"', '"answer"'))
    with pytest.raises(DataError, match="question q0 has no `truth`"):
        compare([first, second])
    (second / "samples.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no records"):
        compare([first, second])
    (second / "samples.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"second has no samples\.jsonl"):
        compare([first, second])


def test_the_table_says_it_all_in_80_columns(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [0.0] * 8 + [1.0, 1.0, 0.0, 1.0])
    second = write_run(
        tmp_path / "second", [1.0] * 8 + [0.0, 1.0, 0.0, None], 250, selector="semclip", run_id="bbbbbbbbbb"
    )
    third = write_run(tmp_path / "third", [0.0] * 12, 50, selector="[random]", run_id="cccccccccc")
    text = printed(first, second, third, width=80)
    pair = compare([first, second]).pairs[0]
    assert pair.difference is not None
    assert "reference: no_crop\n" in text
    for cell in (
        "18.2",
        "81.8",
        f"+63.6 [{100 * pair.difference.low:+.1f}, {100 * pair.difference.high:+.1f}]",
        "1/8",
        "0.039",
        "×2.50",
        "×0.50",
        "[random]",
    ):
        assert cell in text
    joined = " ".join(text.split())
    assert "semclip: 1 questions left out of both" in joined
    assert "worse than the reference on: q8" in joined
    assert "better than the reference on: q0, q1, q2, q3, q4 and 3 more" in joined
    assert "…" not in text


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [1.0, 0.0])
    again = write_run(tmp_path / "again", [1.0, 1.0], run_id="bbbbbbbbbb")
    other = write_run(tmp_path / "other", [1.0, 1.0], run_id="cccccccccc", model="llava15_7b")
    assert "no_crop aaaaaaaaaa" in printed(first, again)
    assert "no_crop bbbbbbbbbb" in printed(first, again)
    assert "reference: llava15_7b no_crop\n" in printed(other, first)


def test_unmeasured_tokens_are_blank(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [1.0, 0.0])
    second = write_run(tmp_path / "second", [1.0, 1.0])
    for number in range(2):
        rewrite(second, number, visual_tokens=None)
    assert compare([first, second]).pairs[0].visual_tokens_ratio is None
    assert "×" not in printed(first, second)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_run(tmp_path / "first", [1.0, 0.0])
    second = write_run(tmp_path / "second", [1.0, 1.0])
    assert run_compare([str(first), str(second)]) == 0
    assert "+50.0" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="0 run folders given"):
        run_compare([])


def test_where_several_answers_are_one_score_they_are_compared_as_one(tmp_path: Path) -> None:
    """Three rotations a question; the mean of rotations would say that the second run is no better."""
    first = write_run(tmp_path / "first", [1, 1, 0, 1, 1, 0, 1, 0, 1, 0, 0, 0, 1, 1, None], target=CIRCULAR)
    second = write_run(
        tmp_path / "second", [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1], target=CIRCULAR, selector="x"
    )
    for folder in (first, second):
        for number in range(15):
            rewrite(folder, number, cluster=f"group {number // 3}")
    (pair,) = compare([first, second]).pairs
    assert (pair.n, pair.n_units, pair.n_clusters, pair.n_left_out) == (14, 5, 5, 1)
    # Right in all rotations that both answered: group 4 in the first, groups 0, 1 and 4 in the second.
    assert (pair.reference_accuracy, pair.other_accuracy) == (pytest.approx(1 / 5), pytest.approx(3 / 5))
    assert (pair.only_reference, pair.only_other) == ((), ("group 0", "group 1"))
    assert pair.p == pytest.approx(0.5)
    joined = " ".join(printed(first, second, width=80).split())
    assert "14 questions in 5 groups" in joined
    assert "better than the reference on: group 0, group 1" in joined


def test_partial_credit_has_an_interval_and_no_mcnemar(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [0.3, 0.6, 1.0, 0.0, 0.9] * 8)
    second = write_run(tmp_path / "second", [0.6, 0.6, 1.0, 0.3, 1.0] * 8, selector="x")
    (pair,) = compare([first, second]).pairs
    assert pair.p is None
    assert pair.difference is not None
    assert pair.difference.mean == pytest.approx((0.3 + 0.3 + 0.1) / 5)
    assert 0 < pair.difference.low < pair.difference.mean < pair.difference.high
    assert len(pair.only_other) == 24
    text = " ".join(printed(first, second, width=80).split())
    assert "p -: scores are not all 0 or 1" in text
    assert "0/24 - ×1.00" in text


def test_p_that_takes_questions_about_one_image_as_independent_says_so(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [0.0] * 8)
    second = write_run(tmp_path / "second", [1.0, 1.0, 0.0, 1.0] * 2, selector="x")
    assert "share an image" not in printed(first, second)
    for number in range(8):
        rewrite(first, number, cluster=f"image{number // 2}")
    assert compare([first, second]).pairs[0].n_clusters == 4
    assert "Several questions share an image" in printed(first, second)


def test_what_counts_together_comes_from_the_benchmark_of_the_run(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [1.0, 0.0])
    second = write_run(tmp_path / "second", [1.0, 1.0], target="no.such.Benchmark")
    with pytest.raises(ConfigError, match=r"second/config\.yaml names a benchmark that cannot be built.*no\.such"):
        compare([first, second])
    (second / "config.yaml").write_text("- nonsense")
    with pytest.raises(DataError, match=r"config\.yaml: names no benchmark"):
        compare([first, second])
    (second / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"second has no config\.yaml"):
        compare([first, second])


def test_another_hint_is_another_question(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [1.0, 0.0])
    second = write_run(tmp_path / "second", [1.0, 0.0])
    rewrite(second, 1, hint="OCR tokens: stop")
    with pytest.raises(RunFailed, match=r"1 questions differ .* for instance q1"):
        compare([first, second])


def test_the_reference_is_no_crop_wherever_it_stands_or_the_one_named(tmp_path: Path, capsys) -> None:
    semclip = write_run(tmp_path / "semclip", [1.0, 1.0, 0.0], selector="semclip", run_id="b" * 10)
    no_crop = write_run(tmp_path / "no_crop", [0.0, 1.0, 0.0])
    full = write_run(tmp_path / "full", [1.0, 0.0, 0.0], selector="full_crop", run_id="c" * 10)
    folders = [semclip, no_crop, full]
    assert compare(folders).reference.folder == no_crop
    assert [pair.other.folder for pair in compare(folders).pairs] == [semclip, full]
    assert compare([semclip, full]).reference.folder == semclip
    assert compare(folders, "full_crop").reference.folder == full
    assert compare(folders, str(semclip)).reference.folder == semclip
    with pytest.raises(ConfigError, match=r"--reference oracle: none of the runs.*semclip, no_crop, full_crop"):
        compare(folders, "oracle")
    twice = write_run(tmp_path / "twice", [0.0, 1.0, 0.0], run_id="d" * 10)
    assert compare([semclip, no_crop, twice]).reference.folder == no_crop
    with pytest.raises(ConfigError, match="several runs"):
        compare([semclip, no_crop, twice], "no_crop")
    assert run_compare([*map(str, folders), "--reference", "semclip"]) == 0
    assert "reference: semclip" in capsys.readouterr().out
