"""Train the mini VLM: a LLaVA whose vision tower is the frozen mini CLIP, with a small Qwen3 language model."""

import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from mini_training.clip import MEAN, PATCHES, STD
from mini_training.curriculum import (
    BATCH,
    GRID_2,
    GRID_3,
    ONE_CROP,
    OVERVIEW,
    SIGN_TASKS,
    STAGES,
    TEXT,
    TWO_CROPS,
    Stage,
)
from mini_training.packing import Encoder, Packed, pack, token_losses
from mini_training.parallel import Optimizers, run_workers
from mini_training.record import Log
from mini_training.scenes import (
    INPUT_SIZE,
    READABLE_SIGN,
    WHOLE,
    SceneStore,
    grid_cells,
    random_crop,
    random_crop_of,
)
from mini_training.turns import TURNS, seen_things, without_unreadable_sign
from mini_training.vocabulary import build_vlm_tokenizer
from semclip_eval.mini.world import Box, Scene

EVALUATE_EVERY = 150
WARM_UP = 50
SIGN_CROPS = 0.6  # share of the views of a scene with a sign that have a crop around it
THING_CROPS = 0.85  # share of the crops that are drawn around a thing
FLOOR = 0.05
MUON_LR, ADAM_LR = 0.02, 2e-3


def model_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """Overview and crops of 84 px give 49 visual tokens each; features of the first and last layer side by side."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=INPUT_SIZE,
        patch_size=INPUT_SIZE // PATCHES,
        hidden_act="gelu",
        projection_dim=128,
    )
    text = Qwen3Config(
        vocab_size=-(-len(tokenizer) // 16) * 16,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=PATCHES**2,
        projector_hidden_act="gelu",
        vision_feature_layer=[0, -1],
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tower_weights(clip: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The image side of an open_clip checkpoint under the names of transformers' CLIPVisionModel."""
    out = {
        "embeddings.class_embedding": clip["visual.class_embedding"],
        "embeddings.position_embedding.weight": clip["visual.positional_embedding"],
        "embeddings.patch_embedding.weight": clip["visual.conv1.weight"],
    }
    for ours, theirs in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post")):
        for part in ("weight", "bias"):
            out[f"{ours}.{part}"] = clip[f"visual.{theirs}.{part}"]
    layer = 0
    while f"visual.transformer.resblocks.{layer}.ln_1.weight" in clip:
        source, target = f"visual.transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for part in ("weight", "bias"):
            for piece, value in zip("qkv", clip[f"{source}.attn.in_proj_{part}"].chunk(3), strict=True):
                out[f"{target}.self_attn.{piece}_proj.{part}"] = value
            out[f"{target}.self_attn.out_proj.{part}"] = clip[f"{source}.attn.out_proj.{part}"]
            for ours, theirs in (
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                out[f"{target}.{ours}.{part}"] = clip[f"{source}.{theirs}.{part}"]
        layer += 1
    return out


def build_model(tokenizer: PreTrainedTokenizerFast, clip: dict[str, torch.Tensor]) -> LlavaForConditionalGeneration:
    """An untrained mini VLM around the given CLIP's vision tower, with attention that is fast to train on a CPU."""
    config = model_config(tokenizer)
    config._attn_implementation = "eager"
    model = LlavaForConditionalGeneration(config)
    tower = model.model.vision_tower
    names = set(tower.state_dict())
    weights = tower_weights(clip)
    if not names <= set(weights):  # some releases of transformers wrap the tower once more
        weights = {f"vision_model.{name}": value for name, value in weights.items()}
    tower.load_state_dict(weights)
    tower.requires_grad_(False)
    return model


def _views(mode: str, scene: Scene, least: float, rng: np.random.Generator) -> list[Box]:
    if mode == OVERVIEW:
        return [WHOLE]
    if mode in (GRID_2, GRID_3):
        return [WHOLE, *grid_cells(2 if mode == GRID_2 else 3)]
    crops = []
    if scene.sign is not None and rng.random() < SIGN_CROPS:
        crops.append(random_crop_of(scene.sign.box, max(READABLE_SIGN, 1.5 * least), rng))
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    while len(crops) < (2 if mode == TWO_CROPS else 1):
        around = rng.random() < THING_CROPS
        crops.append(random_crop_of(things[len(crops)].box, least, rng) if around else random_crop(rng))
    return [WHOLE, *(crops[i] for i in rng.permutation(len(crops)))]


def make_batch(
    store: SceneStore, stage: Stage, mode: str, encoder: Encoder, rng: np.random.Generator
) -> tuple[list[Packed], list[list[str]]]:
    """Packed sequences and, for each, the task of every branch."""
    words = random.Random(int(rng.integers(2**62)))
    size, asked = BATCH[mode]
    tasks = stage.tasks(mode)
    batch, kinds = [], []
    for _ in range(size):
        index = int(rng.integers(len(store.scenes)))
        scene = store.scenes[index]
        boxes = [] if mode == TEXT else _views(mode, scene, stage.least_size, rng)
        seen, shown = seen_things(scene, boxes), without_unreadable_sign(scene, boxes)
        possible = {name: share for name, share in tasks.items() if shown.sign or name not in SIGN_TASKS}
        branches, names = [], []
        for name in words.choices(list(possible), list(possible.values()), k=asked):
            turn = TURNS[name](shown, seen, words)
            if turn is not None:
                question = encoder.question(turn[0])
                ids, weights = encoder.answer(turn[1])
                branches.append(([*question, *ids], [0.0] * len(question) + weights))
                names.append(name)
        if branches:
            batch.append(pack(encoder.prefix(len(boxes)), branches, [store.view(index, box) for box in boxes]))
            kinds.append(names)
    return batch, kinds


@torch.no_grad()
def watch(
    model: LlavaForConditionalGeneration, store: SceneStore, stage: Stage, encoder: Encoder, rank: int
) -> dict[tuple[str, str], float]:
    """Accuracy on dev scenes of the decisive words, by what is shown and task; the workers share the work."""
    rounds = {OVERVIEW: 3, ONE_CROP: 4, TWO_CROPS: 2, GRID_2: 2, GRID_3: 3, TEXT: 2}
    keys = [(mode, task) for mode in stage.mix for task in stage.tasks(mode)]
    counts = torch.zeros(len(keys), 2)
    for mode in stage.mix:
        for number in range(rounds[mode]):
            batch, kinds = make_batch(store, stage, mode, encoder, np.random.default_rng([99, number, rank]))
            with torch.autocast("cpu", torch.bfloat16):
                _, right, places = token_losses(model, batch, encoder.image)
            for (sample, weight, branch), ok in zip(places, right.tolist(), strict=True):
                if weight == 1:
                    counts[keys.index((mode, kinds[int(sample)][int(branch)]))] += torch.tensor([ok, 1.0])
    dist.all_reduce(counts)
    return {key: (right / max(total, 1)).item() for key, (right, total) in zip(keys, counts, strict=True)}


def _factor(stage: Stage, stage_step: int, step: int) -> float:
    warm = min(1.0, (step + 1) / WARM_UP)
    return max(FLOOR, 1 - stage_step / stage.most) if stage.decay else warm


def _train(rank: int, work: Path, seed: int, scenes: int) -> None:
    torch.manual_seed(seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "vlm_tokenizer")
    encoder = Encoder(tokenizer)
    model = build_model(tokenizer, torch.load(work / "clip_checkpoint.pt", weights_only=False)["model"])
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    is_matrix = {name: p.ndim == 2 and "embed" not in name for name, p in named}
    optimizers = Optimizers(
        [p for name, p in named if is_matrix[name]], [p for name, p in named if not is_matrix[name]], MUON_LR, ADAM_LR
    )
    train, dev = SceneStore(work / "scenes", "train", scenes), SceneStore(work / "scenes", "dev", 1000)
    checkpoint = work / "vlm_checkpoint.pt"
    number = stage_step = step = 0
    spent = 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(saved["model"])
        optimizers.load_state_dict(saved["optimizers"])
        number, stage_step, step, spent = saved["progress"]
    log = Log(work, "vlm") if rank == 0 else None
    started = time.perf_counter() - spent
    while number < len(STAGES):
        stage = STAGES[number]
        mode = random.Random(f"{seed}/{step}").choices(list(stage.mix), list(stage.mix.values()))[0]
        batch, _ = make_batch(train, stage, mode, encoder, np.random.default_rng([seed, 2, step, rank]))
        with torch.autocast("cpu", torch.bfloat16):
            losses, _, places = token_losses(model, batch, encoder.image)
        weights = torch.from_numpy(places[:, 1]).float()
        ((losses * weights).sum() / weights.sum()).backward()
        optimizers.step(_factor(stage, stage_step, step))
        step, stage_step = step + 1, stage_step + 1
        if stage_step % EVALUATE_EVERY and stage_step < stage.most:
            continue
        scores = watch(model, dev, stage, encoder, rank)
        met = (
            stage_step >= stage.least and stage.goals and all(scores[key] >= goal for key, goal in stage.goals.items())
        )
        if log is not None:
            seconds = time.perf_counter() - started
            shown = {f"{mode}/{task}": score for (mode, task), score in scores.items()}
            log.write(part=stage.name, step=step, seconds=seconds, **shown)
        if met or stage_step >= stage.most:
            number, stage_step = number + 1, 0
        if log is not None:
            state = {"model": model.state_dict(), "optimizers": optimizers.state_dict()}
            torch.save(state | {"progress": (number, stage_step, step, seconds)}, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").rename(checkpoint)


def train_vlm(work: Path, seed: int, scenes: int) -> None:
    """Train (or go on training) the mini VLM on `work/clip_checkpoint.pt`; result `work/vlm_checkpoint.pt`."""
    build_vlm_tokenizer(work / "vlm_tokenizer")
    run_workers(_train, work, work, seed, scenes)


def export_vlm(work: Path, folder: Path) -> None:
    """Write the trained VLM as a transformers folder: fp16 weights, config, tokenizer, image processor."""
    tokenizer = build_vlm_tokenizer(folder)
    model = build_model(tokenizer, torch.load(work / "clip_checkpoint.pt", weights_only=False)["model"])
    checkpoint = work / "vlm_checkpoint.pt"
    if checkpoint.exists():
        model.load_state_dict(torch.load(checkpoint, weights_only=False)["model"])
    model.config._attn_implementation = None
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    size = {"height": INPUT_SIZE, "width": INPUT_SIZE}
    images = CLIPImageProcessor(do_center_crop=False, size=size, image_mean=list(MEAN), image_std=list(STD), resample=3)
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=INPUT_SIZE // PATCHES,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    ).save_pretrained(folder)
    build_vlm_tokenizer(folder)  # again: the processor has written its own idea of the tokenizer's class
