"""What the mini VLM is taught: questions with answers, from compact lists of labels to the benchmarks' own wordings.

In an answer, *stars* mark the words that take looking or computing; they carry the loss, see `packing`.
A turn is asked only where its answer can be seen: a shape, a shape's colour or a sign's number needs a crop with it.
"""

import random
from collections.abc import Callable
from dataclasses import replace

from mini_training.scenes import READABLE_SIGN, READABLE_THING, WHOLE, readable
from semclip_eval.benchmarks import hrbench
from semclip_eval.mini import questions as q
from semclip_eval.mini.world import COLORS, SCENE_SIZE, SHAPES, Box, Scene, Thing

Turn = tuple[str, str]
Maker = Callable[[Scene, list[Thing], random.Random], Turn | None]
# Of the questions by letter, those that end with HR-Bench's words instead of LLaVA's.
HR_BENCH_SHARE = 0.25
GRID = 7


def seen_things(scene: Scene, views: list[Box]) -> list[Thing]:
    """Things of which one crop shows at least half, large enough to tell its shape; the overview does not count."""
    crops = [box for box in views if box != WHOLE]
    return [thing for thing in scene.things if any(readable(thing.box, crop, READABLE_THING) for crop in crops)]


def without_unreadable_sign(scene: Scene, views: list[Box]) -> Scene:
    """The scene as it can be asked about: its sign is left out unless a crop (not the overview) shows enough of it."""
    sign, crops = scene.sign, [box for box in views if box != WHOLE]
    if sign is None or any(readable(sign.box, crop, READABLE_SIGN) for crop in crops):
        return scene
    return replace(scene, sign=None)


def _shuffled(items: tuple[Thing, ...] | list[Thing], rng: random.Random, most: int) -> list[Thing]:
    return rng.sample(list(items), min(most, len(items)))


def _cell(thing: Thing) -> tuple[int, int]:
    return thing.center[1] * GRID // SCENE_SIZE + 1, thing.center[0] * GRID // SCENE_SIZE + 1


def _hard(rng: random.Random) -> bool:
    """Half of the relations are between things of the same half of the scene.

    Without them "the first thing is in the left half, so it is left of the other" is right in four of five cases, and
    one training stayed there for a thousand steps.
    """
    return rng.random() < 0.5


def grid_list(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    things = _shuffled(scene.unique_colored, rng, 4)
    entries = [f"{thing.color} *{_cell(thing)[0]}* *{_cell(thing)[1]}*" for thing in things]
    return ("Where are the objects?", " " + ", ".join(entries) + ".") if things else None


def check_list(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    # A colour that only small things have is neither: the overview may or may not show it.
    visible, absent = scene.visible_colors, set(COLORS) - {thing.color for thing in scene.things}
    asked = rng.sample(sorted(visible | absent), min(6, len(visible | absent)))
    entries = [f"{color} *{'yes' if color in visible else 'no'}*" for color in asked]
    return "Which colors are in the image?", " " + ", ".join(entries) + "."


def side_list(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    things = [t for t in _shuffled(scene.unique_colored, rng, 4) if abs(t.center[0] - SCENE_SIZE // 2) >= 24]
    entries = [f"{t.color} *{'left' if t.center[0] < SCENE_SIZE // 2 else 'right'}*" for t in things]
    return ("Which side is each object on?", " " + ", ".join(entries) + ".") if things else None


def location(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    if not scene.unique_colored:
        return None
    thing = rng.choice(scene.unique_colored)
    row, column = _cell(thing)
    return f"Where is the {thing.name}?", f" The {thing.name} is in row *{row}* column *{column}*."


def _pair_list(axis: str, request: str) -> Maker:
    def make(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
        pairs = [q.related_pair(scene, axis, rng, _hard(rng)) for _ in range(5)]
        entries = list(dict.fromkeys(f"{a.color} {b.color} *{side}*" for a, b, side in filter(None, pairs)))
        return (request, " " + ", ".join(entries) + ".") if entries else None

    return make


def _relation(axis: str) -> Maker:
    def make(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
        question = q.relative_position(scene, rng, axis, _hard(rng))
        if question is None:
            return None
        return question.text, " " + question.options[0].replace(f" {question.answer} ", f" *{question.answer}* ", 1)

    return make


def _relation_short(axis: str) -> Maker:
    def make(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
        question = q.relative_position(scene, rng, axis, _hard(rng))
        return None if question is None else (q.short_text(question.text), f" *{question.answer}*")

    return make


def _letter(question: q.MiniQuestion | None, rng: random.Random, helper: bool = False) -> Turn | None:
    """The question with lettered options in either style; as a helper the answer names the option before its letter."""
    if question is None:
        return None
    options, letter = q.shuffled(question.options, rng)
    text = q.lettered_text(question.text, options, rng.choice(("A.", "(A)")))
    if helper:
        return text.removesuffix(q.LETTER), f" *{question.options[0]}* *{letter}*"
    if rng.random() < HR_BENCH_SHARE:
        text = text.removesuffix(q.LETTER) + hrbench.INSTRUCTION
    return text, f" *{letter}*"


def _side_letter(axis: str, helper: bool) -> Maker:
    def make(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
        return _letter(q.side_choice(scene, rng, axis, _hard(rng)), rng, helper)

    return make


def color_existence(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    question = q.color_existence(scene, rng)
    return q.short_text(question.text), f" *{question.answer}*"


def present_color_letter(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    return _letter(q.present_color_choice(scene, rng), rng)


def color_list(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    entries = [f"{thing.shape} *{thing.color}*" for thing in _shuffled(seen, rng, 5)]
    return ("Which color is each shape?", " " + ", ".join(entries) + ".") if entries else None


def shape_check(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    present = [thing.shape for thing in _shuffled(seen, rng, 3)]
    absent = rng.sample(
        sorted(set(SHAPES) - {t.shape for t in scene.things}), max(1, min(len(present), 3, 8 - len(scene.things)))
    )
    entries = [f"{shape} *yes*" for shape in present] + [f"{shape} *no*" for shape in absent]
    rng.shuffle(entries)
    return ("Which shapes are in the image?", " " + ", ".join(entries) + ".") if present else None


def color_sentence(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    if not seen:
        return None
    thing = rng.choice(seen)
    return f"What is the color of the {thing.shape}?", f" The color of the {thing.shape} is *{thing.color}*."


def color_pair(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    pair = _pair_of(seen, rng)
    if pair is None:
        return None
    one, two = pair
    return q.color_pair_text(one, two), f" The {one.shape} is *{one.color}* and the {two.shape} is *{two.color}*."


def _pair_of(seen: list[Thing], rng: random.Random) -> tuple[Thing, Thing] | None:
    """Two seen things of different colours, far apart or not: in training one crop may show both."""
    pairs = [(a, b) for a in seen for b in seen if a.color != b.color]
    return rng.choice(pairs) if pairs else None


def color_pair_letter(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    pair = _pair_of(seen, rng)
    if pair is None:
        return None
    options = tuple(f"{one} and {two}" for one, two in q.color_pair_options(*pair, scene, rng))
    return _letter(q.MiniQuestion("color_pair_choice", q.color_pair_text(*pair), options, options[0], pair), rng)


def color_short(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    if not seen:
        return None
    thing = rng.choice(seen)
    return q.short_text(f"What is the color of the {thing.shape}?"), f" *{thing.color}*"


def shape_existence(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    if not seen:
        return None
    if rng.random() < 0.5:
        return q.short_text(f"Is there a {rng.choice(seen).shape} in the image?"), " *yes*"
    return q.short_text(q.shape_existence(scene, rng, present=False).text), " *no*"


def _color_letter(helper: bool) -> Maker:
    def make(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
        if not seen:
            return None
        thing = rng.choice(seen)
        wrong = sorted({other.color for other in scene.things} - {thing.color})
        options = (thing.color, *rng.sample(wrong, 3))
        text = f"What is the color of the {thing.shape}?"
        return _letter(q.MiniQuestion("color_choice", text, options, thing.color, (thing,)), rng, helper)

    return make


def sign_read(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    return None if scene.sign is None else ("Read the sign.", f" *{scene.sign.number}*")


def sign_short(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    question = q.sign_number(scene, rng)
    return None if question is None else (q.short_text(question.text), f" *{question.answer}*")


def _text_options(rng: random.Random) -> list[str]:
    pool = rng.choice((COLORS, COLORS, SHAPES, ("left", "right"), ("above", "below")))
    return rng.sample(pool, min(4, len(pool)))


def option_list(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    options = _text_options(rng)
    text = q.lettered_text("Match the options.", options, rng.choice(("A.", "(A)"))).removesuffix(q.LETTER)
    entries = [f"{options[i]} *{q.LETTERS[i]}*" for i in rng.sample(range(len(options)), len(options))]
    return text, " " + ", ".join(entries) + "."


def option_letter(scene: Scene, seen: list[Thing], rng: random.Random) -> Turn | None:
    options = _text_options(rng)
    right = rng.randrange(len(options))
    text = q.lettered_text(f"Which option is {options[right]}?", options, rng.choice(("A.", "(A)")))
    return text, f" *{q.LETTERS[right]}*"


TURNS: dict[str, Maker] = {
    "grid_list": grid_list,
    "check_list": check_list,
    "side_list": side_list,
    "location": location,
    "pair_horizontal": _pair_list("horizontal", "Compare the objects."),
    "pair_vertical": _pair_list("vertical", "Compare the heights."),
    "relation_horizontal": _relation("horizontal"),
    "relation_vertical": _relation("vertical"),
    "relation_short_horizontal": _relation_short("horizontal"),
    "relation_short_vertical": _relation_short("vertical"),
    "side_letter_horizontal": _side_letter("horizontal", False),
    "side_letter_vertical": _side_letter("vertical", False),
    "side_and_letter": _side_letter("horizontal", True),
    "color_existence": color_existence,
    "present_color_letter": present_color_letter,
    "color_list": color_list,
    "shape_check": shape_check,
    "color_sentence": color_sentence,
    "color_pair": color_pair,
    "color_pair_letter": color_pair_letter,
    "color_short": color_short,
    "shape_existence": shape_existence,
    "color_letter": _color_letter(False),
    "color_and_letter": _color_letter(True),
    "sign_read": sign_read,
    "sign_short": sign_short,
    "option_list": option_list,
    "option_letter": option_letter,
}
