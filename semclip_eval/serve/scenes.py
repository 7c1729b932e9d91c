"""Scenes of the miniature to begin with: its models know no photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from semclip_eval.benchmarks.vstar import VStar
from semclip_eval.types import Question

# What a scene is to show: a small thing, two far-apart ones, and a question that the overview answers.
KINDS: tuple[Callable[[Question], bool], ...] = (
    lambda question: len(question.target_boxes) == 1,
    lambda question: question.category == "direct_attributes" and len(question.target_boxes) == 2,
    lambda question: question.category == "relative_position",
)


def example_forms(folder: Path) -> list[list[str]]:
    """Image file (written below `folder`), question, options a line each, and boxes of three scenes."""
    questions = VStar(path="mini://vstar").questions()
    rows = []
    for number, kind in enumerate(KINDS):
        question = next(filter(kind, questions))
        file = folder / f"scene_{number}.png"
        question.load_image().save(file)
        boxes = " ".join(f"{box.left},{box.top},{box.width},{box.height}" for box in question.target_boxes)
        # Sorted: in V* the first option is the right one.
        rows.append([str(file), question.text, "\n".join(sorted(question.options)), boxes])
    return rows
