"""The training code teaches what the benchmarks ask: same tokens, true answers, branches that do not see each other."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from mini_training.clip import make_batch
from mini_training.curriculum import BATCH, SIGN_TASKS, STAGES
from mini_training.packing import Encoder
from mini_training.scenes import (
    READABLE_SIGN,
    WHOLE,
    SceneStore,
    grid_cells,
    has_sign,
    random_crop,
    random_crop_of,
    readable,
    visible_share,
)
from mini_training.turns import TURNS, seen_things, without_unreadable_sign

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
        scenes = (make_scene("dev", number, sign=True) for number in range(index, index + 20))
        turn = next(made for scene in scenes if (made := maker(scene, list(scene.things), rng)) is not None)
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
        assert 40 <= right - left <= 252
        assert abs((right - left) - (bottom - top)) <= 1
    for side in (2, 3, 4, 5):
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
        assert all(
            max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]) * 84 / (crop[2] - crop[0]) > 7.9
            for thing in seen
        )
        turn = TURNS["color_sentence"](scene, seen, words)
        if turn is None:
            assert not seen
            continue
        asked += 1
        shape = turn[0].removesuffix("?").split()[-1]
        assert turn[1] in {f" The color of the {shape} is *{t.color}*." for t in seen if t.shape == shape}
    assert asked > 20


def test_a_sign_is_asked_about_only_where_a_crop_shows_it() -> None:
    rng, words = np.random.default_rng(2), random.Random(2)
    assert set(SIGN_TASKS) == {name for name in TURNS if name.startswith("sign")}
    asked = hidden = 0
    for index in range(60):
        scene = make_scene("dev", index, sign=True)
        assert scene.sign is not None
        assert without_unreadable_sign(scene, [WHOLE]).sign is None
        assert readable(scene.sign.box, random_crop_of(scene.sign.box, READABLE_SIGN, rng), READABLE_SIGN * 0.98)
        crop = random_crop(rng)
        shown = without_unreadable_sign(scene, [WHOLE, crop])
        assert shown.things == scene.things
        for name in SIGN_TASKS:
            turn = TURNS[name](shown, [], words)
            if not readable(scene.sign.box, crop, READABLE_SIGN):
                assert turn is None
                hidden += 1
            else:
                assert turn is not None
                assert turn[1] == f" *{scene.sign.number}*"
                asked += 1
    assert asked > 5
    assert hidden > 5


def test_a_quarter_of_the_letter_questions_end_as_hr_bench_asks() -> None:
    words, asked, hr_bench = random.Random(3), 0, 0
    for index in range(150):
        scene = make_scene("dev", index)
        for name in ("side_letter_horizontal", "side_letter_vertical", "present_color_letter"):
            turn = TURNS[name](scene, [], words)
            if turn is None:
                continue
            asked += 1
            hr_bench += turn[0].endswith("\nAnswer the option letter directly.")
            llava = turn[0].endswith("\nAnswer with the option's letter from the given choices directly.")
            assert llava or turn[0].endswith("\nAnswer the option letter directly.")
            assert turn[0].count("\nAnswer ") == 1
    assert asked > 300
    assert 0.19 < hr_bench / asked < 0.31  # a quarter, about three standard errors either way


def test_clip_learns_from_true_signs(tmp_path: Path) -> None:
    """Match targets and digit labels against what each view is known to show."""
    store = SceneStore(tmp_path, "dev", 10)
    assert [scene.sign is not None for scene in store.scenes] == [has_sign(index) for index in range(10)]
    assert 0 < sum(map(has_sign, range(10))) < 10
    views, texts, targets, dense = make_batch(store, np.random.default_rng(3), 120)
    digits = [{int(d) for d in view[:, 2] if d >= 0} for view in dense]
    assert all(len(each) <= 1 for each in digits)
    about_sign = [i for i, text in enumerate(texts) if text.endswith("sign")]
    numbered = [(i, int(text[-1])) for i, text in enumerate(texts) if text[-1:].isdigit()]
    assert about_sign
    assert numbered
    for view, digit in enumerate(digits):
        if digit:  # at least half of the sign is in view
            assert all(targets[i, view] >= 0.5 for i in about_sign)
            assert all((targets[i, view] >= 0.5) == (number in digit) for i, number in numbered)
    unsigned = [view for view in range(120) if (dense[view, :, 2] == -1).all() and targets[about_sign[0], view] == 0]
    assert unsigned  # scenes or crops without a sign match no question about one
    assert views.shape == (120, 84, 84, 3)
