"""`semclip-eval doctor`: what this machine has, and what each profile can do on it. Looks, and changes nothing."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from pathlib import Path

from rich.table import Table

import semclip_eval
from semclip_eval.console import out
from semclip_eval.environment import PACKAGES, device_name, driver_version, package_version, processor_name

HUB_PATIENCE_S = 3.0
GIB = 2**30


def run_doctor(arguments: list[str]) -> int:
    """The verb; always 0: a machine that cannot run something is a finding, not a failure."""
    parser = argparse.ArgumentParser(prog="semclip-eval doctor", description="What this machine can run.")
    parser.add_argument("--offline", action="store_true", help="do not try to reach the Hub")
    parser.add_argument(
        "--ceilings", action="store_true", help="measure matrix products and copies on the device, in a few seconds"
    )
    parser.add_argument("--device", default="auto", help="for --ceilings: auto, cpu, cuda or cuda:N, as run.device")
    parser.add_argument("--dtype", default="auto", help="for --ceilings: as run.dtype")
    chosen = parser.parse_args(arguments)
    if chosen.ceilings:
        return print_ceilings(chosen.device, chosen.dtype)

    import psutil
    import torch

    cuda = torch.cuda.is_available()
    hub = "not tried (--offline)" if chosen.offline else hub_state()
    free_memory = psutil.virtual_memory().available / GIB
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("semclip-eval", f"{semclip_eval.__version__}, Python {platform.python_version()}")
    table.add_row("packages", ", ".join(f"{name} {package_version(name) or 'missing'}" for name in PACKAGES))
    table.add_row("processor", f"{processor_name()}, {os.cpu_count()} cores, {free_memory:.1f} GiB memory free")
    table.add_row("device", _device_line() if cuda else "cpu (torch sees no CUDA device)")
    table.add_row("disk", f"{shutil.disk_usage(Path.cwd()).free / GIB:.1f} GiB free in {Path.cwd()}")
    table.add_row("Hub cache", _cache_line())
    table.add_row("Hub", hub)
    out.print(table, highlight=False)
    out.print()
    profiles = Table(box=None, show_header=False, pad_edge=False)
    profiles.add_column(style="bold")
    profiles.add_column()
    profiles.add_row("profile=mini", _mini_line())
    profiles.add_row("profile=full", _full_line(cuda, free_memory, hub))
    out.print(profiles, highlight=False)
    return 0


def print_ceilings(device: str, dtype: str) -> int:
    """Measure the ceilings of a device for a number format, keep them for later latency runs, and print them."""
    from semclip_eval.config import run_config
    from semclip_eval.measure import ceilings

    run = run_config({"device": device, "dtype": dtype})
    measured = ceilings.measure(run.device, run.dtype)
    path = ceilings.keep(measured)
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


def hub_state() -> str:
    """`reachable`, or why not, within a few seconds."""
    from semclip_eval.hub import unreachable_because

    reason = unreachable_because(HUB_PATIENCE_S)
    return "reachable" if reason is None else f"not reachable ({reason})"


def _device_line() -> str:
    import torch

    lines = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        lines.append(f"cuda:{index} {device_name(f'cuda:{index}')}, {free / GIB:.1f} of {total / GIB:.1f} GiB free")
    return f"{'; '.join(lines)} (driver {driver_version() or 'unknown'}, CUDA {torch.version.cuda})"


def _cache_line() -> str:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return f"empty ({constants.HF_HUB_CACHE})"
    names = sorted(f"{repo.repo_id} ({repo.repo_type}, {repo.size_on_disk / GIB:.1f} GiB)" for repo in cache.repos)
    return "; ".join(names) if names else f"empty ({constants.HF_HUB_CACHE})"


def _mini_line() -> str:
    from semclip_eval.mini import weights_folder

    missing = [name for name in ("vlm", "clip") if not any(weights_folder(name).glob("*.safetensors"))]
    if missing:
        return f"cannot run: the weights of {' and '.join(missing)} are missing from the installation; install it again"
    return "runs here, without network or GPU: make demo, or semclip-eval benchmark=vstar selector=semclip"


def _full_line(cuda: bool, free_memory_gib: float, hub: str) -> str:
    parts = []
    if cuda:
        parts.append("a CUDA device is there")
    else:
        parts.append(
            f"no CUDA device: the weights of LLaVA-1.5-7B need 26.3 GiB in float32 or 13.2 GiB in bfloat16 on the CPU "
            f"({free_memory_gib:.0f} GiB are free), and it is slow"
        )
    if hub.startswith("reachable"):
        parts.append("weights and data come from the Hub at first use")
    else:
        parts.append("without the Hub give local copies: model.path=FOLDER psi.pretrained=FILE benchmark.path=FOLDER")
    return "; ".join(parts)
