"""Faults that are made on purpose, one after another: does a run say so in a line, lose nothing and come out the same?

    python scripts/faults.py [disk drivers clock node]

disk: a small tmpfs that fills up in the middle of the records, or while the finished file is put in order (root, or a
machine that lends the right to mount). drivers: a second one on the same run. clock: the time of day jumps forwards and
back by up to eleven days in the driver and its workers while `run.worker_timeout_s` is half a minute. node: a node of
a Ray cluster is lost with the block that its worker had in hand, and a new one comes (needs Ray). The model computes
its answers without torch (scripts/chaos.py). Exit code 1 where one of them fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chaos import ROOT, content_of, drawn_world, lines_of

# Runs in every process of a run before anything else: Python imports a module of this name by itself.
JUMPING_CLOCK = """
import os, random, time
open(os.path.join(os.path.dirname(__file__), f"{os.getpid()}.process"), "w").close()
_real, _chance, _state = time.time, random.Random(), {"offset": 0.0, "until": 0.0}
def _jumping():
    if time.monotonic() > _state["until"]:
        _state.update(offset=_chance.uniform(-1e6, 1e6), until=time.monotonic() + _chance.uniform(0, 0.2))
    return _real() + _state["offset"]
time.time = _jumping
time.time_ns = lambda: int(1e9 * _jumping())
"""


class Faults:
    """What the faults are made to: a run over the drawn world, and what it comes to in peace."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._command = [sys.executable, "-m", "semclip_eval", *drawn_world(root / "configs")]
        assert self.finished(self.start(root / "reference", workers=1)) == (0, "")
        self.reference = content_of(root / "reference")

    def start(self, output: Path, workers: int = 2, *words: str, **environment: str) -> subprocess.Popen[str]:
        """A driver."""
        command = [*self._command, f"run.output_dir={output}", f"run.workers={workers}", *words]
        return subprocess.Popen(command, env={**self.environment, **environment}, text=True,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip

    def finished(self, driver: subprocess.Popen[str]) -> tuple[int, str]:
        """Its exit code and its error lines."""
        error = " ".join(driver.communicate(timeout=600)[1].split())
        return driver.returncode, error[error.index("semclip-eval: ") :] if "semclip-eval: " in error else ""

    def asking(self, driver: subprocess.Popen[str], output: Path, records: int = 40) -> None:
        """Wait until so many records are on disk."""
        while len(lines_of(output)) < records:
            if driver.poll() is not None:
                raise AssertionError(driver.communicate()[1])
            time.sleep(0.02)

    def sessions(self, output: Path) -> list[dict[str, Any]]:
        """The sessions of environment.json."""
        path = next(output.glob("*/*/*/*/*/environment.json"))
        found: list[dict[str, Any]] = json.loads(path.read_text())["sessions"]
        return found


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[Callable[[int], None]]:
    """A tmpfs; the function that is given sets its size in KiB."""
    place.mkdir()

    def resize(kib: int, *options: str) -> None:
        what = ["-o", ",".join([f"size={kib}k", *options])]
        subprocess.run(["mount", *what, *([] if options else ["-t", "tmpfs"]), "tmpfs", place], check=True)

    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=True)
    try:
        yield lambda kib: resize(kib, "remount")
    finally:
        subprocess.run(["umount", place], check=True)


def disk(faults: Faults) -> str:
    """Full while records come, and full while they are put in order; freed each time."""
    size = len(faults.reference) // 1024
    steps = []
    with small_disk(faults.root / "disk") as resize:
        for kib in (size // 3, size + 40, 4 * size):
            resize(kib)
            code, error = faults.finished(faults.start(faults.root / "disk" / "out"))
            records = len(lines_of(faults.root / "disk" / "out"))
            steps.append((kib, code, records))
            if code == 0:
                break
            assert code == 2, (code, error)
            assert error.count("semclip-eval: ") == 1, error
            assert "Free the disk" in error, error
            print(f"  {kib} KiB: {records} records kept; {error.replace(str(faults.root), '')}")
        assert content_of(faults.root / "disk" / "out") == faults.reference
    assert [code for _, code, _ in steps] == [2, 2, 0], steps
    return f"full with {steps[0][2]} and with {steps[1][2]} records on disk, identical after it was freed"


def drivers(faults: Faults) -> str:
    """A second driver is refused, and the first one does not notice."""
    output = faults.root / "drivers"
    first = faults.start(output)
    faults.asking(first, output)
    code, error = faults.finished(faults.start(output))
    assert code == 2, error
    assert "held by another process" in error, error
    assert faults.finished(first)[0] == 0
    assert content_of(output) == faults.reference
    return "the second is refused (exit code 2), the first comes out identical"


def clock(faults: Faults) -> str:
    """No timeout fires wrongly, whatever the time of day does."""
    (folder := faults.root / "clock").mkdir()
    (folder / "sitecustomize.py").write_text(JUMPING_CLOCK)
    paths = os.pathsep.join([str(folder), faults.environment["PYTHONPATH"]])
    driver = faults.start(folder / "out", 2, "run.worker_timeout_s=30", PYTHONPATH=paths)
    code, error = faults.finished(driver)
    assert code == 0, error
    assert content_of(folder / "out") == faults.reference
    (session,) = faults.sessions(folder / "out")
    assert session["workers_lost"] == 0, session
    processes = len(list(folder.glob("*.process")))
    assert processes >= 3, processes
    return f"no worker counted as hung in {processes} processes, identical"


def node(faults: Faults) -> str:
    """A node goes, one worker with it; a new node comes, and a worker starts there."""
    from ray.cluster_utils import Cluster

    os.environ |= {name: faults.environment[name] for name in ("PYTHONPATH", "OMP_NUM_THREADS")}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        output = faults.root / "node"
        driver = faults.start(output, 2, "run.executor=ray", RAY_ADDRESS=cluster.address)
        faults.asking(driver, output)
        before = len(lines_of(output))
        cluster.remove_node(second, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        code, error = faults.finished(driver)
        assert code == 0, error
    finally:
        cluster.shutdown()
    assert content_of(output) == faults.reference
    (session,) = faults.sessions(output)
    assert session["workers_lost"] >= 1, session
    asked = [worker["questions"] for worker in session["workers"]]
    return f"lost with {before} records on disk, identical; questions by worker {asked}"


FAULTS = {function.__name__: function for function in (disk, drivers, clock, node)}


def main() -> int:
    """The command; a line for each fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", help=f"of {', '.join(FAULTS)}; all of them if none is named")
    options = parser.parse_args()
    if unknown := set(options.faults) - set(FAULTS):
        parser.error(f"{', '.join(sorted(unknown))}: must be of {', '.join(FAULTS)}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="faults-") as root:
        faults = Faults(Path(root))
        for name in options.faults or FAULTS:
            try:
                print(f"{name}: {FAULTS[name](faults)}", flush=True)
            except (AssertionError, ImportError, subprocess.SubprocessError) as error:
                failed += 1
                print(f"{name}: FAILED: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
