"""Pre-flight check: raise ModelError if the weights do not fit in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semclip_eval.errors import ModelError

BYTES_PER_PARAMETER = {"float32": 4, "bfloat16": 2, "float16": 2}
GIB = 2**30
# Activations, cache and buffers besides the weights. A rough floor: a large batch needs more.
WORKING_SHARE = 1.10
# Prompt tokens of one forward. On a CPU a longer batch is slower than its parts (docs/performance.md); a GPU is busy
# with this many.
CPU_TOKENS, MOST_TOKENS = 1024, 16384


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


def tokens_at_once(text_config: Any, dtype: str, weights: Mapping[str, int], copies: int) -> int:
    """Prompt tokens that one forward should take: what half the memory beside the weights holds, within bounds.

    weights: bytes of them on each device ('cpu', 'cuda:N'). copies: of a prompt's cache, for the options of a question.
    A token costs its keys and values in every layer, in the cache and its copies, and the widest layer's activations.
    """
    if not all(device.startswith("cuda") for device in weights):
        return CPU_TOKENS
    import torch

    width = BYTES_PER_PARAMETER[dtype]
    heads = getattr(text_config, "num_key_value_heads", None) or text_config.num_attention_heads
    head_size = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    cache = 2 * text_config.num_hidden_layers * heads * head_size * width
    inner = getattr(text_config, "intermediate_size", None) or 4 * text_config.hidden_size
    token = (1 + copies) * cache + (2 * inner + 8 * text_config.hidden_size) * width
    rooms = [torch.cuda.get_device_properties(device).total_memory - used for device, used in weights.items()]
    return int(max(1, min(MOST_TOKENS, min(rooms) // 2 // token)))


def _several_gpus() -> bool:
    import torch

    return torch.cuda.device_count() > 1
