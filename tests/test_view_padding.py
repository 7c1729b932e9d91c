"""Padding and preprocessing of views, against pixel-by-pixel NumPy and plain PIL."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semclip_eval.errors import QuestionError
from semclip_eval.models.transformers.views import pad_to_square, padding_colour, preprocess

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def clip_processor():
    from types import SimpleNamespace

    from semclip_eval.models.transformers.dummy import build_image_processor

    return build_image_processor(SimpleNamespace(vision_config=SimpleNamespace(image_size=336)))


def random_image(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_clip_padding_colour_is_llavas():
    assert padding_colour(MEAN) == (122, 116, 104)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 40), height=st.integers(1, 40), seed=st.integers(0, 5))
def test_square_holds_the_image_in_its_middle_and_nothing_else(width, height, seed):
    image, colour = random_image(width, height, seed), (122, 116, 104)
    square = np.asarray(pad_to_square(image, colour))
    side = max(width, height)
    expected = np.empty((side, side, 3), np.uint8)
    expected[:] = colour
    top, left = (side - height) // 2, (side - width) // 2
    expected[top : top + height, left : left + width] = np.asarray(image)
    np.testing.assert_array_equal(square, expected)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "I;16", "CMYK"])
def test_padding_insists_on_rgb(mode):
    with pytest.raises(QuestionError, match=rf"mode {mode}.*must be RGB"):
        pad_to_square(Image.new(mode, (4, 2)), (122, 116, 104))


def test_empty_view_is_refused():
    with pytest.raises(QuestionError, match=r"empty \(0x5 pixels\)"):
        pad_to_square(Image.new("RGB", (0, 5)), (122, 116, 104))


@pytest.mark.parametrize("size", [(1, 7), (7, 1), (1, 1), (3, 3), (333, 17), (336, 336), (501, 700), (1, 400)])
def test_preprocessing_equals_pil_resize_and_hand_normalisation(size, clip_processor):
    image = random_image(*size)
    side = max(size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    resized = np.asarray(square.resize((336, 336), Image.Resampling.BICUBIC)).astype(np.float64) / 255
    expected = ((resized - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)
    pixels = preprocess([image], clip_processor)
    assert pixels.shape == (1, 3, 336, 336)
    np.testing.assert_allclose(pixels[0].numpy(), expected, atol=2e-6)


def test_views_stay_in_order(clip_processor):
    images = [random_image(9, 5, seed) for seed in range(3)]
    together = preprocess(images, clip_processor)
    for position, image in enumerate(images):
        np.testing.assert_array_equal(together[position].numpy(), preprocess([image], clip_processor)[0].numpy())
    assert preprocess([], clip_processor).shape[0] == 0
