"""An installed wheel works from any folder: it carries its configs and the miniature's weights."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_configs_and_weights(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"semclip_eval/configs/{path.relative_to(ROOT / 'configs')}" in names
    templates = [path for path in (ROOT / "semclip_eval" / "templates").rglob("*") if path.is_file()]
    assert {path.suffix for path in templates} >= {".py", ".yaml", ".png", ".jsonl"}
    for path in templates:
        assert path.relative_to(ROOT).as_posix() in names or "__pycache__" in path.parts
    for kind in ("vlm", "clip"):
        assert any(name.startswith(f"semclip_eval/mini/weights/{kind}/") and "safetensors" in name for name in names)
    for name in ("page.html", "page.css", "page.js", "drawing.js", "viewer.js"):
        assert f"semclip_eval/report/{name}" in names
    assert {"semclip_eval/ask/cards.css", "semclip_eval/serve/page.css"} <= names
    assert not any(name.startswith(("tests/", "results/")) for name in names)


def test_installed_it_lists_and_runs_from_another_folder(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    program = "import semclip_eval, sys; assert semclip_eval.__file__.startswith(sys.argv.pop()); "
    program += "from semclip_eval.cli import main; sys.exit(main())"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, *arguments, str(site)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    listed = run("list", "selector")
    assert listed.returncode == 0, listed.stderr
    assert "semclip" in listed.stdout
    ran = run("profile=mini", "selector=semclip", "run.limit=2")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "results" / "runs.csv").is_file()
