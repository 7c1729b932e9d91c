"""A sweep over several benchmarks: it survives what fails, says so at the end, and its tables fit a terminal."""

from __future__ import annotations

import inspect
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.measure import Measurement

from semclip_eval import cli, session
from semclip_eval.errors import DataError
from semclip_eval.launch import in_hydras_order
from semclip_eval.results.summary import read_rows
from semclip_eval.results.sweep_table import Failure, sweep_tables
from semclip_eval.run import execute
from tests.fakes import FULL_CROP, ORACLE, SEMCLIP, ComputedVLM, DrawnBenchmark, config

YAML = """\
_target_: {target}
name: {name}
count: {count}
"""


class Damaged(DrawnBenchmark):
    """A benchmark whose file is broken."""

    def questions(self) -> list[Any]:
        raise DataError("damaged.parquet: is damaged (no magic bytes). Download it again.")


class Buggy(DrawnBenchmark):
    """A benchmark with a fault of the program's own."""

    def questions(self) -> list[Any]:
        raise ZeroDivisionError("a fault of ours")


class Faulty(DrawnBenchmark):
    """Every image is missing."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(name, count, broken=[f"q{index}" for index in range(count)])


@pytest.fixture(autouse=True)
def _nothing_loaded():
    session._loaded.clear()
    yield
    session._loaded.clear()


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Fakes as configs of the user's own, and the arguments that every sweep here begins with."""
    folder = tmp_path / "configs"
    (folder / "benchmark").mkdir(parents=True)
    (folder / "model").mkdir()
    targets = {"drawn": "tests.fakes.DrawnBenchmark", "second": "tests.fakes.DrawnBenchmark"}
    targets |= {name.lower(): f"tests.test_sweep.{name}" for name in ("Damaged", "Buggy", "Faulty")}
    for name, target in targets.items():
        (folder / "benchmark" / f"{name}.yaml").write_text(YAML.format(target=target, name=name, count=8))
    (folder / "model" / "fake.yaml").write_text("_target_: tests.fakes.ComputedVLM\nname: computed\n")
    common = ["profile=full", "model=fake", "run.device=cpu", "~benchmark.revision", f"run.output_dir={tmp_path}/out"]
    return ["-m", "--config-dir", str(folder), *(word for word in common if not word.startswith("~"))]


def swept(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_one_benchmark_of_three_fails_and_the_others_finish(arguments, tmp_path, capsys):
    """The job that the Makefile's sweeps are: every benchmark by every main selector."""
    code, out, err = swept([*arguments, "benchmark=drawn,damaged,second", "selector=no_crop,full_crop"], capsys)
    assert code == 1
    rows = read_rows(tmp_path / "out" / "runs.csv")
    finished = [("drawn", "full_crop"), ("drawn", "no_crop"), ("second", "full_crop"), ("second", "no_crop")]
    assert sorted((row["benchmark"], row["selector"]) for row in rows) == finished
    assert {row["n_scored"] for row in rows} == {"8"}
    end = err[err.index("2 of 6 jobs failed:") :]
    for selector in ("no_crop", "full_crop"):
        message = f"benchmark=damaged model=computed selector={selector}: damaged.parquet: is damaged"
        assert message in " ".join(end.split())
    assert "Traceback" not in err
    table = out[out.index("All runs of this sweep") :]
    assert [line.split()[-1] for line in table.splitlines() if "failed" in line][:2] == ["failed", "failed"]
    matrix = table[table.index("Accuracy % · visual tokens") :].splitlines()
    assert matrix[1].split() == ["benchmark", "no_crop", "full_crop"]
    assert matrix[3].split() == ["damaged", "failed", "failed"]
    accuracies = {(row["benchmark"], row["selector"]): 100 * float(row["accuracy"]) for row in rows}
    cells = f"second {accuracies['second', 'no_crop']:.1f} · 10 {accuracies['second', 'full_crop']:.1f} · 50"
    assert " ".join(matrix[4].split()) == cells


@pytest.fixture
def broken_program(monkeypatch):
    """A fault of the package itself, met while the plan of benchmark=buggy is made."""

    def fail(benchmark, questions):
        if benchmark.name == "buggy":
            raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("semclip_eval.plan._check_ids", fail)
    monkeypatch.setattr(Buggy, "questions", DrawnBenchmark.questions)


def test_a_fault_of_the_program_does_not_end_a_sweep_either(arguments, broken_program, tmp_path, capsys):
    code, _, err = swept([*arguments, "benchmark=buggy,drawn", "selector=no_crop"], capsys)
    assert code == 1
    assert "Traceback" in err, "a fault of ours is shown whole"
    assert "1 of 2 jobs failed" in err
    assert [row["benchmark"] for row in read_rows(tmp_path / "out" / "runs.csv")] == ["drawn"]


def test_a_single_run_shows_a_fault_of_the_program_as_such(arguments, broken_program):
    with pytest.raises(ZeroDivisionError):
        cli.main([*arguments[1:], "benchmark=buggy", "selector=no_crop"])


def test_an_error_in_a_component_from_outside_keeps_its_place_and_shows_no_traceback(arguments, capsys):
    for command in (arguments[1:], arguments):
        assert cli.main([*command, "benchmark=buggy", "selector=no_crop"]) == 2
        err = capsys.readouterr().err
        line = inspect.getsourcelines(Buggy.questions)[1] + 1
        assert f"ZeroDivisionError: a fault of ours (test_sweep.py:{line})" in err
        assert "Traceback" not in err


def test_where_every_job_fails_the_exit_code_is_that_of_the_faults(arguments, capsys):
    assert swept([*arguments, "benchmark=damaged", "selector=no_crop,full_crop"], capsys)[0] == 2
    code, out, err = swept([*arguments, "benchmark=faulty", "selector=no_crop,full_crop"], capsys)
    assert code == 1
    assert "2 of 2 jobs failed" in err
    assert "8 of 8 questions ended in an error" in err
    assert "All runs of this sweep" not in out


def test_a_mistyped_name_is_refused_before_the_first_job(arguments, tmp_path, capsys):
    code, _, err = swept([*arguments, "benchmark=drawn,secnd", "selector=no_crop"], capsys)
    assert code == 2
    assert "benchmark=secnd: there is no such benchmark. Did you mean 'second'?" in err
    assert not (tmp_path / "out").exists()


def test_jobs_that_are_one_run_stand_in_the_table_once(arguments, tmp_path, capsys):
    """Answers made elsewhere have no selector to vary."""
    answers = [{"question_id": f"q{index}", "option_losses": [index % 4, 2, 3, 4]} for index in range(8)]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in answers))
    replay = [word for word in arguments if word != "model=fake"] + ["model=replay", f"model.path={path}"]
    code, out, _ = swept([*replay, "benchmark=drawn,second", "selector=no_crop,full_crop"], capsys)
    assert code == 0
    table = out[out.index("All runs of this sweep") :]
    assert table.count("external") == 2


def shown(jobs: list[Path | Failure], width: int) -> list[str]:
    """The tables as lines."""
    texts = []
    for table in sweep_tables(jobs, "All runs of this sweep"):
        console = Console(file=io.StringIO(), width=width)
        console.print(table)
        assert isinstance(console.file, io.StringIO)
        texts.append(console.file.getvalue())
    return "\n".join(texts).splitlines()


def test_many_benchmarks_fit_eighty_columns_and_nothing_is_cut(tmp_path):
    folders: list[Path] = []
    for name in ("hrbench4k", "scienceqa", "textvqa"):
        for selector in (config(tmp_path)["selector"], FULL_CROP, SEMCLIP, ORACLE):
            protocol = "letter" if name == "hrbench4k" else "likelihood"
            changes = {"benchmark__name": name, "benchmark__count": 1000, "benchmark__protocol": protocol}
            folders.append(execute(config(tmp_path, selector=selector, run__batch_size=16, **changes)))
    jobs = [*folders[:5], Failure("gqa", "computed", "semclip", "short_answer", "no file"), *folders[5:]]
    lines = shown(jobs, 80)
    wide = Console(width=300)
    for group in sweep_tables(jobs, ""):
        assert Measurement.get(wide, wide.options, group.renderables[1]).maximum <= 80
    text = "\n".join(lines)
    assert "…" not in text
    for folder in folders:
        (row,) = read_rows(folder / "summary.csv")
        percents = f"{100 * float(row['accuracy']):.1f} ("
        assert percents in text
    for word in ("hrbench4k", "letter", "scienceqa", "likelihood", "textvqa", "oracle *", "gqa", "short_answer"):
        assert word in text
    assert "an upper bound, not a method" in " ".join(text.split())


def test_names_are_no_markup(tmp_path):
    folders = [execute(config(tmp_path, benchmark__name=name, benchmark__count=4)) for name in ("[red]", "b")]
    text = "\n".join(shown([*folders, Failure("[x]", "computed", "[/]", "", "")], 120))
    for name in ("[red]", "[x]", "[/]"):
        assert name in text


def test_a_cell_that_would_hold_two_runs_leaves_the_matrix_out(tmp_path):
    runs = [("one", SEMCLIP), ("one", {**SEMCLIP, "top_k": 2}), ("one", FULL_CROP), ("two", SEMCLIP)]
    folders = [execute(config(tmp_path, selector=selector, benchmark__name=name)) for name, selector in runs]
    assert len(sweep_tables(folders, "")) == 1
    assert len(sweep_tables(folders[1:], "")) == 2


@pytest.mark.parametrize(
    "launcher", [["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], ["hydra/launcher=submitit_local"]]
)
def test_the_outcomes_of_jobs_that_a_launcher_ran_elsewhere_are_known(tmp_path, capsys, launcher):
    """In real processes of their own: what failed is listed, and decides the exit code."""
    sweep = ["-m", "profile=mini", *launcher, "run.limit=2", f"run.output_dir={tmp_path / 'out'}", "selector=no_crop"]
    assert cli.main([*sweep, "benchmark=vstar", "benchmark.path=/nowhere,/elsewhere"]) == 2
    err = capsys.readouterr().err
    assert "2 of 2 jobs failed" in err
    assert "benchmark.path=/nowhere" in err
    assert cli.main([*sweep, "benchmark=vstar", "benchmark.path=mini://vstar,/nowhere"]) == 1
    said = capsys.readouterr()
    assert "1 of 2 jobs failed" in said.err
    assert "All runs of this sweep" in said.out


def test_an_oracle_without_boxes_is_not_applicable_and_no_failure(tmp_path, capsys):
    sweep = ["-m", "profile=mini", "run.limit=3", f"run.output_dir={tmp_path}", "selector=no_crop,oracle"]
    assert cli.main([*sweep, "benchmark=pope"]) == 0
    said = capsys.readouterr()
    assert "jobs failed" not in said.err
    assert re.search(r"oracle\s+n/a", said.out)
    # Alone it is what was asked for, and cannot be had.
    assert cli.main([*sweep[1:-1], "benchmark=pope", "selector=oracle"]) == 2
    assert cli.main([*sweep[:-1], "benchmark=pope", "selector=oracle"]) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["selector=semclip", "--cfg", "job"],
        ["--cfg", "job", "selector=semclip"],
        ["selector=semclip", "--cfg", "job", "benchmark=pope"],
        ["--cfg=job", "selector=semclip", "--resolve", "run.limit=3"],
        ["-c", "job", "selector=semclip", "-p", "selector"],
    ],
)
def test_flags_and_overrides_in_any_order(words, capsys):
    assert cli.main(["profile=mini", *words]) == 0
    out = capsys.readouterr().out
    assert "top_k: 1" in out


def test_the_jobs_of_one_model_follow_each_other_however_the_sweep_is_typed(arguments, tmp_path, capsys):
    """In one process each model is loaded once: one VLM is kept."""
    (tmp_path / "configs" / "model" / "other.yaml").write_text("_target_: tests.fakes.ComputedVLM\nname: other\n")
    words = [word for word in arguments if word != "model=fake"]
    ComputedVLM.loads = 0
    code, out, err = swept([*words, "selector=no_crop,full_crop", "benchmark=drawn,second", "model=fake,other"], capsys)
    assert code == 0, err
    assert ComputedVLM.loads == 2
    assert out.count("drawn (full profile") == 4


def test_two_sweeps_that_begin_together_keep_their_notes_apart(arguments, tmp_path, capsys):
    for _ in range(2):
        assert swept([*arguments, "benchmark=drawn", "selector=no_crop"], capsys)[0] == 0
    assert len(list((tmp_path / "out" / "sweeps").iterdir())) == 2


def test_hydras_order():
    assert in_hydras_order(["a=1", "--cfg", "job", "b=2", "-m", "c=3", "--info", "all", "d=4", "--info", "e=5"]) == [
        *["a=1", "b=2", "c=3", "d=4", "e=5"],
        *["--cfg", "job", "-m", "--info", "all", "--info"],
    ]


def test_a_sweep_with_selectors_that_look_or_drop_tokens_shows_what_they_spent(tmp_path: Path, capsys: Any) -> None:
    """Forwards in the place of the speed, and tokens read of those encoded; the same numbers as in runs.csv."""
    sweep = ["-m", "profile=mini", "run.limit=2", "selector=no_crop,zoom,sparse", f"run.output_dir={tmp_path}"]
    assert cli.main(sweep) == 0
    printed = capsys.readouterr().out
    table = printed[printed.index("All runs of this sweep") :]
    assert "forwards" in table
    assert "questions/s" not in table.replace("\n", "")
    for row in read_rows(tmp_path / "runs.csv"):
        line = next(line for line in table.splitlines() if line.startswith(row["selector"]))
        read, encoded = (f"{float(row[name]):.0f}" for name in ("visual_tokens_mean", "encoded_tokens_mean"))
        assert (f"{read} of {encoded}" in line) == (read != encoded)
        assert line.split()[-1] == f"{float(row['forwards_mean']):.1f}"


def test_runs_that_differ_in_a_setting_alone_say_which(tmp_path: Path) -> None:
    folders = [execute(config(tmp_path, selector={**SEMCLIP, "top_k": top_k})) for top_k in (1, 2)]
    folders.append(execute(config(tmp_path)))
    (table,) = sweep_tables(folders, "All runs")
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    assert [line for line in lines if line.startswith("selector.")] == ["selector.top_k=1", "selector.top_k=2"]
    assert not [line for line in lines if line.startswith(("run.", "profile."))]


BUDGETS = """\
# @package _global_
defaults:
  - override /hydra/sweeper: variants
hydra:
  mode: MULTIRUN
  sweeper:
    variants:
      - {selector: no_crop}
      - {selector: random_crop, selector.count: "1,2"}
      - {selector: "center_crop,full_crop"}
"""


@pytest.mark.parametrize(
    ("typed", "views"),
    [
        ([], {"no_crop": [1], "random_crop": [2, 3], "center_crop": [2], "full_crop": [5]}),
        (["selector=random_crop,no_crop"], {"no_crop": [1], "random_crop": [2, 3]}),
        # One that the list lacks runs as it is.
        (["selector=oracle"], {"oracle": [2]}),
        (["selector=random_crop", "run.seed=1,2"], {"random_crop": [2, 2, 3, 3]}),
        (["selector=random_crop", "selector.count=3"], {"random_crop": [4]}),
    ],
)
def test_a_list_of_variants_is_swept_at_each_budget(arguments, capsys, typed, views):
    """`hydra/sweeper=variants` with an experiment of the user's own: no product of keys that one selector has."""
    configs = Path(arguments[arguments.index("--config-dir") + 1])
    (configs / "experiment").mkdir()
    (configs / "experiment" / "budgets.yaml").write_text(BUDGETS)
    code, _, error = swept([*arguments, "benchmark=drawn", "experiment=budgets", "crops=grid2x2", *typed], capsys)
    assert code == 0, error
    (results,) = (word.partition("=")[2] for word in arguments if word.startswith("run.output_dir="))
    found: dict[str, list[int]] = {}
    for row in read_rows(Path(results) / "runs.csv"):
        found.setdefault(row["selector"], []).append(int(float(row["views_mean"])))
    assert {name: sorted(counts) for name, counts in found.items()} == views


def test_a_key_that_one_variant_lacks_is_an_error(arguments, capsys):
    configs = Path(arguments[arguments.index("--config-dir") + 1])
    (configs / "experiment").mkdir()
    (configs / "experiment" / "budgets.yaml").write_text(BUDGETS)
    code, _, error = swept([*arguments, "benchmark=drawn", "experiment=budgets", "selector.count=3"], capsys)
    assert code == 2
    assert "selector.count" in error
