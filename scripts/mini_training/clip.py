"""Train the mini CLIP: text-crop matching with graded targets, and a dense auxiliary loss on the patch tokens."""

import json
import math
import random
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from mini_training.parallel import Optimizers, run_workers
from mini_training.record import Log
from mini_training.scenes import (
    INPUT_SIZE,
    READABLE_SHARE,
    READABLE_SIGN,
    READABLE_THING,
    WHOLE,
    SceneStore,
    grid_cells,
    random_crop,
    random_crop_of,
)
from mini_training.vocabulary import CLIP_CONTEXT, build_clip_tokenizer
from semclip_eval.mini.signs import DIGITS
from semclip_eval.mini.world import COLORS, SHAPES, Box, Scene, Sign, Thing

MEAN = STD = (0.5, 0.5, 0.5)
PATCHES = 7
BATCH = 40
STEPS = 3300
OTHER = len(SHAPES)  # the dense label of a look-alike
ANY = 8  # row and column of the presence table for "any shape", "any colour"
SIGN = 9  # its column for a sign; the ten after it are for a sign with a certain digit
SIGN_CROPS = 0.6  # share of the crops of a scene with a sign that are drawn around the sign
THING_CROPS = 0.8  # share of the other crops that are drawn around a thing
# px in the view, of what a crop is drawn around, at the first step and from half of the steps on: with small things
# from the start shapes are not learned (at chance after 800 steps).
FIRST_SIZE, LEAST_SIZE = 16.0, 6.0
SIGN_TEXTS = 0.35  # share of the texts about a scene with a sign that are about the sign
Batch = tuple[np.ndarray, list[str], np.ndarray, np.ndarray]
Mention = tuple[int, int]  # row and column of the presence table: colour and shape number, either may be ANY, or a sign


def model_config(vocabulary: int) -> dict[str, object]:
    """The open_clip model description: 84 px input, 7 x 7 patches, a SigLIP bias."""
    return {
        "embed_dim": 128,
        "init_logit_scale": math.log(10),
        "init_logit_bias": -4.0,
        "vision_cfg": {
            "image_size": INPUT_SIZE,
            "patch_size": INPUT_SIZE // PATCHES,
            "width": 128,
            "layers": 4,
            "head_width": 32,
            "mlp_ratio": 4.0,
            "pool_type": "avg",
        },
        "text_cfg": {
            "context_length": CLIP_CONTEXT,
            "vocab_size": vocabulary,
            "width": 128,
            "heads": 4,
            "layers": 2,
            "hf_tokenizer_name": "mini",
            "tokenizer_kwargs": {"clean": "whitespace"},
        },
    }


def build_model(config: dict[str, object]) -> open_clip.CLIP:
    return open_clip.CLIP(**config)


def to_pixels(views: np.ndarray) -> torch.Tensor:
    """uint8 (n, 84, 84, 3) to the models' input, float (n, 3, 84, 84) in -1 .. 1."""
    return torch.from_numpy(views).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def _texts(scene: Scene, candidates: list[int], rng: random.Random) -> tuple[str, list[Mention]]:
    """A caption of one or two things of the scene, and what it mentions. Captions only: a question is new to the CLIP,
    as V*'s questions are to one that learned from captions."""
    thing = scene.things[rng.choice(candidates)]
    color, shape = COLORS.index(thing.color), SHAPES.index(thing.shape)
    draw = rng.random()
    if draw < 0.45:  # shape only
        form = rng.choice(("a {}", "{}", "the {}", "a photo of a {}", "an image of a {}", "a picture with a {}"))
        return form.format(thing.shape), [(ANY, shape)]
    if draw < 0.55:  # colour only
        form = rng.choice(("a {} object", "{}", "a picture of a {} thing"))
        return form.format(thing.color).replace("a orange", "an orange"), [(color, ANY)]
    if draw < 0.8:
        form = rng.choice(("a {}", "the {}", "a photo of a {}", "{}", "a picture with a {}"))
        return form.format(thing.name).replace("a orange", "an orange"), [(color, shape)]
    other = rng.choice([each for each in scene.things if each is not thing])
    if draw < 0.9:
        form = rng.choice(("a {} and a {}", "a photo of a {} near a {}"))
        return form.format(thing.shape, other.shape), [(ANY, shape), (ANY, SHAPES.index(other.shape))]
    mentions = [(color, shape), (COLORS.index(other.color), SHAPES.index(other.shape))]
    return f"a {thing.name} and a {other.name}".replace("a orange", "an orange"), mentions


def _sign_text(sign: Sign, rng: random.Random) -> tuple[str, list[Mention]]:
    """A caption of the sign; a third of them names its number."""
    if rng.random() < 0.33:
        form = rng.choice(("a sign with the number {}", "the number {}", "{}"))
        return form.format(sign.number), [(ANY, SIGN + 1 + DIGITS.index(sign.number))]
    return rng.choice(("a sign", "the sign", "a sign with a number", "sign", "a photo of a sign")), [(ANY, SIGN)]


def _overlaps(boxes: np.ndarray, crop: Box) -> tuple[np.ndarray, np.ndarray]:
    """Visible share of each box (n,), and its overlap with each of the 49 patches (n, 49) as a share of a patch."""
    edge = (crop[2] - crop[0]) / PATCHES
    x = (boxes[:, 0::2] - crop[0]) / edge
    y = (boxes[:, 1::2] - crop[1]) / edge
    cells = np.arange(PATCHES)
    wide = np.clip(np.minimum(x[:, 1:], cells + 1) - np.maximum(x[:, :1], cells), 0, None)
    high = np.clip(np.minimum(y[:, 1:], cells + 1) - np.maximum(y[:, :1], cells), 0, None)
    patches = (high[:, :, None] * wide[:, None, :]).reshape(len(boxes), -1)
    return patches.sum(1) / ((x[:, 1] - x[:, 0]) * (y[:, 1] - y[:, 0])), patches


def least_size(step: int) -> float:
    """Size in the view (px) that things are drawn with at least, in this step; falls on a logarithmic scale."""
    share = min(1.0, step / (0.5 * STEPS))
    return float(FIRST_SIZE * (LEAST_SIZE / FIRST_SIZE) ** share)


def make_batch(
    store: SceneStore, rng: np.random.Generator, size: int, least: float = LEAST_SIZE
) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Views (n, 84, 84, 3), texts, match targets (text, view) in 0-1, dense labels (n, 49, 3): shape, colour, digit.

    Where a patch has none the label is -1. A shape that is too small in the view is -2 (not asked), and so is the digit
    of a sign that is too small or shown by less than half. All look-alikes are one shape more, `OTHER`.
    """
    words = random.Random(int(rng.integers(2**62)))
    views = np.empty((size, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    presence = np.zeros((size, ANY + 1, SIGN + 1 + len(DIGITS)), np.float32)
    dense = np.full((size, PATCHES * PATCHES, 3), -1, np.int64)
    texts, mentioned = [], []
    for i in range(size):
        index = int(rng.integers(len(store.scenes)))
        scene = store.scenes[index]
        sign = scene.sign
        if rng.random() < 0.08:
            crop = WHOLE
        elif sign is not None and rng.random() < SIGN_CROPS:
            crop = random_crop_of(sign.box, max(READABLE_SIGN, 1.5 * least), rng)
        elif rng.random() < THING_CROPS:
            crop = random_crop_of(scene.things[int(rng.integers(len(scene.things)))].box, least, rng)
        else:
            crop = random_crop(rng)
        views[i] = store.view(index, crop)
        zoom = INPUT_SIZE / (crop[2] - crop[0])
        shares, _ = _overlaps(np.array([thing.box for thing in scene.things], float), crop)
        for thing, share in zip(scene.things, shares, strict=True):
            color, shape = COLORS.index(thing.color), SHAPES.index(thing.shape)
            for place in ((color, shape), (ANY, shape), (color, ANY)):
                presence[i][place] = max(presence[i][place], share)
        drawn = (*scene.things, *scene.look_alikes)
        patches = _overlaps(np.array([thing.box for thing in drawn], float), crop)[1]
        strongest, best = patches.max(0), patches.argmax(0)
        # A patch tells of the thing that fills a quarter of it; a small thing has at least the patch with most of it.
        told = strongest >= 0.25
        told[[row.argmax() for row in patches if row.max() >= 0.06]] = True
        for patch in np.flatnonzero(told):
            thing = drawn[best[patch]]
            shape = SHAPES.index(thing.shape) if thing.shape in SHAPES else OTHER
            dense[i, patch, :2] = (shape if thing.size * zoom >= READABLE_THING else -2, COLORS.index(thing.color))
        if sign is not None:
            sign_shares, sign_patches = _overlaps(np.array([sign.box], float), crop)
            digit, share = DIGITS.index(sign.number), sign_shares[0]
            presence[i, ANY, [SIGN, SIGN + 1 + digit]] = share
            asked = sign.size * zoom >= READABLE_SIGN and share >= READABLE_SHARE
            dense[i, sign_patches[0] >= 0.25, 2] = digit if asked else -2
        inside = [n for n, share in enumerate(shares) if share > 0.5]
        if sign is not None and words.random() < SIGN_TEXTS:
            text, mentions = _sign_text(sign, words)
        else:
            candidates = inside if inside and words.random() < 0.85 else list(range(len(shares)))
            text, mentions = _texts(scene, candidates, words)
        texts.append(text)
        mentioned.append(mentions)
    targets = np.stack([np.mean([presence[:, c, s] for c, s in mentions], axis=0) for mentions in mentioned])
    return views, texts, targets, dense


class DenseHead(nn.Module):
    """Objectness, shape, colour and digit of a patch from its token; a training aid that is dropped afterwards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1 + len(SHAPES) + 1 + len(COLORS) + len(DIGITS))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = self.linear(tokens)
        return out[..., 0], *out[..., 1:].split((len(SHAPES) + 1, len(COLORS), len(DIGITS)), dim=-1)


def _loss(
    model: open_clip.CLIP, head: DenseHead, batch: Batch, tokenizer: open_clip.tokenizer.HFTokenizer
) -> torch.Tensor:
    views, texts, targets, dense = batch
    pooled, tokens = model.visual(to_pixels(views))
    image = F.normalize(pooled, dim=-1)
    text = model.encode_text(tokenizer(texts), normalize=True)
    logits = model.logit_scale.exp() * text @ image.T + model.logit_bias
    wanted = torch.from_numpy(targets)
    match = F.binary_cross_entropy_with_logits(logits.float(), wanted, weight=1 + wanted)
    objectness, shape, color, digit = (part.float() for part in head(tokens))
    labels = torch.from_numpy(dense)
    auxiliary = 2 * F.binary_cross_entropy_with_logits(objectness, (labels[..., 1] >= 0).float())
    for column, (logits, share) in enumerate(((shape, 1.0), (color, 0.5), (digit, 1.0))):
        known = labels[..., column] >= 0
        total = F.cross_entropy(logits[known], labels[..., column][known], reduction="sum")
        auxiliary = auxiliary + share * total / known.sum().clamp(min=1)
    return 5.0 * match + auxiliary


@torch.no_grad()
def _watch(
    model: open_clip.CLIP, head: DenseHead, store: SceneStore, tokenizer: open_clip.tokenizer.HFTokenizer
) -> dict[str, float]:
    """On dev scenes: dense accuracies, and how often the best 3x3 cell holds the middle of what a question asks for."""
    model.eval()
    rng = np.random.default_rng(5)
    views, _, _, dense = make_batch(store, rng, 300)
    _, *parts = head(model.visual(to_pixels(views))[1])
    labels = torch.from_numpy(dense)
    cells = grid_cells(3)
    hits: dict[str, list[bool]] = {"hit_3x3": [], "caption_hit_3x3": [], "sign_hit_3x3": []}
    for index in range(150):
        image = F.normalize(model.visual(to_pixels(np.stack([store.view(index, cell) for cell in cells])))[0], dim=-1)
        scene = store.scenes[index]
        asked: list[tuple[Thing, str, str]] = []
        for thing in scene.small_things:
            asked.append((thing, f"What is the color of the {thing.shape}?", "hit_3x3"))
            asked.append((thing, f"a {thing.shape}", "caption_hit_3x3"))
        if scene.sign is not None:
            asked.append((scene.sign, "What number is on the sign?", "sign_hit_3x3"))
        text = model.encode_text(tokenizer([question for _, question, _ in asked]), normalize=True)
        for (thing, _, key), best in zip(asked, (text @ image.T).argmax(1).tolist(), strict=True):
            left, top, right, bottom = cells[best]
            hits[key].append(left <= thing.center[0] < right and top <= thing.center[1] < bottom)
    model.train()
    scores = {}
    for column, (name, logits) in enumerate(zip(("shape", "color", "digit"), parts, strict=True)):
        known = labels[..., column] >= 0
        scores[f"{name}_at_patch"] = (logits.argmax(-1) == labels[..., column])[known].float().mean().item()
    return scores | {key: float(np.mean(values)) for key, values in hits.items()}


def _train(rank: int, work: Path, seed: int, scenes: int) -> None:
    torch.manual_seed(seed)
    tokenizer_folder = work / "clip_tokenizer"
    tokenizer = open_clip.tokenizer.HFTokenizer(str(tokenizer_folder), context_length=CLIP_CONTEXT, clean="whitespace")
    config = model_config(len(tokenizer.tokenizer))
    model = build_model(config)
    model.visual.output_tokens = True
    head = DenseHead(128)
    named = [*model.named_parameters(), *head.named_parameters(prefix="head")]
    is_matrix = {name: p.ndim == 2 and "resblocks" in name for name, p in named}
    optimizers = Optimizers(
        [p for name, p in named if is_matrix[name]], [p for name, p in named if not is_matrix[name]], 0.02, 1e-3
    )
    train, dev = SceneStore(work / "scenes", "train", scenes), SceneStore(work / "scenes", "dev", 1000)
    checkpoint, step, spent = work / "clip_checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(saved["model"])
        head.load_state_dict(saved["head"])
        optimizers.load_state_dict(saved["optimizers"])
        step, spent = saved["step"], saved["seconds"]
    log = Log(work, "clip") if rank == 0 else None
    started = time.perf_counter() - spent
    while step < STEPS:
        batch = make_batch(train, np.random.default_rng([seed, 1, step, rank]), BATCH, least_size(step))
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(model, head, batch, tokenizer)
        loss.backward()
        optimizers.step(min(1.0, step / 100, 0.02 + (1 - step / STEPS) / 0.6))
        step += 1
        if log is not None and (step % 200 == 0 or step == STEPS):
            seconds = time.perf_counter() - started
            log.write(step=step, seconds=seconds, loss=loss.item(), **_watch(model, head, dev, tokenizer))
            state = {"model": model.state_dict(), "head": head.state_dict(), "optimizers": optimizers.state_dict()}
            torch.save(state | {"step": step, "seconds": seconds}, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").rename(checkpoint)


def export_clip(work: Path, folder: Path) -> None:
    """Write the trained CLIP as an open_clip `local-dir:` folder: fp16 weights, config, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_clip_tokenizer(folder)
    config = {
        "model_cfg": model_config(len(tokenizer)),
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = torch.load(work / "clip_checkpoint.pt", weights_only=False)["model"]
    half = {name: value.half().contiguous() for name, value in weights.items()}
    save_file(half, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    (folder / "open_clip_model.safetensors").chmod(0o644)


def train_clip(work: Path, seed: int, scenes: int) -> None:
    """Train (or go on training) the mini CLIP in `work`; the result is `work/clip_checkpoint.pt`."""
    build_clip_tokenizer(work / "clip_tokenizer")
    for split, count in (("train", scenes), ("dev", 1000)):  # drawn here, once, not by every worker
        SceneStore(work / "scenes", split, count)
    run_workers(_train, work, work, seed, scenes)
