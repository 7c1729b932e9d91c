"""A selector of your own: which crops the VLM is shown beside the whole image.

Change `select`. docs/extending.md has one that asks the VLM and one that prunes visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from semclip_eval.checks import whole_number
from semclip_eval.relevance.base import RelevanceRequest
from semclip_eval.selectors.base import SelectionInput, Selector, check_enough, check_scheme, overview
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Selection, View


class MySelector(Selector):
    """The overview and the `top_k` candidate crops with the highest ψ; of equal ones the smaller crop, then the first.

    The parameters are the keys of configs/selector/my_selector.yaml: `selector.top_k=2` sets one, `-m
    selector.top_k=1,2` runs both.
    """

    # What the choice depends on beside the image; what is not named here is not handed over. `candidates`: the crop
    # scheme's boxes. `psi`: relevance scores. `vlm`, `confidence`, `attention`, `gradients`, `values`: the VLM.
    # `prune`: the method `prune` drops visual tokens.
    needs = frozenset({"candidates", "psi"})

    def __init__(self, name: str, top_k: int = 1) -> None:
        whole_number("selector.top_k", top_k, 1)
        self.name, self.top_k = name, top_k

    def check_candidates(self, candidates: int) -> None:
        """Refuse, before the run, a crop scheme with too few candidates."""
        check_scheme("selector.top_k", self.top_k, candidates)

    def most_views(self, candidates: int) -> int:
        """Views of a question at most; a run whose views cannot fit the model's context is refused by it."""
        return 1 + self.top_k

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        """One selection an input, in their order. Each must be what it would be if it were asked alone."""
        return [self._selection(item, tools) for item in inputs]

    def _selection(self, item: SelectionInput, tools: Tools) -> Selection:
        # Of `item`:
        #   image         RGB; `item.image.crop(box)` are the pixels of a box
        #   image_id      the same for questions about the same image
        #   text          what ψ reads: the question
        #   instruction   the prompt as the VLM gets it, without the options that a likelihood question scores
        #   candidates    the crop scheme's boxes, row by row: (left, top, right, bottom) in pixels of the image
        #   seed          run.seed; a random choice depends on it and on `question_id`, and on nothing else
        #   target_boxes  None, but for a class with `uses_truth = True`, which every table marks as an oracle
        # Of `tools`, as far as `needs` names it, and else None:
        #   psi   scores boxes; use `tools.require_psi(self.name)`
        #   vlm   answers and looks inside, counted and within `max_forwards`; use `tools.require_vlm(self.name)`
        #   judge, other_image   for oracles and controls (semclip_eval/selectors/hindsight.py, blank_crop.py)
        check_enough("selector.top_k", self.top_k, item)
        (scores,) = tools.require_psi(self.name).score([self._request(item)])
        ranked = sorted(zip(item.candidates, scores, strict=True), key=lambda pair: (-pair[1], pair[0].area))
        crops = tuple(View("crop", box, relevance=score) for box, score in ranked[: self.top_k])
        # `candidate_relevance` and `trace` are for inspection: `show --question`, the report's gallery.
        return Selection((overview(item.image), *crops), candidate_relevance=tuple(scores))

    def _request(self, item: SelectionInput) -> RelevanceRequest:
        return RelevanceRequest(item.image, item.image_id, item.candidates, item.text)
