"""What every family tells a selector, against plain transformers: attention, confidence, gradients, values, places.

The references run eagerly, one prompt at a time, on the published processor's inputs.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from semclip_eval import cli, session
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.models.insight import CAPABILITIES, TokenBoxes
from semclip_eval.models.transformers.transformers_vlm import TransformersVLM
from semclip_eval.types import Drops, Kept, Prompt, Request
from tests.family_small import Reference
from tests.llava_small import noise_image

WORDS = ("red", "blue")
SHORT, LONG = "Is it red?", "What is the color of the large star on the left side of the picture?"


def requests(square: bool) -> list[Request]:
    """Prompts of different lengths and numbers of views, so that a batch of them is padded."""
    first, second = noise_image(3, 120, 90), noise_image(4, 60, 80)
    if square:
        first, second = first.resize((90, 90)), second.resize((60, 60))
    return [
        Request((first,), Prompt(SHORT, WORDS)),
        Request((first, second), Prompt(LONG, WORDS)),
        Request((second,), Prompt(LONG, WORDS)),
    ]


def eager(reference: Reference, asked: Request, **keywords: Any) -> tuple[Any, Any]:
    """Plain transformers' inputs and outputs of one prompt, with eager attention."""
    inputs = reference.inputs(asked)
    before = reference.model.config.text_config._attn_implementation
    reference.model.set_attn_implementation({"text_config": "eager"})
    try:
        return inputs, reference.model(**inputs, output_attentions=True, use_cache=True, **keywords)
    finally:
        reference.model.set_attn_implementation({"text_config": before})


def check_insight(vlm: TransformersVLM, reference: Reference, square: bool = False) -> None:
    """All capabilities of a family; `square` views for one whose tokens would else exceed its context."""
    assert vlm.capabilities <= set(CAPABILITIES)
    image_id = reference.processor.tokenizer.convert_tokens_to_ids(reference.processor.image_token)
    asked = requests(square)
    batch = [vlm.prepare(request) for request in asked]
    layers = [0, vlm.layers - 1]
    _check_attention(vlm, reference, asked, batch, layers, image_id)
    _check_confidence(vlm, reference, asked, batch)
    _check_gradients(vlm, reference, asked, batch, layers, image_id)
    _check_values(vlm, reference, asked, batch, layers, image_id)
    _check_pruning(vlm, reference, asked[1], image_id)


def _check_attention(vlm: Any, reference: Any, asked: Any, batch: Any, layers: list[int], image_id: int) -> None:
    last = vlm.attention_rows(batch, layers, "last")
    text = vlm.attention_rows(batch, [-1], "text")
    before = vlm.answer(batch)
    for request, prepared, rows, of_text in zip(asked, batch, last, text, strict=True):
        with torch.no_grad():
            inputs, outputs = eager(reference, request)
        visual = (inputs.input_ids[0] == image_id).nonzero()[:, 0]
        for place, layer in enumerate(layers):
            expected = outputs.attentions[layer][0, :, -1, visual]
            torch.testing.assert_close(rows.weights[place, :, 0], expected, atol=1e-5, rtol=0)
        assert rows.queries == (len(prepared.input_ids) - 1,)
        assert rows.view_tokens == prepared.view_tokens
        after = torch.arange(int(visual[-1]) + 1, inputs.input_ids.shape[1])
        expected = outputs.attentions[-1][0][:, after][:, :, visual]
        torch.testing.assert_close(of_text.weights[0], expected, atol=1e-5, rtol=0)
        assert of_text.queries == tuple(after.tolist())
        _check_spans(vlm, prepared, of_text, request.prompt.text)
        assert float(expected.std()) > 1e-5  # rows that differ: the comparison could fail
    # The model's own attention function is back, and answers are what they were.
    assert vlm.model.config.text_config._attn_implementation == vlm.attention
    assert vlm.answer(batch) == before
    with pytest.raises(ConfigError, match="layers"):
        vlm.attention_rows(batch[:1], [vlm.layers], "last")


def _check_spans(vlm: Any, prepared: Any, rows: Any, text: str) -> None:
    """Each row's characters are those of its token, and together they are the prompt's text, in order."""
    joined, reached = "", 0
    for query, span in zip(rows.queries, rows.spans, strict=True):
        if span is not None:
            piece = vlm.tokenizer.decode([prepared.input_ids[query]])
            # A token may begin with a space, and the last one may hold the template's next characters.
            assert text[slice(*span)].strip() == piece[: len(text) - span[0] + 1].strip()[: span[1] - span[0]]
            assert span[0] >= reached
            joined, reached = joined + text[slice(*span)], span[1]
    assert joined.replace(" ", "") == text.replace(" ", "")
    assert rows.spans[-1] is None


def _check_confidence(vlm: Any, reference: Any, asked: Any, batch: Any) -> None:
    for request, value in zip(asked, vlm.confidence(batch), strict=True):
        start = len(reference.ids(request))
        first = [reference.inputs(request, reference.answer_lead + word).input_ids[0][start].item() for word in WORDS]
        with torch.no_grad():
            logits = reference.model(**reference.inputs(request)).logits[0, -1]
        assert value == pytest.approx(torch.softmax(logits[first], 0)[0].item(), abs=1e-5)
    for request, value in zip(asked, vlm.answer_entropy(batch), strict=True):
        with torch.no_grad():
            chances = torch.softmax(reference.model(**reference.inputs(request)).logits[0, -1].double(), 0)
        assert value == pytest.approx(-(chances * chances.log()).sum().item(), abs=1e-4)
    same = vlm.prepare(Request(asked[0].images, Prompt(SHORT, ("red", "red"))))
    with pytest.raises(ConfigError, match="same token"):
        vlm.confidence([same])
    one = vlm.prepare(Request(asked[0].images, Prompt(SHORT, ("red",))))
    with pytest.raises(ConfigError, match="two words"):
        vlm.confidence([one])


def _check_gradients(vlm: Any, reference: Any, asked: Any, batch: Any, layers: list[int], image_id: int) -> None:
    for target in ("argmax", "entropy"):
        given = vlm.gradients(batch, target, layers, features=True)
        for request, found in zip(asked, given, strict=True):
            with torch.enable_grad():
                inputs, outputs = eager(reference, request)
                logarithms = torch.log_softmax(outputs.logits[0, -1].float(), -1)
                scalar = logarithms.max() if target == "argmax" else -(logarithms.exp() * logarithms).sum()
                wanted = torch.autograd.grad(scalar, [outputs.attentions[layer] for layer in layers])
            visual = (inputs.input_ids[0] == image_id).nonzero()[:, 0]
            assert found.scalar == pytest.approx(float(scalar.detach()), abs=1e-4)
            for place, layer in enumerate(layers):
                expected = wanted[place][0, :, -1, visual]
                torch.testing.assert_close(found.attention[place], expected, atol=1e-4, rtol=1e-3)
                weights = outputs.attentions[layer][0, :, -1, visual].detach()
                torch.testing.assert_close(found.attention_weights[place], weights, atol=1e-5, rtol=0)
    # Features: the slope along a direction, by finite differences.
    (prepared, found) = batch[0], given[0]
    views = vlm.encode([prepared])[0]
    features = torch.cat([view.features for view in views])
    direction = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    values = []
    for step in (1e-2, -1e-2):
        moved = (features + step * direction).split([len(view.features) for view in views])
        shifted = [replace(view, features=each) for view, each in zip(views, moved, strict=True)]
        logits = vlm.prefill([prepared], [shifted]).logits[0]
        logarithms = torch.log_softmax(logits, -1)
        values.append(float(-(logarithms.exp() * logarithms).sum()))
    slope = (values[0] - values[1]) / 2e-2
    assert float((found.features * direction).sum()) == pytest.approx(slope, rel=0.05, abs=5e-3)
    with pytest.raises(ConfigError, match="target"):
        vlm.gradients(batch[:1], "mean", layers)


def _check_values(vlm: Any, reference: Any, asked: Any, batch: Any, layers: list[int], image_id: int) -> None:
    for request, found in zip(asked, vlm.value_vectors(batch, layers), strict=True):
        with torch.no_grad():
            inputs, outputs = eager(reference, request)
        visual = (inputs.input_ids[0] == image_id).nonzero()[:, 0]
        elsewhere = torch.tensor([place for place in range(int(visual[-1])) if place not in visual.tolist()])
        for place, layer in enumerate(layers):
            values = outputs.past_key_values.layers[layer].values[0].transpose(0, 1).flatten(1)
            torch.testing.assert_close(found.visual[place], values[visual], atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(found.text[place], values[int(visual[-1]) + 1 :], atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(found.rest[place], values[elsewhere.long()], atol=1e-4, rtol=1e-3)
            assert found.heads == outputs.past_key_values.layers[layer].values.shape[1]
        assert len(found.text_pieces) == found.text.shape[1]
        joined = "".join(found.text_pieces).replace(" ", "")
        assert request.prompt.text.split()[0] in joined


def _check_pruning(vlm: Any, reference: Any, asked: Request, image_id: int) -> None:
    prepared = vlm.prepare(asked)
    encoded = vlm.encode([prepared])
    counts = [len(view.features) for view in encoded[0]]
    generator = np.random.default_rng(0)
    indices = tuple(tuple(sorted(generator.choice(count, count // 3, replace=False).tolist())) for count in counts)
    (slim,), features = vlm.prune([prepared], encoded, [Kept(indices)])
    assert slim.visual_tokens == sum(map(len, indices))
    assert slim.encoded_tokens == prepared.visual_tokens
    assert slim.text_tokens == prepared.text_tokens
    assert slim.input_ids[-1] == prepared.input_ids[-1]
    # Kept positions: what is dropped is as if it were masked out.
    inputs = reference.inputs(asked)
    mask = inputs["attention_mask"].clone()
    visual = (inputs.input_ids[0] == image_id).nonzero()[:, 0]
    starts = np.cumsum([0, *counts])
    chosen = [start + index for start, view in zip(starts, indices, strict=False) for index in view]
    mask[0, visual] = 0
    mask[0, visual[chosen]] = 1
    positions = prepared.positions[:, None] if len(prepared.positions) > 1 else prepared.positions
    inputs["attention_mask"] = mask
    with torch.no_grad():
        expected = reference.model(**inputs, position_ids=positions).logits[0, -1].float()
        ours = vlm.prefill([slim], features).logits[0]
        renumbered = vlm.prune([prepared], encoded, [Kept(indices, "renumbered")])
        other = vlm.prefill(*renumbered).logits[0]
        whole = vlm.prefill([prepared], encoded).logits[0]
    torch.testing.assert_close(ours, expected, atol=1e-5 * max(1, float(expected.abs().max())), rtol=0)
    assert not torch.allclose(other, ours, atol=1e-4)
    assert not torch.allclose(whole, ours, atol=1e-4)
    assert int(renumbered[0][0].positions.max()) < int(slim.positions.max())
    # Keeping everything changes nothing, and decoding goes on behind the last position.
    everything = Kept(tuple(tuple(range(count)) for count in counts))
    assert vlm.decode([prepared], vlm.prefill(*vlm.prune([prepared], encoded, [everything]))) == vlm.answer([prepared])
    state = vlm.prefill([slim], features)
    assert int(state.next_positions[0]) == int(prepared.positions.max()) + 1
    for wrong in (((1, 0), ()), ((0, counts[0]), ()), ((0,),), ((-1,), ())):
        with pytest.raises(QuestionError, match=r"ascending|views"):
            vlm.prune([prepared], encoded, [Kept(wrong)])


def check_token_boxes(vlm: TransformersVLM, sizes: list[tuple[int, int]], most_views: int = 2) -> None:
    """As many rectangles as tokens for any size and number of views; they tile the view, and lie where pixels act."""
    for size in sizes:
        for views in range(1, most_views + 1):
            image = noise_image(size[0] + views, *size)
            prepared = vlm.prepare(Request((image,) * views, Prompt("?", max_new_tokens=1), prunes=True))
            boxes = vlm.token_boxes([size] * views)
            assert [len(view.boxes) for view in boxes] == list(prepared.view_tokens), size
            for view in boxes:
                _check_tiling(view, size)
    _check_any_size(vlm)
    _check_place(vlm)


def _check_any_size(vlm: TransformersVLM) -> None:
    """Views of any sizes, of different ones in a question, and flat ones, have as many places as tokens."""
    rng = np.random.default_rng(4)
    for draw in range(20):
        most = (6, 500) if draw % 2 else (500, 500)
        sizes = [(int(rng.integers(1, most[0])), int(rng.integers(1, most[1]))) for _ in range(1 + draw % 3)]
        sizes = [size for size in sizes if max(size) < 150 * min(size)]  # Qwen refuses what is 200 times as long
        images = tuple(Image.new("RGB", size) for size in sizes)
        prepared = vlm.prepare(Request(images, Prompt("?", max_new_tokens=1), prunes=True))
        assert [len(view.boxes) for view in vlm.token_boxes(sizes)] == list(prepared.view_tokens), sizes


def _check_tiling(tokens: TokenBoxes, size: tuple[int, int]) -> None:
    """Every place lies in exactly one rectangle that is not of a thumbnail."""
    placed = tokens.boxes[~tokens.thumbnail & ~np.isnan(tokens.boxes[:, 0])]
    # Canvases are cut to whole cells, which may take part of a cell from the image's edge.
    cell = (placed[:, 2] - placed[:, 0]).max(), (placed[:, 3] - placed[:, 1]).max()
    across, down = (np.linspace(step, side - step, 23) for step, side in zip(cell, size, strict=True))
    for x in across:
        for y in down:
            holds = (placed[:, 0] <= x) & (x < placed[:, 2]) & (placed[:, 1] <= y) & (y < placed[:, 3])
            assert holds.sum() == 1, (size, x, y)
    small = tokens.boxes[tokens.thumbnail & ~np.isnan(tokens.boxes[:, 0])]
    if len(small):
        assert small[:, [0, 2]].min() == pytest.approx(0)
        assert small[:, [0, 2]].max() == pytest.approx(size[0])


def _check_place(vlm: TransformersVLM) -> None:
    """Where a few pixels change, the tokens that lie there change more than the others."""
    size, patch = (400, 300), (300, 60, 360, 120)
    image = noise_image(9, *size)
    changed = image.copy()
    changed.paste(Image.new("RGB", (60, 60), (255, 0, 0)), patch[:2])
    pair = [vlm.prepare(Request((each,), Prompt("?", max_new_tokens=1), prunes=True)) for each in (image, changed)]
    before, after = (torch.cat([view.features for view in views]) for views in vlm.encode(pair))
    moved = (before - after).norm(dim=-1).numpy()
    (tokens,) = vlm.token_boxes([size])
    boxes = tokens.boxes
    with np.errstate(invalid="ignore"):
        there = (
            (boxes[:, 0] < patch[2]) & (boxes[:, 2] > patch[0]) & (boxes[:, 1] < patch[3]) & (boxes[:, 3] > patch[1])
        )
    elsewhere = ~there & ~np.isnan(boxes[:, 0])
    for part in (tokens.thumbnail, ~tokens.thumbnail):
        if (there & part).any():
            assert moved[there & part].mean() > 2 * moved[elsewhere & part].mean()


def check_dropping(vlm: TransformersVLM, reference: Reference, square: bool = False) -> None:
    """FastV in a family: losses and greedy tokens of a padded batch are those of eager layers with masked keys."""
    image_id = reference.processor.tokenizer.convert_tokens_to_ids(reference.processor.image_token)
    plain = requests(square)
    scored = [replace(each, drops=Drops(1, ratio)) for each, ratio in zip(plain, (0.3, 0.5, 0.25), strict=True)]
    written = [replace(each, prompt=Prompt(LONG, max_new_tokens=4)) for each in scored[:2]]
    whole = replace(plain[0], drops=None)
    asked = [*scored, *written, whole]
    answers = vlm.answer([vlm.prepare(request) for request in asked])
    differ = []
    for request, answer in zip(scored, answers[:3], strict=True):
        losses = [_loss(reference, request, image_id, request.drops, word) for word in WORDS]
        assert answer.option_losses == pytest.approx(losses, abs=2e-4)
        differ.append(abs(losses[0] - _loss(reference, request, image_id, None, WORDS[0])))
    assert max(differ) > 1e-3  # what is dropped matters: the comparison could fail
    for request, answer in zip(written, answers[3:5], strict=True):
        tokens: list[int] = []
        while len(tokens) < 4 and not set(tokens).intersection(vlm.stop_ids):
            tokens.append(int(_masked(reference, request, image_id, request.drops, tokens)[-1].argmax()))
        assert answer.new_tokens == len(tokens)
        assert answer.text == vlm.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert answers[5].option_losses == pytest.approx(vlm.answer([vlm.prepare(whole)])[0].option_losses, abs=1e-4)
    assert vlm.model.config.text_config._attn_implementation == vlm.attention


def _loss(reference: Any, request: Request, image_id: int, drops: Drops | None, word: str) -> float:
    start = len(reference.ids(request))
    ids = reference.inputs(request, reference.answer_lead + word + getattr(reference, "end", "")).input_ids[0].tolist()
    continuation = ids[start:]
    if not getattr(reference, "end", ""):
        continuation.append(reference.vlm.end_id)
    logits = _masked(reference, request, image_id, drops, continuation[:-1])
    logarithms = logits.log_softmax(-1)
    return -float(sum(logarithms[place, token] for place, token in enumerate(continuation))) / len(continuation)


@torch.no_grad()
def _masked(reference: Any, request: Request, image_id: int, drops: Drops | None, after: list[int]) -> torch.Tensor:
    """Logits from the prompt's last token on, `after` behind it; what `drops` say is masked in a hook of each layer."""
    inputs = reference.inputs(request)
    ids = inputs.input_ids
    prompt = ids.shape[1]
    blocked: list[int] = []
    if drops is not None:
        _, outputs = eager(reference, request)
        visual = (ids[0] == image_id).nonzero()[:, 0].tolist()
        row = outputs.attentions[drops.layer - 1][0, :, -1].mean(0)
        count = max(1, int(drops.keep_ratio * len(visual) + 0.5))
        blocked = sorted(visual, key=lambda place: -float(row[place]))[count:]
    model = reference.model
    inputs["input_ids"] = torch.cat([ids, torch.tensor([after], dtype=ids.dtype)], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        zeros = inputs["mm_token_type_ids"].new_zeros(1, len(after))
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], zeros], dim=1)

    def hide(module: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
        mask = keywords["attention_mask"].clone()
        for place in blocked:
            mask[:, :, place + 1 :, place] = torch.finfo(mask.dtype).min
        return arguments, {**keywords, "attention_mask": mask}

    layers = model.model.language_model.layers
    hooks = [layer.register_forward_pre_hook(hide, with_kwargs=True) for layer in layers[drops.layer if drops else 0 :]]
    before = model.config.text_config._attn_implementation
    model.set_attn_implementation({"text_config": "eager"})
    try:
        return model(**inputs, use_cache=False).logits[0, prompt - 1 :].float()
    finally:
        model.set_attn_implementation({"text_config": before})
        for hook in hooks:
            hook.remove()


def check_focus(model: str, folder: Path, output: Path) -> None:
    """FOCUS in the whole program: regions of the image that do not depend on the batch, within the budget."""
    chosen = []
    for batch in (1, 2):
        run = [f"model={model}", f"model.path={folder}", "profile=mini", "selector=focus", "selector.first_layer=0"]
        run += ["selector.over=0", "selector.max_forwards=5", "run.limit=2", f"run.batch_size={batch}"]
        assert cli.main([*run, f"run.output_dir={output / str(batch)}"]) == 0
        session.forget("model")
        (samples,) = (output / str(batch)).glob("mini/vstar/*/focus/*/samples.jsonl")
        records = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
        assert [record["status"] for record in records] == ["ok", "ok"]
        assert all(2 <= record["cost"]["forwards"] <= 5 for record in records)
        chosen.append([[view["box"] for view in record["views"]] for record in records])
        for box in chosen[-1][0]:
            assert 0 <= box[0] < box[2] <= 504
            assert 0 <= box[1] < box[3] <= 504
    assert chosen[0] == chosen[1]
