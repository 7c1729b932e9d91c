"""`regress --junit`: XML that GitHub's, GitLab's and Jenkins's readers take, and the workflow of docs/regression.md."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from semclip_eval import cli
from semclip_eval.results.junit import junit_xml
from semclip_eval.results.regression import KEYS, Finding, read_baseline
from semclip_eval.run import execute
from tests.fakes import SEMCLIP, config

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "regression.md"
# The elements that are used, with their attributes, as Jenkins's junit-10.xsd has them: required ones, then all.
SCHEMA = {
    "testsuites": ({"tests", "failures"}, {"name", "tests", "failures", "errors", "skipped"}, {"testsuite"}),
    "testsuite": ({"name", "tests"}, {"name", "tests", "failures", "errors", "skipped"}, {"testcase"}),
    "testcase": ({"name", "classname"}, {"name", "classname"}, {"failure"}),
    "failure": ({"message", "type"}, {"message", "type"}, set()),
}


def finding(expected: float = 0.5, measured: float | None = 0.5, category: str = "all", **key: str) -> Finding:
    cells = dict.fromkeys(KEYS, "") | {"benchmark": "vstar", "selector": "semclip", "seed": "0", "n": "8"} | key
    return Finding(cells, category, "accuracy", expected, 0.03, measured)


def read(text: str) -> ElementTree.Element:
    """The root, after a check of every element against the schema and of every count against what is there."""
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites"
    for element in root.iter():
        required, known, children = SCHEMA[element.tag]
        assert required <= set(element.attrib) <= known
        assert {child.tag for child in element} <= children
    for element in (root, *root.iter("testsuite")):
        assert int(element.get("tests")) == len(list(element.iter("testcase")))
        assert int(element.get("failures")) == len(list(element.iter("failure")))
        assert (element.get("errors"), element.get("skipped")) == ("0", "0")
    names = [
        (suite.get("name"), case.get("classname"), case.get("name"))
        for suite in root.iter("testsuite")
        for case in suite
    ]
    assert len(set(names)) == len(names), "GitLab takes test cases of one name for one"
    return root


def failures(root: ElementTree.Element) -> dict[str, str]:
    return {case.get("name"): case[0].get("message") for case in root.iter("testcase") if len(case)}


@pytest.fixture
def baseline(tmp_path):
    for selector in ({}, {"selector": SEMCLIP}):
        execute(config(tmp_path / "runs", benchmark__count=12, **selector))
    assert cli.main(["regress", str(tmp_path / "runs"), str(tmp_path / "baseline.csv"), "--write"]) == 0
    return tmp_path / "runs", tmp_path / "baseline.csv"


def test_a_suite_a_run_and_a_case_a_number(baseline, tmp_path, capsys):
    results, path = baseline
    file = tmp_path / "new" / "junit.xml"
    assert cli.main(["regress", str(results), str(path), "--junit", str(file)]) == 0
    root = read(file.read_text(encoding="utf-8"))
    assert len(root) == 2
    assert int(root.get("tests")) == len(read_baseline(path))
    assert failures(root) == {}


def test_what_moved_and_what_is_missing_are_failures(baseline, tmp_path, capsys):
    results, path = baseline
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"(semclip,.*,all,visual_tokens_mean),20,0", r"\1,21,0", text)
    text = re.sub(r"(no_crop,.*,all),n_error,0,0", r"\1,e2e_ms_p50,0,0", text)
    path.write_text(text, encoding="utf-8")
    file = tmp_path / "junit.xml"
    assert cli.main(["regress", str(results), str(path), "--junit", str(file)]) == 1
    root = read(file.read_text(encoding="utf-8"))
    messages = failures(root)
    assert set(messages) == {"visual_tokens_mean (all)", "e2e_ms_p50 (all)"}
    assert "20, expected 21 ± 0" in messages["visual_tokens_mean (all)"]
    assert "missing, expected 0" in messages["e2e_ms_p50 (all)"]
    assert {each.get("type") for each in root.iter("failure")} == {"moved", "missing"}
    before = file.read_bytes()
    cli.main(["regress", str(results), str(path), "--junit", str(file), "--json"])
    assert file.read_bytes() == before


def test_runs_that_differ_in_one_key_are_told_apart_and_any_text_is_xml():
    findings = [
        finding(),
        finding(n="16"),
        finding(seed="1"),
        finding(model="llava-1.5"),
        finding(category='<a & "b">\x00\x1b\ud800', measured=None),
        finding(category="größer ψ 日", measured=0.54),
    ]
    root = read(junit_xml(findings))
    assert len(root) == 4
    assert set(failures(root)) == {'accuracy (<a & "b">���)', "accuracy (größer ψ 日)"}
    assert read(junit_xml([finding(measured=0.53)])).get("failures") == "0", "within its tolerance"


def test_what_cannot_be_written_is_refused(baseline, tmp_path, capsys):
    results, path = map(str, baseline)
    for arguments, words in (
        (["--junit", "/proc/none/junit.xml"], "--junit /proc/none/junit.xml"),
        (["--junit", str(tmp_path / "junit.xml"), "--write"], "--write"),
    ):
        capsys.readouterr()
        assert cli.main(["regress", results, path, *arguments]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "junit.xml").exists()


def test_the_workflow_of_the_page_runs_commands_that_exist(monkeypatch):
    workflow, steps = (yaml.safe_load(block) for block in yaml_blocks())
    (job,) = workflow["jobs"].values()
    commands = {step["name"]: shlex.split(step["run"]) for step in job["steps"] if "run" in step}
    assert [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step] == [
        "actions/checkout",
        "actions/setup-python",
        "actions/upload-artifact",
    ]
    assert re.search(r"^install:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    python, script, *flags = commands["The miniature against its baseline"]
    assert python == ".venv/bin/python"
    calls = called(ROOT / script, flags, monkeypatch)
    assert calls[-1] == ["regress", "results/regression", "results/baselines/mini.csv", "--junit", "results/junit.xml"]
    assert all("run.output_dir=results/regression" in call for call in calls[:-1])
    kept = job["steps"][-1]["with"]["path"].split()
    assert kept == [flags[flags.index("--junit") + 1], commands["Report"][-1]]
    for step in (*job["steps"], *steps):
        for word in shlex.split(step.get("run", "")):
            assert not word.startswith(("http", "--index"))
    assert [shlex.split(step["run"])[:2] for step in steps] == [["semclip-eval", "-m"], ["semclip-eval", "regress"]]


def yaml_blocks() -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)


def called(script: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that the script would run with these flags."""
    specification = importlib.util.spec_from_file_location("regression_script", script)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    calls: list[list[str]] = []
    monkeypatch.setattr(module, "semclip_eval", lambda arguments: calls.append(arguments) or 0)
    monkeypatch.setattr(sys, "argv", [str(script), *flags])
    assert module.main() == 0
    return calls
