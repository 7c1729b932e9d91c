"""What a command may import: seconds of libraries only where a question is asked."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from semclip_eval import devices
from semclip_eval.errors import ConfigError
from semclip_eval.lazy import library, seldom_called_deferred, without_gradients

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "open_clip", "datasets", "scipy", "matplotlib")
PROGRAM = (
    "import sys\nfrom semclip_eval.cli import main\ncode = main(sys.argv[2:])\n"
    "loaded = sorted(set(sys.argv[1].split(',')) & set(sys.modules))\n"
    "sys.exit(f'imported {loaded}' if loaded else code)"
)


def imported_nothing(arguments: list[str], heavy: tuple[str, ...] = HEAVY) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", PROGRAM, ",".join(heavy), *arguments]
    result = subprocess.run(command, capture_output=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr.decode()
    return result


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    from semclip_eval.cli import main

    folder = tmp_path_factory.mktemp("finished")
    assert main(["profile=mini", "selector=semclip", "run.limit=4", f"run.output_dir={folder}"]) == 0
    return folder


def test_a_finished_run_is_found_without_torch(finished: Path) -> None:
    result = imported_nothing(["profile=mini", "selector=semclip", "run.limit=4", f"run.output_dir={finished}"])
    assert b"finished already" in result.stderr + result.stdout


def test_the_profile_is_detected_without_torch(finished: Path) -> None:
    """`profile=auto` asks the driver; on a machine with one it may have to ask torch."""
    if devices.driver_devices() is None:
        imported_nothing(["selector=semclip", "run.limit=4", f"run.output_dir={finished}"])


def test_results_are_shown_and_chosen_from_without_torch(finished: Path) -> None:
    (summary,) = finished.glob("*/*/*/*/*/summary.csv")
    imported_nothing(["show", str(summary.parent)])
    imported_nothing(["choose", str(finished)])
    imported_nothing(["show", str(summary.parent), "--json"])
    imported_nothing(["export", str(summary.parent), "--format", "inspect", "--output", str(finished / "log.json")])
    imported_nothing(["regress", str(summary.parent), str(finished / "baseline.csv"), "--write"])
    imported_nothing(["new", "model", "mine", "--folder", str(finished / "mine")])


@pytest.mark.parametrize("group", ["model", "psi", "selector", "benchmark", "crops"])
def test_naming_a_component_imports_no_heavy_library(group: str) -> None:
    """The class of every config, in one process."""
    targets = [yaml.safe_load(path.read_text()).get("_target_") for path in (ROOT / "configs" / group).glob("*.yaml")]
    modules = sorted({target.rpartition(".")[0] for target in targets if target})
    assert modules
    program = (
        f"import importlib, sys\n[importlib.import_module(name) for name in {modules!r}]\n"
        f"sys.exit(str(sorted(set({HEAVY!r}) & set(sys.modules))) if set({HEAVY!r}) & set(sys.modules) else 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr.decode()


@pytest.mark.parametrize(
    ("built", "driver", "torch_says", "count"),
    [
        ((13, 0), None, 4, 0),  # no driver, no device: torch is not asked
        ((13, 0), (13, 2), 4, 2),  # the driver is new enough
        ((12, 6), (13, 2), 4, 2),
        ((13, 0), (12, 1), 0, 0),  # too old for torch, which is asked
        ((13, 0), (13, 0), 4, 0),  # devices hidden by CUDA_VISIBLE_DEVICES
        (None, None, 1, 1),  # ROCm, or a version that cannot be read
    ],
)
def test_devices_are_counted_as_torch_would(monkeypatch, built, driver, torch_says, count) -> None:
    monkeypatch.setattr(devices, "torch_cuda_version", lambda: built)
    monkeypatch.setattr(devices, "driver_devices", lambda: driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_says > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: torch_says)
    assert devices.cuda_device_count() == count
    assert devices.detected_profile() == ("full" if count else "mini")
    assert devices.settled_device("auto") == ("cuda" if count else "cpu")
    with pytest.raises(ConfigError, match=r"run\.device=cuda:7"):
        devices.settled_device("cuda:7")


def test_the_devices_of_this_machine_are_torchs() -> None:
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert devices.cuda_device_count() == available
    version = torch.version.cuda
    assert devices.torch_cuda_version() == (tuple(map(int, version.split(".")[:2])) if version else None)


def test_a_library_is_the_module_itself(monkeypatch) -> None:
    import colorsys

    lazy = library("colorsys")
    monkeypatch.delitem(sys.modules, "colorsys")
    assert "colorsys" not in sys.modules
    assert lazy.rgb_to_hsv(1, 0, 0) == colorsys.rgb_to_hsv(1, 0, 0)
    with pytest.raises(AttributeError):
        _ = lazy.no_such_thing


ASKED = """
import sys
from semclip_eval.cli import main
code = main(sys.argv[1:])
if code or {"timm", "scipy.optimize"} & set(sys.modules):
    sys.exit(f"code {code}, imported {sorted({'timm', 'scipy.optimize'} & set(sys.modules))}")
import numpy as np
import open_clip.timm_model as tower
from transformers.loss import loss_for_object_detection as loss
costs = np.array([[4.0, 1.0], [2.0, 9.0]])
assert [list(each) for each in loss.linear_sum_assignment(costs)] == [[0, 1], [1, 0]]
assert tower.to_2tuple(3) == (3, 3)
import scipy.optimize, timm.layers
assert tower.timm.create_model is timm.create_model
assert isinstance(tower.Mlp(4), timm.layers.Mlp)
"""


def test_a_question_is_asked_without_what_is_seldom_called(tmp_path: Path) -> None:
    """And what was deferred is the real thing when it is called."""
    words = ["profile=mini", "selector=semclip", "run.limit=1", f"run.output_dir={tmp_path}"]
    result = subprocess.run([sys.executable, "-c", ASKED, *words], capture_output=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr.decode()


def test_whatever_else_is_asked_of_a_deferred_module_imports_it(monkeypatch) -> None:
    monkeypatch.setattr("semclip_eval.lazy.SELDOM_CALLED", {"colorsys": ("rgb_to_hsv",), "no_such_library": ("f",)})
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with seldom_called_deferred():
        from colorsys import rgb_to_hsv

        with pytest.raises(ImportError):
            importlib.import_module("no_such_library")
        first = sys.modules["colorsys"]
        assert first.ONE_THIRD == 1 / 3
        assert sys.modules["colorsys"] is not first
    import colorsys

    assert rgb_to_hsv(0.1, 0.2, 0.3) == colorsys.rgb_to_hsv(0.1, 0.2, 0.3)
    monkeypatch.delitem(sys.modules, "colorsys")
    with seldom_called_deferred():
        assert "colorsys" in sys.modules
    assert "colorsys" not in sys.modules


def test_without_gradients_is_inference_mode() -> None:
    @without_gradients
    def doubled(tensor: torch.Tensor, *, times: int) -> torch.Tensor:
        """A name and a docstring."""
        return tensor * times

    result = doubled(torch.ones(2, requires_grad=True), times=2)
    assert result.is_inference()
    assert not result.requires_grad
    assert (doubled.__name__, doubled.__doc__) == ("doubled", "A name and a docstring.")
