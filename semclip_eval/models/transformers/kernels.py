"""Which devices and attention kernels a model can run on here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from semclip_eval.errors import ConfigError
from semclip_eval.lazy import library

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")

ATTENTIONS = ("sdpa", "eager", "flash_attention_2")


def require_device(device: str) -> None:
    """ConfigError for a device that torch does not know or has not here."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"run.device={device}: must be cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"run.device={device}: no CUDA device is available here; use run.device=cpu")


def require_attention(attn: str, dtype: str, device: str) -> None:
    """ConfigError, with the remedy, where the kernel cannot run here."""
    if attn != "flash_attention_2":
        return
    if not device.startswith("cuda"):
        raise ConfigError(
            f"model.attn=flash_attention_2: needs a CUDA device, not run.device={device}; use model.attn=sdpa"
        )
    if dtype == "float32":
        raise ConfigError("model.attn=flash_attention_2: needs run.dtype=bfloat16 or float16, not float32")
    from transformers.utils import is_flash_attn_2_available

    if not is_flash_attn_2_available():
        raise ConfigError(
            "model.attn=flash_attention_2: the package flash-attn is not installed or cannot be used on this GPU; "
            "pip install flash-attn --no-build-isolation, or use model.attn=sdpa"
        )
