"""Bounding boxes that a model writes: how a family is asked for one, and from its answer to pixels of the image.

A family with the capability `boxes` has a `Grounding`; where its coordinates are pixels of what the model was shown, it
says how large that was.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from semclip_eval.types import Box, Prompt

THOUSAND = (1000.0, 1000.0)
_NUMBER = r"\s*(-?\d+(?:\.\d*)?|-?\.\d+)\s*"
# Four numbers in brackets and nothing else, as in [12, 34, 56, 78], [[12,34,56,78]] and "bbox_2d": [12.5, 34, 56, 78].
_FOUR = re.compile(r"\[" + ",".join([_NUMBER] * 4) + r"\]")


@dataclass(frozen=True)
class Grounding:
    """How a family is asked for boxes.

    template: the prompt, {target} for the thing. specials: strings in the template that are single tokens
    (`Prompt.specials`). fractions: an answer whose four numbers add up to less than 4 is in 0 .. 1.
    """

    template: str
    specials: tuple[str, ...] = ()
    fractions: bool = False

    def prompt(self, target: str, max_new_tokens: int) -> Prompt:
        """What is asked. Strings of the target that would be read as special tokens are left out of it."""
        for special in self.specials:
            target = target.replace(special, "")
        return Prompt(self.template.replace("{target}", target), (), max_new_tokens, self.specials)

    def read(self, answer: str, frame: tuple[float, float], width: int, height: int) -> list[Box]:
        """The boxes of an answer in pixels of an image of `width` x `height`, in the order written.

        frame: (width, height) that stands for the whole image in the answer's coordinates. Code fences, keys and tags
        around the numbers do not matter; points, polygons and anything else but four numbers are no boxes. Corners may
        come in any order. A box is rounded outwards and cut to the image; one without area in it is left out.
        """
        boxes = []
        for numbers in _FOUR.findall(answer):
            x1, y1, x2, y2 = map(float, numbers)
            across, down = (1.0, 1.0) if self.fractions and x1 + y1 + x2 + y2 < 4 else frame
            left, right = (min(max(value * width / across, 0), width) for value in sorted((x1, x2)))
            top, bottom = (min(max(value * height / down, 0), height) for value in sorted((y1, y2)))
            if left < right and top < bottom:
                boxes.append(Box(math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)))
        return boxes


# cookbooks/spatial_understanding.ipynb of QwenLM/Qwen2.5-VL: absolute pixels of the resized input.
QWEN25_VL = Grounding("Locate the {target}, output its bbox coordinates using JSON format.")
# The evaluation prompt of Qwen3-VL's technical report (arXiv 2511.21631, appendix): 0 .. 1000 on both sides.
QWEN3_VL = Grounding(
    'Locate every object that matches the description "{target}" in the image. Report bbox coordinates in JSON format.'
)
# internvl_chat/eval/refcoco/evaluate_grounding.py of OpenGVLab/InternVL, prompt and reading: 0 .. 1000, or fractions.
INTERNVL = Grounding(
    "Please provide the bounding box coordinate of the region this sentence describes: <ref>{target}</ref>",
    specials=("<ref>", "</ref>"),
    fractions=True,
)
