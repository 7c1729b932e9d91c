"""From an image file of any kind to the tower's pixels, against NumPy and plain PIL."""

import numpy as np
import pytest
from PIL import Image

from semclip_eval.benchmarks.images import read_rgb
from semclip_eval.models.transformers.llava import Llava15
from semclip_eval.types import Prompt, Request
from tests.llava_small import save_llama_style

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return Llava15(name="small", hub_id=None, path=str(save_llama_style(tmp_path_factory.mktemp("llama"))))


def noise(height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (height, width, channels), dtype=np.uint8)


def save_rgba(file):
    """Half-transparent noise; expected: laid over white."""
    values = noise(37, 50, 4)
    Image.fromarray(values, "RGBA").save(file)
    alpha = values[..., 3:] / 255
    return values[..., :3] * alpha + 255 * (1 - alpha)


def save_palette(file):
    """Indices into 256 colours; expected: those colours."""
    colours, indices = noise(1, 256, 3)[0], noise(21, 64, 1)[..., 0]
    image = Image.fromarray(indices, "P")
    image.putpalette(colours.tobytes())
    image.save(file)
    return colours[indices]


def save_grey_16_bit(file):
    """Grey values up to 65535; expected: divided by 257, the same in three channels."""
    values = np.random.default_rng(3).integers(0, 65536, (30, 44), dtype=np.uint16)
    Image.fromarray(values).save(file)
    return np.repeat(np.rint(values / 257)[..., None], 3, axis=2)


def save_exif_rotated(file):
    """Stored lying on its side, orientation 6 (turn clockwise to see it upright); expected: upright."""
    values = noise(20, 60, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(file, exif=exif)
    return np.rot90(values, k=-1)


def save_grey(file):
    values = noise(25, 10, 1)[..., 0]
    Image.fromarray(values).save(file)
    return np.repeat(values[..., None], 3, axis=2)


def save_row(file):
    values = noise(1, 900, 3)
    Image.fromarray(values).save(file)
    return values


def save_column(file):
    values = noise(901, 1, 3)
    Image.fromarray(values).save(file)
    return values


def save_huge(file):
    values = np.kron(noise(30, 45, 3), np.ones((100, 100, 1), np.uint8))  # 4500 x 3000
    Image.fromarray(values).save(file, compress_level=1)
    return values


def expected_pixels(values: np.ndarray) -> np.ndarray:
    """Mean colour around the middle of a square, PIL's bicubic filter to 336 pixels, CLIP's normalisation."""
    height, width = values.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3))
    square[:] = np.floor(MEAN * 255)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = values
    resized = Image.fromarray(np.rint(square).astype(np.uint8)).resize((336, 336), Image.Resampling.BICUBIC)
    return ((np.asarray(resized).astype(np.float64) / 255 - MEAN) / STD).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("save", "grey_levels"),
    # Blending over white rounds in its own way: a grey level of difference, which the filter may carry on.
    [
        (save_rgba, 1.5), (save_palette, 0), (save_grey_16_bit, 0), (save_exif_rotated, 0), (save_grey, 0),
        (save_row, 0), (save_column, 0), (save_huge, 0),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_pixels_of_any_file_are_those_of_the_llava_repository(vlm, tmp_path, save, grey_levels):
    file = tmp_path / "image.png"
    expected = expected_pixels(save(file))
    prepared = vlm.prepare(Request((read_rgb(file),), Prompt("Is it red?")))
    found = prepared.pixel_values[0].numpy()
    assert np.abs(found - expected).max() <= 2e-6 + grey_levels / 255 / STD.min()
