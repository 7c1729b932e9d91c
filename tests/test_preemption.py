"""A scheduler's signals while blocks are asked: the blocks in hand are finished, within the grace, and nothing else."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from semclip_eval.errors import Terminated
from semclip_eval.preemption import Terminate, at_block_ends, terminable
from semclip_eval.run import execute
from semclip_eval.workers.driver import Driver
from semclip_eval.workers.messages import Job, Task
from tests.fakes import config
from tests.worker_fakes import VirtualPool

ROOT = Path(__file__).resolve().parent.parent


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def stopped_by(*numbers: int, grace_s: float, sleep_s: float = 0.0) -> list[str]:
    """What a block and the code behind it came to, while these signals came."""
    steps = []
    with pytest.raises(Terminated):
        _ask(numbers, grace_s, sleep_s, steps)
    return steps


def _ask(numbers: tuple[int, ...], grace_s: float, sleep_s: float, steps: list[str]) -> None:
    with terminable(Terminate()), at_block_ends(grace_s) as ends:
        for number in numbers:
            send(number)
        time.sleep(sleep_s)
        steps.append("block")
        ends.reached()
        steps.append("next block")


def test_outside_of_asking_it_acts_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), terminable(terminate := Terminate()):
        send(signal.SIGTERM)
    assert terminate.came.is_set()
    assert signal.getsignal(signal.SIGTERM) == before


def test_while_blocks_are_asked_it_waits_for_the_end_of_one() -> None:
    assert stopped_by(signal.SIGTERM, grace_s=60) == ["block"]


def test_a_second_one_and_an_end_of_the_grace_do_not_wait() -> None:
    assert stopped_by(signal.SIGTERM, signal.SIGTERM, grace_s=60) == []
    assert stopped_by(signal.SIGTERM, grace_s=0) == []
    begin = time.monotonic()
    assert stopped_by(signal.SIGTERM, grace_s=0.2, sleep_s=30) == []
    assert 0.2 <= time.monotonic() - begin < 20


def test_one_that_comes_in_the_last_block_is_not_forgotten() -> None:
    with pytest.raises(Terminated), terminable(Terminate()), at_block_ends(60):
        send(signal.SIGTERM)


def test_what_another_library_makes_of_the_signals_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit ignores SIGTERM, and writes a checkpoint at SIGUSR2."""
    seen: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        for number in before:
            signal.signal(number, lambda number, frame: seen.append(number))
        with at_block_ends(60) as ends:
            send(signal.SIGTERM)
            assert (seen, ends.wanted) == ([signal.SIGTERM], False)
            send(signal.SIGUSR2)
            assert (seen, ends.wanted) == ([signal.SIGTERM], True)
        assert seen == [signal.SIGTERM, signal.SIGUSR2]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("seed", range(20))
def test_workers_finish_what_they_have_in_hand_and_begin_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    workers, deaths = chance.randrange(1, 6), chance.random() < 0.5

    def behaviour(worker: int, task: Task) -> tuple[float, Any]:
        return chance.uniform(0.5, 2), "dies" if deaths and chance.random() < 0.2 else "answers"

    pool = VirtualPool(behaviour)
    blocks = [[f"q{number}"] for number in range(60)]
    driver = Driver(pool, Job(1, {}, "run", "/"), workers, 100.0, lambda question, reason: (question, reason), pool.now)  # type: ignore[arg-type, return-value]
    driver.open()
    seen: list[str] = []
    asked_before = 0
    for records in driver.answers(blocks):
        seen += [question for question, _ in records]  # type: ignore[misc]
        if len(seen) == 10:
            asked_before = len(pool.asked)
            driver.wind_up()
    assert len(seen) == len(set(seen)) <= 10 + workers
    # One that had been read ahead may be begun; none is handed out.
    assert len(pool.asked) <= asked_before + workers
    if not deaths:
        assert len(seen) >= 10 + min(1, workers - 1)


def slow(folder: Path, delay_s: float = 0.3, **changes: Any) -> dict[str, Any]:
    return config(folder, benchmark__count=24, model__delay_s=delay_s, run__batch_size=4, **changes)


def started(settings: dict[str, Any]) -> subprocess.Popen[str]:
    program = f"""if __name__ == "__main__":
        import sys
        from unittest.mock import patch
        from semclip_eval import cli, launch, run
        with patch.object(launch, "launch", lambda arguments: run.execute({settings!r})):
            sys.exit(cli.main(["x=y"]))
    """
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def records_of(folder: Path, process: subprocess.Popen[str], least: int) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for samples in folder.glob("*/*/*/*/*/samples.jsonl"):
            if samples.read_bytes().count(b"\n") >= least:
                return samples
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_is_terminated_finishes_its_blocks_and_goes_on_later(tmp_path: Path, workers: int) -> None:
    """The signal goes to every process of the job, as SLURM sends it."""
    whole = (execute(slow(tmp_path / "whole", delay_s=0.0)) / "samples.jsonl").read_bytes()
    settings = slow(tmp_path / "run", run__workers=workers)
    process = started(settings)
    samples = records_of(tmp_path / "run", process, 4)
    before = samples.read_bytes().count(b"\n")
    for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        if "resource_tracker" not in " ".join(child.cmdline()):
            child.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "lost" not in err
    kept = samples.read_bytes()
    # At least the block that was in hand, and whole blocks alone.
    assert kept.count(b"\n") >= before + 4
    assert kept.count(b"\n") % 4 == 0
    assert (execute(slow(tmp_path / "run")) / "samples.jsonl").read_bytes() == whole


CONFIGS = {
    "benchmark/drawn": "_target_: tests.fakes.DrawnBenchmark\nname: drawn\ncount: 24\n",
    "model/computed": "_target_: tests.fakes.ComputedVLM\nname: computed\ndelay_s: {delay_s}\n",
}


@pytest.mark.slow
def test_a_job_that_submitit_requeues_finishes_its_block_and_goes_on(tmp_path: Path) -> None:
    """As SLURM does before it takes a machine back, under submitit's local executor: SIGUSR2 to the job's process."""
    words = ["profile=full", "benchmark=drawn", "model=computed", "selector=no_crop,full_crop", "run.device=cpu"]

    def sweep(name: str, delay_s: float, *more: str) -> subprocess.Popen[str]:
        configs = tmp_path / f"configs_{name}"
        for place, text in CONFIGS.items():
            path = configs / f"{place}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.format(delay_s=delay_s))
        command = [sys.executable, "-m", "semclip_eval", "-m", "--config-dir", str(configs), *words, *more]
        return subprocess.Popen([*command, "run.batch_size=4", f"run.output_dir={tmp_path / name}"], cwd=ROOT,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip

    peaceful = sweep("peace", 0.0)
    assert peaceful.wait() == 0
    process = sweep("run", 0.4, "hydra/launcher=submitit_local", "run.workers=2")
    samples = records_of(tmp_path / "run", process, 4)
    jobs = psutil.Process(process.pid).children(recursive=True)
    (job, *_) = [
        job for job in jobs if "submitit.core._submit" in " ".join(job.cmdline()) and _writes_to(job, samples.parent)
    ]
    before = samples.read_bytes()
    job.send_signal(signal.SIGUSR2)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "All runs of this sweep" in out
    for selector in ("no_crop", "full_crop"):
        (first, second) = (
            next((tmp_path / name).glob(f"*/*/*/{selector}/*/samples.jsonl")).read_bytes() for name in ("peace", "run")
        )
        assert first == second
    sessions = json.loads((samples.parent / "environment.json").read_text())["sessions"]
    assert len(sessions) == 2
    # The first process's part was whole blocks, and those in hand were among them.
    asked = sum(worker["questions"] for worker in sessions[1]["workers"])
    assert (24 - asked) % 4 == 0
    assert 24 - asked > before.count(b"\n")


def _writes_to(process: psutil.Process, folder: Path) -> bool:
    return any(file.path.startswith(str(folder)) for file in process.open_files())
