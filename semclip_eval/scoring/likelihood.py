"""The choice that option losses make."""

from __future__ import annotations

import math
from collections.abc import Sequence

from semclip_eval.errors import QuestionError


def least_loss(losses: Sequence[float]) -> int | None:
    """The index of the smallest loss (nats per token), or None where two or more share it exactly.

    A tie is no choice: V* keeps its right option at index 0, so 'the first of the smallest' would score every tie, and
    a model that gives one loss to everything, as right. Raises QuestionError for a loss that is not a finite number.
    """
    for index, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise QuestionError(f"the loss of option {index} is {loss}: the model's numbers overflowed.")
    least = min(losses)
    return losses.index(least) if losses.count(least) == 1 else None
