"""What each way of choosing regions looked at on the same three questions: a strip of pictures each.

    python scripts/selector_pictures.py [--runs FOLDER] [--output FOLDER]

Draws from the records of `scripts/selector_table.py`, so what is shown is what was asked. The questions are not picked
by their result: the first about one target, the first about two, the first about a relation.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from semclip_eval.results.records import read_samples
from semclip_eval.results.summary import finished_runs

# Folder of a variant -> file name of its strip.
VARIANTS = {
    "semclip": "semclip",
    "semclip_top_2_by_phrase": "semclip_phrases",
    "semclip_dense_psi": "dense",
    "attention_tiles": "attention",
    "zoom_25_forwards": "zoom",
    "rap_25_forwards": "rap",
    "focus_m_8": "focus",
    "hide": "hide",
    "gate_standout": "gate",
    "sparse_full_crop_a_fifth": "sparse",
    "oracle": "oracle",
    "hindsight": "hindsight",
}
# What of a trace is a map over the image; the rest are steps on a way, drawn as thin outlines.
MAPS = ("map", "tile", "score")
CROP, TARGET, STEP = "#d55e00", "#ffe100", "#56b4e9"
INCHES = 2.3
QUALITY = 88


def main() -> int:
    """Draw a strip for every variant that has been run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("results/selectors"), help="output of selector_table.py")
    parser.add_argument("--output", type=Path, default=Path("docs/selectors"), help="where the pictures go")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    images = Path(_data_folder())
    for variant, name in VARIANTS.items():
        # The accuracy run asks more questions than the latency run beside it.
        records = max((read_samples(run.parent) for run in finished_runs(chosen.runs / variant)), key=len)
        shown = three_questions(records)
        strip(shown, images).save(chosen.output / f"{name}.jpg", quality=QUALITY, subsampling=0, optimize=True)
        print(chosen.output / f"{name}.jpg")
    return 0


def _data_folder() -> Path:
    from semclip_eval.places import data_folder

    return data_folder("mini://vstar")


def three_questions(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first question about one target, about the attributes of two, and about a relation."""
    kinds = (("direct_attributes", 1), ("direct_attributes", 2), ("relative_position", 2))
    return [
        next(record for record in records if (record["category"], len(record["target_boxes"])) == kind)
        for kind in kinds
    ]


def strip(records: Sequence[Mapping[str, Any]], images: Path) -> Image.Image:
    """The three questions side by side."""
    figure, panels = plt.subplots(1, len(records), figsize=(INCHES * len(records) + 0.2, INCHES + 0.75))
    for axes, record in zip(panels, records, strict=True):
        panel(axes, record, Image.open(images / f"{record['image_id']}.jpg"))
    figure.tight_layout(pad=0.4)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, bbox_inches="tight", pad_inches=0.04, metadata={"Software": None})
    plt.close(figure)
    return Image.open(buffer).convert("RGB")


def panel(axes: Axes, record: Mapping[str, Any], image: Image.Image) -> None:
    """One question: the image, the map if there is one, where it looked, what it chose, what it kept."""
    axes.imshow(image)
    candidates = [(candidate["box"], candidate["psi"]) for candidate in record["candidates"]]
    scores = [(step["box"], step["score"]) for step in record["trace"] if step["kind"] in MAPS]
    heat(axes, scores or [pair for pair in candidates if pair[1] is not None])
    for step in record["trace"]:
        if step["kind"] not in (*MAPS, "candidate"):
            outline(axes, step["box"], STEP, 0.7)
    shown = [view for view in record["views"] if view["kind"] != "overview"]
    for view in shown:
        sources = [part["source"] for part in view.get("parts") or []] or [view["box"]]
        for box in sources:
            outline(axes, box, CROP, 0.7 if len(shown) > 2 else 1.8)
    for view, kept in zip(record["views"], record["kept"] or [], strict=False):
        if view["kind"] != "overview":  # of which as large a part is read; drawn over each other neither could be seen
            dropped(axes, view["box"], kept)
    for box in record["target_boxes"]:
        outline(axes, box, TARGET, 1.2, dashed=True)
    verdict = "right" if record["score"] == 1 else "wrong"
    axes.set_title(f"{_wrapped(record['question'])}\n{verdict}", fontsize=6.5, pad=2)
    axes.set_axis_off()


def heat(axes: Axes, scores: Sequence[tuple[Sequence[float], float]]) -> None:
    """A veil over the image, thin where the score is high."""
    if not scores:
        return
    # Several maps, one a target: the highest of them.
    highest: dict[tuple[float, ...], float] = {}
    for box, score in scores:
        highest[tuple(box)] = max(score, highest.get(tuple(box), score))
    scores = list(highest.items())
    low, high = min(score for _, score in scores), max(score for _, score in scores)
    for (left, top, right, bottom), score in scores:
        veil = 0.55 * (1 - (score - low) / (high - low or 1))
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, color="black", alpha=veil, linewidth=0))


def dropped(axes: Axes, box: Sequence[int], kept: Sequence[int]) -> None:
    """White over the tokens of a view that the language model does not read; 7 x 7 of them lie over its box."""
    left, top, right, bottom = box
    width, height = (right - left) / 7, (bottom - top) / 7
    for index in set(range(49)) - set(kept):
        corner = (left + index % 7 * width, top + index // 7 * height)
        axes.add_patch(Rectangle(corner, width, height, color="white", alpha=0.35, linewidth=0))


def outline(axes: Axes, box: Sequence[int], colour: str, width: float, dashed: bool = False) -> None:
    """A rectangle around a box in pixels of the image."""
    left, top, right, bottom = box
    style = "--" if dashed else "-"
    axes.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, linewidth=width, linestyle=style)
    )


def _wrapped(text: str) -> str:
    words, lines = text.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 38:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
