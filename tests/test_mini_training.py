"""The training code teaches what the benchmarks ask: same tokens, true answers, branches that do not see each other."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from mini_training.curriculum import BATCH, STAGES
from mini_training.packing import Encoder
from mini_training.scenes import WHOLE, grid_cells, random_crop, visible_share
from mini_training.turns import TURNS, seen_things

from semclip_eval.mini import weights_folder
from semclip_eval.mini.world import SCENE_SIZE, make_scene


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    from transformers import PreTrainedTokenizerFast

    return Encoder(PreTrainedTokenizerFast.from_pretrained(weights_folder("vlm")))


def test_every_stage_asks_only_what_can_be_made() -> None:
    for stage in STAGES:
        assert sum(stage.mix.values()) == pytest.approx(1)
        for mode in stage.mix:
            assert stage.tasks(mode)
            assert mode in BATCH
            assert set(stage.tasks(mode)) <= set(TURNS)
        assert all(task in stage.tasks(mode) and mode in stage.mix for mode, task in stage.goals)


def test_pieces_are_the_tokens_of_the_whole_prompt(encoder: Encoder) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(weights_folder("vlm"))
    rng = random.Random(0)
    views = np.zeros((84, 84, 3), np.uint8)
    for index, maker in enumerate(TURNS.values()):
        scene = make_scene("dev", index)
        turn = maker(scene, list(scene.things), rng)
        assert turn is not None
        count = 1 + index % 3
        system = processor.tokenizer.decode(encoder.prefix(0)[1:2])
        prompt = f"{system} USER: " + "<image>\n" * count + f"{turn[0]} ASSISTANT:"
        whole = processor(text=[prompt + turn[1].replace("*", "") + "</s>"], images=[views] * count).input_ids[0]
        ids, weights = encoder.answer(turn[1])
        assert list(encoder.prefix(count)) + list(encoder.question(turn[0])) + ids == list(whole)
        assert len(ids) == len(weights)
        assert sum(weight == 1 for weight in weights) == turn[1].count("*") // 2 >= 1


def test_packed_losses_are_those_of_separate_prompts() -> None:
    from mini_training.evaluate import check_forward

    assert check_forward(weights_folder("vlm").parent, 2) < 1e-4


def test_crops_lie_in_the_scene_and_cells_tile_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        left, top, right, bottom = random_crop(rng)
        assert 0 <= left < right <= SCENE_SIZE
        assert 0 <= top < bottom <= SCENE_SIZE
        assert 84 <= right - left == bottom - top <= 168
    for side in (2, 3):
        covered = np.zeros((SCENE_SIZE, SCENE_SIZE), int)
        for left, top, right, bottom in grid_cells(side):
            covered[top:bottom, left:right] += 1
        assert (covered == 1).all()


def test_a_shape_is_asked_about_only_where_a_crop_shows_it() -> None:
    rng, words = np.random.default_rng(1), random.Random(1)
    asked = 0
    for index in range(60):
        scene = make_scene("dev", index)
        crop = random_crop(rng)
        seen = seen_things(scene, [WHOLE, crop])
        assert seen_things(scene, [WHOLE]) == []
        assert all(visible_share(thing.box, crop) >= 0.5 for thing in seen)
        turn = TURNS["color_sentence"](scene, seen, words)
        if turn is None:
            assert not seen
            continue
        asked += 1
        shape = turn[0].removesuffix("?").split()[-1]
        assert turn[1] in {f" The color of the {shape} is *{t.color}*." for t in seen if t.shape == shape}
    assert asked > 20
