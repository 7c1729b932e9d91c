"""How many questions one forward pass takes where the user leaves that open (`run.batch_size=auto`).

By what the model says of its room and speed in tokens, and by the tokens of a few of the run's own questions. One
number for the whole run: the blocks stay fixed, so that a run that goes on is asked in the same company.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from semclip_eval.types import Question, Request

if TYPE_CHECKING:
    from semclip_eval.answers.pipeline import Pipeline

MOST = 32
SAMPLES = 2


def questions_at_once(pipeline: Pipeline, questions: Sequence[Question]) -> int:
    """Questions in a block, 1 to 32; 1 where the model does not say, or none of the sampled questions can be read."""
    vlm = pipeline.vlm
    if vlm.requests_at_once is not None:
        return max(1, vlm.requests_at_once)
    room = vlm.tokens_at_once()
    if room is None or not questions:
        return 1
    step = max(1, len(questions) // SAMPLES)
    lengths = [length for question in questions[::step][:SAMPLES] if (length := _tokens(pipeline, question))]
    return max(1, min(MOST, room // max(lengths))) if lengths else 1


def _tokens(pipeline: Pipeline, question: Question) -> int | None:
    """Prompt and answer of a question with as many views as its selector may choose; None where it cannot be had."""
    item = pipeline.load(question)
    if item.image is None or item.error is not None:
        return None
    width, height = item.image.size
    candidates = pipeline.crops.candidates(width, height) if pipeline.crops is not None else ()
    views = pipeline.selector.most_views(len(candidates))
    boxes = [*candidates, *[(0, 0, width, height)] * views][: max(0, views - 1)]
    try:
        prompt = pipeline.benchmark.prompt(question)
        images = (item.image, *(item.image.crop(box) for box in boxes))[:views]
        prepared = pipeline.vlm.prepare(Request(images, prompt, question.id, prunes=True))
    except Exception:  # whatever is wrong with this question shows when it is asked
        return None
    answer = sum(map(len, prepared.continuation_ids)) or prepared.max_new_tokens
    return (prepared.visual_tokens or 0) + (prepared.text_tokens or 0) + answer
