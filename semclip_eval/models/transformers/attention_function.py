"""Another attention function for a model's language model, for the length of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def attention_function(model: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Within it the language model attends by `function`, under masks made as for sdpa; its own comes back at the end.

    name: under which transformers knows it (`AttentionInterface`, `AttentionMaskInterface`).
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, sdpa_mask)
    before = model.config.text_config._attn_implementation
    model.set_attn_implementation({"text_config": name})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})
