"""Patch-text similarity of a CLIP image tower: one pass tells where in a picture a text is met.

A CLIP is trained on its pooled embedding alone, so a patch's own token lies in the text's space only by the right
recipe. Where the tower pools by averaging (the miniature), every token is trained through the mean, and `tokens` fits.
Where it pools by a class token (OpenAI's CLIP), the raw tokens correlate negatively with the text: CDPruner
(Theia-4869/CDPruner, `encode_images`) and TRIM (FreedomIntelligence/TRIM, `clip_encoder.py`) negate them, and
ClearCLIP (mc-lan/ClearCLIP, `transformer.py`) changes the last block instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from semclip_eval.errors import ConfigError, ModelError
from semclip_eval.lazy import library

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")

# `auto` takes the first of its pooling.
RECIPES_OF_POOLING = {"avg": ("tokens", "value", "clear", "sclip"), "tok": ("clear", "value", "sclip", "tokens")}
RECIPES = ("auto", "tokens", "value", "clear", "sclip")


def check_tower(visual: Any, recipe: str, place: str) -> str:
    """The recipe that `auto` means for this tower, or the one given; ConfigError where patches have no text space.

    place: what the message begins with, such as `psi.model=ViT-L-14`.
    """
    pooling = str(getattr(visual, "pool_type", None))
    plain = getattr(visual, "attn_pool", True) is None and hasattr(visual, "_embeds") and pooling in RECIPES_OF_POOLING
    if not plain or getattr(visual, "proj", None) is None:
        raise ConfigError(
            f"{place}: its image tower pools by attention or is no plain transformer, so its patches are not in the "
            "text's space. Choose a CLIP ViT (clip_vit_l_14_336, mini_clip), or a selector or score without patches."
        )
    return RECIPES_OF_POOLING[pooling][0] if recipe == "auto" else recipe


def sign_of(visual: Any, recipe: str) -> int:
    """-1 for the raw tokens of a tower with a class token, else 1."""
    return -1 if recipe == "tokens" and visual.pool_type == "tok" else 1


def patch_features(visual: Any, pixels: torch.Tensor, recipe: str) -> torch.Tensor:
    """Unit-norm float32 features (images, patches, dimension) in the text's space; patches row by row.

    pixels: (images, 3, height, width). recipe, for the last block with input x, h = ln_1(x) and heads of width d:
    `tokens` leaves it as it is. `value` (MaskCLIP, chongzhou96/MaskCLIP `vit.py`) puts each token's own value in place
    of the attention's mix, residual and MLP kept. `clear` (ClearCLIP) attends by softmax(q q'/sqrt d), without residual
    and MLP. `sclip` (wangf3014/SCLIP) attends by softmax(q q'/sqrt d) + softmax(k k'/sqrt d), residual and MLP kept.
    """
    hidden = visual._embeds(pixels)
    blocks = visual.transformer.resblocks
    for block in blocks[:-1]:
        hidden = block(hidden)
    last = blocks[-1]
    hidden = last(hidden) if recipe == "tokens" else _last_block(last, hidden, recipe)
    # With the norm behind the pooling a token has to pass it alone, as the mean of one token.
    tokens = visual.ln_post(hidden)[:, 1:] @ visual.proj
    return torch.nn.functional.normalize(tokens.float(), dim=-1)


def _last_block(block: Any, hidden: torch.Tensor, recipe: str) -> torch.Tensor:
    attention = block.attn
    query, key, value = torch.nn.functional.linear(
        block.ln_1(hidden), attention.in_proj_weight, attention.in_proj_bias
    ).chunk(3, dim=-1)
    if recipe == "value":
        mixed = value
    else:
        heads = attention.num_heads
        mixed = _self_similarity(query, value, heads)
        if recipe == "sclip":
            mixed = mixed + _self_similarity(key, value, heads)
    out = attention.out_proj(mixed)
    if recipe == "clear":
        return out  # type: ignore[no-any-return]
    hidden = hidden + block.ls_1(out)
    return hidden + block.ls_2(block.mlp(block.ln_2(hidden)))  # type: ignore[no-any-return]


def _self_similarity(states: torch.Tensor, value: torch.Tensor, heads: int) -> torch.Tensor:
    """softmax(s s' / sqrt d) v, head by head; (images, tokens, width) in and out."""
    images, tokens, width = states.shape
    s, v = (part.reshape(images, tokens, heads, width // heads).transpose(1, 2) for part in (states, value))
    weights = torch.softmax(s @ s.transpose(-1, -2) * (width // heads) ** -0.5, dim=-1)
    return (weights @ v).transpose(1, 2).reshape(images, tokens, width)


def check_sign(scores: Callable[[Image.Image, str], torch.Tensor], side: int, place: str) -> None:
    """ModelError where a patch map is upside down on a picture whose answer is known.

    The picture, `side` px square, is grey with a red disc in its left half and a blue one in its right half. scores:
    gives the map (rows, columns) of a picture and a text. For "a red circle" the left half must hold more than for "a
    blue circle", and the other way round; what all texts share (a tower's habit of one side) cancels out.
    """
    image = Image.new("RGB", (side, side), (128, 128, 128))
    draw = ImageDraw.Draw(image)
    radius = side // 7
    for x, color in ((side // 4, (215, 35, 40)), (3 * side // 4, (40, 75, 220))):
        draw.ellipse((x - radius, side // 2 - radius, x + radius, side // 2 + radius), fill=color)
    difference = scores(image, "a red circle") - scores(image, "a blue circle")
    half = difference.shape[1] // 2
    left, right = difference[:, :half].mean(), difference[:, -half:].mean()
    if not left > right:
        raise ModelError(
            f"{place}: its patch map does not tell a red from a blue disc (red less blue is {left:+.3f} around the red "
            f"one, {right:+.3f} around the blue one), so its sign or recipe is wrong. Choose another psi.recipe."
        )
