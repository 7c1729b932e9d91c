"""Analytic FLOPs: by hand for a tiny config, and against torch's counter on the models themselves."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from semclip_eval import cli
from semclip_eval.measure import flops
from semclip_eval.measure.stages import StageClock
from semclip_eval.models.transformers.llava import Llava15
from semclip_eval.relevance.base import RelevanceRequest
from semclip_eval.relevance.open_clip_relevance import OpenClipRelevance
from semclip_eval.results.summary import flops_row, read_rows
from semclip_eval.selectors.tools import SelectorVLM
from semclip_eval.types import Box, Prompt, Request

# Rotary tables and the like, which the formulas leave out, on models of 128 units.
CLOSE = 5e-3


def counted(call: Any) -> int:
    """FLOPs of a call by torch's counter, every kernel taken apart into products."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops()


def test_a_language_model_of_one_layer_by_hand() -> None:
    text = SimpleNamespace(
        hidden_size=4, num_attention_heads=2, num_key_value_heads=1, intermediate_size=6, num_hidden_layers=1,
        vocab_size=10,
    )  # fmt: skip
    # Three tokens: queries and output 2 x 2*3*4*4 = 192, key and value (one head of 2) 2 x 2*3*4*2 = 96, three matrices
    # of the MLP 3 x 2*3*4*6 = 432, attention 2 x 2*9*4 = 144, head 2*4*10 = 80.
    assert flops.prefill(text, 3) == 192 + 96 + 432 + 144 + 80
    # Three new tokens are two forwards of one token: (64 + 32 + 144 + 80) each, attention to 4 and to 5 tokens.
    assert flops.decode_tokens(text, 3, 3) == 2 * (64 + 32 + 144 + 80) + 4 * 4 * (4 + 5)
    assert flops.decode_tokens(text, 3, 1) == 0
    # Options of 3 and 2 tokens: two rows of two tokens, each attending to 3 + 2.
    # Copies: two options padded to two tokens each, which read five. Beside each other: three tokens that read six.
    assert flops.decode_options(text, 3, [3, 2], False) == 4 * (64 + 32 + 144 + 80) + 4 * 4 * 4 * 5
    assert flops.decode_options(text, 3, [3, 2], True) == 3 * (64 + 32 + 144 + 80) + 4 * 4 * 3 * 6
    assert flops.decode_options(text, 3, [1, 1], False) == flops.decode_options(text, 3, [1, 1], True) == 0


def test_towers_by_hand() -> None:
    # Five tokens of width 4, MLP of 8, two layers: 4 x 2*5*16 + 2 x 2*25*4 + 2 x 2*5*32 = 640 + 400 + 640.
    assert flops.encoder(5, 4, 8, 2) == 2 * (640 + 400 + 640)
    vision = SimpleNamespace(
        hidden_size=4, intermediate_size=8, depth=2, fullatt_block_indexes=[1], spatial_merge_size=2, patch_size=14,
        window_size=56, in_channels=3, temporal_patch_size=2, out_hidden_size=6,
    )  # fmt: skip
    # 4 x 6 patches are 2 x 3 merged tokens: windows of 2 x 2 and 2 x 1 of them, 16 and 8 patches.
    embedding = 2 * 24 * 3 * 2 * 14 * 14 * 4
    layers = 2 * (4 * 2 * 24 * 16 + 3 * 2 * 24 * 4 * 8) + 4 * 4 * (24 * 24 + 16 * 16 + 8 * 8)
    merger = 2 * 6 * 16 * 16 + 2 * 6 * 16 * 6
    assert flops.window_encoder(vision, [(1, 4, 6)]) == embedding + layers + merger


@pytest.fixture(scope="module")
def vlm() -> Llava15:
    return Llava15(name="mini_llava", path="mini://vlm", attn="eager")


@pytest.mark.parametrize("prompt", [Prompt("Which one?", continuations=("red", "a blue ring")), Prompt("Which one?")])
@pytest.mark.parametrize("views", [0, 1, 3])
def test_the_miniature_counts_as_torch_does(vlm: Llava15, prompt: Prompt, views: int) -> None:
    images = tuple(Image.effect_noise((60 + 20 * view, 70), 50).convert("RGB") for view in range(views))
    prepared = vlm.prepare(Request(images, prompt))
    features: Any = None
    state: Any = None

    def encode() -> None:
        nonlocal features
        features = vlm.encode([prepared])

    def prefill() -> None:
        nonlocal state
        state = vlm.prefill([prepared], features)

    def decode() -> None:
        (answer,) = vlm.decode([prepared], state, ignore_end_token=True)
        assert prompt.continuations or answer.new_tokens == prompt.max_new_tokens

    by_torch = {"vision": counted(encode), "prefill": counted(prefill), "decode": counted(decode)}
    assert vlm.flops(prepared, prepared, prompt.max_new_tokens) == pytest.approx(by_torch, rel=CLOSE)


def test_psi_counts_as_torch_does() -> None:
    psi = OpenClipRelevance("mini_clip", "mini://clip", cache_images=0)
    psi.load()
    image = Image.effect_noise((80, 60), 50).convert("RGB")
    boxes = (Box(0, 0, 40, 30), Box(40, 0, 80, 30), Box(0, 0, 80, 60))
    by_torch = counted(lambda: psi.score([RelevanceRequest(image, "i", boxes, "a red ring")]))
    assert psi.flops(3, 1) == pytest.approx(by_torch, rel=CLOSE)


def small_text() -> dict[str, Any]:
    return {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 300,
    }  # fmt: skip


def test_tiled_towers_count_as_torch_does_whatever_the_family() -> None:
    """The true classes of transformers, shrunken: LLaVA-NeXT (CLIP), OneVision (SigLIP) and InternVL."""
    from transformers import (
        AutoModelForImageTextToText,
        CLIPVisionConfig,
        InternVLConfig,
        InternVLVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaOnevisionConfig,
        Qwen2Config,
        SiglipVisionConfig,
    )

    tower = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
    pinpoints = [[56, 112], [112, 56], [112, 112]]
    clip = CLIPVisionConfig(**tower, image_size=56, patch_size=14)
    siglip = SiglipVisionConfig(**tower, image_size=56, patch_size=14, vision_use_head=False)
    intern = InternVLVisionConfig(**tower, image_size=[56, 56], patch_size=[14, 14])
    configs = {
        "next": LlavaNextConfig(
            vision_config=clip, text_config=LlamaConfig(**small_text()), image_grid_pinpoints=pinpoints
        ),
        "onevision": LlavaOnevisionConfig(
            vision_config=siglip, text_config=Qwen2Config(**small_text()), image_grid_pinpoints=pinpoints
        ),
        "internvl": InternVLConfig(vision_config=intern, text_config=Qwen2Config(**small_text())),
    }
    for name, config in configs.items():
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval().model
        tiles = 5  # of a square image: the whole and 2 x 2
        if name == "internvl":
            pixels, extras = torch.zeros(tiles, 3, 56, 56), ()
        else:
            pixels, extras = torch.zeros(1, tiles, 3, 56, 56), (torch.tensor([[112, 112]]),)
        with torch.no_grad():
            by_torch = counted(lambda: model.get_image_features(pixels, *extras))  # noqa: B023 (called at once)
        projected = 4 if name == "internvl" else 16
        assert flops.tile_encoder(config, tiles, projected) == pytest.approx(by_torch, rel=CLOSE), name


def test_qwens_windows_count_as_torch_does() -> None:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = {
        "depth": 3, "hidden_size": 48, "intermediate_size": 80, "num_heads": 4, "out_hidden_size": 64,
        "fullatt_block_indexes": [1], "window_size": 112, "patch_size": 14,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=small_text(), vision_config=vision)
    config._attn_implementation = "eager"
    model = Qwen2_5_VLForConditionalGeneration(config).eval().model
    grids = torch.tensor([[1, 12, 20], [1, 8, 8]])
    pixels = torch.zeros(int(grids.prod(1).sum()), 3 * 2 * 14 * 14)
    with torch.no_grad():
        by_torch = counted(lambda: model.get_image_features(pixels, grids))
    assert flops.window_encoder(config.vision_config, grids.tolist()) == pytest.approx(by_torch, rel=CLOSE)


def test_a_run_has_the_means_of_its_records(tmp_path: Path) -> None:
    common = ["profile=mini", "benchmark=vstar", "run.limit=3", f"run.output_dir={tmp_path}"]
    assert cli.main([*common, "selector=semclip", "run.mode=latency", "run.warmup=0"]) == 0
    assert cli.main([*common, "selector=no_crop"]) == 0
    rows = {row["selector"]: row for row in read_rows(tmp_path / "runs.csv")}
    (file,) = tmp_path.glob("*/*/*/semclip/*/samples.jsonl")
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    whole = [sum(record["flops"].values()) for record in records]
    assert set(records[0]["flops"]) == {"psi", *("vision", "prefill", "decode")}
    timed, plain = rows["semclip"], rows["no_crop"]
    assert float(timed["gflops_mean"]) == pytest.approx(sum(whole) / 3e9, rel=1e-5)
    seconds = sum(record["latency_ms"]["e2e"] for record in records) / 1000
    assert float(timed["gflops_per_s"]) == pytest.approx(sum(whole) / 1e9 / seconds, rel=1e-5)
    assert plain["psi_gflops_mean"] == plain["gflops_per_s"] == ""
    assert float(timed["vision_gflops_mean"]) == pytest.approx(2 * float(plain["vision_gflops_mean"]), rel=1e-5)


def test_the_whole_is_not_known_where_a_part_is_not() -> None:
    def row(counts: dict[str, int | None] | None) -> dict[str, Any]:
        return flops_row([{"status": "ok", "flops": counts, "latency_ms": {"e2e": 500.0}}])

    known = {"vision": 10**9, "prefill": 2 * 10**9, "decode": 0}
    assert row(known)["gflops_mean"] == 3
    assert row(known)["gflops_per_s"] == 6
    assert row({"psi": None, **known}).get("gflops_mean") is None
    assert row({"psi": None, **known})["prefill_gflops_mean"] == 2
    assert row({"select_vlm": 10**9, **known})["gflops_mean"] == 4
    assert row({"select_vlm": 10**9, **known})["select_vlm_gflops_mean"] == 1
    assert row(None).get("gflops_mean") is None


def test_what_a_selector_asks_of_the_vlm_is_counted_by_question(vlm: Llava15) -> None:
    facade = SelectorVLM(vlm, {"vlm", "confidence", "gradients"}, None, StageClock("cpu", on=False))
    image = Image.effect_noise((60, 60), 50).convert("RGB")
    words, free = Prompt("Is it?", continuations=("Yes", "No")), Prompt("What is it?", max_new_tokens=4)
    asked = {name: Request((image,), prompt, name) for name, prompt in (("a", words), ("b", free), ("c", words))}
    facade.begin(asked)
    facade.confidence([asked["a"], asked["a"]])
    (answer,) = facade.answer([asked["b"]])
    counts = {name: vlm.flops(prepared, prepared, answer.new_tokens) or {} for name, prepared in
              ((name, vlm.prepare(request)) for name, request in asked.items())}  # fmt: skip
    assert facade.flops("a") == 2 * (counts["a"]["vision"] + counts["a"]["prefill"])
    assert facade.flops("b") == sum(counts["b"].values())
    assert facade.flops("c") == 0
    facade.gradients([asked["c"]], "argmax", features=True)
    assert facade.flops("c") is None
    facade.begin(["c"])
    assert facade.flops("c") == 0


def test_what_psi_scored_is_known_from_the_choice() -> None:
    from semclip_eval.crops import Grid
    from semclip_eval.selectors.base import SelectionInput, overview
    from semclip_eval.selectors.gate import Gate
    from semclip_eval.selectors.no_crop import NoCrop
    from semclip_eval.selectors.rap import Rap
    from semclip_eval.selectors.semclip import SemClip
    from semclip_eval.selectors.sparse import Sparse
    from semclip_eval.types import Selection

    image = Image.new("RGB", (100, 60))
    candidates = Grid("grid", 2, 3).candidates(*image.size)
    item = SelectionInput("q", "i", image, "Is the red ring left of the blue cross?", candidates, None, 0)
    scored = Selection((overview(image),), candidate_relevance=(0.1,) * 6)
    unscored = Selection((overview(image),))
    assert SemClip().psi_work(item, scored) == (6, 1)
    assert SemClip(each_phrase=True).psi_work(item, scored) == (6, 2)
    assert Gate(inner=SemClip(), signal="standout").psi_work(item, scored) == (6, 1)
    assert Gate(inner=SemClip(), signal="entropy").psi_work(item, scored) == (6, 1)
    assert Gate(inner=SemClip(), signal="entropy").psi_work(item, unscored) == (0, 0)
    assert Rap(tile=50).psi_work(item, unscored) == (4, 1)
    assert Sparse(inner=SemClip(), score="uniform", keep_ratio=0.5).psi_work(item, scored) == (6, 1)
    assert Sparse(inner=SemClip(), score="dense_psi", keep_ratio=0.5).psi_work(item, scored) is None
    assert Sparse(inner=NoCrop(), score="dense_psi", keep_ratio=0.5).psi_work(item, unscored) is None
