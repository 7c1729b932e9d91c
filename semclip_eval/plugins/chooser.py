"""A selector by itself: one image and its question in, the views in order out; the model that answers is not ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from semclip_eval.components import build
from semclip_eval.compose import compose
from semclip_eval.config import run_config
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.relevance.base import psi_text
from semclip_eval.selectors.base import Selector, Undeclared, selection_input
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Question

# What a choice may depend on where another harness asks its own model.
OFFERED = frozenset({"candidates", "psi"})


class ViewChooser:
    """The selector, crops and ψ of a command line; loaded once.

    settings: Hydra's overrides as a mapping (`selector`, `selector.top_k`, `crops`, `psi`, `profile`, `run.device`).
    ConfigError for a selector that needs more than the image and ψ: the truth, or the inside of the model.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        config = compose([f"{key}={value}" for key, value in settings.items() if key != "profile"],
                         str(settings.get("profile", "auto")))  # fmt: skip
        self.run = run_config(config["run"])
        self.selector: Selector = build("selector", config["selector"])
        name = self.selector.name
        if self.selector.uses_truth:
            raise ConfigError(f"selector={name}: sees the annotated boxes, which another harness's task does not give.")
        if missing := sorted(self.selector.needs - OFFERED):
            raise ConfigError(
                f"selector={name}: needs {', '.join(missing)} of the model, and a model of another harness offers "
                "nothing but answers; choose a selector that needs the image or ψ alone (semclip, full_crop, ...)."
            )
        self.crops = build("crops", config["crops"]) if "candidates" in self.selector.needs else None
        self.psi, self.psi_reads = None, str((config["psi"] or {}).get("text") or "question")
        if "psi" in self.selector.needs:
            self.psi = build("psi", config["psi"], device=self.run.device, dtype=self.run.dtype)
            if self.psi.needs_vlm:
                raise ConfigError(f"psi={self.psi.name}: needs our own model's tower; choose another ψ.")
            self.psi.load()

    def views(self, identity: str, image: Image.Image, text: str) -> list[Image.Image]:
        """The views' pixels (RGB), the overview first where the selector shows one; QuestionError as in a run.

        identity: of the question, which random choices are seeded by. text: the question, of which ψ reads what
        `psi.text` says; options are not known here.
        """
        picture = image.convert("RGB")
        candidates = self.crops.candidates(*picture.size) if self.crops is not None else Undeclared()
        question = Question(id=identity, category="", image_id=identity, text=text, options=(), truth="",
                            load_image=lambda: picture)  # fmt: skip
        read = psi_text(question, self.psi_reads)
        given = selection_input(self.selector, question, picture, read, candidates, self.run.seed, text)
        if self.psi is not None:
            self.psi.begin_block(keep=False)
        (selection,) = self.selector.select([given], Tools(psi=self.psi))
        return [view.pixels(picture) for view in selection.views]


def only_image(images: list[Any], place: str) -> Any:
    """The one image of a question; QuestionError where there are several, or something else."""
    if len(images) != 1:
        raise QuestionError(f"{place}: has {len(images)} images, and a selector chooses from one; leave the task out.")
    return images[0]
