"""`semclip-eval doctor`: what this machine has, and what each profile can do on it. Looks, and changes nothing."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

import semclip_eval
from semclip_eval.console import out
from semclip_eval.environment import PACKAGES, device_name, driver_version, package_version, processor_name
from semclip_eval.files import shown
from semclip_eval.json_output import print_json

HUB_PATIENCE_S = 3.0
GIB = 2**30
MINI_RUNS = "runs here, without network or GPU: make demo, or semclip-eval benchmark=vstar selector=semclip"


def run_doctor(arguments: list[str]) -> int:
    """The verb; always 0: a machine that cannot run something is a finding, not a failure."""
    parser = argparse.ArgumentParser(prog="semclip-eval doctor", description="What this machine can run.")
    parser.add_argument("--offline", action="store_true", help="do not try to reach the Hub")
    parser.add_argument("--json", action="store_true", help="print JSON (docs/json.md)")
    parser.add_argument(
        "--ceilings", action="store_true", help="measure matrix products and copies on the device, in a few seconds"
    )
    parser.add_argument("--device", default="auto", help="for --ceilings: auto, cpu, cuda or cuda:N, as run.device")
    parser.add_argument("--dtype", default="auto", help="for --ceilings: as run.dtype")
    chosen = parser.parse_args(arguments)
    if chosen.ceilings:
        return print_ceilings(chosen.device, chosen.dtype, chosen.json)
    machine = findings(chosen.offline)
    if chosen.json:
        print_json(machine)
    else:
        _print(machine)
    return 0


def findings(offline: bool = False) -> dict[str, Any]:
    """What is here, as plain values (docs/json.md names the keys). Sizes in GiB; None for what is not known."""
    import psutil
    import torch

    cuda = torch.cuda.is_available()
    hub = _hub(offline)
    free_memory = psutil.virtual_memory().available / GIB
    mini_problem = _mini_problem()
    return {
        "version": semclip_eval.__version__,
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "free_memory_gib": free_memory,
        "devices": _devices() if cuda else [],
        "driver": driver_version() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "folder": shown(Path.cwd()),
        "free_disk_gib": shutil.disk_usage(Path.cwd()).free / GIB,
        "hub_cache": _hub_cache(),
        "hub": hub,
        "profiles": {
            "mini": {"can_run": not mini_problem, "notes": mini_problem or MINI_RUNS},
            "full": {"has_cuda": cuda, "notes": _full_line(cuda, free_memory, bool(hub["reachable"]))},
        },
    }


def _print(machine: Mapping[str, Any]) -> None:
    packages = ", ".join(f"{name} {version or 'missing'}" for name, version in machine["packages"].items())
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("semclip-eval", f"{machine['version']}, Python {machine['python']}")
    table.add_row("packages", packages)
    table.add_row(
        "processor",
        f"{machine['processor']}, {machine['cores']} cores, {machine['free_memory_gib']:.1f} GiB memory free",
    )
    table.add_row("device", _device_line(machine))
    table.add_row("disk", f"{machine['free_disk_gib']:.1f} GiB free in {machine['folder']}")
    table.add_row("Hub cache", _cache_line(machine["hub_cache"]))
    table.add_row("Hub", _hub_line(machine["hub"]))
    out.print(table, highlight=False)
    out.print()
    profiles = Table(box=None, show_header=False, pad_edge=False)
    profiles.add_column(style="bold")
    profiles.add_column()
    for name, profile in machine["profiles"].items():
        profiles.add_row(f"profile={name}", profile["notes"])
    out.print(profiles, highlight=False)


def print_ceilings(device: str, dtype: str, as_json: bool = False) -> int:
    """Measure the ceilings of a device for a number format, keep them for later latency runs, and print them."""
    from semclip_eval.config import run_config
    from semclip_eval.measure import ceilings

    run = run_config({"device": device, "dtype": dtype})
    measured = ceilings.measure(run.device, run.dtype)
    path = ceilings.keep(measured)
    if as_json:
        print_json(asdict(measured))
        return 0
    threads = "" if measured.threads is None else f", {measured.threads} threads of torch"
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("device", f"{measured.device} ({run.device}, {measured.dtype}{threads})")
    table.add_row("matrix product", f"{measured.gflops_per_s:,.0f} GFLOP/s")
    table.add_row("copy", f"{measured.copy_gb_per_s:,.1f} GB/s read and written")
    table.add_row("kept in", f"{path}: latency runs on this device say which share of the first they achieve")
    out.print(table, highlight=False)
    return 0


def _hub(offline: bool) -> dict[str, Any]:
    """Was the Hub tried, and did it answer within a few seconds? `reason` says why not."""
    if offline:
        return {"tried": False, "reachable": None, "reason": None}
    from semclip_eval.hub import unreachable_because

    reason = unreachable_because(HUB_PATIENCE_S)
    return {"tried": True, "reachable": reason is None, "reason": reason}


def _hub_line(hub: Mapping[str, Any]) -> str:
    if not hub["tried"]:
        return "not tried (--offline)"
    return "reachable" if hub["reachable"] else f"not reachable ({hub['reason']})"


def _devices() -> list[dict[str, Any]]:
    import torch

    devices = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = f"cuda:{index}"
        devices.append({"device": name, "name": device_name(name), "free_gib": free / GIB, "total_gib": total / GIB})
    return devices


def _device_line(machine: Mapping[str, Any]) -> str:
    if not machine["devices"]:
        return "cpu (torch sees no CUDA device)"
    lines = [
        f"{each['device']} {each['name']}, {each['free_gib']:.1f} of {each['total_gib']:.1f} GiB free"
        for each in machine["devices"]
    ]
    return f"{'; '.join(lines)} (driver {machine['driver'] or 'unknown'}, CUDA {machine['cuda']})"


def _hub_cache() -> dict[str, Any]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        repositories = frozenset()
    cached = [
        {"id": repo.repo_id, "type": str(repo.repo_type), "size_gib": repo.size_on_disk / GIB} for repo in repositories
    ]
    return {
        "folder": str(constants.HF_HUB_CACHE),
        "repositories": sorted(cached, key=lambda repo: (repo["id"], repo["type"])),
    }


def _cache_line(cache: Mapping[str, Any]) -> str:
    names = [f"{repo['id']} ({repo['type']}, {repo['size_gib']:.1f} GiB)" for repo in cache["repositories"]]
    return "; ".join(names) if names else f"empty ({cache['folder']})"


def _mini_problem() -> str:
    """Why the miniature cannot run here; empty where it can."""
    from semclip_eval.mini import weights_folder

    missing = []
    kinds: tuple[Literal["vlm", "clip"], ...] = ("vlm", "clip")
    for kind in kinds:
        try:
            found = any(weights_folder(kind).glob("*.safetensors"))
        except FileNotFoundError:
            found = False
        if not found:
            missing.append(kind)
    if not missing:
        return ""
    return f"cannot run: the weights of {' and '.join(missing)} are missing from the installation; install it again"


def _full_line(cuda: bool, free_memory_gib: float, hub_reachable: bool) -> str:
    parts = []
    if cuda:
        parts.append("a CUDA device is there")
    else:
        parts.append(
            f"no CUDA device: the weights of LLaVA-1.5-7B need 26.3 GiB in float32 or 13.2 GiB in bfloat16 on the CPU "
            f"({free_memory_gib:.0f} GiB are free), and it is slow"
        )
    if hub_reachable:
        parts.append("weights and data come from the Hub at first use")
    else:
        parts.append("without the Hub give local copies: model.path=FOLDER psi.pretrained=FILE benchmark.path=FOLDER")
    return "; ".join(parts)
