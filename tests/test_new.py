"""`semclip-eval new`: what it writes runs on the miniature as it is, and nothing is overwritten."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from pathlib import Path

import pytest

from semclip_eval import cli, session
from semclip_eval.models.base import VLM
from semclip_eval.new import KINDS, TEMPLATES
from semclip_eval.relevance.base import RelevanceRequest
from semclip_eval.results.summary import read_rows
from semclip_eval.selectors.base import SelectionInput
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Answer, Prompt, Question, Request, Score


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder; what is imported from it is forgotten again."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    path = list(sys.path)
    session._loaded.clear()
    yield tmp_path
    sys.path[:] = path
    session._loaded.clear()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def written(kind: str, name: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The command that `new` says to run next, without its beginning; its PYTHONPATH is on the path."""
    assert cli.main(["new", kind, name, *arguments]) == 0
    out = capsys.readouterr().out
    *files, _, _, command = out.splitlines()
    assert all(Path(file).is_file() for file in files)
    (readme,) = [Path(file) for file in files if file.endswith(f"{name}.md")]
    assert command in readme.read_text(encoding="utf-8")
    variable, program, *words = shlex.split(command)
    assert program == "semclip-eval"
    sys.path.insert(0, str(Path(variable.removeprefix("PYTHONPATH=")).resolve()))
    return words


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_runs_on_the_miniature_as_it_is(kind, here, capsys):
    words = written(kind, f"own_{kind}", capsys)
    assert "run.limit=4" in words
    assert cli.main([*words, "run.output_dir=out"]) == 0
    (row,) = read_rows(here / "out" / "runs.csv")
    assert row[kind] == f"own_{kind}"
    assert (row["profile"], row["n"], row["n_scored"], row["n_error"]) == ("mini", "4", "4", "0")
    assert cli.main(["list", kind, "--config-dir", f"own_{kind}/configs"]) == 0
    assert f"  own_{kind} " in capsys.readouterr().out


def test_the_benchmark_has_two_protocols_and_a_folder_may_have_any_name(here, capsys):
    words = written("benchmark", "own", capsys, "--folder", "my work, (new)/b")
    common = [*words, "run.output_dir=out", "selector=oracle"]
    assert cli.main(common) == 0
    assert cli.main([*common, "benchmark.protocol=letter"]) == 0
    rows = {row["protocol"]: row for row in read_rows(here / "out" / "runs.csv")}
    assert set(rows) == {"likelihood", "letter"}
    assert all(row["hit_rate"] == "1" and row["n_error"] == "0" for row in rows.values())
    assert cli.main([word for word in words if not word.startswith("benchmark.path")]) == 2
    assert "benchmark.path=" in capsys.readouterr().err


def test_the_model_is_timed_with_answers_of_the_length_that_is_asked_for(here, capsys):
    words = written("model", "own", capsys)
    timing = ["run.mode=latency", "run.new_tokens=3", "run.warmup=1", "benchmark.protocol=letter"]
    assert cli.main([*words, *timing, "selector=no_crop", "run.output_dir=out"]) == 0
    (row,) = read_rows(here / "out" / "runs.csv")
    assert (row["new_tokens_mean"], row["visual_tokens_mean"]) == ("3", "64")
    assert row["vision_ms_p50"]


def test_components_share_a_folder_and_nothing_is_overwritten(here, capsys):
    for kind in KINDS:
        written(kind, f"own_{kind}", capsys, "--folder", "mine")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    for kind in KINDS:
        assert cli.main(["new", kind, f"own_{kind}", "--folder", "mine"]) == 2
        assert "not overwritten" in capsys.readouterr().err
    # One file of several is enough, and then none is written.
    assert cli.main(["new", "benchmark", "other", "--folder", "mine"]) == 2
    assert "mine/data/" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["selecter", "x"], ["selecter", "Did you mean 'selector'?"]),
        (["selector", "Mine"], ["Mine", "my_selector"]),
        (["selector", "a-b"], ["a-b", "my_selector"]),
        (["selector", "class"], ["class", "my_selector"]),
        (["selector", "../x"], ["../x", "my_selector"]),
        (["selector", "semclip"], ["semclip", "choose another"]),
        (["model", "torch"], ["torch", "choose another"]),
        (["psi", "json"], ["json", "choose another"]),
        (["psi", "relevance"], ["relevance", "choose another"]),  # the class would hide its own base
        (["benchmark", "mine", "--folder", "/proc/none"], ["/proc/none", "--folder"]),
    ],
)
def test_what_cannot_be_made_is_said_and_nothing_is_written(arguments, words, here, capsys):
    assert cli.main(["new", *arguments]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)
    assert not list(here.iterdir())


def test_the_templates_explain_every_field():
    explained = {
        "benchmark": (Question, Prompt, Answer, Score),
        "selector": (SelectionInput, Tools),
        "psi": (RelevanceRequest,),
    }
    for kind, classes in explained.items():
        text = (TEMPLATES / kind / f"my_{kind}.py").read_text(encoding="utf-8")
        for each in classes:
            for field in dataclasses.fields(each):
                assert re.search(rf"\b{field.name}\b", text), f"{kind}: {each.__name__}.{field.name}"
    text = (TEMPLATES / "model" / "my_model.py").read_text(encoding="utf-8")
    for method in VLM.__abstractmethods__:
        assert f"def {method}(" in text
    assert "images" in {field.name for field in dataclasses.fields(Request)}
    assert re.search(r"\bimport (transformers|torch)\b", text) is None
