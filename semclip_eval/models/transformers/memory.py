"""Pre-flight check: raise ModelError if the weights do not fit in memory."""

from __future__ import annotations

from typing import Any

from semclip_eval.errors import ModelError

BYTES_PER_PARAMETER = {"float32": 4, "bfloat16": 2, "float16": 2}
GIB = 2**30
# Activations, cache and buffers besides the weights. A rough floor: a large batch needs more.
WORKING_SHARE = 1.10


# How torch's CPU allocator says it (c10/core/impl/alloc_cpu.cpp), in a plain RuntimeError.
_CPU_ALLOCATOR = "DefaultCPUAllocator"


def out_of_memory(error: BaseException | None) -> bool:
    """Did the process or the device run out of memory?"""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)


def count_parameters(config: Any) -> int:
    """Parameters of the model that a transformers config describes; tied weights count once. Allocates nothing."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def memory_needed(config: Any, dtype: str) -> int:
    """Bytes of the weights of a transformers config in `dtype` ('float32', 'bfloat16' or 'float16')."""
    return count_parameters(config) * BYTES_PER_PARAMETER[dtype]


def memory_available(device: str, device_map: str | None = None) -> int:
    """Bytes that can still be allocated on `device` ('cpu', 'cuda' or 'cuda:N'); on all GPUs with a `device_map`."""
    if device.startswith("cuda"):
        import torch

        places = range(torch.cuda.device_count()) if device_map else [torch.device(device)]
        return sum(int(torch.cuda.mem_get_info(place)[0]) for place in places)
    import psutil

    return int(psutil.virtual_memory().available)


def require_memory(name: str, config: Any, dtype: str, device: str, device_map: str | None = None) -> None:
    """Raise ModelError with the sizes and a remedy where the model's weights and a tenth more do not fit."""
    needed, available = memory_needed(config, dtype), memory_available(device, device_map)
    if needed * WORKING_SHARE <= available:
        return
    raise ModelError(
        f"{name} in {dtype} needs {needed / GIB:.1f} GiB and about a tenth more to work with, "
        f"{available / GIB:.1f} GiB are free on {device}; try {memory_remedies(dtype, device, device_map, needed)}"
    )


def memory_remedies(dtype: str, device: str, device_map: str | None = None, needed: int | None = None) -> str:
    """What helps a model that does not fit, in words; `needed` are its bytes in `dtype`, where they are known."""
    remedies = []
    if BYTES_PER_PARAMETER[dtype] > 2:
        half = "" if needed is None else f" ({needed * 2 / BYTES_PER_PARAMETER[dtype] / GIB:.1f} GiB)"
        remedies.append(f"run.dtype=bfloat16{half}")
    if device.startswith("cuda") and not device_map and _several_gpus():
        remedies.append("model.device_map=auto, which spreads it over all GPUs")
    remedies.append("a GPU with more memory" if device.startswith("cuda") else "a GPU")
    remedies.append("a smaller model")
    return " or ".join(remedies)


def _several_gpus() -> bool:
    import torch

    return torch.cuda.device_count() > 1
