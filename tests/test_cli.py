"""The command line as a user types it: exit codes, one-line errors, and what may not be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from semclip_eval import cli
from semclip_eval.launch import keys_of_swept_groups
from semclip_eval.listing import GROUPS
from semclip_eval.results.summary import read_rows

ROOT = Path(__file__).resolve().parent.parent


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "selector"], ["--version"], ["nonsense"]])
def test_what_must_answer_at_once_imports_nothing_heavy(arguments):
    program = (
        "import sys\nfrom semclip_eval.cli import main\nmain(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'open_clip', 'hydra', 'pandas', 'numpy', 'datasets', 'scipy'}\n"
        "sys.exit(100 if heavy & set(sys.modules) else 0)"
    )
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr


def test_list_names_every_config_with_a_description(capsys):
    code, out, _ = run(["list"], capsys)
    assert code == 0
    for group in GROUPS:
        for path in (ROOT / "configs" / group).glob("*.yaml"):
            (line,) = [line for line in out.splitlines() if line.startswith(f"  {path.stem} ")]
            assert len(line.split(maxsplit=1)[1]) > 10, f"{path} has no description"


def test_list_shows_the_users_own_configs(tmp_path, capsys):
    (tmp_path / "selector").mkdir()
    (tmp_path / "selector" / "mine.yaml").write_text("description: my own way of looking\n")
    code, out, _ = run(["list", "selector", "--config-dir", str(tmp_path)], capsys)
    assert code == 0
    assert "my own way of looking" in out
    assert "semclip" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lst"], ["'lst' is no verb", "Did you mean 'list'?"]),
        (["list", "selectors"], ["'selectors' is no group", "Did you mean 'selector'?"]),
        (["selector=semclp"], ["selector=semclp", "Did you mean 'semclip'?", "full_crop"]),
        (["benchmark=vsta"], ["benchmark=vsta", "Did you mean 'vstar'?"]),
        (["slector=semclip"], ["slector", "Did you mean 'selector'?"]),
        (["--config-name", "foo"], ["--config-name=foo", "no such config", "leave it out"]),
        (["run.limt=3"], ["run.limt", "Did you mean 'limit'?"]),
        (["run.limit=0"], ["run.limit=0", "at least 1"]),
        (["run.limit=some"], ["run.limit=some", "whole number"]),
        (["run.mode=fast"], ["run.mode=fast", "accuracy or latency"]),
        (["run.dtype=int8"], ["run.dtype=int8", "bfloat16"]),
        (["run.device=tpu"], ["run.device=tpu", "cuda:N"]),
        (["run.device=cuda:99"], ["run.device=cuda:99", "CUDA devices"]),
        (["run.max_error_rate=7"], ["run.max_error_rate=7", "between 0 and 1"]),
        (["run.limit=[1"], ["run.limit=[1", "override"]),
        (["selector.top_k=0"], ["selector.top_k=0", "at least 1"]),
        (["benchmark.path=/no/such/folder"], ["/no/such/folder"]),
        (["benchmark.protocol=guess"], ["benchmark.protocol=guess", "likelihood"]),
        (["model.path=/no/such/folder"], ["model.path=/no/such/folder"]),
        (["selector=[no_crop,semclip]"], ["selector=[no_crop,semclip]", "-m selector=no_crop,semclip"]),
        (["selector=no_crop,semclip"], ["selector=no_crop,semclip", "-m"]),
        (["benchmark=null"], ["benchmark=null", "a run needs a benchmark"]),
        (["~psi"], ["psi"]),
        (["+benchmrk.path=x"], ["benchmrk", "Did you mean 'benchmark'?"]),
        (["run.output_dir=/proc/x"], ["/proc/x", "cannot be written"]),
        (["run.output_dir=null"], ["run.output_dir"]),
        (["benchmark.path=mini://foo"], ["mini://foo", "vstar"]),
        (["benchmark.path=2024"], ["benchmark.path=2024"]),
        (["model.path=2024"], ["model.path=2024"]),
        (["selector.top_k=99"], ["selector.top_k=99", "16 candidates"]),
        (["-m", "run.output_dir=/proc/x"], ["/proc/x"]),
        (["-m", "--cfg", "job"], ["--cfg"]),
        (["show", "/no/such/run"], ["/no/such/run", "no run here"]),
        (["regress", "/no/such/run", "/no/such/baseline"], ["/no/such/run"]),
        (["compare", "/no/such/run", "/no/such/other"], ["/no/such/run"]),
    ],
)
def test_a_wrong_command_is_one_or_two_lines_and_exit_code_2(arguments, said, capsys, tmp_path):
    overrides = [] if arguments[0].isalpha() else ["profile=mini"]
    if overrides and "run.output_dir" not in " ".join(arguments):
        overrides.append(f"run.output_dir={tmp_path}")
    code, _, err = run([*arguments, *overrides], capsys)
    assert code == 2
    complaint = err[err.index("semclip-eval: ") :]
    for words in said:
        assert words in complaint
    assert "Traceback" not in err
    assert len(complaint.strip().splitlines()) <= 2


def test_a_sweep_goes_on_after_a_failed_job(capsys, tmp_path):
    overrides = ["profile=mini", "selector=full_crop", "run.limit=2", f"run.output_dir={tmp_path}"]
    code, out, err = run(["-m", "crops.rows=0,1,2", *overrides], capsys)
    assert code == 1, "a part of the sweep was done: it ran and failed"
    assert "1 of 3 jobs failed" in err
    assert "crops.rows=0" in err
    assert "All runs of this sweep" in out
    assert len(read_rows(tmp_path / "runs.csv")) == 2


@pytest.mark.parametrize(("found", "said"), [("mini", "no CUDA device"), ("full", "there is a CUDA device")])
def test_without_a_profile_the_first_line_says_what_was_found(found, said, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("semclip_eval.launch.detected_profile", lambda: found)
    arguments = ["selector=no_crop", "run.limit=2", f"run.output_dir={tmp_path}", "benchmark.path=/no/such/folder"]
    for profile in ([], ["profile=auto"]):
        code, _, err = run([*arguments, *profile], capsys)
        assert code == 2
        assert err.startswith(f"profile={found} ")
        assert said in err.splitlines()[0]


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEMCLIP_EVAL_CACHE", str(tmp_path / "file"))
    code, _, err = run(["profile=mini", "selector=no_crop", f"run.output_dir={tmp_path / 'out'}"], capsys)
    assert code == 2
    assert "SEMCLIP_EVAL_CACHE" in err


def test_the_first_line_says_which_profile_and_how_to_have_the_other(capsys, tmp_path):
    code, _, err = run(["selector=no_crop", "run.limit=2", "profile=mini", f"run.output_dir={tmp_path}"], capsys)
    assert code == 0
    assert err.startswith("profile=mini")
    assert "profile=full" in err.splitlines()[0]


def test_the_hub_out_of_reach_is_said_with_the_remedy(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    code = subprocess.run(
        [sys.executable, "-m", "semclip_eval", "profile=full", "run.device=cpu", f"run.output_dir={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert code.returncode == 2
    assert "benchmark.path=" in code.stderr
    assert "Traceback" not in code.stderr


def test_a_key_that_the_default_lacks_may_stand_beside_a_sweep_of_its_group(tmp_path, capsys):
    command = ["-m", "profile=mini", "selector=zoom,rap", "selector.max_forwards=4", "run.limit=2"]
    code, _, err = run([*command, f"run.output_dir={tmp_path}"], capsys)
    assert code == 0, err
    configs = [yaml.safe_load(path.read_text()) for path in tmp_path.rglob("config.yaml") if "sweeps" not in path.parts]
    assert sorted((config["selector"]["name"], config["selector"]["max_forwards"]) for config in configs) == [
        ("rap", 4),
        ("zoom", 4),
    ]


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (["-m", "selector=a,b", "selector.k=1"], ["-m", "selector=a,b", "selector.k=choice(1)"]),
        (["-m", "selector=a,b", "selector.k=1,2"], ["-m", "selector=a,b", "selector.k=1,2"]),
        (["-m", "selector=a,b", "selector.k=[1,2]"], ["-m", "selector=a,b", "selector.k=choice([1,2])"]),
        (["-m", "selector=a,b", "selector.k=null"], ["-m", "selector=a,b", "selector.k=choice(null)"]),
        (["-m", "selector=a,b", "psi.k=1"], ["-m", "selector=a,b", "psi.k=1"]),
        (["-m", "selector=a", "selector.k=1"], ["-m", "selector=a", "selector.k=1"]),
        (["selector=a", "selector.k=1"], ["selector=a", "selector.k=1"]),
    ],
)
def test_keys_of_swept_groups(typed, given):
    assert keys_of_swept_groups(typed) == given
