"""ψ against plain open_clip, with tiny random weights in every way in which weights can be given; no download."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from semclip_eval.components import build
from semclip_eval.crops import Grid
from semclip_eval.digest import END_BYTES, folder_digest
from semclip_eval.errors import ConfigError, ModelError
from semclip_eval.relevance.base import RelevanceRequest, psi_text
from semclip_eval.relevance.open_clip_relevance import OpenClipRelevance
from semclip_eval.relevance.open_clip_weights import resolve
from semclip_eval.selectors.base import SelectionInput
from semclip_eval.selectors.semclip import SemClip
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Box, Question

CONFIGS = Path(__file__).parent.parent / "configs"
WORDS = ["what", "color", "is", "the", "star", "circle", "red", "blue", "?"]
LONG = "what color is the star " * 6
CONTEXT = 16
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}

# As open_clip's model_configs/ViT-SO400M-14-SigLIP-384.json, but for the sizes.
SIGLIP_TEXT: dict[str, Any] = {
    **ARCHITECTURE["text_cfg"], "hf_tokenizer_name": "nobody/published", "tokenizer_kwargs": {"clean": "canonicalize"},
    "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
}  # fmt: skip


def write_folder(folder: Path, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any]) -> Path:
    """A folder in open_clip's layout with random weights."""
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg})
    )
    torch.manual_seed(1)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    # Random towers answer almost the same to everything; larger weights spread the scores.
    state = {name: tensor * (3 if tensor.ndim > 1 else 1) for name, tensor in model.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's own kind: SimpleTokenizer, and preprocessing that cuts the sides off."""
    return write_folder(tmp_path_factory.mktemp("weights") / "clip", ARCHITECTURE, {"resize_mode": "shortest"})


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SigLIP's kind: a Hugging Face tokenizer beside the weights, a logit bias, its own normalisation."""
    ids = {word: index for index, word in enumerate(["<pad>", "<unk>", "<s>", *WORDS, "</s>"])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("<s>", ids["<s>"]), ("</s>", ids["</s>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    text = {**SIGLIP_TEXT, "vocab_size": len(ids)}
    config = {**ARCHITECTURE, "text_cfg": text, "init_logit_bias": -10.0, "init_logit_scale": 2.3, "custom_text": True}
    preprocessing = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    folder = write_folder(tmp_path_factory.mktemp("weights") / "siglip", config, preprocessing)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


def noise(seed: int, width: int = 90, height: int = 60) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def requests(count: int = 4) -> list[RelevanceRequest]:
    """Two questions an image."""
    boxes = Grid("g", 3, 3).candidates(90, 60)
    texts = ("what color is the star ?", "red circle", "the blue star", "what is red ?")
    return [RelevanceRequest(noise(n // 2), f"image{n // 2}", boxes, texts[n % 4]) for n in range(count)]


def relevance(folder: Path, **keywords: Any) -> OpenClipRelevance:
    return OpenClipRelevance("tiny", f"local-dir:{folder}", **keywords)


class Counting(OpenClipRelevance):
    """Counts the crops that the image tower sees."""

    crops = 0

    def _embed(self, kind: Any, batch: torch.Tensor) -> list[torch.Tensor]:
        self.crops += len(batch) if kind == "image" else 0
        return super()._embed(kind, batch)


def plain_open_clip(folder: Path, asked: list[RelevanceRequest], mode: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(cosines, logits) of each request, by open_clip's own calls, one crop at a time."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}", image_resize_mode=mode)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    rows = []
    with torch.no_grad():
        for request in asked:
            text = tokenizer([request.text])
            pixels = [preprocess(request.image.crop(box))[None] for box in request.boxes]
            word = model.encode_text(text, normalize=True)[0].numpy()
            cosines = [float(model.encode_image(crop, normalize=True)[0].numpy() @ word) for crop in pixels]
            logits = [float(model.get_logits(crop, text)[0].item()) for crop in pixels]
            rows.append((np.array(cosines), np.array(logits)))
    return rows


@pytest.mark.parametrize("kind", ["clip_folder", "siglip_folder"])
def test_scores_are_open_clips_cosines_and_rank_like_its_logits(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    scores = relevance(folder).score(requests())
    for row, (cosines, logits) in zip(scores, plain_open_clip(folder, requests(), "squash"), strict=True):
        np.testing.assert_allclose(row, cosines, atol=2e-6)
        assert np.ptp(cosines) > 0.01
        assert np.argsort(row).tolist() == np.argsort(logits).tolist()


def test_padding_instead_of_stretching_is_a_choice(clip_folder: Path) -> None:
    padded = relevance(clip_folder, resize_mode="longest").score(requests())
    for row, (cosines, _) in zip(padded, plain_open_clip(clip_folder, requests(), "longest"), strict=True):
        np.testing.assert_allclose(row, cosines, atol=2e-6)
    assert np.abs(np.array(padded) - np.array(relevance(clip_folder).score(requests()))).max() > 1e-3


def test_a_models_own_way_of_showing_everything_is_kept(siglip_folder: Path) -> None:
    squash, longest = (relevance(siglip_folder, resize_mode=mode).score(requests()) for mode in ("squash", "longest"))
    assert squash == longest


@pytest.mark.parametrize("mode", ["squash", "longest"])
def test_the_ends_of_a_wide_crop_are_seen(clip_folder: Path, mode: str) -> None:
    plain = noise(0, 120, 40)
    marked = plain.copy()
    marked.paste((255, 0, 0), (0, 0, 20, 40))
    both = [RelevanceRequest(image, name, (Box(0, 0, 120, 40),), "red") for name, image in
            (("plain", plain), ("marked", marked))]  # fmt: skip
    (seen_plain,), (seen_marked,) = relevance(clip_folder, resize_mode=mode).score(both)
    assert abs(seen_plain - seen_marked) > 1e-3
    # CLIP's own preprocessing cuts those ends off.
    (cut_plain, _), (cut_marked, _) = plain_open_clip(clip_folder, both, "shortest")
    assert cut_plain == cut_marked


def test_batches_do_not_change_scores_or_choices(clip_folder: Path) -> None:
    whole = relevance(clip_folder).score(requests())
    candidates = requests()[0].boxes
    items = [SelectionInput(f"q{n}", each.image_id, each.image, each.text, candidates, None, 0)
             for n, each in enumerate(requests())]  # fmt: skip
    chosen = SemClip(top_k=9).select(items, Tools(relevance(clip_folder)))
    for size in (1, 2, 7):
        psi = relevance(clip_folder, batch_size=size, cache_images=0)
        one_by_one = [psi.score([each])[0] for each in reversed(requests())][::-1]
        np.testing.assert_allclose(one_by_one, whole, atol=2e-6)
        again = [SemClip(top_k=9).select([item], Tools(psi))[0] for item in items]
        assert [[view.box for view in one.views] for one in again] == [[v.box for v in one.views] for one in chosen]


def test_crops_are_embedded_once_an_image_and_the_cache_forgets_the_oldest(clip_folder: Path) -> None:
    psi = Counting("tiny", f"local-dir:{clip_folder}", cache_images=1)
    first = psi.score(requests(2))
    assert psi.crops == 9
    assert psi.score(requests(2)) == first
    assert psi.crops == 9
    psi.score(requests(4))
    assert psi.crops == 18
    psi.score(requests(2))
    assert psi.crops == 27
    psi.reset()
    psi.score(requests(2))
    assert psi.crops == 36
    off = Counting("tiny", f"local-dir:{clip_folder}", cache_images=0)
    assert [off.score(requests(2)), off.score(requests(2))] == [first, first]
    assert off.crops == 18


def test_another_image_with_the_same_id_is_not_mistaken_for_the_cached_one(clip_folder: Path) -> None:
    psi = relevance(clip_folder)
    boxes = Grid("g", 2, 2).candidates(90, 60)
    one, two = (RelevanceRequest(noise(seed), "1.jpg", boxes, "red") for seed in (5, 6))
    separate = [relevance(clip_folder).score([each])[0] for each in (one, two)]
    np.testing.assert_allclose([psi.score([one])[0], psi.score([two])[0]], separate, atol=2e-6)
    assert np.abs(np.subtract(*separate)).max() > 1e-3


def test_no_questions_and_no_boxes(clip_folder: Path) -> None:
    psi = relevance(clip_folder)
    assert psi.score([]) == []
    assert psi.score([RelevanceRequest(noise(0), "i", (), "red")]) == [()]


@pytest.mark.parametrize(("kind", "longest"), [("clip_folder", 5 * 6 + 2), ("siglip_folder", 5 * 6 + 2)])
def test_cut_texts_are_counted(kind: str, longest: int, request: pytest.FixtureRequest) -> None:
    psi = relevance(request.getfixturevalue(kind))
    assert psi.truncations == {}
    boxes = (Box(0, 0, 90, 60),)
    # Fourteen words and the two special tokens just fit; words that come after the cut cannot matter.
    fits = " ".join((WORDS[:-1] * 2)[:14])  # without the mark that SigLIP drops
    texts = ["red", fits, f"{fits} circle", f"{fits} star", LONG, LONG]
    scores = psi.score([RelevanceRequest(noise(0), "i", boxes, text) for text in texts])
    assert scores[2] == pytest.approx(scores[3], abs=1e-6)
    assert psi.truncations == {"texts": 5, "truncated": 3, "longest": longest, "context": CONTEXT}
    psi.reset()
    psi.score([RelevanceRequest(noise(0), "i", boxes, "red")])
    assert psi.truncations == {"texts": 1, "truncated": 0, "longest": 3, "context": CONTEXT}


def test_psi_text() -> None:
    question = Question("q", "What is it?", "c", "i", lambda: noise(0), truth=0, options=("a red star", "a dog"))
    assert psi_text(question, "question") == "What is it?"
    assert psi_text(question, "question_and_options") == "What is it? a dog, a red star"
    assert psi_text(Question("q", "Yes?", "c", "i", lambda: noise(0), truth="yes"), "question_and_options") == "Yes?"
    with pytest.raises(ConfigError, match=r"psi\.text=all: must be question or question_and_options"):
        psi_text(question, "all")


@given(st.lists(st.text(max_size=8), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_the_options_that_psi_reads_knows_no_truth(options: list[str], random: Any) -> None:
    """V*'s files list the right option first; any order of the same options gives ψ the same text."""

    def text(order: list[str]) -> str:
        question = Question("q", "What?", "c", "i", lambda: noise(0), truth=0, options=tuple(order))
        return psi_text(question, "question_and_options")

    shuffled = list(options)
    random.shuffle(shuffled)
    assert text(shuffled) == text(options)


@pytest.fixture
def registered(clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny architecture under a name, with one published tag that was trained with QuickGELU."""
    name = "ViT-tiny-test"
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, ARCHITECTURE)
    weights = str(clip_folder / "open_clip_model.safetensors")
    published = {"file": weights, "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bicubic",
                 "resize_mode": "shortest", "quick_gelu": True}  # fmt: skip
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"webli": published})
    return name


def scores_of_changed_folder(folder: Path, tmp_path: Path, quick_gelu: bool) -> list[tuple[float, ...]]:
    """The same weights with the published normalisation and one activation or the other, stated in the config."""
    shutil.copytree(folder, tmp_path / "changed")
    settings = {"mean": [0.5] * 3, "std": [0.25] * 3}
    config = {"model_cfg": {**ARCHITECTURE, "quick_gelu": quick_gelu}, "preprocess_cfg": settings}
    (tmp_path / "changed" / "open_clip_config.json").write_text(json.dumps(config))
    return relevance(tmp_path / "changed").score(requests())


def test_a_tag_gets_the_activation_it_was_trained_with(clip_folder: Path, registered: str, tmp_path: Path) -> None:
    psi = OpenClipRelevance("x", registered, "webli")
    assert psi.revision == "webli"
    np.testing.assert_allclose(
        psi.score(requests()), scores_of_changed_folder(clip_folder, tmp_path, quick_gelu=True), atol=2e-6
    )


def test_a_file_of_weights_gets_the_published_normalisation(clip_folder: Path, registered: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    shutil.copy(clip_folder / "open_clip_model.safetensors", file)
    psi = OpenClipRelevance("x", registered, str(file))
    assert psi.revision == f"local:{folder_digest(file)}"
    expected = scores_of_changed_folder(clip_folder, tmp_path, quick_gelu=False)
    np.testing.assert_allclose(psi.score(requests()), expected, atol=2e-6)


def test_published_settings_of_real_architectures(tmp_path: Path) -> None:
    assert resolve("ViT-L-14-336", "openai").force_quick_gelu
    assert not resolve("ViT-SO400M-14-SigLIP-384", "webli").force_quick_gelu
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"x")
    settings = resolve("ViT-SO400M-14-SigLIP-384", str(file)).preprocessing
    assert (settings["mean"], settings["resize_mode"]) == ((0.5, 0.5, 0.5), "squash")
    with pytest.raises(ModelError, match="ViT-L-14 differ in how they normalise pixels"):
        resolve("ViT-L/14", str(file))


def test_the_miniatures_weights_are_found_when_they_are_needed(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    psi = OpenClipRelevance("mini_clip", "mini://clip")
    monkeypatch.setattr("semclip_eval.mini.weights_folder", lambda kind: {"clip": clip_folder}[kind])
    assert psi.score(requests()) == relevance(clip_folder).score(requests())

    def missing(kind: str) -> Path:
        raise FileNotFoundError(f"the {kind} weights are missing")

    monkeypatch.setattr("semclip_eval.mini.weights_folder", missing)
    with pytest.raises(ModelError, match=r"psi\.model=mini://clip: the clip weights are missing"):
        OpenClipRelevance("mini_clip", "mini://clip").load()


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-L-14-363", "openai", r"psi\.model=ViT-L-14-363: unknown architecture\. Did you mean .*ViT-L-14-336"),
        ("vit-l-14-336", "openai", r"unknown architecture\. Did you mean ViT-L-14-336"),
        ("ViT-B-32", None, r"psi\.pretrained=null: ViT-B-32 needs a tag .*openai.*laion2b_s34b_b79k"),
        ("ViT-B-32", "opneai", r"psi\.pretrained=opneai: no such tag .*Did you mean openai\?.*laion400m_e32"),
        ("ViT-B-32", "nowhere/w.pt", r"psi\.pretrained=nowhere/w\.pt: there is no such file"),
        ("local-dir:nowhere", None, r"psi\.model=local-dir:nowhere: there is no such folder"),
        ("local-dir:x", "openai", r"psi\.pretrained=openai: psi\.model=local-dir:x has its own weights"),
        ("hf-hub:a/b", None, r"psi\.model=hf-hub:a/b: .*give psi\.model=local-dir:FOLDER"),
    ],
)
def test_weights_that_do_not_exist(model: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        OpenClipRelevance("x", model, pretrained).load()


def test_an_incomplete_or_broken_folder_is_named(clip_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"has no open_clip_config\.json"):
        relevance(folder).load()
    shutil.copy(clip_folder / "open_clip_config.json", folder)
    with pytest.raises(ModelError, match="the folder has no weights"):
        relevance(folder).load()
    (folder / "open_clip_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"psi\.model=local-dir:.*the weights could not be read"):
        relevance(folder).load()
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"psi\.model=local-dir:"):
        relevance(folder).load()
    with pytest.raises(ModelError, match=r"psi\.pretrained=.*is a folder; give the file in it"):
        OpenClipRelevance("x", "ViT-B-32", str(folder)).load()


def test_weights_of_another_architecture_do_not_load(registered: str, tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"visual.proj": torch.zeros(3, 3)}, file)
    with pytest.raises(ModelError, match=r"psi\.pretrained=.*other\.safetensors: these weights do not fit"):
        OpenClipRelevance("x", registered, str(file)).load()


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", unreachable)
    monkeypatch.setattr("semclip_eval.hub.unreachable_because", lambda: "Network is unreachable")
    message = r"psi\.pretrained=openai: .*Network is unreachable.*psi\.pretrained=FILE .*profile=mini"
    with pytest.raises(ModelError, match=message):
        OpenClipRelevance("x", "ViT-L-14-336-quickgelu", "openai").load()
    assert capfd.readouterr().err == ""


def test_a_tokenizer_that_cannot_be_had(siglip_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(siglip_folder, folder)
    for file in folder.glob("token*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"its tokenizer could not be loaded .*psi\.model=local-dir:FOLDER"):
        relevance(folder).load()


def test_loading_is_silent_and_leaves_logging_as_it_was(clip_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        relevance(clip_folder).load()
        assert [record for record in caplog.records if record.name == "root"] == []
        logging.info("still there")
    assert "still there" in caplog.text


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"model": ""}, r"psi\.model="),
        ({"text": "options"}, r"psi\.text=options: must be question or"),
        ({"precision": "fp8"}, r"psi\.precision=fp8: must be null or one of fp32"),
        ({"dtype": "float64"}, r"run\.dtype=float64: "),
        ({"batch_size": 0}, r"psi\.batch_size=0: must be at least 1"),
        ({"cache_images": -1}, r"psi\.cache_images=-1: must be at least 0"),
        ({"resize_mode": "shortest"}, r"psi\.resize_mode=shortest: must be squash or longest"),
    ],
)
def test_a_wrong_value_is_named(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OpenClipRelevance(**{"name": "x", "model": "ViT-B-32", **keywords})


def test_precision_follows_the_runs_dtype_unless_it_is_set(clip_folder: Path) -> None:
    exact = np.array(relevance(clip_folder).score(requests()))
    half = relevance(clip_folder, dtype="bfloat16")
    assert half.precision == "bf16"
    difference = np.abs(np.array(half.score(requests())) - exact).max()
    assert 1e-6 < difference < 0.05
    assert relevance(clip_folder, dtype="bfloat16", precision="fp32").score(requests()) == [tuple(row) for row in exact]


def test_the_digest_sees_names_sizes_and_both_ends(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.json").write_text("{}")
    weights = bytearray(3 * END_BYTES)
    seen = set()
    for place in (None, 0, END_BYTES - 1, 2 * END_BYTES, 3 * END_BYTES - 1):
        changed = bytearray(weights)
        if place is not None:
            changed[place] = 1
        (folder / "model.bin").write_bytes(changed)
        seen.add(folder_digest(folder))
    (folder / "model.bin").write_bytes(weights + b"\0")
    seen.add(folder_digest(folder))
    (folder / "model.bin").rename(folder / "other.bin")
    seen.add(folder_digest(folder))
    assert len(seen) == 7
    before = folder_digest(folder)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("now")
    assert folder_digest(folder) == before
    assert len(before) == 12
    shutil.copytree(folder, tmp_path / "copy")
    assert folder_digest(tmp_path / "copy") == before
    assert int(before, 16) >= 0


def test_every_psi_config_describes_and_builds_its_component() -> None:
    files = sorted((CONFIGS / "psi").glob("*.yaml"))
    assert {"mini_clip", "clip_vit_l_14_336", "siglip_so400m"} <= {file.stem for file in files}
    for file in files:
        section = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert section["description"]
        psi = build("psi", section, device="cpu", dtype="float32")
        assert psi.name == file.stem
    assert resolve("ViT-L-14-336-quickgelu", "openai").revision == "openai"
    assert resolve("ViT-SO400M-14-SigLIP-384", "webli").revision == "webli"


def test_dummy_weights_have_the_shape_of_the_name_and_are_the_same_every_time() -> None:
    """No tag, no download: the architecture's own parameter count, the same scores from two builds, another state."""
    picture = Image.effect_noise((90, 60), 60).convert("RGB")
    request = RelevanceRequest(picture, "a", (Box(0, 0, 45, 60), Box(45, 0, 90, 60)), "What color is the star?")
    before = torch.get_rng_state()
    first = OpenClipRelevance("x", "ViT-S-32-alt", "openai", load_format="dummy", dtype="float32")
    scores = first.score([request])
    assert torch.equal(torch.get_rng_state(), before)
    assert first.revision == "dummy:seed0"
    assert scores == OpenClipRelevance("x", "ViT-S-32-alt", load_format="dummy").score([request])
    published = open_clip.create_model("ViT-S-32-alt", load_weights=False)
    assert sum(p.numel() for p in first.loaded_model.parameters()) == sum(p.numel() for p in published.parameters())


def test_dummy_weights_need_no_tokenizer_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """SigLIP's own is there only: what stands in for it gives ids of the vocabulary, and texts still differ."""
    architecture = {**ARCHITECTURE, "custom_text": True, "text_cfg": {**SIGLIP_TEXT, "vocab_size": 90}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "SigLIP-tiny-test", architecture)
    psi = OpenClipRelevance("x", "SigLIP-tiny-test", "webli", load_format="dummy")
    scores = psi.score(requests(2))
    assert [len(row) for row in scores] == [9, 9]
    assert scores[0] != scores[1]
    assert psi.score([RelevanceRequest(noise(0), "image0", (Box(0, 0, 9, 9),), LONG)])[0]
    assert (psi.truncations["truncated"], psi.truncations["context"]) == (1, CONTEXT)


@pytest.mark.parametrize("model", ["mini://clip", "local-dir:/tmp", "ViT-L-14-363"])
def test_dummy_weights_want_the_name_of_an_architecture(model: str) -> None:
    with pytest.raises(ModelError, match=r"psi\.load_format=dummy: psi\.model="):
        OpenClipRelevance("x", model, load_format="dummy").load()


def test_a_wrong_load_format_is_named() -> None:
    with pytest.raises(ConfigError, match=r"psi\.load_format=none: must be auto or dummy"):
        OpenClipRelevance("x", "ViT-S-32-alt", load_format="none")
