"""Analytic FLOPs of a question by stage, from the model's config and the numbers of tokens.

A multiplication and an addition are two FLOPs. Matrix products and convolutions count, and attention over all pairs of
tokens also where a causal mask hides half of them, as kernels without a sparse mask compute it; norms, activations,
softmax and position tables do not count (they are below 1 % at the published widths). So does
`torch.utils.flop_counter`, against which tests hold these formulas. The terms of a transformer layer are those of
Kaplan et al., arXiv 2001.08361, table 1, with attention over the context.

Counted is a question asked on its own: nothing is taken from a cache, whatever the run did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PARTS = ("psi", "select_vlm", "vision", "prefill", "decode")


def linear(rows: int, width_in: int, width_out: int) -> int:
    """`rows` vectors of `width_in` through a matrix to `width_out`."""
    return 2 * rows * width_in * width_out


def attention(queries: int, keys: int, width: int) -> int:
    """Scores and weighted sums of all heads together; width: heads times the size of one."""
    return 2 * linear(queries, keys, width)


def encoder(tokens: int, width: int, hidden: int, layers: int, attended: int | None = None) -> int:
    """Layers of a CLIP-like transformer: four projections, attention, two matrices of the MLP with `hidden` units.

    attended: the sum over the tokens of how many each attends to; None for all to all.
    """
    pairs = tokens * tokens if attended is None else attended
    return layers * (4 * linear(tokens, width, width) + attention(1, pairs, width) + 2 * linear(tokens, width, hidden))


def tile_encoder(config: Any, tiles: int, projected: int) -> int:
    """Vision tower and projector of a model whose tower takes square tiles (LLaVA-1.5, -NeXT, OneVision, InternVL).

    config: the whole model's, of transformers. projected: tokens of a tile that pass the projector, two linear layers.
    All layers of the tower count, since transformers computes those behind the chosen one too.
    """
    vision, width_out = config.vision_config, config.text_config.hidden_size
    height, width = _pair(vision.image_size)
    patch_height, patch_width = _pair(vision.patch_size)
    patches = (height // patch_height) * (width // patch_width)
    channels = vision.num_channels * patch_height * patch_width
    is_siglip = vision.model_type.startswith("siglip")
    tokens = patches + (0 if is_siglip else 1)
    count = linear(patches, channels, vision.hidden_size)
    count += encoder(tokens, vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers)
    if is_siglip and getattr(vision, "vision_use_head", True):
        count += _pooling_head(tokens, vision.hidden_size, vision.intermediate_size)
    if config.model_type == "internvl":
        width_in = int(vision.hidden_size / config.downsample_ratio**2)
    else:
        chosen = config.vision_feature_layer
        width_in = vision.hidden_size * (1 if isinstance(chosen, int) else len(chosen))
    count += linear(projected, width_in, width_out) + linear(projected, width_out, width_out)
    return tiles * count


def window_encoder(vision: Any, grids: Sequence[Sequence[int]]) -> int:
    """Qwen2.5-VL's tower and merger; grids: (time, rows, columns) of each view in patches.

    All layers but `fullatt_block_indexes` attend within windows of `window_size` pixels (arXiv 2502.13923, section
    2.1.1; `get_window_index` of transformers); the MLP has three matrices.
    """
    width, hidden, merge = vision.hidden_size, vision.intermediate_size, vision.spatial_merge_size
    side = vision.window_size // merge // vision.patch_size
    count = 0
    for times, rows, columns in grids:
        patches = times * rows * columns
        whole = times * (rows * columns) ** 2
        windows = sum(
            (high * wide * merge**2) ** 2
            for high in _pieces(rows // merge, side)
            for wide in _pieces(columns // merge, side)
        )
        channels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        count += linear(patches, channels, width)
        count += vision.depth * (4 * linear(patches, width, width) + 3 * linear(patches, width, hidden))
        full = len(vision.fullatt_block_indexes)
        count += attention(1, full * whole + (vision.depth - full) * times * windows, width)
        merged, merged_width = patches // merge**2, width * merge**2
        count += linear(merged, merged_width, merged_width) + linear(merged, merged_width, vision.out_hidden_size)
    return count


def language_layers(text: Any, tokens: int, pairs: int) -> int:
    """All layers of a LLaMA-like language model (LLaMA, Qwen2, Qwen3) without its head.

    tokens: new ones. pairs: the sum over them of how many tokens each attends to.
    """
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    queries, values = text.num_attention_heads * size, text.num_key_value_heads * size
    layer = 2 * linear(tokens, text.hidden_size, queries) + 2 * linear(tokens, text.hidden_size, values)
    layer += 3 * linear(tokens, text.hidden_size, text.intermediate_size) + attention(1, pairs, queries)
    return int(text.num_hidden_layers * layer)


def prefill(text: Any, prompt: int) -> int:
    """The prompt's tokens through all layers, and the last one through the head."""
    return language_layers(text, prompt, prompt * prompt) + linear(1, text.hidden_size, text.vocab_size)


def decode_tokens(text: Any, prompt: int, new_tokens: int) -> int:
    """Greedy tokens one by one; the first comes from the prefill, the others each from a forward of one token."""
    steps = max(0, new_tokens - 1)
    pairs = steps * prompt + steps * (steps + 1) // 2
    return language_layers(text, steps, pairs) + linear(steps, text.hidden_size, text.vocab_size)


def decode_options(text: Any, prompt: int, lengths: Sequence[int], shares_prompt: bool) -> int:
    """The losses of options of so many tokens over one prefill, in one forward.

    An option's first token is scored by the prefill, its last is not fed. shares_prompt: the options follow one cache
    one after another, and a mask hides them from each other; else each goes on from a copy, padded to the longest.
    """
    if shares_prompt:
        rows = read = sum(lengths) - len(lengths)
    else:
        read = max(lengths) - 1
        rows = len(lengths) * read
    return language_layers(text, rows, rows * (prompt + read)) + linear(rows, text.hidden_size, text.vocab_size)


def open_clip_image(visual: Any) -> int | None:
    """One image through open_clip's own vision transformer; None for another tower."""
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if not blocks or not hasattr(visual, "conv1") or getattr(visual, "attn_pool", None) is not None:
        return None
    width, channels, *patch = visual.conv1.weight.shape
    patches = visual.grid_size[0] * visual.grid_size[1]
    count = linear(patches, channels * patch[0] * patch[1], width)
    count += encoder(patches + 1, width, blocks[0].mlp.c_fc.out_features, len(blocks))
    return int(count + (0 if visual.proj is None else linear(1, *visual.proj.shape)))


def open_clip_text(model: Any) -> int | None:
    """One text, padded to the whole context, through open_clip's own text transformer; None for another one."""
    text = getattr(model, "text", model)
    blocks = getattr(getattr(text, "transformer", None), "resblocks", None)
    positions = getattr(text, "positional_embedding", None)
    if not blocks or positions is None:
        return None
    context, width = positions.shape
    count = encoder(context, width, blocks[0].mlp.c_fc.out_features, len(blocks))
    projection = text.text_projection
    if projection is not None:
        shape = projection.weight.shape if hasattr(projection, "weight") else projection.shape
        count += linear(1, *shape)
    return int(count)


def gflops(counts: Mapping[str, int | None], part: str) -> float | None:
    """A part of a record's `flops` in 10^9 FLOPs; None where it is not known."""
    count = counts.get(part)
    return None if count is None else count / 1e9


def _pooling_head(tokens: int, width: int, hidden: int) -> int:
    """SigLIP's attention pooling: one learned query over all tokens, and an MLP."""
    projections = 2 * linear(1, width, width) + 2 * linear(tokens, width, width)
    return projections + attention(1, tokens, width) + 2 * linear(1, width, hidden)


def _pieces(length: int, side: int) -> list[int]:
    return [min(side, length - start) for start in range(0, length, side)]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
