"""The code that answers is part of a run's identity; what only shows results is not."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from semclip_eval import cli, code_identity, session
from semclip_eval.code_identity import code_digests, module_files, package_digest
from semclip_eval.results.comparison import compare
from semclip_eval.results.summary import read_rows
from semclip_eval.run import execute
from tests.fakes import SEMCLIP, config

SELECTOR = """
from my_parts import choose
from semclip_eval.selectors.base import Selector, with_overview


class Mine(Selector):
    needs = frozenset({"candidates"})

    def __init__(self, name):
        self.name = name

    def select(self, inputs, tools):
        return [with_overview(item.image, [choose(item.candidates)]) for item in inputs]
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A selector of one's own in two files beside each other, and a file that it does not import."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "my_selectors.py").write_text(SELECTOR)
    (code / "my_parts.py").write_text("def choose(boxes):\n    return boxes[0]\n")
    (code / "unrelated.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(code)
    yield code
    for name in ("my_selectors", "my_parts", "unrelated"):
        sys.modules.pop(name, None)


def run(tmp_path: Path) -> Path:
    for name in ("my_selectors", "my_parts"):
        sys.modules.pop(name, None)
    session._loaded.clear()
    section = {"_target_": "my_selectors.Mine", "name": "mine"}
    return execute(config(tmp_path / "out", selector=section))


@pytest.mark.parametrize("file", ["my_selectors.py", "my_parts.py"])
def test_an_edited_selector_is_another_run(mine: Path, tmp_path: Path, file: str) -> None:
    first = run(tmp_path)
    assert run(tmp_path) == first
    (mine / "unrelated.py").write_text("x = 2\n")
    assert run(tmp_path) == first
    source = mine / file
    source.write_text(source.read_text() + "\n# edited\n")
    shutil.rmtree(mine / "__pycache__", ignore_errors=True)
    second = run(tmp_path)
    assert second != first
    assert {folder.name for folder in first.parent.iterdir()} == {first.name, second.name}


def test_the_packages_own_source_counts_but_not_what_shows_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "semclip_eval"
    shutil.copytree(Path(code_identity.__file__).parent, package, ignore=shutil.ignore_patterns("weights", "*.pyc"))
    monkeypatch.setattr(code_identity, "__file__", str(package / "code_identity.py"))

    def digest() -> str:
        package_digest.cache_clear()
        return package_digest()

    before = digest()
    (package / "report" / "page.py").write_text("# another page\n")
    (package / "results" / "show.py").write_text("# another table\n")
    assert digest() == before
    (package / "selectors" / "semclip.py").write_text("# another choice\n")
    assert digest() != before
    package_digest.cache_clear()


def test_which_files_stand_behind_a_target() -> None:
    names = {path.name for path in module_files("tests.fakes")}
    assert names == {"fakes.py"}
    assert {path.name for path in module_files("tests.test_code_identity")} >= {"test_code_identity.py", "fakes.py"}
    digests = code_digests({"selector": SEMCLIP, "model": {"_target_": "tests.fakes.ComputedVLM"}, "psi": None})
    assert set(digests) == {"semclip_eval", "model"}
    inner = {"_target_": "semclip_eval.x.Y", "inner": {"_target_": "tests.fakes.ComputedVLM"}}
    assert set(code_digests({"selector": inner})) == {"semclip_eval", "selector"}


def test_config_yaml_alone_gives_the_same_run_and_names_no_observed_revision(tmp_path: Path) -> None:
    """Also for an outside benchmark that knows no `revision`."""
    section = {"_target_": "tests.test_code_identity.Plain", "name": "plain", "count": 6}
    first = execute(config(tmp_path / "out", benchmark=section))
    written = yaml.safe_load((first / "config.yaml").read_text())
    assert "revision" not in written["benchmark"]
    assert read_rows(first / "summary.csv")[0]["dataset_revision"] == "7"
    session._loaded.clear()
    assert execute(written) == first
    second = execute(config(tmp_path / "out", benchmark=section, run__seed=2, selector=SEMCLIP))
    assert compare([first, second]).pairs[0].n == 6
    assert cli.main(["report", str(tmp_path / "out")]) == 0


from tests.fakes import DrawnBenchmark  # noqa: E402


class Plain(DrawnBenchmark):
    """A benchmark from outside whose class knows its data's revision and takes no such keyword."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(name, count, revision="7")
