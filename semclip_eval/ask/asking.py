"""What is asked, and what one selector gives; the models stay loaded between selectors and questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from semclip_eval import session
from semclip_eval.api import Reply, ask
from semclip_eval.components import build
from semclip_eval.compose import compose
from semclip_eval.config import run_config
from semclip_eval.devices import detected_profile
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.outcomes import announced
from semclip_eval.places import MINI, data_folder, is_generated
from semclip_eval.selectors.base import Selector
from semclip_eval.types import Box

SELECTORS = ("no_crop", "semclip")


@dataclass(frozen=True)
class Query:
    """One question about one image (RGB). boxes: where the answer is to be seen, for selectors that use the truth."""

    image: Image.Image
    question: str
    options: tuple[str, ...] = ()
    protocol: str | None = None
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What one selector gave; `error` says why there is no reply."""

    selector: str
    reply: Reply | None
    error: str = ""

    @property
    def latency_ms(self) -> Mapping[str, float]:
        """Milliseconds by stage, nothing of an earlier question reused; empty without a reply."""
        return (self.reply.latency_ms or {}) if self.reply is not None else {}

    @property
    def milliseconds(self) -> float | None:
        """From the decoded image to the answer; None without a reply."""
        return self.latency_ms.get("e2e")


class Asker:
    """Answers queries with selectors by their config's names; what they need is loaded once.

    overrides: as for a run, without `selector=`.
    """

    def __init__(self, overrides: Sequence[str]) -> None:
        self._overrides = list(overrides)
        named = next((text.partition("=")[2] for text in overrides if text.startswith("profile=")), "auto")
        self._detected = named == "auto"
        self.profile = detected_profile() if named == "auto" else named
        self._configs: dict[str, dict[str, Any]] = {}
        self._warm: set[str] = set()

    def config(self, selector: str) -> dict[str, Any]:
        """The composed config of this selector; ConfigError where there is no such selector or key."""
        if selector not in self._configs:
            try:
                self._configs[selector] = compose([*self._overrides, f"selector={selector}"], self.profile)
            except ConfigError as error:  # which of several selectors it is
                named = "" if str(error).startswith("selector=") else f"selector={selector}: "
                raise ConfigError(f"{named}{error}") from error
        return self._configs[selector]

    def load(self, selector: str) -> None:
        """Load the VLM, and ψ where the selector needs it; raises as a run does where that fails."""
        config = self.config(selector)
        self._vlm(config)
        if "psi" in build("selector", config["selector"]).needs:
            self._psi(config).load()

    def announcement(self, selector: str) -> str:
        """Which profile answers, why, and what that means; as a run says it first."""
        return announced(self.config(selector)["profile"], self._detected)

    def described(self, selector: str) -> str:
        """Model, ψ, crops and device, in one line."""
        config = self.config(selector)
        names = [f"{group}={config[group]['name']}" for group in ("model", "psi", "crops") if config[group]]
        return " · ".join([*names, str(run_config(config["run"]).device)])

    def answer(self, selector: str, query: Query) -> Asked:
        """The selector's answer; one that cannot be given is an `Asked` with the reason."""
        config = self.config(selector)
        run = run_config(config["run"])
        chooser: Selector = build("selector", config["selector"])
        vlm = self._vlm(config)
        psi = self._psi(config) if "psi" in chooser.needs else None
        crops = build("crops", config["crops"])
        # The first call of a selector loads and warms up; the clock is for the second one.
        calls = 1 if selector in self._warm else 2
        try:
            for _ in range(calls):
                reply = ask(
                    query.image, query.question, options=query.options, protocol=query.protocol, selector=chooser,
                    vlm=vlm, psi=psi, crops=crops, boxes=query.boxes, seed=run.seed,
                    timed=True,
                )  # fmt: skip
        except (QuestionError, ConfigError) as error:
            return Asked(selector, None, " ".join(str(error).split()))
        self._warm.add(selector)
        return Asked(selector, reply)

    def _vlm(self, config: dict[str, Any]) -> Any:
        run = run_config(config["run"])
        return session.loaded("model", dict(config["model"]), device=run.device, dtype=run.dtype)

    def _psi(self, config: dict[str, Any]) -> Any:
        run = run_config(config["run"])
        return session.loaded("psi", dict(config["psi"]), device=run.device, dtype=run.dtype)


def named_selectors(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The selectors that `selector=a,b,c` names, or the usual two, and the other overrides."""
    own = [text for text in overrides if text.startswith("selector=")]
    names = [name for text in own for name in text.removeprefix("selector=").split(",") if name]
    return names or list(SELECTORS), [text for text in overrides if text not in own]


def check_overrides(overrides: Sequence[str]) -> None:
    """ConfigError for a word that is no override."""
    for text in overrides:
        if "=" not in text:
            raise ConfigError(f"{text}: must be an override such as selector=semclip (quote a question with spaces).")


def read_image(path: str) -> Image.Image:
    """RGB pixels of an image file, or of a miniature's (`mini://vstar/direct_attributes/sa_100000.jpg`).

    ConfigError where there is none.
    """
    from semclip_eval.benchmarks.images import read_rgb

    file = Path(path).expanduser()
    if is_generated(path):
        name, _, inside = path.removeprefix(MINI).partition("/")
        file = data_folder(MINI + name) / inside
        if not file.is_file():
            first = next(iter(sorted(file.rglob("*.jpg") if file.is_dir() else ())), None)
            example = (
                f": name an image, such as {path.rstrip('/')}/{first.relative_to(file)}" if first else ": no image"
            )
            raise ConfigError(f"{path}{example}.")
    try:
        return read_rgb(file)
    except QuestionError as error:
        raise ConfigError(str(error)) from error


def read_box(text: str) -> Box:
    """`X,Y,WIDTH,HEIGHT` in pixels; ConfigError for anything else."""
    try:
        left, top, width, height = (int(value) for value in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--box {text}: must be X,Y,WIDTH,HEIGHT in pixels.") from error
    return Box(left, top, left + width, top + height)
