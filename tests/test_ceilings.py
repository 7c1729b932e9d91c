"""The device's ceilings: the arithmetic under a counted clock, what is kept for whom, and the share of a run."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch

from semclip_eval import cli
from semclip_eval.measure import ceilings
from semclip_eval.measure.ceilings import Ceilings
from semclip_eval.results.summary import flops_row


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEMCLIP_EVAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_best_of_the_calls_within_the_span_counts_and_the_first_one_does_not() -> None:
    durations = iter([9.0, 3.0, 1.0, 2.0, 50.0])
    time = {"now": 0.0}

    def call() -> None:
        time["now"] += next(durations)

    waits = itertools.count()
    assert ceilings.best_time(call, lambda: next(waits), 5.5, lambda: time["now"]) == 1.0
    assert next(waits) == 4, "a wait after each call: the warm-up and 3 + 1 + 2 seconds"


def test_rates_are_of_this_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "best_time", lambda call, wait, span_s: (call(), 0.5)[1])
    measured = ceilings.measure("cpu", "float32", side=64, copied_mib=3)
    assert measured.gflops_per_s == pytest.approx(2 * 64**3 / 0.5 / 1e9)
    assert measured.copy_gb_per_s == pytest.approx(2 * 3 * 2**20 / 0.5 / 1e9)
    assert (measured.torch, measured.threads) == (torch.__version__, torch.get_num_threads())


def test_kept_by_device_and_format_and_known_to_the_same_torch_only(own_cache: Path) -> None:
    assert ceilings.known("cpu", "float32") is None
    first = ceilings.measure("cpu", "float32", side=32, copied_mib=1, span_s=0)
    other = ceilings.measure("cpu", "bfloat16", side=32, copied_mib=1, span_s=0)
    for each in (first, other, dataclasses.replace(first, gflops_per_s=7.0)):
        ceilings.keep(each)
    assert ceilings.known("cpu", "float32") == dataclasses.replace(first, gflops_per_s=7.0)
    assert ceilings.known("cpu", "bfloat16") == other
    ceilings.keep(dataclasses.replace(first, torch="0.1"))
    assert ceilings.known("cpu", "float32") is None
    (own_cache / "ceilings.json").write_text("[{]", encoding="utf-8")
    assert ceilings.known("cpu", "bfloat16") is None
    ceilings.keep(other)
    assert ceilings.known("cpu", "bfloat16") == other


def test_the_share_needs_both() -> None:
    records = [{"status": "ok", "flops": {"prefill": 4 * 10**9}, "cost": None, "latency_ms": {"e2e": 500.0}}]
    assert flops_row(records, {"gflops_per_s": 32.0})["ceiling_share"] == 0.25
    assert "ceiling_share" not in flops_row(records)
    assert "ceiling_share" not in flops_row([{**records[0], "latency_ms": None}], {"gflops_per_s": 32.0})


def test_doctor_prints_and_keeps_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    measured = Ceilings("a processor", "float32", 1234.0, 56.0, torch.__version__, 1)
    monkeypatch.setattr(ceilings, "measure", lambda device, dtype: dataclasses.replace(measured, dtype=dtype))
    assert cli.main(["doctor", "--ceilings", "--device", "cpu", "--dtype", "bfloat16"]) == 0
    printed = capsys.readouterr().out
    assert "1,234 GFLOP/s" in printed
    assert "56.0 GB/s" in printed
    assert [(each.dtype, each.gflops_per_s) for each in ceilings._kept()] == [("bfloat16", 1234.0)]
    assert cli.main(["doctor", "--ceilings", "--dtype", "float8"]) == 2
    assert "run.dtype=float8" in capsys.readouterr().err
