"""A disk that fills up during a run: one line that says so, nothing lost, and the same files once it is freed."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from semclip_eval import session
from semclip_eval.errors import ConfigError
from semclip_eval.results.records import SampleWriter, read_samples
from semclip_eval.run import execute
from tests.fakes import SEMCLIP, config


@pytest.fixture(autouse=True)
def _nothing_loaded() -> Iterator[None]:
    session._loaded.clear()
    yield
    session._loaded.clear()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: the system answers EFBIG, as a full disk answers ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_did_not_fit_is_never_written_later(tmp_path: Path) -> None:
    """In the same process: the first writer is still about when the second one goes on."""
    folder = execute(config(tmp_path / "run"))
    whole = (folder / "samples.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (record, *_) = read_samples(folder)

    class Line:
        def line(self) -> str:
            return lines[-1].decode()

    (folder / "samples.jsonl").write_bytes(b"".join(lines[:-1]))
    first = SampleWriter(folder)
    with largest_file(len(whole) - 20), pytest.raises(ConfigError, match="Free the disk"):
        first.write(Line())  # type: ignore[arg-type]
    second = SampleWriter(folder)
    second.write(Line())  # type: ignore[arg-type]
    first.close()
    second.close()
    del first
    assert (folder / "samples.jsonl").read_bytes() == whole
    assert record == read_samples(folder)[0]


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A tmpfs of that size; the test is skipped where the machine does not lend one."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a tmpfs here")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def test_every_place_at_which_a_small_disk_can_be_full(tmp_path: Path) -> None:
    """From a disk that takes nothing to one that takes all, a page more each time: the same command ends the run."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("no right to mount a tmpfs here")
    changes = {"benchmark__count": 24, "run__batch_size": 4, "benchmark__broken": ["q3"], "run__max_error_rate": 0.5}
    whole = (execute(config(tmp_path / "whole", selector=SEMCLIP, **changes)) / "samples.jsonl").read_bytes()
    refusals: list[str] = []
    with small_disk(tmp_path / "disk", "1m"):
        for pages in range(1, 40):
            subprocess.run(["mount", "-o", f"remount,size={4 * pages}k", tmp_path / "disk"], check=True)
            settings = config(tmp_path / "disk" / "out", selector=SEMCLIP, **changes)
            try:
                execute(settings)
            except ConfigError as error:
                refusals.append(str(error))
                for samples in (tmp_path / "disk").glob("out/*/*/*/*/*/samples.jsonl"):
                    assert whole.startswith(samples.read_bytes())
            else:
                break
            if pages % 2:  # every other time from nothing, else on from what was written
                shutil.rmtree(tmp_path / "disk" / "out", ignore_errors=True)
        (samples,) = (tmp_path / "disk").glob("out/*/*/*/*/*/samples.jsonl")
        assert samples.read_bytes() == whole
        assert not [path for path in samples.parent.iterdir() if path.name.endswith(".part")]
    assert len(refusals) > 8
    assert all("Free the disk" in refusal and "\n" not in refusal for refusal in refusals)
