"""Pixels by table: the very bits of the preprocessing that they stand for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from transformers import CLIPImageProcessorPil

from semclip_eval.api import load_psi, load_vlm
from semclip_eval.errors import ConfigError
from semclip_eval.models.transformers import views
from semclip_eval.pixels import same_bits, torch_resized
from semclip_eval.relevance.base import RelevanceRequest
from semclip_eval.relevance.open_clip_weights import by_table
from semclip_eval.types import Box

CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def noise(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def processor(side: int, **changes: object) -> CLIPImageProcessorPil:
    keys = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}} | changes
    return CLIPImageProcessorPil(**keys)


@given(st.sampled_from([14, 84, 336]), st.integers(1, 90), st.integers(1, 90), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_views_are_what_the_processor_makes_of_the_padded_square(side, width, height, seed) -> None:
    image, clip = noise(width, height, seed), processor(side)
    square = views.pad_to_square(image, views.padding_colour(clip.image_mean))
    expected = clip(images=square, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    assert views._square_to_pixels(clip) is not None
    assert torch.equal(views.preprocess([image], clip), expected.to(torch.float32))


@pytest.mark.parametrize(
    "changes",
    [
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_center_crop": False},
        {"resample": 2},
        {"crop_size": {"height": 70, "width": 70}},
        {"do_resize": False, "do_center_crop": False},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [1.0, 2.0, 0.5]},
    ],
)
def test_other_settings_keep_the_processors_bits_too(changes) -> None:
    clip = processor(84, **changes)
    image = noise(100, 100, 3)
    expected = clip(images=image, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    assert torch.equal(views.preprocess([image], clip), expected.to(torch.float32))


def test_a_processor_that_does_something_else_is_left_alone() -> None:
    class Grey(CLIPImageProcessorPil):
        def normalize(self, image, *arguments, **keywords):  # type: ignore[no-untyped-def]
            pixels = super().normalize(image, *arguments, **keywords)
            return pixels - pixels.mean()  # not a function of the value alone

    clip = Grey(size={"shortest_edge": 84}, crop_size={"height": 84, "width": 84})
    image = noise(50, 50, 0)
    expected = clip(images=image, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    assert views._square_to_pixels(clip) is None
    assert torch.equal(views.preprocess([image], clip), expected.to(torch.float32))


@pytest.mark.parametrize("mode", ["squash", "longest", "shortest"])
@pytest.mark.parametrize("side", [84, 336])
def test_psis_crops_are_what_open_clip_makes_of_them(mode: str, side: int) -> None:
    plain = image_transform_v2(PreprocessCfg(size=side, resize_mode=mode, **CLIP), is_train=False)
    table = by_table(plain)
    assert table is not plain
    assert same_bits(table, plain, [(1, 1), (7, 300), (300, 7), (side, side), (123, 91), (400, 401)])


def test_other_steps_than_the_two_are_left_alone() -> None:
    def preprocess(image: Image.Image) -> torch.Tensor:
        return torch.zeros(3, 2, 2)

    assert by_table(preprocess) is preprocess


@pytest.mark.parametrize("size", [(20, 20), (336, 336), (701, 403), (1500, 1500)])
def test_torchs_resize_is_pillows_up_to_one_grey_level(size):
    """Held against Pillow on noise, the hardest picture for a filter."""
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    for resample in (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR):
        by_pillow = np.asarray(image.resize((96, 96), resample)).astype(int)
        by_torch = torch_resized(image, 96, int(resample)).astype(int)
        assert by_torch.shape == (96, 96, 3)
        assert np.abs(by_torch - by_pillow).max() <= 1
        assert np.mean(by_torch != by_pillow) < 0.01


def test_views_resized_by_torch_are_the_published_ones_up_to_one_grey_level() -> None:
    usual = processor(84)
    image = noise(701, 403, 5)
    level = 1 / 255 / min(CLIP["std"])
    by_torch, published = (views.preprocess([image], usual, way) for way in ("torch", "pillow"))
    assert float((by_torch - published).abs().max()) <= level + 1e-6
    assert not torch.equal(by_torch, published)


def test_what_does_more_than_resize_and_normalise_is_not_resized_by_torch() -> None:
    with pytest.raises(ConfigError, match=r"model\.resize_with=torch"):
        views.preprocess([noise(9, 9, 0)], processor(84, crop_size={"height": 42, "width": 42}), "torch")
    padded = image_transform_v2(PreprocessCfg(size=(84, 84), resize_mode="longest", **CLIP), is_train=False)
    with pytest.raises(ConfigError, match=r"psi\.resize_with=torch"):
        by_table(padded, "torch")
    for load, key in ((load_psi, "psi"), (load_vlm, "model")):
        name = "mini_clip" if key == "psi" else "mini_llava"
        with pytest.raises(ConfigError, match=rf"{key}\.resize_with=opencv"):
            load(name, profile="mini", device="cpu", resize_with="opencv")


def test_psi_says_what_torchs_resize_changes_and_keeps_its_own_embeddings(capsys) -> None:
    boxes = (Box(0, 0, 300, 200), Box(300, 0, 600, 200), Box(0, 200, 300, 400))
    requests = [RelevanceRequest(noise(600, 400, number), str(number), boxes, "a red mug") for number in range(6)]
    ways = {way: load_psi("mini_clip", profile="mini", device="cpu", resize_with=way) for way in ("torch", "pillow")}
    ways["torch"].begin_block(keep=False)  # latency mode: nothing beside the question is computed
    ways["torch"].score(requests)
    assert "psi.resize_with" not in capsys.readouterr().err
    ways["torch"].begin_block(keep=True)
    scores = {way: psi.score(requests) for way, psi in ways.items()}
    said = capsys.readouterr().err
    assert said.count("psi.resize_with=torch") == 1
    # What it says is what one finds.
    agree = sum(
        int(np.argmax(ours) == np.argmax(published))
        for ours, published in list(zip(scores["torch"], scores["pillow"], strict=True))[:4]
    )
    assert f"{agree} of the first 4 questions" in " ".join(said.split())
    furthest = np.abs(np.array(scores["torch"]) - np.array(scores["pillow"])).max()
    assert 0 < furthest < 0.02
    ways["torch"].score(requests)
    assert "psi.resize_with" not in capsys.readouterr().err
