"""Run files that were damaged or edited: a clear message that names the file, or the right number."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semclip_eval import cli
from semclip_eval.errors import ConfigError, DataError, SemclipEvalError
from semclip_eval.files import read_json, read_text, read_yaml, shown
from semclip_eval.results.comparison import compare
from semclip_eval.results.records import lock, read_samples
from semclip_eval.results.summary import read_rows, read_summary, write_roll_up
from semclip_eval.run import execute
from tests.fakes import ComputedVLM, config

DEEP = "[" * 100_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return execute(config(tmp_path / "out"))


def again(folder: Path) -> Path:
    return execute(config(folder.parents[4]))


@pytest.mark.parametrize("keep", [0, 5])
def test_a_finished_run_that_lost_records_says_so(folder: Path, keep: int) -> None:
    samples = folder / "samples.jsonl"
    samples.write_bytes(b"".join(samples.read_bytes().splitlines(keepends=True)[:keep]))
    with pytest.raises(DataError, match=rf"{10 - keep} of its 10 records.*summary\.csv"):
        again(folder)
    (folder / "summary.csv").unlink()  # the remedy that the message names
    assert again(folder) == folder
    assert len(read_samples(folder)) == 10


def test_a_finished_run_whose_records_are_gone_says_so(folder: Path) -> None:
    (folder / "samples.jsonl").unlink()
    with pytest.raises(DataError, match="10 of its 10 records"):
        again(folder)


@pytest.mark.parametrize("change", [
    {"question": "Another?"}, {"options": ["a", "b"]}, {"truth": 3}, {"hint": "look left"}, {"category": "odd"},
    {"target_boxes": []},
])  # fmt: skip
@pytest.mark.parametrize("finished", [True, False])
def test_a_record_of_another_question_is_not_counted(folder: Path, change: dict[str, Any], finished: bool) -> None:
    samples = folder / "samples.jsonl"
    records = [json.loads(line) for line in samples.read_text().splitlines()]
    records[2].update(change)
    if not finished:
        (folder / "summary.csv").unlink()
        records = records[:5]
    samples.write_text("".join(json.dumps(record) + "\n" for record in records))
    (key,) = change
    with pytest.raises(ConfigError, match=rf"question 'q2': its `{key}` is not that of the data"):
        again(folder)


@pytest.mark.parametrize("content", [
    b"", b"\xff\xfe\x00", b"run_id\n", b"run_id,n\na,b,c\n", DEEP.encode(), b'"',
    b"run_id,selector,n,n_error\na,b,x,0\n",
])  # fmt: skip
def test_one_bad_summary_stops_no_other_run(folder: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder.parents[4]
    other = execute(config(output, run__seed=1))
    (folder / "summary.csv").write_bytes(content)
    capsys.readouterr()
    assert execute(config(output, run__seed=1)) == other  # finished, and its roll-up is written
    err = " ".join(capsys.readouterr().err.split())
    assert f"{folder.name}/summary.csv" in err
    assert [row["run_id"] for row in read_rows(output / "runs.csv")] == [other.name]


@given(content=st.one_of(st.binary(max_size=200), st.just(DEEP.encode()), st.text(max_size=80).map(str.encode)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_in_a_run_file_are_a_message_or_a_value(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("run")
    for name in ("samples.jsonl", "summary.csv", "config.yaml", "environment.json"):
        (folder / name).write_bytes(content)
    readers: list[Any] = [
        lambda: read_samples(folder),
        lambda: read_summary(folder),
        lambda: read_yaml(folder / "config.yaml"),
        lambda: read_json(folder / "environment.json"),
        lambda: compare([folder, folder]),
    ]
    for reader in readers:
        message = f"{folder}"
        with contextlib.suppress(SemclipEvalError):
            try:
                reader()
            except SemclipEvalError as error:
                message = str(error)
                raise
        assert str(folder) in message
        assert len(message) < 1000


@pytest.mark.parametrize("verb", ["show", "compare", "report", "regress"])
@pytest.mark.parametrize("name", ["samples.jsonl", "summary.csv", "config.yaml", "environment.json", "categories.csv"])
def test_every_verb_survives_every_damaged_file(
    folder: Path, verb: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).write_bytes(DEEP.encode())
    baseline = folder.parents[4] / "baseline.csv"
    arguments = {
        "show": [str(folder)],
        "compare": [str(folder), str(folder)],
        "report": [str(folder.parents[4])],
        "regress": [str(folder), str(baseline), "--write"],
    }[verb]
    code = cli.main([verb, *arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    assert code in (0, 2)
    if code == 2:
        assert said.err.startswith("semclip-eval: ")


def test_a_fifo_among_the_files_is_refused_and_not_waited_for(folder: Path) -> None:
    for name in ("samples.jsonl", "summary.csv"):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(DataError, match=rf"{name}: is not a regular file \(a FIFO\)"):
            again(folder)
        (folder / name).unlink()
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match="a folder"):
        read_text(folder)
    with pytest.raises(DataError, match="device"):
        read_text(Path("/dev/null"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_worked_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuse(lock: object, blocking: bool = True) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    folder = execute(config(tmp_path / "out"))
    assert len(read_samples(folder)) == 10
    err = " ".join(capsys.readouterr().err.split())
    assert "without locks" in err
    assert "Free the disk" not in err


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_the_system_call_itself_fails_the_run_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """Below filelock, which answers ENOSYS by a marker that a process killed elsewhere would leave for good."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    settings = config(tmp_path / "out")
    folder = execute(settings)
    assert len(read_samples(folder)) == 10
    execute(settings)
    err = " ".join(capsys.readouterr().err.split())
    assert err.count(f"{folder} is on a file system without locks: make sure that") == 2
    assert "flock not supported" not in err


def test_a_disk_that_is_full_is_said_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(lock: object, blocking: bool = True) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(ConfigError, match="Free the disk"), lock(tmp_path / "run"):
        pass


@pytest.mark.parametrize(("typed", "name"), [(5, "5"), ("5", "5"), (2024, "2024")])
def test_a_name_or_folder_that_is_a_number_is_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: Any, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = execute(config(typed, model__name=typed, run__output_dir=typed))
    assert folder.parts[0] == name
    assert name in folder.parts[1:]
    (row,) = read_rows(folder / "summary.csv")
    assert row["model"] == name


@pytest.mark.parametrize("group", ["model", "selector", "benchmark", "psi", "crops"])
@pytest.mark.parametrize(("typed", "text"), [(None, "null"), (True, "true"), (1000.0, "1000.0")])
def test_a_name_whose_text_is_lost_is_refused_with_the_way_to_type_it(
    tmp_path: Path, group: str, typed: Any, text: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{group}\.name={text}: is not text; put it in quotes"):
        execute(config(tmp_path, **{f"{group}__name": typed}))


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = execute(config("~/x"))
    assert folder.is_relative_to(tmp_path / "x")
    assert not (tmp_path / "~").exists()


def test_text_of_the_data_is_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = execute(config(tmp_path, model___target_="tests.test_damaged_files.Bracketed"))
    samples = folder / "samples.jsonl"
    records = [json.loads(line) for line in samples.read_text().splitlines()]
    for record in records:
        record.update(options=["[/bar]", "[bold]x", "[link=file:///]y", "\\["], category="[/red]", question="[/a] [b]")
    samples.write_text("".join(json.dumps(record) + "\n" for record in records))
    capsys.readouterr()
    assert cli.main(["show", str(folder), "--question", "q1"]) == 0
    out = capsys.readouterr().out
    for text in ("[/bar]", "[bold]x", "[link=file:///]y", "\\[", "[/red]", "[/a] [b]"):
        assert text in out
    records[0].update(options=[], truth="[/bar]")
    samples.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert cli.main(["show", str(folder), "--question", "q0"]) == 0
    assert "truth: [/bar]" in capsys.readouterr().out


class Bracketed(ComputedVLM):
    """The computed model under a name that a terminal library could take for markup."""


def test_a_name_that_a_spreadsheet_would_run_stays_text(tmp_path: Path) -> None:
    folder = execute(config(tmp_path, model__name="=cmd|' C'!A0"))
    raw = list(csv.reader((folder / "summary.csv").open(newline="")))
    cell = raw[1][raw[0].index("model")]
    assert cell.startswith("'=")
    assert read_summary(folder)["model"] == "=cmd|' C'!A0"
    write_roll_up(tmp_path)
    assert read_rows(tmp_path / "runs.csv")[0]["model"] == "=cmd|' C'!A0"


def test_a_name_that_is_no_utf8_is_said_and_printed(tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    with pytest.raises(ConfigError, match=r"run\.output_dir=.*\\xff\\xfe: is not UTF-8"):
        execute(config(odd))
    assert shown(odd).endswith("\\xff\\xfe")
    shown(odd).encode()
