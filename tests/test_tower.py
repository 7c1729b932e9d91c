"""ψ through the VLM's tower, and features that are kept: counted passes, the same answers, the same bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image

from semclip_eval import session
from semclip_eval.cli import main as semclip_eval
from semclip_eval.crops import Grid
from semclip_eval.errors import ConfigError, ModelError
from semclip_eval.mini import weights_folder
from semclip_eval.mini.questions import make_question
from semclip_eval.mini.world import make_scene, render
from semclip_eval.models.transformers.features import FeatureStore, ViewFeatures, pixel_keys, view_key
from semclip_eval.models.transformers.llava import Llava15
from semclip_eval.models.transformers.views import preprocess
from semclip_eval.relevance.base import RelevanceRequest
from semclip_eval.relevance.open_clip_relevance import OpenClipRelevance
from semclip_eval.relevance.tower import TowerRelevance
from semclip_eval.types import Box, Prompt, Request

BOXES = Grid(name="grid3x3", rows=3, columns=3).candidates(336, 336)


@pytest.fixture(scope="module")
def vlm() -> Llava15:
    return Llava15(name="mini_llava", hub_id=None, path="mini://vlm")


@pytest.fixture
def counted(vlm: Llava15) -> Iterator[list[int]]:
    """The number of views of every pass of the tower, counted at the tower itself."""
    vlm.features = FeatureStore(64)
    passes: list[int] = []
    handle = vlm.model.model.vision_tower.register_forward_hook(
        lambda module, args, kwargs, output: passes.append(len(args[0] if args else kwargs["pixel_values"])),
        with_kwargs=True,
    )
    yield passes
    handle.remove()


def tower() -> TowerRelevance:
    return TowerRelevance(name="tower", model="mini://clip")


def scene(index: int) -> tuple[Image.Image, Any]:
    made = make_scene("dev", index)
    question = make_question("color", made)
    assert question is not None
    return render(made), question


def requests(indices: range) -> list[RelevanceRequest]:
    return [RelevanceRequest(scene(index)[0], str(index), BOXES, scene(index)[1].text) for index in indices]


def test_the_towers_embeddings_are_those_of_clip_itself(vlm: Llava15, counted: list[int]) -> None:
    """open_clip's own encode_image and encode_text on the same pixels give the same cosines."""
    clip = OpenClipRelevance("mini_clip", "mini://clip").loaded_model
    from open_clip import get_tokenizer

    tokenizer = get_tokenizer(f"local-dir:{weights_folder('clip')}")
    psi = tower()
    psi.attach(vlm)
    scores = psi.score(requests(range(2)))
    for request, row in zip(requests(range(2)), scores, strict=True):
        pixels = preprocess([request.image.crop(box) for box in BOXES], vlm.image_processor)
        with torch.inference_mode():
            images = torch.nn.functional.normalize(clip.encode_image(pixels), dim=-1)
            text = torch.nn.functional.normalize(clip.encode_text(tokenizer([request.text])), dim=-1)
        assert row == pytest.approx((images @ text[0]).tolist(), abs=2e-3)  # fp16 exports of the same tower
        assert row.index(max(row)) == int((images @ text[0]).argmax())


def test_no_crop_passes_the_tower_twice(vlm: Llava15, counted: list[int]) -> None:
    """Nine crops and the overview of each of three images: ten views each, however often they are used."""
    psi = tower()
    psi.attach(vlm)
    for index in range(3):
        image, question = scene(index)
        vlm.begin_block(keep=True)
        (scores,) = psi.score([RelevanceRequest(image, str(index), BOXES, question.text)])
        best = BOXES[scores.index(max(scores))]
        prepared = [vlm.prepare(Request((image, image.crop(best)), Prompt(question.text, question.options)))]
        vlm.answer(prepared)
        vlm.answer(prepared)
    assert sum(counted) == 3 * 10 == vlm.features.passes
    assert sorted(counted) == [1, 1, 1, 9, 9, 9]


def test_embeddings_of_another_text_tower_are_not_reused(vlm: Llava15, counted: list[int]) -> None:
    """Two jobs of a sweep share the VLM and what it keeps: the second's scores are those that it gets alone."""
    first, second = tower(), tower()
    second._clip._resolved()
    assert second._clip._source is not None
    second._clip._source = dataclasses.replace(second._clip._source, revision="other")
    second.load()
    torch.nn.init.normal_(second._visual.proj)
    scores = []
    for keep in (False, True):
        for psi in (first, second):
            vlm.begin_block(keep=keep)
            psi.attach(vlm)
            scores.append(psi.score(requests(range(1))))
    assert scores[:2] == scores[2:]
    assert scores[0] != scores[1]
    vlm.begin_block(keep=True)
    before = sum(counted)
    assert second.score(requests(range(1))) == scores[1]  # what is its own is found again
    assert sum(counted) == before


@pytest.mark.parametrize("keep", [True, False])
def test_answers_are_those_of_the_path_that_encodes_twice(vlm: Llava15, counted: list[int], keep: bool) -> None:
    psi = tower()
    psi.attach(vlm)
    image, question = scene(5)
    prompts = [Prompt(question.text, question.options), Prompt(question.text, max_new_tokens=12)]
    batch = [vlm.prepare(Request((image, image.crop(BOXES[4]), image.crop(BOXES[0])), prompt)) for prompt in prompts]
    vlm.begin_block(keep=False)
    twice = vlm.answer(batch)
    vlm.begin_block(keep=keep)
    psi.score(requests(range(5, 6)))
    before = sum(counted)
    once = vlm.answer(batch)
    # Only the overview is still missing; where nothing is kept it passes with the other question's.
    assert sum(counted) - before == (1 if keep else 2)
    assert once[0].option_losses == pytest.approx(twice[0].option_losses, abs=1e-5)
    assert once[1].text == twice[1].text


def test_an_overview_passes_once_for_all_questions_about_it(vlm: Llava15, counted: list[int]) -> None:
    image, question = scene(7)
    other, _ = scene(8)
    batch = [vlm.prepare(Request((image,), Prompt(text, question.options))) for text in (question.text, "Is it red?")]
    vlm.begin_block(keep=True)
    together = vlm.answer(batch)
    vlm.begin_block(keep=True)
    vlm.answer([vlm.prepare(Request((image, other), Prompt(question.text, question.options)))])
    assert counted == [1, 1]
    assert vlm.features.reused == 2
    vlm.begin_block(keep=False)
    assert len(vlm.features) == 0
    apart = vlm.answer(batch)
    assert counted[2:] == [2]
    for one, two in zip(together, apart, strict=True):
        assert one.option_losses == pytest.approx(two.option_losses, abs=1e-5)


def test_what_is_over_the_limit_goes_when_a_block_begins_least_recently_used_first() -> None:
    store = FeatureStore(1)
    features = ViewFeatures(torch.zeros(100, 1000), torch.zeros(0))  # 400,000 bytes: two fit in a MiB, three do not
    for key in (b"a", b"b", b"c"):
        store.put(key, features)
    assert len(store) == 3
    store.get(b"a")
    store.begin_block()
    assert [key in store for key in (b"a", b"b", b"c")] == [True, False, True]
    store.put(b"a", features)
    store.begin_block()
    assert len(store) == 2  # putting a view again does not count its size twice
    store.begin_block(keep=False)
    assert len(store) == 0


def test_a_key_is_of_the_pixels_alone() -> None:
    pixels = torch.rand(2, 3, 4, 4)
    again = torch.stack([pixels[1], pixels[0] + 0])
    assert pixel_keys(pixels) == tuple(reversed(pixel_keys(again)))
    again[0, 0, 0, 0] += 1e-6
    assert pixel_keys(again)[0] != pixel_keys(pixels)[1]


def test_a_key_of_a_view_is_also_of_how_its_pixels_are_read() -> None:
    pixels, grid = torch.rand(8, 6), torch.tensor([[1, 2, 4]])
    key = view_key(pixels, {"image_grid_thw": grid})
    assert view_key(pixels.clone(), {"image_grid_thw": grid.clone()}) == key
    assert view_key(pixels, {"image_grid_thw": torch.tensor([[1, 4, 2]])}) != key
    assert view_key(pixels.reshape(4, 12), {"image_grid_thw": grid}) != key
    assert view_key(pixels, {}) != key


def test_another_tower_is_refused(vlm: Llava15, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tower that was trained on would give embeddings that mean nothing to CLIP's text tower."""
    psi = tower()
    weight = vlm.vision_tower.embeddings.patch_embedding.weight
    monkeypatch.setattr(weight, "data", weight.data * 1.1)
    with pytest.raises(ModelError, match=r"psi=tower: the tower of model=mini_llava has other weights"):
        psi.attach(vlm)


def test_a_vlm_without_a_clip_tower_is_refused() -> None:
    class Other:
        name = "other"

    with pytest.raises(ConfigError, match=r"psi=tower: model=other offers no CLIP tower"):
        tower().attach(Other())


def run(output: Path, *overrides: str) -> dict[str, str]:
    """The samples of each selector of a sweep, as text."""
    session.forget("model")
    with contextlib.redirect_stdout(None):
        code = semclip_eval(["-m", "profile=mini", "run.limit=8", f"run.output_dir={output}", *overrides])
    assert code == 0
    return {path.parent.parent.name: path.read_text() for path in output.glob("*/*/*/*/*/samples.jsonl")}


def test_a_sweep_shares_overviews_and_writes_the_same_bytes_as_without(tmp_path: Path) -> None:
    sweep = "selector=no_crop,semclip"
    kept = run(tmp_path / "kept", sweep)
    features = session._loaded["model"][1].features
    assert (features.passes, features.reused) == (16, 8)  # 8 overviews and 8 crops; the second selector's overviews
    assert kept == run(tmp_path / "not", sweep, "model.feature_cache_mib=0")
    assert kept["semclip"] == run(tmp_path / "alone", "selector=semclip")["semclip"]


def test_the_tower_as_psi_from_the_command_line(tmp_path: Path) -> None:
    (text,) = run(tmp_path, "selector=semclip", "psi=tower").values()
    records = [json.loads(line) for line in text.splitlines()]
    assert len(records) == 8
    assert all(record["views"][1]["psi"] is not None for record in records)
    # Sixteen crops and an overview each: what ψ looked at is what the VLM used.
    assert session._loaded["model"][1].features.passes == 8 * 17


@pytest.mark.parametrize("mode", ["accuracy", "latency"])
def test_random_weights_on_both_sides_plan_latency_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """`psi=tower` with load_format=dummy twice: the shapes have to fit, the weights cannot; still one pass a crop."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    name, shapes = "ViT-tiny-tower", {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, shapes)
    LlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=32, patch_size=8, hidden_size=32, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=2, projection_dim=16,
        ),
        text_config=LlamaConfig(
            vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=2048, bos_token_id=1, eos_token_id=2,
        ),
        vision_feature_layer=-2, vision_feature_select_strategy="default", image_token_index=398,
    ).save_pretrained(tmp_path / "shape")  # fmt: skip
    dummies = ["model=llava15_7b", f"model.path={tmp_path / 'shape'}", "model.load_format=dummy", "psi=tower"]
    dummies += [f"psi.model={name}", "psi.load_format=dummy", "crops=grid3x3", "selector=semclip"]
    timed = [f"run.mode={mode}", "run.warmup=1", "run.device=cpu"]
    (samples,) = run(tmp_path / "runs", *dummies, *timed).values()
    records = [json.loads(line) for line in samples.splitlines()]
    assert [record["status"] for record in records] == ["ok"] * 8
    assert all(record["visual_tokens"] == 2 * 16 for record in records)
    assert session._loaded["model"][1].features.passes == (8 if mode == "accuracy" else 9) * 10


def test_views_beyond_the_context_are_refused_before_the_run_with_the_arithmetic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = ["crops=grid5x5", "crops.rows=9", "crops.columns=9", "selector=full_crop"]
    code = semclip_eval(["profile=mini", "run.limit=2", f"run.output_dir={tmp_path}", *wide])
    message = capsys.readouterr().err
    assert code == 2
    assert "82 views x 49 visual tokens" in message
    assert "Traceback" not in message
    assert not list(tmp_path.glob("**/samples.jsonl"))


def test_boxes_of_no_size_have_no_score(vlm: Llava15) -> None:
    psi = tower()
    psi.attach(vlm)
    assert psi.score([RelevanceRequest(scene(0)[0], "0", (), "What is it?")]) == [()]
    assert len(psi.score([RelevanceRequest(scene(0)[0], "0", (Box(0, 0, 1, 300),), "What is it?")])[0]) == 1
