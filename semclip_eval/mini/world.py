"""Seeded scenes: coloured shapes of very different sizes among look-alikes, on a cluttered background. World 2.

A scene is 504 px wide, an object 12-44 px, all sizes on a logarithmic scale equally likely. The models see 84 px: the
overview shows an object as 2-7 px, in which a colour may survive and a shape does not. A cell of a 3 x 3 grid shows it
as 6-22 px, which is enough for the larger half; the smallest ones need a tight crop. That is what the miniature ranks
selectors by. Each scene has two landmarks, large objects of colours that nothing else has, which can be told apart in
the overview, and `look_alikes`, shapes near to those that questions name, in the colours of other objects.
A scene may carry a sign with a digit (`make_scene(..., sign=True)`), which needs a crop to be read.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from semclip_eval.mini.signs import DIGITS, sign_masks

WORLD_VERSION = 2
SCENE_SIZE = 504  # six times the models' input: at its smallest an object keeps 12 px to look closer at
SPLITS = {"train": 0, "dev": 1, "test": 2}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "heart", "ring")
# Never asked about. Each is near to a shape that is: a bar to a square, half a disc to a circle, an arch to a ring.
LOOK_ALIKES = ("bar", "half", "arch", "corner", "saltire")
COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")

_RGB = {
    "red": (215, 35, 40),
    "green": (40, 155, 60),
    "blue": (40, 75, 220),
    "yellow": (238, 220, 45),
    "orange": (242, 135, 25),
    "purple": (150, 55, 180),
    "white": (245, 245, 245),
    "black": (18, 18, 18),
}
SMALLEST, LARGEST = 12, 44  # px, of an object
SIGN_SIZES = (20, 56)
LARGE = 30  # from this size on an object's colour and place can be seen in the overview
LANDMARKS = 2
_NEAR_SHARE = 0.35
_SUPERSAMPLE = 8
_PLATE_RGB, _INK_RGB = (205, 235, 240), (28, 28, 34)
_LAYOUT_STREAM, _BACKGROUND_STREAM, _SIGN_STREAM, _CLUTTER_STREAM = 0, 1, 2, 3

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Thing:
    """One object. `center` and `box` (left, top, right, bottom; right and bottom exclusive) are in scene pixels."""

    shape: str
    color: str
    rgb: tuple[int, int, int]
    center: tuple[int, int]
    size: int
    angle: float
    box: Box

    @property
    def name(self) -> str:
        """Colour and shape, unique in its scene because shapes never repeat there."""
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Sign(Thing):
    """A plate with one digit. `rgb` is the plate's colour, `size` its height, `stroke` the digit's line width in sizes.

    It is not one of the scene's things: it has no shape or colour that a question asks for, only its `number`.
    """

    number: str
    stroke: float

    @property
    def name(self) -> str:
        return self.shape


@dataclass(frozen=True)
class Scene:
    """What is in scene (`split`, `index`); `render` draws it. The first two things are its landmarks."""

    split: str
    index: int
    things: tuple[Thing, ...]
    look_alikes: tuple[Thing, ...] = ()
    sign: Sign | None = None

    @property
    def small_things(self) -> tuple[Thing, ...]:
        """The things whose size is drawn from the whole range: all but the landmarks."""
        return self.things[LANDMARKS:]

    @property
    def unique_colored(self) -> tuple[Thing, ...]:
        """The large things whose colour nothing else in the scene has: these can be told apart in the overview."""
        colors = [thing.color for thing in (*self.things, *self.look_alikes)]
        return tuple(thing for thing in self.things if thing.size >= LARGE and colors.count(thing.color) == 1)

    @property
    def visible_colors(self) -> set[str]:
        """The colours that can be seen in the overview: those of the large things."""
        return {thing.color for thing in self.things if thing.size >= LARGE}


def _generator(split: str, index: int, stream: int) -> np.random.Generator:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if not 0 <= index < 2**32:
        raise ValueError(f"scene index {index} is outside 0 .. 2**32 - 1")
    # One 32-bit word per entry, so two different (split, index) can never give the same seed sequence.
    return np.random.default_rng([WORLD_VERSION, SPLITS[split], index, stream])


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a polygon shape in units of its size, y downwards."""
    if shape == "square":
        return [(-0.44, -0.44), (0.44, -0.44), (0.44, 0.44), (-0.44, 0.44)]
    if shape == "triangle":
        return [(0.0, -0.56), (0.54, 0.42), (-0.54, 0.42)]
    if shape == "diamond":
        return [(0.0, -0.58), (0.36, 0.0), (0.0, 0.58), (-0.36, 0.0)]
    if shape == "cross":
        a, b = 0.5, 0.16
        return [
            (-b, -a),
            (b, -a),
            (b, -b),
            (a, -b),
            (a, b),
            (b, b),
            (b, a),
            (-b, a),
            (-b, b),
            (-a, b),
            (-a, -b),
            (-b, -b),
        ]
    if shape == "star":
        points = []
        for corner in range(10):
            radius = 0.58 if corner % 2 == 0 else 0.24
            turn = math.pi * corner / 5
            points.append((radius * math.sin(turn), -radius * math.cos(turn)))
        return points
    if shape == "bar":
        return [(-0.5, -0.2), (0.5, -0.2), (0.5, 0.2), (-0.5, 0.2)]
    if shape == "half":
        turns = [math.pi * step / 20 for step in range(21)]
        return [(0.54 * math.cos(turn), 0.25 - 0.54 * math.sin(turn)) for turn in turns]
    if shape == "arch":
        turns = [math.pi * step / 20 for step in range(21)]
        outer = [(0.48 * math.cos(turn), -0.48 * math.sin(turn)) for turn in turns]
        inner = [(0.24 * math.cos(turn), -0.24 * math.sin(turn)) for turn in reversed(turns)]
        return [(0.48, 0.46), *outer, (-0.48, 0.46), (-0.24, 0.46), *inner, (0.24, 0.46)]
    if shape == "corner":
        return [(-0.46, -0.46), (-0.14, -0.46), (-0.14, 0.14), (0.46, 0.14), (0.46, 0.46), (-0.46, 0.46)]
    if shape == "saltire":
        turn = math.pi / 4
        return [
            (x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn))
            for x, y in _outline("cross")
        ]
    if shape == "heart":
        points = []
        for step in range(40):
            turn = 2 * math.pi * step / 40
            x = 16 * math.sin(turn) ** 3
            y = 13 * math.cos(turn) - 5 * math.cos(2 * turn) - 2 * math.cos(3 * turn) - math.cos(4 * turn)
            points.append((x / 31, -(y + 2.5) / 29))
        return points
    raise ValueError(f"{shape!r} is not a polygon shape")


def _mask(shape: str, size: int, angle: float) -> Image.Image:
    """Anti-aliased coverage ("L", 0-255) of a shape in a tile whose middle is the object's centre."""
    half = size // 2 + 6
    big = Image.new("L", (2 * half * _SUPERSAMPLE, 2 * half * _SUPERSAMPLE), 0)
    draw = ImageDraw.Draw(big)
    middle, scale = half * _SUPERSAMPLE, size * _SUPERSAMPLE
    if shape in ("circle", "ring"):
        for radius, value in ((0.5, 255), (0.27, 0)) if shape == "ring" else ((0.5, 255),):
            reach = round(radius * scale)
            draw.ellipse((middle - reach, middle - reach, middle + reach, middle + reach), fill=value)
    else:
        sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        draw.polygon(
            [
                (middle + round(scale * (x * cosine - y * sine)), middle + round(scale * (x * sine + y * cosine)))
                for x, y in _outline(shape)
            ],
            fill=255,
        )
    small = big.resize((2 * half, 2 * half), Image.Resampling.BOX)
    # A trace of coverage would widen the box by a pixel nobody can see.
    return small.point(lambda value: value if value >= 24 else 0)


def _box(mask: Image.Image, center: tuple[int, int]) -> Box:
    bounds = mask.getbbox()
    if bounds is None:
        raise ValueError("an object without a drawn pixel")
    left, top = center[0] - mask.width // 2, center[1] - mask.height // 2
    return (left + bounds[0], top + bounds[1], left + bounds[2], top + bounds[3])


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> int:
    return int(math.exp(rng.uniform(math.log(low), math.log(high + 0.99))))


def _place(rng: np.random.Generator, size: int, taken: list[Thing]) -> tuple[int, int]:
    """A free place for something of this size (px): it touches nothing, and is often near something."""
    low, high = size // 2 + 6, SCENE_SIZE - size // 2 - 6
    while True:
        if taken and rng.random() < _NEAR_SHARE:
            anchor = taken[int(rng.integers(len(taken)))]
            apart, turn = _clearance(size, anchor), rng.uniform(0, 2 * math.pi)
            distance = rng.uniform(apart, 1.8 * apart)
            x = round(anchor.center[0] + distance * math.cos(turn))
            y = round(anchor.center[1] + distance * math.sin(turn))
        else:
            x, y = (int(value) for value in rng.integers(low, high + 1, 2))
        free = all(math.dist((x, y), other.center) >= _clearance(size, other) for other in taken)
        if free and low <= x <= high and low <= y <= high:
            return x, y


def _clearance(size: int, other: Thing) -> float:
    """Least distance (px) between the centres of something of this size and another thing."""
    return 0.66 * (size + other.size) + 4


def _make_thing(rng: np.random.Generator, shape: str, color: str, size: int, taken: list[Thing]) -> Thing:
    center, angle = _place(rng, size, taken), float(rng.uniform(-14, 14))
    red, green, blue = (int(np.clip(c + rng.integers(-10, 11), 0, 255)) for c in _RGB[color])
    return Thing(shape, color, (red, green, blue), center, size, angle, _box(_mask(shape, size, angle), center))


def _make_look_alikes(split: str, index: int, things: list[Thing]) -> list[Thing]:
    """Three to six shapes that no question names, in the colours of the things that are not landmarks."""
    rng = _generator(split, index, _CLUTTER_STREAM)
    colors = [thing.color for thing in things[LANDMARKS:]]
    made: list[Thing] = []
    for _ in range(int(rng.integers(3, 7))):
        shape = LOOK_ALIKES[int(rng.integers(len(LOOK_ALIKES)))]
        color = colors[int(rng.integers(len(colors)))]
        made.append(_make_thing(rng, shape, color, _log_uniform(rng, SMALLEST, LARGEST), [*things, *made]))
    return made


def _make_sign(split: str, index: int, things: list[Thing]) -> Sign:
    """A sign at a free place; from a random stream of its own, so the things are those of the scene without it."""
    rng = _generator(split, index, _SIGN_STREAM)
    number = DIGITS[int(rng.integers(len(DIGITS)))]
    size = _log_uniform(rng, *SIGN_SIZES)
    angle, stroke = float(rng.uniform(-8, 8)), float(rng.uniform(0.1, 0.13))
    red, green, blue = (int(np.clip(c + rng.integers(-10, 11), 0, 255)) for c in _PLATE_RGB)
    center = _place(rng, size, things)
    box = _box(sign_masks(number, size, angle, stroke)[0], center)
    return Sign("sign", "pale", (red, green, blue), center, size, angle, box, number, stroke)


def make_scene(split: str, index: int, sign: bool = False) -> Scene:
    """The scene with this number: 5-7 things of different shapes in at least 4 colours. Depends on nothing else.

    Two of them are landmarks: at least `LARGE` px, each of a colour of its own. With `sign` the same scene also carries
    a sign with a digit, `scene.sign`: for `make_question("number", scene)`.
    """
    rng = _generator(split, index, _LAYOUT_STREAM)
    count = int(rng.integers(5, 8))
    shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))[:count]]
    shuffled_colors = [COLORS[i] for i in rng.permutation(len(COLORS))]
    # The landmarks' colours, two others, and then any but the landmarks'.
    colors = shuffled_colors[:4]
    colors += [shuffled_colors[i] for i in rng.integers(LANDMARKS, len(COLORS), size=count - 4)]
    things: list[Thing] = []
    for number, (shape, color) in enumerate(zip(shapes, colors, strict=True)):
        size = _log_uniform(rng, LARGE if number < LANDMARKS else SMALLEST, LARGEST)
        things.append(_make_thing(rng, shape, color, size, things))
    look_alikes = _make_look_alikes(split, index, things)
    made_sign = _make_sign(split, index, [*things, *look_alikes]) if sign else None
    return Scene(split, index, tuple(things), tuple(look_alikes), made_sign)


def _background(rng: np.random.Generator) -> Image.Image:
    coarse = np.clip(rng.integers(105, 156) + rng.integers(-28, 29, (7, 7, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(coarse).resize((SCENE_SIZE, SCENE_SIZE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(12, 26))):
        x0, y0, x1, y1 = (int(value) for value in rng.integers(0, SCENE_SIZE, 4))
        pixel = image.getpixel(((x0 + x1) // 2, (y0 + y1) // 2))
        shade = int(rng.integers(-22, 23))
        fill = tuple(max(0, min(255, channel + shade)) for channel in pixel)  # type: ignore[union-attr]
        draw.line((x0, y0, x1, y1), fill=fill, width=int(rng.integers(1, 3)))
    grain = rng.integers(-9, 10, (SCENE_SIZE // 2, SCENE_SIZE // 2, 3)).astype(np.int16).repeat(2, 0).repeat(2, 1)
    return Image.fromarray(np.clip(np.asarray(image, np.int16) + grain, 0, 255).astype(np.uint8))


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB image of 504 x 504 pixels."""
    image = _background(_generator(scene.split, scene.index, _BACKGROUND_STREAM))
    for thing in (*scene.things, *scene.look_alikes):
        mask = _mask(thing.shape, thing.size, thing.angle)
        image.paste(thing.rgb, (thing.center[0] - mask.width // 2, thing.center[1] - mask.height // 2), mask)
    if scene.sign is not None:
        sign = scene.sign
        plate, ink = sign_masks(sign.number, sign.size, sign.angle, sign.stroke)
        corner = (sign.center[0] - plate.width // 2, sign.center[1] - plate.height // 2)
        image.paste(sign.rgb, corner, plate)
        image.paste(_INK_RGB, corner, ink)
    return image


def drawn_pixels(scene: Scene, thing: Thing) -> Image.Image:
    """Where a thing, look-alike or sign changed the image ("L", non-zero where it did): with and without it."""
    others = replace(
        scene,
        things=tuple(other for other in scene.things if other is not thing),
        look_alikes=tuple(other for other in scene.look_alikes if other is not thing),
        sign=None if thing is scene.sign else scene.sign,
    )
    return ImageChops.difference(render(scene), render(others)).convert("L")
