"""The miniature: generated scenes, questions about them, and two small trained models that ship with the package.

Importing this package loads nothing heavy; `world` and `questions` need numpy and Pillow, nothing here needs torch.
"""

from importlib.resources import files
from pathlib import Path
from typing import Literal

WEIGHT_KINDS = ("vlm", "clip")


def weights_folder(kind: Literal["vlm", "clip"]) -> Path:
    """Folder of the shipped weights: `vlm` for transformers (LLaVA layout), `clip` for open_clip (`local-dir:`)."""
    if kind not in WEIGHT_KINDS:
        raise ValueError(f"unknown miniature weights {kind!r}; choose one of {', '.join(WEIGHT_KINDS)}")
    folder = Path(str(files("semclip_eval.mini"))) / "weights" / kind
    if not folder.is_dir():
        raise FileNotFoundError(f"the miniature's {kind} weights are missing from {folder}: reinstall semclip-eval")
    return folder
