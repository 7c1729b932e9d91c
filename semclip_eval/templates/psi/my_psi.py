"""A ψ of your own: how well a crop fits a question. `selector=semclip psi=my_psi` shows the crop that it prefers.

Change `_score`. docs/extending.md and semclip_eval/relevance/open_clip_relevance.py have more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from semclip_eval.relevance.base import Relevance, RelevanceRequest, check_psi_text

COLORS = {
    "red": (200, 40, 40), "green": (40, 160, 70), "blue": (40, 80, 210), "yellow": (240, 210, 40),
    "orange": (240, 140, 30), "purple": (140, 50, 170), "black": (10, 10, 10), "white": (245, 245, 245),
}  # fmt: skip


class MyPsi(Relevance):
    """How near the best pixels of a crop come to a colour that the question names; without one how colourful it is.

    The parameters are the keys of configs/psi/my_psi.yaml. With parameters of the names `device` and `dtype` it is
    handed the run's.
    """

    # Which weights these are: both are part of the run's identity, so change `revision` with them.
    model = "colours"
    revision = "1"

    def __init__(self, name: str, text: str = "question") -> None:
        self.name = name
        # Which text it is given: the question, question_and_options, or noun_phrases.
        check_psi_text(text)
        self.text = text

    def load(self) -> None:
        """Load weights here, not in `__init__`: a run that is finished already never needs them."""

    def score(self, requests: Sequence[RelevanceRequest]) -> list[tuple[float, ...]]:
        """One tuple a request, one score a box, both in the order given; higher for a better fit.

        Scores are compared only among the boxes of one request, so their scale is free. They must not depend on which
        other requests come along. Batch here what your model can batch.
        """
        # Of a request:
        #   image     RGB; `request.image.crop(box)` are the pixels of a box
        #   image_id  the same for requests about the same image, so that crops need embedding only once
        #   boxes     (left, top, right, bottom) in pixels of the image
        #   text      what the boxes are to fit
        return [
            tuple(self._score(request.image.crop(box), request.text) for box in request.boxes) for request in requests
        ]

    def begin_block(self, keep: bool) -> None:
        """With `keep=False` (latency mode) drop what was cached of earlier questions. This one caches nothing."""

    def _score(self, crop: Image.Image, text: str) -> float:
        pixels = np.asarray(crop, dtype=np.float64)
        named = [COLORS[word] for word in text.lower().replace("?", " ").split() if word in COLORS]
        if not named:
            return float((pixels.max(axis=2) - pixels.min(axis=2)).mean())
        return -float(np.mean([np.abs(pixels - color).sum(axis=2).min() for color in named]))
