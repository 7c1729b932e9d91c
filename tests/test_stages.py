"""Latency by stage under a clock that the stages themselves move: what is measured is known to the millisecond."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from semclip_eval.answers import pipeline
from semclip_eval.measure.stages import PARTS, STAGES, StageClock, stages_sum
from semclip_eval.relevance.base import RelevanceRequest
from semclip_eval.relevance.open_clip_relevance import OpenClipRelevance
from semclip_eval.relevance.tower import TowerRelevance
from semclip_eval.results.summary import latency_row, read_summary
from semclip_eval.run import execute
from tests.fakes import SEMCLIP, ComputedVLM, TextReader, config


class Time:
    """Stands still until a stage moves it."""

    now = 0.0

    @classmethod
    def passes(cls, milliseconds: float) -> None:
        cls.now += milliseconds / 1000


class SlowVLM(ComputedVLM):
    """5 ms to prepare, 40 to encode, 100 to prefill, 30 to decode; the first question of all takes 1000 more."""

    def prepare(self, request: Any) -> Any:
        Time.passes(5)
        return super().prepare(request)

    def encode(self, batch: Sequence[Any]) -> None:
        Time.passes(1040 if Time.now < 1 else 40)

    def prefill(self, batch: Sequence[Any], features: Any) -> None:
        Time.passes(100)

    def decode(self, batch: Sequence[Any], state: Any, ignore_end_token: bool = False) -> Any:
        Time.passes(30)
        return super().decode(batch, state, ignore_end_token)


class SlowReader(TextReader):
    """2 ms of cutting, 12 of images, 3 of text, and 1 that belongs to none of them."""

    def begin_block(self, keep: bool) -> None:
        Time.passes(4)  # between the stages: in E2E alone

    def score(self, requests: Sequence[RelevanceRequest]) -> list[tuple[float, ...]]:
        for part, milliseconds in (("psi_crop", 2), ("psi_image", 12), ("psi_text", 3)):
            with self.part(part):
                Time.passes(milliseconds)
        Time.passes(1)
        return super().score(requests)


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(Time, "now", 0.0)
    clock = pipeline.StageClock
    monkeypatch.setattr(pipeline, "StageClock", lambda device, on: clock(device, on, lambda: Time.now))
    return config(
        tmp_path,
        selector=SEMCLIP,
        model={"_target_": "tests.test_stages.SlowVLM", "name": "slow"},
        psi={"_target_": "tests.test_stages.SlowReader", "name": "slow_reader", "text": "question"},
        run__mode="latency",
        run__warmup=2,
    )


def test_every_stage_and_part_is_what_the_clock_says_and_the_first_call_stands_apart(slow: dict[str, Any]) -> None:
    row = read_summary(execute(slow))
    expected = {
        "load": 0, "select": 18, "prepare": 5, "vision": 40, "prefill": 100, "decode": 30, "psi_crop": 2,
        "psi_image": 12, "psi_text": 3, "crop": 0, "ttft": 167,
    }  # fmt: skip
    assert {name: float(row[f"{name}_ms_p50"]) for name in expected} == pytest.approx(expected)
    for percentile in ("p25", "p50", "p75", "p90", "p99"):
        assert float(row[f"e2e_ms_{percentile}"]) == pytest.approx(197)
    assert float(row["first_call_ms"]) == pytest.approx(1197)
    assert float(row["stages_share"]) == pytest.approx(193 / 197, abs=1e-5)
    assert float(row["stages_share"]) > 0.97
    assert row["select_vlm_ms_p50"] == row["prune_ms_p50"] == ""


def test_without_warm_up_no_call_stands_apart_and_accuracy_mode_times_nothing(slow: dict[str, Any]) -> None:
    slow["run"]["warmup"] = 0
    assert read_summary(execute(slow))["first_call_ms"] == ""
    slow["run"]["mode"] = "accuracy"
    row = read_summary(execute(slow))
    assert not [name for name, cell in row.items() if "_ms" in name and cell]
    assert row["stages_share"] == ""


def test_percentiles_and_the_share_of_a_run_by_hand() -> None:
    times = [{"load": 10.0, "decode": 20.0, "crop": 5.0, "e2e": 40.0}, {"load": 30.0, "decode": 20.0, "e2e": 60.0}]
    row = latency_row([{"status": "ok", "latency_ms": each} for each in times])
    assert (row["e2e_ms_p25"], row["e2e_ms_p50"], row["e2e_ms_p75"]) == (45, 50, 55)
    assert row["stages_share"] == pytest.approx(80 / 100)
    assert row["crop_ms_p50"] == 5
    assert stages_sum(times[0]) == 30
    assert not set(PARTS) & set(STAGES)


def test_a_watched_psi_names_its_parts_and_scores_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from semclip_eval.crops import Grid

    psi = OpenClipRelevance("mini_clip", "mini://clip", cache_images=0)
    image = Image.effect_noise((96, 64), 60).convert("RGB")
    request = RelevanceRequest(image, "i", Grid("grid", 2, 2).candidates(*image.size), "a red cross")
    unwatched = psi.score([request])
    clock = StageClock("cpu", on=True)
    psi.watch(clock.stage)
    assert psi.score([request]) == unwatched
    assert set(clock.milliseconds) == {"psi_crop", "psi_image", "psi_text"}
    assert all(value > 0 for value in clock.milliseconds.values())
    tower = TowerRelevance("tower", "mini://clip")
    tower.watch(clock.stage)
    clock.reset()
    tower._clip.embed_texts(["a red cross"])
    assert set(clock.milliseconds) == {"psi_text"}
    psi.watch(None)
    clock.reset()
    psi.score([request])
    assert not clock.milliseconds
