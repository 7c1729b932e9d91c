"""Several workers: the scheduler and the driver in virtual time, then real processes against a run in one process."""

from __future__ import annotations

import dataclasses
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
import yaml

from semclip_eval import cli, console, session
from semclip_eval.answers.ahead import Ahead
from semclip_eval.config import RunConfig
from semclip_eval.errors import ConfigError, ModelError, RunFailed
from semclip_eval.plan import make_plan
from semclip_eval.results.records import read_samples
from semclip_eval.results.summary import read_rows
from semclip_eval.run import execute
from semclip_eval.workers import answers, layout
from semclip_eval.workers.answers import close_workers, merged_truncations
from semclip_eval.workers.driver import Driver, as_error
from semclip_eval.workers.local_pool import LocalPool
from semclip_eval.workers.messages import Alive, Answered, Failed, Job, Lost, Ready, Report, ReportRequest, Task
from semclip_eval.workers.scheduler import Scheduler
from semclip_eval.workers.worker import BlockWorker, job_config
from tests.fakes import SEMCLIP, config
from tests.worker_fakes import Behaviour, VirtualPool

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _nothing_loaded():
    session._loaded.clear()
    yield
    session._loaded.clear()
    close_workers()


def blocks_of(count: int, size: int) -> list[list[str]]:
    names = [f"q{number}" for number in range(count)]
    return [names[start : start + size] for start in range(0, count, size)]


def driven(pool: VirtualPool, blocks: list[list[str]], workers: int, timeout_s: float | None = 100.0) -> list[Any]:
    """All records of a job in the order in which they came; ("q3", reason) for one that was given up."""
    job = Job(1, {}, "run", "/")
    driver = Driver(pool, job, workers, timeout_s, lambda question, reason: (question, reason), pool.now)  # type: ignore[arg-type, return-value]
    driver.open()
    records = [record for block in driver.answers(blocks) for record in block]
    driver.report()
    return records


def kills(*poison: str) -> Behaviour:
    return lambda worker, task: (1.0, "dies" if set(poison) & set(task.questions) else "answers")


def given_up(records: list[Any]) -> dict[str, str]:
    return {question: worker for question, worker in records if isinstance(worker, str)}


@pytest.mark.parametrize("workers", [1, 2, 5, 64])
def test_every_question_is_answered_once_in_its_own_block(workers):
    pool = VirtualPool(lambda worker, task: (random.Random(task.number).random(), "answers"))
    blocks = blocks_of(101, 8)
    records = driven(pool, blocks, workers)
    assert sorted(question for question, _ in records) == sorted(question for block in blocks for question in block)
    assert sorted(questions for _, questions in pool.asked) == sorted(tuple(block) for block in blocks)
    assert pool.started == min(workers, 64)


def test_one_question_that_kills_costs_its_block_nothing():
    pool = VirtualPool(kills("q9"))
    records = driven(pool, blocks_of(40, 8), 3)
    assert given_up(records) == {"q9": "was killed by SIGKILL"}
    assert len(records) == 40
    # Two workers for the block, two for the question alone.
    assert pool.started == 3 + 4
    assert [questions for _, questions in pool.asked].count(("q9",)) == 2


@pytest.mark.parametrize("poison", [("q0",), ("q39",), ("q8", "q9", "q15"), ("q0", "q8", "q16", "q24", "q32")])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_only_those_at_fault_are_given_up(poison, workers):
    records = driven(VirtualPool(kills(*poison)), blocks_of(40, 8), workers)
    assert set(given_up(records)) == set(poison)
    assert len(records) == len({question for question, _ in records}) == 40


def test_a_question_that_kills_while_it_is_read_ahead_is_found_as_well():
    """The worker dies of the block behind the one in hand, so the wrong one is suspected at first."""

    class ReadsAhead(VirtualPool):
        def send(self, worker, message):
            super().send(worker, message)
            if isinstance(message, Task) and "q17" in message.questions:
                self._heap = [entry for entry in self._heap if entry[2].worker != worker]
                self._later(0.5, Lost(worker, "was killed by SIGSEGV"))

    records = driven(ReadsAhead(lambda worker, task: (1.0, "answers")), blocks_of(64, 8), 2)
    assert set(given_up(records)) == {"q17"}
    assert len(records) == 64


def test_a_hung_worker_is_replaced_and_its_block_asked_again():
    pool = VirtualPool(lambda worker, task: (1.0, "hangs" if worker == 1 else "answers"))
    records = driven(pool, blocks_of(40, 4), 2, timeout_s=50.0)
    assert (len(records), given_up(records), pool.killed) == (40, {}, [1])
    assert 50 <= pool.clock < 70


def test_a_question_that_hangs_is_given_up_and_says_which_key_decides():
    pool = VirtualPool(lambda worker, task: (1.0, "hangs" if "q5" in task.questions else "answers"))
    records = driven(pool, blocks_of(16, 4), 2, timeout_s=50.0)
    (reason,) = given_up(records).values()
    assert "run.worker_timeout_s=50" in reason


def test_a_slow_block_is_waited_for_where_no_timeout_is_set():
    pool = VirtualPool(lambda worker, task: (1e4 if "q5" in task.questions else 1.0, "answers"))
    assert len(driven(pool, blocks_of(16, 4), 2, timeout_s=None)) == 16
    assert pool.killed == []


@pytest.mark.parametrize("seed", range(30))
def test_whatever_dies_or_hangs_nothing_is_lost_or_doubled(seed):
    """Random deaths of workers (no question is at fault): every question once, and none given up."""
    chance = random.Random(seed)
    fatal = {(chance.randrange(30), chance.randrange(3)) for _ in range(6)}

    def behaviour(worker: int, task: Task) -> tuple[float, Any]:
        # A worker that is to die does so at its first, second or third task, the third ones by hanging.
        turns[worker] = turns.get(worker, 0) + 1
        if (worker, turns[worker]) in fatal:
            return 0.5, "dies" if worker % 2 else "hangs"
        return chance.random() * 3, "answers"

    turns: dict[int, int] = {}
    count, size, workers = chance.randrange(1, 200), chance.randrange(1, 9), chance.randrange(1, 9)
    records = driven(VirtualPool(behaviour), blocks_of(count, size), workers, timeout_s=20.0)
    assert sorted(question for question, _ in records) == sorted(f"q{number}" for number in range(count))


def test_a_worker_that_hangs_at_the_end_loses_only_its_report():
    class SilentAtTheEnd(VirtualPool):
        def send(self, worker, message):
            if not (worker == 1 and isinstance(message, ReportRequest)):
                super().send(worker, message)

    pool = SilentAtTheEnd(kills())
    assert len(driven(pool, blocks_of(20, 4), 2, timeout_s=None)) == 20
    assert pool.killed == [1]


def test_workers_that_die_one_after_another_end_the_run():
    with pytest.raises(RunFailed, match=r"in a row .*SIGKILL.*run\.workers=1"):
        driven(VirtualPool(lambda worker, task: (1.0, "dies")), blocks_of(100, 1), 2)


def test_workers_that_cannot_load_end_the_run_soon():
    pool = VirtualPool(kills(), starts=lambda worker: None)
    with pytest.raises(RunFailed, match=r"before they were ready.*SIGKILL"):
        driven(pool, blocks_of(100, 1), 2)
    assert pool.started <= 5


def test_one_worker_that_cannot_load_does_not_end_the_run():
    pool = VirtualPool(kills(), starts=lambda worker: 1.0 if worker == 0 else None)
    assert len(driven(pool, blocks_of(100, 1), 2)) == 100


def test_where_no_worker_is_left_and_none_can_start_yet_the_run_says_that_it_waits(capsys):
    """A cluster that lost its nodes: the next ones come after five minutes."""
    pool = VirtualPool(
        lambda worker, task: (1.0, "answers" if worker > 1 or task.number < 3 else "dies"),
        starts=lambda worker: 1.0 if worker < 2 else 300.0,
    )
    assert len(driven(pool, blocks_of(40, 4), 2, timeout_s=None)) == 40
    said = " ".join(capsys.readouterr().err.split())
    assert 3 <= said.count("Waiting for the first of 2 workers: models are loading.") <= 6


def test_a_worker_that_stays_is_given_the_next_job():
    pool = VirtualPool(kills())
    for _ in range(3):
        assert len(driven(pool, blocks_of(10, 2), 2)) == 10
    assert pool.started == 2


def test_an_answer_that_comes_late_counts_once():
    scheduler = Scheduler([["a"], ["b"]])
    scheduler.add_worker(0)
    task = scheduler.next_for(0)
    assert task is not None
    scheduler.lost(0)
    scheduler.add_worker(1)
    again = scheduler.next_for(1)
    assert again == task
    assert scheduler.answered(0, task.number)
    assert not scheduler.answered(1, task.number)
    assert not scheduler.finished


def test_nobody_gets_a_second_block_while_another_has_none():
    scheduler = Scheduler(blocks_of(4, 1))
    for worker in range(4):
        scheduler.add_worker(worker)
    assert [scheduler.next_for(worker) is not None for worker in (0, 0, 1, 1, 2, 3)] == [
        True,
        False,
        True,
        False,
        True,
        True,
    ]


# The keys.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workers": 0}, "run.workers=0"),
        ({"workers": "many"}, "run.workers=many"),
        ({"workers": True}, "run.workers=True"),
        ({"executor": "spark"}, "run.executor=spark: must be local or ray"),
        ({"gpus_per_worker": 1.5}, "run.gpus_per_worker=1.5"),
        ({"gpus_per_worker": 0}, "run.gpus_per_worker=0"),
        ({"worker_timeout_s": 0}, "run.worker_timeout_s=0"),
        ({"mode": "latency", "workers": 2}, "run.mode=latency .*run.workers=2"),
        ({"mode": "latency", "executor": "ray"}, "run.mode=latency .*run.executor=ray"),
    ],
)
def test_a_wrong_value_is_named(change, words):
    with pytest.raises(ConfigError, match=words):
        RunConfig(**change)


@pytest.mark.parametrize(
    "change",
    [{"run__workers": 4}, {"run__workers": "auto"}, {"run__gpus_per_worker": 2}, {"run__worker_timeout_s": 5}],
)
def test_workers_are_no_part_of_a_runs_identity(tmp_path, change):
    assert make_plan(config(tmp_path, **change)).run_id == make_plan(config(tmp_path)).run_id


def settled(monkeypatch, count: int, visible: str = "", model: dict | None = None, **keys: Any) -> layout.Layout:
    monkeypatch.setattr(layout, "cuda_device_count", lambda: count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    return layout.layout_of(RunConfig(device="cuda", **keys), model or {})


def test_every_worker_has_gpus_of_its_own(monkeypatch):
    assert settled(monkeypatch, 8, workers="auto").devices == tuple("01234567")
    assert settled(monkeypatch, 2, visible="4,6", workers="auto").devices == ("4", "6")
    assert settled(monkeypatch, 1, workers="auto").is_own_process
    spread = {"device_map": "auto"}
    assert settled(monkeypatch, 8, model=spread, workers="auto", gpus_per_worker=4).devices == ("0,1,2,3", "4,5,6,7")
    assert settled(monkeypatch, 2, workers=4, gpus_per_worker=0.5).devices == ("0", "0", "1", "1")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"workers": 9}, r"run.workers=9: 8 CUDA devices"),
        ({"workers": 5, "gpus_per_worker": 2, "model": {"device_map": "auto"}}, r"enough for 4"),
        ({"workers": 2, "gpus_per_worker": 2, "model": {"device_map": None}}, r"model.device_map=auto"),
    ],
)
def test_more_than_the_machine_has_is_refused(monkeypatch, keys, words):
    with pytest.raises(ConfigError, match=words):
        settled(monkeypatch, 8, **keys)


def test_one_device_is_not_for_several_workers():
    with pytest.raises(ConfigError, match=r"run\.device=cuda:1"):
        layout.layout_of(RunConfig(device="cuda:1", workers=2), {})


def test_all_threads_together_are_those_of_one_process(monkeypatch):
    monkeypatch.setattr(layout, "usable_cpus", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert layout.layout_of(RunConfig(device="cpu", workers=4), {}).threads == 4
    assert layout.layout_of(RunConfig(device="cpu", workers=64), {}).threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert layout.layout_of(RunConfig(device="cpu", workers=4), {}).threads is None


def test_answers_made_elsewhere_need_no_workers(tmp_path, capsys):
    file = tmp_path / "answers.jsonl"
    lines = [{"question_id": f"q{number}", "answer": "A", "option_losses": [0, 1, 2, 3]} for number in range(10)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = {"_target_": "semclip_eval.answers.replay.Replay", "name": "replay", "path": str(file)}
    plan = make_plan(config(tmp_path, model=model, run__workers=4))
    assert any("run.workers=4 is not used" in text for text in plan.notices)
    assert plan.run.workers == 1


def test_a_served_model_is_asked_by_one_process(tmp_path):
    section = yaml.safe_load((ROOT / "configs" / "model" / "openai.yaml").read_text())
    model = {**section["model"], "base_url": "http://127.0.0.1:9/v1", "model": "some"}
    plan = make_plan(config(tmp_path, model=model, run__workers=4))
    assert any("model.max_in_flight" in text for text in plan.notices)
    assert plan.run.workers == 1


def test_counts_of_texts_add_up():
    def report(texts: int, truncated: int, longest: int) -> Report:
        counts = {"texts": texts, "truncated": truncated, "longest": longest, "context": 77}
        return Report(0, 1, {}, {}, counts if texts else {})

    total = {"texts": 5, "truncated": 1, "longest": 90, "context": 77}
    assert merged_truncations([report(3, 1, 90), report(0, 0, 0), report(2, 0, 30)]) == total
    assert merged_truncations([report(0, 0, 0)]) == {}


# Real processes.


def test_each_process_sees_its_own_devices(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    pool = LocalPool(("4,5", "6,7"))
    numbers = [pool.start(slot) for slot in (0, 1)]
    try:
        environments = [psutil.Process(pool._processes[number][0].pid).environ() for number in numbers]
    finally:
        pool.close()
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["4,5", "6,7"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"


def test_two_processes_write_what_one_does(tmp_path):
    changes = {"selector": SEMCLIP, "benchmark__count": 23, "benchmark__broken": ["q3"], "run__max_error_rate": 0.2}
    one = execute(config(tmp_path / "one", **changes, run__batch_size=4))
    whole = (one / "samples.jsonl").read_bytes()
    two = execute(config(tmp_path / "two", **changes, run__batch_size=4, run__workers=2))
    assert (two / "samples.jsonl").read_bytes() == whole
    rows = [read_rows(folder / "summary.csv")[0] for folder in (one, two)]
    differing = {name for name in rows[0] if rows[0][name] != rows[1][name]}
    assert differing <= {"workers", "questions_per_s", "wall_s", "started_at"}
    assert [row["workers"] for row in rows] == ["1", "2"]
    (last,) = json.loads((two / "environment.json").read_text())["sessions"]
    assert sum(worker["questions"] for worker in last["workers"]) == 23
    assert last["psi_truncation"]["context"] == 4

    # A job of a sweep that follows finds the workers as they were, models loaded; what one process began, two finish.
    def resumed(workers: int) -> bytes:
        begun = config(tmp_path / f"by{workers}", **changes, run__batch_size=4, run__workers=workers)
        samples = make_plan(begun).folder / "samples.jsonl"
        samples.parent.mkdir(parents=True)
        # As several workers leave it: not in order, a block half written, the last line torn.
        lines = whole.splitlines(keepends=True)
        samples.write_bytes(b"".join([*lines[8:14], *lines[:2], lines[20][:30]]))
        execute(begun)
        return samples.read_bytes()

    before = dict(next(iter(answers._kept.values())).workers)
    assert resumed(2) == whole
    assert dict(next(iter(answers._kept.values())).workers) == before
    # And the other way round. A job that needs no workers lets their memory go.
    assert resumed(1) == whole
    assert not answers._kept


@pytest.mark.slow
def test_a_question_that_kills_its_process_is_an_error_record(tmp_path, capsys):
    deadly = config(tmp_path, benchmark__count=12, run__batch_size=4, run__workers=2, run__max_error_rate=0.5)
    deadly["model"] |= {"_target_": "tests.fakes.DeadlyVLM", "poison": "number 5"}
    records = read_samples(execute(deadly))
    assert [record["question_id"] for record in records] == [f"q{number}" for number in range(12)]
    (error,) = [record for record in records if record["status"] == "error"]
    assert error["question_id"] == "q5"
    assert error["error"]["type"] == "WorkerLost"
    assert "SIGKILL" in error["error"]["message"]


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setattr(console.err, "quiet", False)
    return BlockWorker(0, is_quiet=False)


def job_of(composed: dict[str, Any]) -> Job:
    plan = make_plan(composed)
    return Job(1, job_config(plan.config), plan.run_id, os.getcwd())


def test_a_worker_answers_as_the_driver_would(tmp_path, worker):
    composed = config(tmp_path, selector=SEMCLIP, run__num_workers=2)
    expected = {record["question_id"]: record for record in read_samples(execute(composed))}
    ready = worker.reply(job_of(composed))
    assert isinstance(ready, Ready)
    assert ready.described["device"] == "cpu"
    for number, questions in enumerate([("q7",), ("q3", "q1")]):
        task = Task(1, number, questions)
        if number:
            worker.expect(task)
        answered = worker.reply(task)
        assert isinstance(answered, Answered)
        assert [json.loads(record.line()) for record in answered.records] == [expected[name] for name in questions]
    report = worker.reply(ReportRequest(1))
    assert isinstance(report, Report)
    assert report.truncations["texts"] == 3


def test_what_is_wrong_in_a_worker_is_the_runs_error(tmp_path, worker):
    wrong = config(tmp_path)
    wrong["model"] |= {"_target_": "tests.fakes.UnreadableVLM"}
    failed = worker.reply(job_of(wrong))
    assert isinstance(failed, Failed)
    assert failed.kind == "ModelError"
    error = as_error(failed)
    assert isinstance(error, ModelError)
    assert str(error) == "these weights cannot be read"
    # A fault of the program keeps the place where it happened.
    crashed = worker.reply(Task(1, 0, ("nobody",)))
    assert isinstance(crashed, Failed)
    assert isinstance(as_error(crashed), RuntimeError)
    assert "worker.py" in str(as_error(crashed))


def test_a_worker_that_finds_something_else_is_refused(tmp_path, worker):
    """Another machine of a cluster, with other data: its run would be another one."""
    job = job_of(config(tmp_path))
    failed = worker.reply(dataclasses.replace(job, run_id="0123456789"))
    assert isinstance(failed, Failed)
    assert failed.kind == "ConfigError"
    assert "0123456789" in failed.text
    assert job.run_id in failed.text


# The command line.


def command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "semclip_eval", "profile=mini", *arguments],
        cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_copies_of_a_launcher_are_refused_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert cli.main(["profile=mini", f"run.output_dir={tmp_path}", "run.limit=2"]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "WORLD_SIZE=4" in err
    assert "run.workers=4" in err
    assert cli.main(["list", "model"]) == 0
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert cli.main(["profile=mini", "--cfg", "job"]) == 0


def started(process: subprocess.Popen[str], folder: Path, lines: int) -> Path:
    """Wait until a run below the folder has so many records; its samples.jsonl."""
    deadline = time.monotonic() + 280  # the miniature may have to be built first
    while time.monotonic() < deadline and process.poll() is None:
        for samples in folder.glob("*/*/*/*/*/samples.jsonl"):
            if samples.read_bytes().count(b"\n") >= lines:
                return samples
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


def test_terminated_it_keeps_everything_and_says_so(tmp_path):
    slow = config(tmp_path, benchmark__count=100, model__delay_s=0.02, run__batch_size=3)
    program = (
        "import sys\nfrom unittest.mock import patch\nfrom semclip_eval import cli, launch, run\n"
        f"with patch.object(launch, 'launch', lambda arguments: run.execute({slow!r})): sys.exit(cli.main(['x=y']))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    samples = started(process, tmp_path, 4)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "terminated" in err
    assert "kept" in err
    assert "Traceback" not in err
    kept = samples.read_bytes()
    assert kept.endswith(b"\n")
    execute(slow)
    assert samples.read_bytes().startswith(kept)
    assert len(read_samples(samples.parent)) == 100


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_with_workers_nothing_stays_behind(tmp_path, number):
    words = [f"run.output_dir={tmp_path / 'out'}", "run.limit=191", "run.workers=2"]
    process = command(*words)
    samples = started(process, tmp_path / "out", 4)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    second = command(*words)  # a second driver on the same run
    _, err = second.communicate(timeout=120)
    assert second.returncode == 2
    assert "held by another process" in " ".join(err.split())
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    assert len(read_samples(samples.parent)) >= 4


@pytest.mark.slow
def test_a_worker_that_hangs_when_all_is_done_does_not_hold_up_the_end(tmp_path):
    program = f"""if True:
        import os, signal
        from semclip_eval import run
        from semclip_eval.workers import answers
        run.execute({config(tmp_path, run__workers=2)!r})
        (pool,) = answers._kept.values()
        for process, _ in pool._processes.values():
            os.kill(process.pid, signal.SIGSTOP)
    """
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_the_miniature_comes_out_the_same_byte_for_byte(tmp_path, workers):
    for count in (1, workers):
        words = ["run.limit=64", "run.batch_size=8", f"run.workers={count}", f"run.output_dir={tmp_path / str(count)}"]
        assert cli.main(["profile=mini", "selector=semclip", *words]) == 0
    (one,), (several,) = (tmp_path.glob(f"{count}/*/*/*/*/*/samples.jsonl") for count in (1, workers))
    assert several.read_bytes() == one.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ray_actors_write_what_one_process_does(tmp_path):
    ray = pytest.importorskip("ray")
    paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", runtime_env=paths)
    try:
        changes = {"selector": SEMCLIP, "benchmark__count": 23, "run__batch_size": 4}
        one = execute(config(tmp_path / "one", **changes))
        two = execute(config(tmp_path / "two", **changes, run__workers=2, run__executor="ray"))
        assert (two / "samples.jsonl").read_bytes() == (one / "samples.jsonl").read_bytes()
        deadly = config(tmp_path, benchmark__count=8, run__batch_size=4, run__workers=2, run__executor="ray")
        deadly["run"]["max_error_rate"] = 0.5
        deadly["model"] |= {"_target_": "tests.fakes.DeadlyVLM", "poison": "number 5"}
        records = read_samples(execute(deadly))
        assert [record["question_id"] for record in records if record["status"] == "error"] == ["q5"]
    finally:
        close_workers()
        ray.shutdown()


def test_a_worker_that_comes_up_during_a_later_job_is_sent_that_job_once():
    sent: list[tuple[int, int]] = []

    class SlowToStart(VirtualPool):
        def start(self, slot):
            number, self.started = self.started, self.started + 1
            self._slots[number], self._queues[number] = slot, []
            self._later(30.0 * number, Alive(number))  # the second one is up when the first job is done
            return number

        def send(self, worker, message):
            if isinstance(message, Job):
                sent.append((worker, message.number))
            super().send(worker, message)

    pool = SlowToStart(lambda worker, task: (10.0, "answers"))
    for number, blocks in ((1, 2), (2, 6)):
        job = Job(number, {}, "run", ".")
        driver = Driver(pool, job, 2, None, lambda question, reason: (question, reason), pool.now)
        driver.open()
        answered = list(driver.answers([(f"{number}-{block}",) for block in range(blocks)]))
        assert len(answered) == blocks
        driver.report()
    assert sorted(sent) == [(0, 1), (0, 2), (1, 2)]


def test_a_task_that_comes_while_a_job_is_opened_disturbs_nothing(tmp_path, worker, monkeypatch):
    composed = config(tmp_path, selector=SEMCLIP, run__num_workers=2)
    job = job_of(composed)
    assert isinstance(worker.reply(job), Ready)

    close, closed = Ahead.close, []

    def meanwhile(ahead):
        close(ahead)
        for number in (1, 2):  # of the job before, whose threads are gone, and of the one that is being opened
            worker.expect(Task(number, 0, ("q1",)))
        closed.append(ahead)

    monkeypatch.setattr(Ahead, "close", meanwhile)
    assert isinstance(worker.reply(dataclasses.replace(job, number=2)), Ready)
    assert len(closed) == 1
    for name in ("q1", "q2"):
        answered = worker.reply(Task(2, 0, (name,)))
        assert isinstance(answered, Answered)
        assert [record.question_id for record in answered.records] == [name]
