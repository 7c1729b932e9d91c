"""Selectors around the models of other harnesses, so that their tasks run with them (docs/plugins.md).

Nothing here imports those harnesses; `lmms_eval.py` and `vlmevalkit.py` are imported by them, or by who has them.
"""

from __future__ import annotations

from typing import Any


def lmms_eval_models() -> Any:
    """What lmms-eval's entry point `lmms_eval.models` asks for: the name of the model, and where its classes are."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        "semclip_eval",
        simple_class_path="semclip_eval.plugins.lmms_eval.SelectedViews",
        chat_class_path="semclip_eval.plugins.lmms_eval.SelectedViewsChat",
    )
