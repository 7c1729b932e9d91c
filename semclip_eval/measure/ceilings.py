"""What a device can do at most, measured: the rate of a large matrix product and of a large copy.

A roofline's two ceilings (Williams et al., Communications of the ACM 52 (2009) 65-76) as this machine reaches them with
this torch, not as a data sheet has them. They are kept in the cache folder, by device and number format, so that a
latency run can say which share of them it achieved.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from semclip_eval.environment import device_name, processor_name
from semclip_eval.errors import DataError
from semclip_eval.files import read_json
from semclip_eval.paths import default_cache_folder

FILE = "ceilings.json"
# Seconds that each of the two is repeated for; the best counts.
SPAN_S = 2.0
# Side of the square matrices, and MiB that are copied: beyond every cache.
SIDES = {"cuda": 8192, "cpu": 2048}
COPIED_MIB = {"cuda": 1024, "cpu": 256}


@dataclass(frozen=True)
class Ceilings:
    """gflops_per_s: 2 n^3 FLOPs of a product of n x n matrices, in 10^9 a second. copy_gb_per_s: bytes read and written
    by a copy within the device's memory, in 10^9 a second. threads: of torch, on the CPU.
    """

    device: str
    dtype: str
    gflops_per_s: float
    copy_gb_per_s: float
    torch: str
    threads: int | None = None


def measure(
    device: str, dtype: str, side: int | None = None, copied_mib: int | None = None, span_s: float = SPAN_S
) -> Ceilings:
    """Measure both on `cpu`, `cuda` or `cuda:N`, in about 2 x `span_s` seconds."""
    import torch

    kind = torch.device(device).type
    side, size = side or SIDES[kind], (copied_mib or COPIED_MIB[kind]) * 2**20
    number_format = getattr(torch, dtype)
    left, right = (torch.randn(side, side, device=device).to(number_format) for _ in range(2))
    product = torch.empty_like(left)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def wait() -> None:
        if kind == "cuda":
            torch.cuda.synchronize(device)

    with torch.inference_mode():
        product_s = best_time(lambda: torch.mm(left, right, out=product), wait, span_s)
        copy_s = best_time(lambda: target.copy_(source), wait, span_s)
    return Ceilings(
        device=_name(device),
        dtype=dtype,
        gflops_per_s=2 * side**3 / product_s / 1e9,
        copy_gb_per_s=2 * size / copy_s / 1e9,
        torch=torch.__version__,
        threads=torch.get_num_threads() if kind == "cpu" else None,
    )


def best_time(
    call: Callable[[], Any], wait: Callable[[], None], span_s: float, now: Callable[[], float] = time.perf_counter
) -> float:
    """The shortest of the calls that fit into `span_s` seconds, at least one, after one that warms up."""
    call()
    wait()
    begin, best = now(), float("inf")
    while best == float("inf") or now() - begin < span_s:
        start = now()
        call()
        wait()
        best = min(best, now() - start)
    return best


def keep(ceilings: Ceilings) -> Path:
    """Write them to the cache folder, in the place of earlier ones of this device and number format."""
    from semclip_eval.results.records import lock, write_atomically

    path = default_cache_folder() / FILE
    with lock(path.parent, ".ceilings.lock", wait=True):
        others = [each for each in _kept() if (each.device, each.dtype) != (ceilings.device, ceilings.dtype)]
        write_atomically(path, json.dumps([asdict(each) for each in (*others, ceilings)], indent=1) + "\n")
    return path


def known(device: str, dtype: str) -> Ceilings | None:
    """Those measured here for a device and number format by this torch (on the CPU, with as many threads), or None."""
    import torch

    threads = None if device.startswith("cuda") else torch.get_num_threads()
    wanted = (_name(device), dtype, torch.__version__, threads)
    matching = (each for each in _kept() if (each.device, each.dtype, each.torch, each.threads) == wanted)
    return next(matching, None)


def _kept() -> Iterator[Ceilings]:
    """Those on file; a file that cannot be read is as none, since it can be measured again."""
    path = default_cache_folder() / FILE
    try:
        entries = read_json(path) if path.exists() else []
        yield from [Ceilings(**entry) for entry in entries]
    except (DataError, TypeError):
        return


def _name(device: str) -> str:
    return device_name(device) if device.startswith("cuda") else processor_name()
