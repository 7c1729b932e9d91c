"""What a run ran on: versions, device, driver and commit, for `environment.json`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import semclip_eval

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "open_clip_torch",
    "openai",
    "datasets",
    "huggingface_hub",
    "hydra-core",
    "numpy",
    "pillow",
)


def describe(device: str) -> dict[str, Any]:
    """Versions, machine and device as plain JSON values; `torch_threads` is None where nothing has loaded torch."""
    # A served model, or one without torch, is not made to wait for the seconds that importing it takes.
    torch: Any = sys.modules.get("torch")
    described: dict[str, Any] = {
        "package_version": semclip_eval.__version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor_name(),
        "cpu_count": os.cpu_count(),
        "torch_threads": None if torch is None else torch.get_num_threads(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "device": device_name(device),
    }
    if device.startswith("cuda"):
        import torch

        described["cuda"] = torch.version.cuda
        described["driver"] = driver_version()
    return described


def device_name(device: str) -> str:
    """The name of the GPU, or `cpu`."""
    if not device.startswith("cuda"):
        return "cpu"
    import torch

    return str(torch.cuda.get_device_name(device))


def processor_name() -> str:
    """The processor's model name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def driver_version() -> str | None:
    """The NVIDIA driver's version, None where nvidia-smi cannot say."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    result = subprocess.run(
        [program, "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return result.stdout.strip().splitlines()[0] if result.returncode == 0 and result.stdout.strip() else None


def git_commit() -> str | None:
    """The commit of the source tree that this package is run from, `+dirty` where tracked files differ; else None."""
    root = Path(semclip_eval.__file__).resolve().parent.parent
    program = shutil.which("git")
    if program is None or not (root / ".git").exists():
        return None
    commit = _git(program, root, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    return commit + ("+dirty" if _git(program, root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(program: str, root: Path, *arguments: str) -> str | None:
    result = subprocess.run([program, "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
