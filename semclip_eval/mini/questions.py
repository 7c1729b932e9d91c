"""Questions about a scene, in the wordings of the real benchmarks, with answers that are true in it.

The right option stands first; whoever shows options (letters) shuffles them. A maker returns None where the scene
has no clear case, for instance no two things that are far enough apart to be called left and right.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from semclip_eval.mini.signs import DIGITS
from semclip_eval.mini.world import COLORS, SCENE_SIZE, SHAPES, Scene, Thing

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
LETTERS = "ABCD"
# Ten overview pixels: closer pairs would test the resolution, not the relation.
MIN_SEPARATION = 60
# Two targets this far apart never lie in one cell of a 3 x 3 grid, which is 168 px wide.
FAR_APART = 180

SIDES = {"horizontal": ("left", "right"), "vertical": ("above", "below")}


@dataclass(frozen=True)
class MiniQuestion:
    """A question with its truth. `options` are full answers, right one first; `targets` are what one has to look at."""

    kind: str
    text: str
    options: tuple[str, ...]
    answer: str
    targets: tuple[Thing, ...]


def _colors_for(thing: Thing, scene: Scene, rng: random.Random) -> list[str]:
    """The thing's colour and three others of the scene: all four are present, so the overview cannot rule one out."""
    others = sorted({other.color for other in scene.things} - {thing.color})
    return [thing.color, *rng.sample(others, 3)]


def color_of_shape(scene: Scene, rng: random.Random) -> MiniQuestion:
    """V* direct_attributes: "What is the color of the star?" with four sentences. Not about a landmark."""
    thing = rng.choice(scene.small_things)
    colors = _colors_for(thing, scene, rng)
    sentences = tuple(f"The color of the {thing.shape} is {color}." for color in colors)
    return MiniQuestion("color", f"What is the color of the {thing.shape}?", sentences, thing.color, (thing,))


def far_apart_pair(things: Sequence[Thing], rng: random.Random) -> tuple[Thing, Thing] | None:
    """Two of `things` with different colours that no cell of a 3 x 3 grid holds together; None if there are none."""
    pairs = [
        (a, b)
        for a in things
        for b in things
        if a.color != b.color and max(abs(a.center[0] - b.center[0]), abs(a.center[1] - b.center[1])) >= FAR_APART
    ]
    return rng.choice(pairs) if pairs else None


def color_pair_text(first: Thing, second: Thing) -> str:
    return f"What are the colors of the {first.shape} and the {second.shape}?"


def color_pair_options(first: Thing, second: Thing, scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """The two colours, right ones first; then the second, the first and both replaced by another of the scene's."""
    present = {thing.color for thing in scene.things}
    wrong_first = rng.choice(sorted(present - {first.color, second.color}))
    wrong_second = rng.choice(sorted(present - {first.color, second.color, wrong_first}))
    return [
        (first.color, second.color),
        (first.color, wrong_second),
        (wrong_first, second.color),
        (wrong_first, wrong_second),
    ]


def colors_of_two(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """V* direct_attributes about two far-apart targets: one crop tells half of it, and leaves two options of four."""
    pair = far_apart_pair(scene.small_things, rng)
    if pair is None:
        return None
    first, second = pair
    sentences = tuple(
        f"The {first.shape} is {one} and the {second.shape} is {other}."
        for one, other in color_pair_options(first, second, scene, rng)
    )
    return MiniQuestion(
        "color_pair", color_pair_text(first, second), sentences, f"{first.color} and {second.color}", pair
    )


def color_pair_choice(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """The question about two targets with bare colours ("red and blue") as options."""
    pair = far_apart_pair(scene.small_things, rng)
    if pair is None:
        return None
    options = tuple(f"{one} and {other}" for one, other in color_pair_options(*pair, scene, rng))
    return MiniQuestion("color_pair_choice", color_pair_text(*pair), options, options[0], pair)


def related_pair(
    scene: Scene, axis: str, rng: random.Random, same_half: bool = False
) -> tuple[Thing, Thing, str] | None:
    """Two things of unique colours and the side of the first one: left, right, above or below the second.

    With `same_half` both lie in the same half of the scene (if such a pair exists), so that the place of the first one
    alone does not give the answer away.
    """
    along = 0 if axis == "horizontal" else 1
    things = scene.unique_colored
    pairs = [
        (a, b)
        for a in things
        for b in things
        if a is not b and abs(a.center[along] - b.center[along]) >= MIN_SEPARATION
    ]
    if same_half:
        middle = SCENE_SIZE // 2
        pairs = [(a, b) for a, b in pairs if (a.center[along] < middle) == (b.center[along] < middle)] or pairs
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    return first, second, SIDES[axis][0 if first.center[along] < second.center[along] else 1]


def relation_text(first: str, second: str, axis: str) -> str:
    if axis == "horizontal":
        return f"Is the {first} on the left or right side of the {second}?"
    return f"Is the {first} above or below the {second}?"


def relation_sentence(first: str, second: str, side: str) -> str:
    if side in SIDES["horizontal"]:
        return f"The {first} is on the {side} side of the {second}."
    return f"The {first} is {side} the {second}."


def relative_position(
    scene: Scene, rng: random.Random, axis: str | None = None, same_half: bool = False
) -> MiniQuestion | None:
    """V* relative_position: which side one thing is of another, both named by colour and shape, two sentences."""
    axis = axis or rng.choice(sorted(SIDES))
    pair = related_pair(scene, axis, rng, same_half)
    if pair is None:
        return None
    first, second, side = pair
    sides = (side, next(other for other in SIDES[axis] if other != side))
    return MiniQuestion(
        "relation",
        relation_text(first.name, second.name, axis),
        tuple(relation_sentence(first.name, second.name, each) for each in sides),
        side,
        (first, second),
    )


def shape_existence(scene: Scene, rng: random.Random, present: bool | None = None) -> MiniQuestion:
    """POPE: "Is there a star in the image?", yes half the time, never of a landmark. No target where absent."""
    present = rng.random() < 0.5 if present is None else present
    if present:
        thing = rng.choice(scene.small_things)
        return MiniQuestion(
            "shape_existence", f"Is there a {thing.shape} in the image?", ("yes", "no"), "yes", (thing,)
        )
    shape = rng.choice(sorted(set(SHAPES) - {thing.shape for thing in scene.things}))
    return MiniQuestion("shape_existence", f"Is there a {shape} in the image?", ("no", "yes"), "no", ())


def color_existence(scene: Scene, rng: random.Random, present: bool | None = None) -> MiniQuestion:
    """ "Is there a red object in the image?": the overview is enough for this one."""
    present = rng.random() < 0.5 if present is None else present
    absent = set(COLORS) - {thing.color for thing in scene.things}
    color = rng.choice(sorted(scene.visible_colors if present else absent))
    article = "an" if color == "orange" else "a"
    targets = tuple(thing for thing in scene.things if thing.color == color)
    options = ("yes", "no") if present else ("no", "yes")
    return MiniQuestion(
        "color_existence", f"Is there {article} {color} object in the image?", options, options[0], targets
    )


def color_choice(scene: Scene, rng: random.Random) -> MiniQuestion:
    """ "What is the color of the star?" with four bare colours, for multiple choice by letter."""
    thing = rng.choice(scene.small_things)
    colors = tuple(_colors_for(thing, scene, rng))
    return MiniQuestion("color_choice", f"What is the color of the {thing.shape}?", colors, thing.color, (thing,))


def present_color_choice(scene: Scene, rng: random.Random) -> MiniQuestion:
    """ "Which color is in the image?" with one colour that is and three (or fewer) that are not: overview is enough."""
    color = rng.choice(sorted(scene.visible_colors))
    absent = sorted(set(COLORS) - {thing.color for thing in scene.things})
    options = (color, *rng.sample(absent, min(3, len(absent))))
    targets = tuple(thing for thing in scene.things if thing.color == color)
    return MiniQuestion("present_color_choice", "Which color is in the image?", options, color, targets)


def side_choice(
    scene: Scene, rng: random.Random, axis: str | None = None, same_half: bool = False
) -> MiniQuestion | None:
    """The relation with bare sides ("left", "right") as options."""
    question = relative_position(scene, rng, axis, same_half)
    if question is None:
        return None
    side = question.answer
    other = next(other for pair in SIDES.values() if side in pair for other in pair if other != side)
    return MiniQuestion("side_choice", question.text, (side, other), side, question.targets)


def sign_number(scene: Scene, rng: random.Random) -> MiniQuestion | None:
    """TextVQA: "What number is on the sign?", a digit; None for a scene made without a sign."""
    if scene.sign is None:
        return None
    wrong = rng.sample([digit for digit in DIGITS if digit != scene.sign.number], 3)
    options = (scene.sign.number, *wrong)
    return MiniQuestion("number", "What number is on the sign?", options, scene.sign.number, (scene.sign,))


MAKERS: dict[str, Callable[[Scene, random.Random], MiniQuestion | None]] = {
    "color": color_of_shape,
    "color_pair": colors_of_two,
    "relation": relative_position,
    "shape_existence": shape_existence,
    "color_existence": color_existence,
    "color_choice": color_choice,
    "color_pair_choice": color_pair_choice,
    "present_color_choice": present_color_choice,
    "side_choice": side_choice,
    "number": sign_number,
}


def make_question(kind: str, scene: Scene) -> MiniQuestion | None:
    """The question of this kind about this scene: always the same one, whoever asks.

    "number" needs a scene with a sign, `make_scene(split, index, sign=True)`, and is None for any other.
    """
    return MAKERS[kind](scene, random.Random(f"{kind}/{scene.split}/{scene.index}"))


def short_text(question: str) -> str:
    """The question as VQA-like benchmarks put it: with the single-word instruction."""
    return question + SHORT


def lettered_text(question: str, options: Sequence[str], style: str = "A.") -> str:
    """Options on lines of their own, "A. red" (MMBench, SEED) or "(A) red" (V*), then the letter instruction."""
    form = "({}) {}" if style == "(A)" else "{}. {}"
    lines = [form.format(letter, option) for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *lines]) + LETTER


def shuffled(options: Sequence[str], rng: random.Random) -> tuple[list[str], str]:
    """Options in a random order and the letter of what stood first."""
    order = list(range(len(options)))
    rng.shuffle(order)
    return [options[i] for i in order], LETTERS[order.index(0)]
