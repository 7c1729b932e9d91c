"""Dense ψ: recipes against naive transcriptions, the map's geometry, the sign on pictures whose answer is known."""

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from semclip_eval.errors import ConfigError, ModelError
from semclip_eval.relevance import patches
from semclip_eval.relevance.base import PatchMap, Relevance, RelevanceRequest
from semclip_eval.relevance.dense import DenseRelevance
from semclip_eval.relevance.open_clip_relevance import OpenClipRelevance
from semclip_eval.types import Box


def small_tower(pool: str) -> torch.nn.Module:
    torch.manual_seed(0)
    tower = open_clip.transformer.VisionTransformer(
        image_size=32, patch_size=8, width=32, layers=3, heads=4, mlp_ratio=2.0, output_dim=16, pool_type=pool
    )
    return tower.eval()


def naive_features(tower: torch.nn.Module, pixels: torch.Tensor, recipe: str) -> torch.Tensor:
    """Token by token and head by head, from the papers' formulas; one image."""
    hidden = tower._embeds(pixels)
    blocks = tower.transformer.resblocks
    for block in list(blocks)[:-1]:
        hidden = block(hidden)
    last, x = blocks[-1], hidden[0]
    if recipe == "tokens":
        z = last(hidden)[0]
    else:
        width = x.shape[1]
        weight, bias = last.attn.in_proj_weight, last.attn.in_proj_bias
        h = last.ln_1(x)
        q, k, v = (h @ weight[i * width : (i + 1) * width].T + bias[i * width : (i + 1) * width] for i in range(3))
        d = width // 4
        rows = []
        for token in range(len(x)):
            heads = []
            for head in range(4):
                part = slice(head * d, (head + 1) * d)
                if recipe == "value":
                    heads.append(v[token, part])
                    continue
                weights = torch.softmax(torch.stack([q[token, part] @ q[j, part] for j in range(len(x))]) / d**0.5, 0)
                mixed = sum(w * v[j, part] for j, w in enumerate(weights))
                if recipe == "sclip":
                    other = torch.softmax(torch.stack([k[token, part] @ k[j, part] for j in range(len(x))]) / d**0.5, 0)
                    mixed = mixed + sum(w * v[j, part] for j, w in enumerate(other))
                heads.append(mixed)
            rows.append(torch.cat(heads))
        y = torch.stack(rows) @ last.attn.out_proj.weight.T + last.attn.out_proj.bias
        z = y if recipe == "clear" else x + y
        if recipe != "clear":
            z = z + last.mlp(last.ln_2(z))
    features = tower.ln_post(z)[1:] @ tower.proj
    return features / features.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("recipe", patches.RECIPES[1:])
@torch.no_grad()
def test_recipes_are_their_formulas(recipe: str) -> None:
    tower, pixels = small_tower("tok"), torch.randn(2, 3, 32, 32)
    features = patches.patch_features(tower, pixels, recipe)
    for number in range(2):
        torch.testing.assert_close(features[number], naive_features(tower, pixels[number : number + 1], recipe))


@torch.no_grad()
def test_the_mean_of_an_average_pooled_towers_tokens_is_its_embedding() -> None:
    tower, pixels = small_tower("avg"), torch.randn(1, 3, 32, 32)
    tokens = tower.ln_post(tower.transformer(tower._embeds(pixels)))[:, 1:] @ tower.proj
    torch.testing.assert_close(tokens.mean(1), tower(pixels))
    torch.testing.assert_close(
        patches.patch_features(tower, pixels, "tokens"), torch.nn.functional.normalize(tokens, dim=-1)
    )


def test_auto_and_the_sign_follow_the_pooling() -> None:
    assert patches.check_tower(small_tower("avg"), "auto", "x") == "tokens"
    assert patches.check_tower(small_tower("tok"), "auto", "x") == "clear"
    assert [patches.sign_of(small_tower(pool), "tokens") for pool in ("avg", "tok")] == [1, -1]
    assert patches.sign_of(small_tower("tok"), "clear") == 1


def test_a_tower_without_patches_in_the_texts_space_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"psi\.model=x"):
        patches.check_tower(torch.nn.Linear(2, 2), "auto", "psi.model=x")
    with pytest.raises(ConfigError, match="psi=own"):
        Own().patch_maps([(Image.new("RGB", (8, 8)), "a")])


class Own(Relevance):
    """A ψ without a map."""

    name = "own"

    def score(self, requests):  # type: ignore[no-untyped-def]
        return []


def test_an_upside_down_map_is_refused() -> None:
    def right(image: Image.Image, text: str) -> torch.Tensor:
        pixels = torch.from_numpy(np.asarray(image.resize((6, 4))).astype(float))
        return pixels[..., 0 if "red" in text else 2]

    patches.check_sign(right, 60, "psi.model=x")
    with pytest.raises(ModelError, match=r"psi\.model=x"):
        patches.check_sign(lambda image, text: -right(image, text), 60, "psi.model=x")
    with pytest.raises(ModelError, match=r"psi\.model=x"):
        patches.check_sign(lambda image, text: torch.ones(4, 6), 60, "psi.model=x")


def picture(places: dict[str, tuple[int, int]], size: tuple[int, int] = (168, 84)) -> Image.Image:
    image = Image.new("RGB", size, (128, 128, 128))
    colors = {"red": (215, 35, 40), "blue": (40, 75, 220)}
    for color, (x, y) in places.items():
        ImageDraw.Draw(image).ellipse((x - 12, y - 12, x + 12, y + 12), fill=colors[color])
    return image


@pytest.fixture(scope="module")
def mini() -> OpenClipRelevance:
    return OpenClipRelevance("mini_clip", "mini://clip")


@given(x=st.integers(20, 64), other=st.integers(104, 148), y=st.integers(20, 64), swapped=st.booleans())
def test_the_map_is_high_where_the_text_is(mini: OpenClipRelevance, x: int, other: int, y: int, swapped: bool) -> None:
    red, blue = ((other, y), (x, y)) if swapped else ((x, y), (other, y))
    image = picture({"red": red, "blue": blue})
    scores = mini.patch_maps([(image, "a red circle"), (image, "a blue circle")])
    difference = PatchMap(scores[0].boxes, scores[0].scores - scores[1].scores)
    at_red = difference.inside(Box(red[0] - 12, red[1] - 12, red[0] + 12, red[1] + 12)).max()
    at_blue = difference.inside(Box(blue[0] - 12, blue[1] - 12, blue[0] + 12, blue[1] + 12)).min()
    assert at_red > 0 > at_blue


def test_a_map_covers_its_picture_exactly(mini: OpenClipRelevance) -> None:
    (relevance,) = mini.patch_maps([(Image.new("RGB", (140, 70)), "a star")])
    assert relevance.boxes.shape == (49, 4)
    np.testing.assert_allclose(relevance.boxes[0], [0, 0, 20, 10])
    np.testing.assert_allclose(relevance.boxes[1], [20, 0, 40, 10])
    np.testing.assert_allclose(relevance.boxes[-1], [120, 60, 140, 70])


def test_scores_under_a_box_are_weighted_by_area() -> None:
    relevance = PatchMap(np.array([[0, 0, 10, 10], [10, 0, 20, 10]], float), np.array([1.0, 5.0]))
    boxes = np.array([[0, 0, 10, 10], [5, 0, 20, 10], [30, 0, 40, 10], [np.nan] * 4])
    np.testing.assert_allclose(relevance.at(boxes), [1.0, (5 * 1 + 10 * 5) / 15, np.nan, np.nan])
    assert relevance.inside(Box(0, 0, 9, 9)).tolist() == [1.0]
    assert relevance.inside(Box(12, 1, 13, 2)).tolist() == [5.0]  # holds no middle: the nearest patch


def test_dense_scores_pool_the_patches_of_tiles() -> None:
    image = picture({"red": (40, 40), "blue": (120, 40)})
    box = Box(84, 0, 168, 84)
    request = RelevanceRequest(image, "i", (box, Box(0, 0, 84, 84)), "a blue circle")
    for pool, function in (("max", np.max), ("mean", np.mean)):
        dense = DenseRelevance("dense", "mini://clip", tiles=2, pool=pool)
        ((right, left),) = dense.score([request])
        parts = dense.patch_maps([(image.crop(tile), request.text) for tile in dense.tiles.candidates(168, 84)])
        # The right half is the tiles 1 (top) and 3 (bottom) of the 2 x 2.
        assert right == pytest.approx(function(np.concatenate([parts[1].scores, parts[3].scores])))
        assert right > left


def test_dense_scores_do_not_depend_on_what_else_is_asked() -> None:
    dense = DenseRelevance("dense", "mini://clip", tiles=2)
    requests = [
        RelevanceRequest(picture({"red": (x, 40)}), f"{x}", (Box(0, 0, 84, 84), Box(84, 0, 168, 84)), "a red circle")
        for x in (30, 60, 130)
    ]
    alone = [dense.score([request])[0] for request in requests]
    dense.reset()
    together = dense.score(requests[::-1])[::-1]
    np.testing.assert_allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize(("key", "value"), [("recipe", "best"), ("pool", "sum"), ("tiles", 0)])
def test_wrong_values_are_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"psi\.{key}={value}"):
        DenseRelevance("dense", "mini://clip", **{key: value})
