"""Scenes: reproducible, splits apart, boxes tight, and questions that are true."""

import hashlib
import random
import subprocess
import sys

import numpy as np
import pytest

from semclip_eval.mini.questions import (
    FAR_APART,
    LETTERS,
    MAKERS,
    MIN_SEPARATION,
    lettered_text,
    make_question,
    related_pair,
    shuffled,
)
from semclip_eval.mini.signs import DIGITS, sign_masks
from semclip_eval.mini.world import (
    COLORS,
    LARGE,
    LARGEST,
    LOOK_ALIKES,
    SCENE_SIZE,
    SHAPES,
    SMALLEST,
    SPLITS,
    drawn_pixels,
    make_scene,
    render,
)

GOLDEN = {False: "c47b2b6b76ad8322", True: "3cfe1949a44dc7bd"}


def test_scene_depends_on_split_and_index_only() -> None:
    first = [(make_scene(split, i), render(make_scene(split, i)).tobytes()) for split in SPLITS for i in range(3)]
    random.seed(1)
    np.random.seed(1)
    again = [(make_scene(split, i), render(make_scene(split, i)).tobytes()) for split in SPLITS for i in range(3)]
    assert first == again


def test_splits_share_no_scene() -> None:
    layouts = {split: {make_scene(split, i).things for i in range(150)} for split in SPLITS}
    images = {split: {render(make_scene(split, i)).tobytes() for i in range(5)} for split in SPLITS}
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not layouts[one] & layouts[other]
        assert not images[one] & images[other]


@pytest.mark.parametrize(("split", "index"), [("validation", 0), ("train", -1), ("train", 2**32)])
def test_unknown_scene_is_refused(split: str, index: int) -> None:
    with pytest.raises(ValueError, match=r"split|index"):
        make_scene(split, index)


def test_scene_rules() -> None:
    for index in range(100):
        scene = make_scene("dev", index)
        things = scene.things
        assert 5 <= len(things) <= 7
        assert len({thing.shape for thing in things}) == len(things)
        assert len({thing.color for thing in things}) >= 4
        assert all(t.shape in SHAPES and t.color in COLORS for t in things)
        # Landmarks are large and of a colour of their own; look-alikes share no shape with what is asked about.
        for landmark in things[:2]:
            assert landmark.size >= LARGE
            assert landmark in scene.unique_colored
        assert 3 <= len(scene.look_alikes) <= 6
        assert all(t.shape in LOOK_ALIKES for t in scene.look_alikes)
        assert {t.color for t in scene.look_alikes} <= {t.color for t in scene.small_things}
        assert all(SMALLEST <= t.size <= LARGEST for t in (*things, *scene.look_alikes))
        assert all(0 <= t.box[0] < t.box[2] <= SCENE_SIZE and 0 <= t.box[1] < t.box[3] <= SCENE_SIZE for t in things)


def test_sizes_are_log_uniform() -> None:
    """As many between 12 and 23 px as between 23 and 44: the smaller half of the logarithms."""
    sizes = [thing.size for index in range(300) for thing in make_scene("dev", index).small_things]
    middle = (SMALLEST * (LARGEST + 1)) ** 0.5
    assert 0.46 < np.mean([size < middle for size in sizes]) < 0.54
    assert (min(sizes), max(sizes)) == (SMALLEST, LARGEST)


def test_nothing_touches() -> None:
    for index in range(40):
        scene = make_scene("dev", index, sign=True)
        drawn = [*scene.things, *scene.look_alikes, scene.sign]
        boxes = [thing.box for thing in drawn if thing is not None]
        for number, (left, top, right, bottom) in enumerate(boxes):
            for other in boxes[:number]:
                apart = left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]
                gap = np.hypot((left + right - other[0] - other[2]) / 2, (top + bottom - other[1] - other[3]) / 2)
                assert apart or gap > 0.6 * (right - left + other[2] - other[0])


def test_boxes_are_tight_around_drawn_pixels() -> None:
    for index in range(6):
        scene = make_scene("dev", index)
        for thing in (*scene.things, *scene.look_alikes):
            # At an edge a faint pixel may be the colour of the background by chance, hence one pixel of play.
            changed = drawn_pixels(scene, thing).getbbox()
            assert changed is not None
            assert np.abs(np.array(changed) - thing.box).max() <= 1


def test_object_has_its_color_in_the_picture() -> None:
    scene = make_scene("dev", 3)
    image = render(scene)
    for thing in scene.things:
        if thing.shape != "ring":  # a ring's middle is background
            assert image.getpixel(thing.center) == thing.rgb


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_questions_are_true_and_repeatable(kind: str) -> None:
    asked = 0
    for index in range(120):
        scene = make_scene("dev", index, sign=kind == "number")
        question = make_question(kind, scene)
        assert question == make_question(kind, scene)
        if question is None:
            continue
        asked += 1
        assert len(set(question.options)) == len(question.options) >= 2
        assert all(target in (*scene.things, scene.sign) for target in question.targets)
        shapes, colors = {t.shape: t for t in scene.things}, {t.color for t in scene.things}
        words = question.text.rstrip("?").split()
        if kind in ("color", "color_choice"):
            assert shapes[words[-1]].color == question.answer
            assert question.answer in question.options[0]
            assert all(option.rstrip(".").split()[-1] in colors for option in question.options)
        elif kind == "shape_existence":
            assert (words[3] in shapes) == (question.answer == "yes")
        elif kind == "color_existence":
            assert (words[3] in colors) == (question.answer == "yes")
            assert question.answer == "no" or words[3] in scene.visible_colors
        elif kind == "present_color_choice":
            assert question.options[0] in scene.visible_colors
            assert [option in colors for option in question.options] == [True] + [False] * (len(question.options) - 1)
        elif kind in ("color_pair", "color_pair_choice"):
            first, second = question.targets
            assert words[-4:] == [first.shape, "and", "the", second.shape]
            apart = max(abs(a - b) for a, b in zip(first.center, second.center, strict=True))
            assert apart >= FAR_APART
            assert first.color != second.color
            said = [[word for word in option.rstrip(".").split() if word in COLORS] for option in question.options]
            assert said[0] == [first.color, second.color]
            # Each colour alone leaves two options; all colours are in the picture.
            assert [pair[0] == first.color for pair in said] == [True, True, False, False]
            assert [pair[1] == second.color for pair in said] == [True, False, True, False]
            assert {color for pair in said for color in pair} <= colors
        elif kind == "number":
            assert scene.sign is not None
            assert question.answer == question.options[0] == scene.sign.number
            assert question.targets == (scene.sign,)
            assert len(question.options) == 4
            assert set(question.options) <= set(DIGITS)
        else:
            first, second = question.targets
            (x, y), (a, b) = first.center, second.center
            true = {"left": a - x, "right": x - a, "above": b - y, "below": y - b}[question.answer]
            assert true >= MIN_SEPARATION
            assert question.text.index(first.name) < question.text.index(second.name)
            assert sum(t.color == first.color for t in scene.things) == 1
    assert asked > 75


def test_a_sign_is_added_to_the_scene_and_changes_nothing_else() -> None:
    for split in SPLITS:
        for index in range(5):
            plain, signed = make_scene(split, index), make_scene(split, index, sign=True)
            sign = signed.sign
            assert sign is not None
            assert plain.sign is None
            assert make_question("number", plain) is None
            assert signed.things == plain.things
            assert signed.look_alikes == plain.look_alikes
            before, after = np.asarray(render(plain), int), np.asarray(render(signed), int)
            rows, columns = np.nonzero(np.abs(after - before).sum(2))
            tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.abs(np.array(tight) - sign.box).max() <= 1
            assert np.abs(np.array(drawn_pixels(signed, sign).getbbox()) - sign.box).max() <= 1


def test_scenes_are_those_that_the_shipped_weights_were_measured_on() -> None:
    """A changed pixel is a new world: raise WORLD_VERSION, measure again, then renew these sums."""
    for sign, expected in GOLDEN.items():
        drawn = b"".join(render(make_scene("test", index, sign)).tobytes() for index in range(4))
        assert hashlib.sha256(drawn).hexdigest()[:16] == expected


def test_every_digit_is_drawn_and_differs_from_the_others() -> None:
    inks = {digit: np.asarray(sign_masks(digit, 33, 0.0, 0.12)[1], int) for digit in DIGITS}
    plate = np.asarray(sign_masks("0", 33, 0.0, 0.12)[0], int)
    for digit, ink in inks.items():
        assert (ink <= plate).all()
        assert all(np.abs(ink - other).sum() > 255 * 20 for name, other in inks.items() if name != digit)
    numbers = [make_scene("test", index, sign=True).sign.number for index in range(400)]  # type: ignore[union-attr]
    assert all(20 <= numbers.count(digit) <= 65 for digit in DIGITS)


def test_answers_are_balanced() -> None:
    scenes = [make_scene("test", index) for index in range(400)]
    for kind, answer in (("shape_existence", "yes"), ("color_existence", "yes")):
        share = np.mean([make_question(kind, scene).answer == answer for scene in scenes])  # type: ignore[union-attr]
        assert 0.42 < share < 0.58
    for axis, side in (("horizontal", "left"), ("vertical", "above")):
        pairs = [related_pair(scene, axis, random.Random(scene.index)) for scene in scenes]
        assert 0.42 < np.mean([pair[2] == side for pair in pairs if pair is not None]) < 0.58


def test_letters_follow_the_right_option() -> None:
    letters = []
    for seed in range(400):
        options, letter = shuffled(("red", "blue", "white", "black"), random.Random(seed))
        assert options[LETTERS.index(letter)] == "red"
        letters.append(letter)
    assert all(letters.count(letter) > 60 for letter in LETTERS)
    assert lettered_text("Which?", ["a", "b"], "(A)").startswith(
        "Which?\n(A) a\n(B) b\nAnswer with the option's letter"
    )


def test_miniature_imports_nothing_heavy() -> None:
    code = (
        "import sys, semclip_eval.mini; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules); "
        "import semclip_eval.mini.build; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
