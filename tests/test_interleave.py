"""Latency runs that take turns: the order of the questions, and the same runs as a sweep makes."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from semclip_eval import cli
from semclip_eval.errors import ConfigError
from semclip_eval.interleave import take_turns
from semclip_eval.plan import make_plan
from semclip_eval.results.summary import read_rows, read_summary
from semclip_eval.types import Answer
from tests.fakes import FULL_CROP, SEMCLIP, ComputedVLM, config

ASKED: list[tuple[str, int]] = []


class NotingVLM(ComputedVLM):
    """Notes the prompt and the number of views of every question that it answers."""

    def decode(self, batch: Sequence[Any], state: Any, ignore_end_token: bool = False) -> list[Answer]:
        ASKED.extend((prepared.prompt.text, prepared.visual_tokens // 10) for prepared in batch)
        return super().decode(batch, state, ignore_end_token)


def plans(folder: Path, *selectors: dict[str, Any] | None) -> list[Any]:
    changes = {"model": {"_target_": "tests.test_interleave.NotingVLM", "name": "noting"}, "run__mode": "latency"}
    named = [{} if each is None else {"selector": each} for each in selectors]
    return [make_plan(config(folder, benchmark__count=3, run__warmup=1, **changes, **selector)) for selector in named]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "latency_ms"}


def test_question_by_question_and_run_by_run_after_every_warm_up(tmp_path: Path) -> None:
    ASKED.clear()
    loads = ComputedVLM.loads
    runs = plans(tmp_path, None, SEMCLIP, FULL_CROP)
    take_turns(runs)
    warm, turns = ASKED[:3], ASKED[3:]
    views = (1, 2, 5)
    assert warm == [("What is number 0?", count) for count in views]
    assert turns == [(f"What is number {number}?", count) for number in range(3) for count in views]
    assert NotingVLM.loads - loads <= 1
    for plan in runs:
        row = read_summary(plan.folder)
        assert (row["n"], row["mode"], row["energy_j_mean"]) == ("3", "latency", "")
        assert float(row["first_call_ms"]) > 0
        session = json.loads((plan.folder / "environment.json").read_text(encoding="utf-8"))["sessions"][-1]
        assert session["took_turns_with"] == [other.run_id for other in runs if other is not plan]


def test_a_run_alone_has_the_same_identity_files_and_records_and_either_goes_on(tmp_path: Path) -> None:
    from semclip_eval.run import execute

    together, alone = plans(tmp_path / "together", None, SEMCLIP), plans(tmp_path / "alone", None, SEMCLIP)
    take_turns(together)
    for one, other in zip(together, alone, strict=True):
        folder = execute(other.config)
        assert (one.run_id, sorted(path.name for path in one.folder.iterdir())) == (
            other.run_id,
            sorted(path.name for path in folder.iterdir()),
        )
        assert list(map(untimed, lines(one.folder))) == list(map(untimed, lines(folder)))
    # Half of one run is lost: the turns that are left are its own.
    samples = together[1].folder / "samples.jsonl"
    samples.write_text(samples.read_text(encoding="utf-8").splitlines(keepends=True)[0], encoding="utf-8")
    (together[1].folder / "summary.csv").unlink()
    ASKED.clear()
    take_turns(together)
    assert ASKED[1:] == [("What is number 1?", 2), ("What is number 2?", 2)]
    assert list(map(untimed, lines(samples.parent))) == list(map(untimed, lines(alone[1].folder)))


def test_an_interruption_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = plans(tmp_path, None, SEMCLIP)
    opened = Image.Image.putpixel
    count = iter(range(100))

    def interrupted(self: Any, *arguments: Any) -> Any:
        if next(count) == 5:  # two warm-ups and three questions
            raise KeyboardInterrupt
        return opened(self, *arguments)

    monkeypatch.setattr(Image.Image, "putpixel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        take_turns(runs)
    assert [len(lines(plan.folder)) for plan in runs] == [2, 1]
    monkeypatch.setattr(Image.Image, "putpixel", opened)
    take_turns(runs)
    assert [len(lines(plan.folder)) for plan in runs] == [3, 3]


def test_the_verb_on_the_miniature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["profile=mini", "benchmark=vstar", "run.limit=2", "run.warmup=1", f"run.output_dir={tmp_path}"]
    assert cli.main(["latency", "selector=no_crop,semclip", *command]) == 0
    printed = capsys.readouterr().out
    assert "E2E ms p50" in printed
    rows = read_rows(tmp_path / "runs.csv")
    assert sorted((row["selector"], row["n"], row["mode"]) for row in rows) == [
        ("no_crop", "2", "latency"),
        ("semclip", "2", "latency"),
    ]
    for row in rows:
        assert row["e2e_ms_p50"] in printed or f"{float(row['e2e_ms_p50']):.1f}" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["selector=semclip"], ["selector=semclip", "two or more"]),
        ([], ["selector="]),
        (["selector=semclip,semclip"], ["semclip,semclip"]),
        (["selector=no_crop,semclip", "run.mode=accuracy"], ["run.mode=accuracy"]),
        (["selector=no_crop,semclp", "profile=mini"], ["semclp", "semclip"]),
        (["-m"], ["-m"]),
    ],
)
def test_what_cannot_take_turns_is_refused(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["latency", *arguments]) == ConfigError.exit_code
    message = capsys.readouterr().err
    assert all(word in message for word in words)


def test_the_matrix_of_a_timed_sweep_has_milliseconds_and_that_of_another_has_none() -> None:
    from rich.console import Console

    from semclip_eval.results.sweep_table import _matrix

    def text(e2e: str) -> str:
        names = {
            "model": "m",
            "protocol": "likelihood",
            "accuracy": "0.5",
            "visual_tokens_mean": "98",
            "e2e_ms_p50": e2e,
        }
        rows = [{"benchmark": b, "selector": s, **names} for b in ("vstar", "pope") for s in ("no_crop", "semclip")]
        console = Console(width=120, file=io.StringIO())
        console.print(_matrix(rows))
        return console.file.getvalue()

    assert "50.0 · 98 · 12.3" in text("12.34")
    assert "E2E ms" in text("12.34")
    assert "50.0 · 98 " in text("")
    assert "E2E" not in text("")
