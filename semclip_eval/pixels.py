"""Pixels to numbers by table: what a preprocessing does to values after its resize, looked up instead of computed.

Rescaling and normalising are a function of a pixel's value and its channel, so 3 x 256 numbers hold them. The
preprocessing itself makes these numbers, and its result on other pictures is what a table is held against before use:
the same bits, or no table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

# What resizes (`resize_with`), and the filters that both have, by Pillow's numbers.
RESIZERS = ("pillow", "torch")
FILTERS = {int(Image.Resampling.BICUBIC): "bicubic", int(Image.Resampling.BILINEAR): "bilinear"}
Preprocess = Callable[[Image.Image], "torch.Tensor"]


def value_table(normalise: Preprocess) -> np.ndarray:
    """Float32 (3, 256): what `normalise` (RGB image -> float32 (3, height, width), no resize) makes of each value."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), (16, 16, 3))
    values: np.ndarray = normalise(Image.fromarray(np.ascontiguousarray(ramp))).reshape(3, 256).float().numpy()
    return np.ascontiguousarray(values)


def looked_up(values: np.ndarray, image: Image.Image | np.ndarray) -> torch.Tensor:
    """Float32 (3, height, width) of an RGB image, or its uint8 (height, width, 3), by its table."""
    import torch

    pixels = np.asarray(image)
    channels = np.empty((3, *pixels.shape[:2]), np.float32)
    for number in range(3):
        np.take(values[number], pixels[..., number], out=channels[number], mode="clip")
    return torch.from_numpy(channels)


def torch_resized(image: Image.Image, side: int, resample: int) -> np.ndarray:
    """An RGB image on a square of `side` pixels, uint8 (side, side, 3), by torch's resize for bytes.

    The same filter as Pillow's, antialiased, several times as fast on a CPU with AVX2; about two values in a thousand
    come out one grey level off. resample: Pillow's number of the filter, one of `FILTERS`.
    """
    import torch

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(
        pixels, size=(side, side), mode=FILTERS[resample], antialias=True, align_corners=False
    )
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())


def same_bits(first: Preprocess, second: Preprocess, sizes: Iterable[tuple[int, int]]) -> bool:
    """Do two preprocessings agree, bit for bit, on noise of these sizes (width, height)?"""
    import torch

    noise = np.random.default_rng(0)
    for width, height in sizes:
        image = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        if not torch.equal(first(image), second(image)):
            return False
    return True
