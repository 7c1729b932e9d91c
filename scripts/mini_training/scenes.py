"""Scene arrays for training: drawn once, kept outside the repository, memory-mapped by every process."""

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from semclip_eval.mini.world import SCENE_SIZE, WORLD_VERSION, Box, Scene, make_scene, render

INPUT_SIZE = 84
WHOLE: Box = (0, 0, SCENE_SIZE, SCENE_SIZE)
READABLE_SHARE = 0.5  # of a box: where a view shows less, what it holds is not asked for
READABLE_THING, READABLE_SIGN = 8.0, 14.0  # px in a view: what is smaller there is not asked for
SMALLEST_CROP, LARGEST_CROP = 40, 252
LARGEST_IN_VIEW = 38.0  # px in the view, of what a crop is drawn around
GRID_SIDES, GRID_SHARES = (2, 3, 4, 5), (0.15, 0.35, 0.2, 0.3)


def has_sign(index: int) -> bool:
    """Two of five training scenes carry a sign."""
    return index % 5 < 2


def _draw(job: tuple[str, int, int, str]) -> list[Scene]:
    split, first, last, path = job
    images, overviews = np.load(path, mmap_mode="r+"), np.load(_overviews_path(path), mmap_mode="r+")
    scenes = []
    for index in range(first, last):
        scene = make_scene(split, index, sign=has_sign(index))
        image = render(scene)
        images[index] = np.asarray(image)
        overviews[index] = np.asarray(image.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BICUBIC))
        scenes.append(scene)
    images.flush()
    overviews.flush()
    return scenes


def _overviews_path(images_path: str | Path) -> Path:
    return Path(images_path).with_suffix(".overviews.npy")


class SceneStore:
    """The first `count` scenes of a split, some with signs: uint8 array (count, 504, 504, 3) and descriptions."""

    def __init__(self, folder: Path, split: str, count: int) -> None:
        stem = folder / f"{split}-v{WORLD_VERSION}-{count}"
        images_path, scenes_path = stem.with_suffix(".npy"), stem.with_suffix(".pickle")
        if not scenes_path.exists():  # written last, so its presence means that the images are complete
            folder.mkdir(parents=True, exist_ok=True)
            shape = (count, SCENE_SIZE, SCENE_SIZE, 3)
            np.lib.format.open_memmap(images_path, mode="w+", dtype=np.uint8, shape=shape).flush()
            small = (count, INPUT_SIZE, INPUT_SIZE, 3)
            np.lib.format.open_memmap(_overviews_path(images_path), mode="w+", dtype=np.uint8, shape=small).flush()
            step = 250
            jobs = [(split, i, min(i + step, count), str(images_path)) for i in range(0, count, step)]
            with multiprocessing.get_context("spawn").Pool(2) as pool:
                scenes = [scene for part in pool.imap(_draw, jobs) for scene in part]
            partial = scenes_path.with_suffix(".partial")
            partial.write_bytes(pickle.dumps(scenes))
            partial.rename(scenes_path)
        self.scenes: list[Scene] = pickle.loads(scenes_path.read_bytes())
        self.images = np.load(images_path, mmap_mode="r")
        self.overviews = np.load(_overviews_path(images_path), mmap_mode="r")

    def view(self, index: int, box: Box = WHOLE) -> np.ndarray:
        """A crop (left, top, right, bottom in scene pixels) as the models see it: uint8 (84, 84, 3)."""
        if box == WHOLE:
            return np.asarray(self.overviews[index])
        left, top, right, bottom = box
        crop = Image.fromarray(np.ascontiguousarray(self.images[index][top:bottom, left:right]))
        return np.asarray(crop.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BICUBIC))


def grid_cells(side: int) -> list[Box]:
    """The cells of a `side` x `side` grid over a scene, row by row; pixel for pixel those of `crops.Grid`."""
    edges = [SCENE_SIZE * number // side for number in range(side + 1)]
    return [(edges[x], edges[y], edges[x + 1], edges[y + 1]) for y in range(side) for x in range(side)]


def random_crop(rng: np.random.Generator) -> Box:
    """A training crop: half the time a free square of 40-252 px, else an exact cell of a grid of 2 x 2 to 5 x 5."""
    if rng.random() < 0.5:
        cells = grid_cells(int(rng.choice(GRID_SIDES, p=GRID_SHARES)))
        return cells[int(rng.integers(len(cells)))]
    size = _log_uniform(rng, SMALLEST_CROP, LARGEST_CROP)
    left, top = (int(value) for value in rng.integers(0, SCENE_SIZE - size + 1, 2))
    return (left, top, left + size, top + size)


def random_crop_of(box: Box, least: float, rng: np.random.Generator) -> Box:
    """A training crop that shows the middle of `box`, its longer side at least `least` px long in the view."""
    side = max(box[2] - box[0], box[3] - box[1])
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    largest = min(LARGEST_CROP, side * INPUT_SIZE / least)
    grids = [number for number in GRID_SIDES if SCENE_SIZE / number <= largest]
    if grids and rng.random() < 0.45:
        step = SCENE_SIZE / int(rng.choice(grids))
        left, top = (int(int(middle // step) * step) for middle in (x, y))
        return (left, top, int(left + step + 1e-6), int(top + step + 1e-6))
    size = _log_uniform(rng, min(largest, max(SMALLEST_CROP, side * INPUT_SIZE / LARGEST_IN_VIEW)), largest)
    corner = []
    for middle in (x, y):
        low, high = max(0.0, middle - 0.9 * size), min(SCENE_SIZE - size, middle - 0.1 * size)
        corner.append(int(rng.uniform(min(low, high), high)))
    left, top = (min(max(0, value), SCENE_SIZE - size) for value in corner)
    return (left, top, left + size, top + size)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> int:
    return int(np.exp(rng.uniform(np.log(low), np.log(high))))


def readable(box: Box, crop: Box, least: float) -> bool:
    """Whether a crop shows half of `box`, its longer side at least `least` px long in the view."""
    side = max(box[2] - box[0], box[3] - box[1]) * INPUT_SIZE / max(crop[2] - crop[0], crop[3] - crop[1])
    return side >= least and visible_share(box, crop) >= READABLE_SHARE


def visible_share(box: Box, crop: Box) -> float:
    """Part of the area of an object's box that lies inside the crop, 0 to 1."""
    width = min(box[2], crop[2]) - max(box[0], crop[0])
    height = min(box[3], crop[3]) - max(box[1], crop[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]))
