"""Families that run by their own processor and chat template (`generic.py`) and write bounding boxes when asked."""

from __future__ import annotations

from semclip_eval.models.grounding import INTERNVL, QWEN3_VL
from semclip_eval.models.transformers.generic import GenericTransformers


class Qwen3VL(GenericTransformers):
    """Qwen3-VL: boxes in 0 .. 1000 on both sides of the image."""

    capabilities = GenericTransformers.capabilities | {"boxes"}
    grounding = QWEN3_VL


class InternVL35(GenericTransformers):
    """InternVL3.5, asked for boxes and answering like InternVL3."""

    capabilities = GenericTransformers.capabilities | {"boxes"}
    grounding = INTERNVL
