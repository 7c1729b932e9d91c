"""The section `train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from semclip_eval.checks import whole_number
from semclip_eval.components import did_you_mean
from semclip_eval.errors import ConfigError

GAINS = ("auto", "margin", "loss")
OBJECTIVES = ("kl", "infonce", "sigmoid")


@dataclass(frozen=True)
class TrainSettings:
    """See configs/train/default.yaml for what each key means. Raises ConfigError for a value that makes no sense."""

    output: str | None
    gain: str
    sufficient_loss: float
    least_range: float
    objective: str
    gain_temperature: float
    neutral: float
    text_epochs: int
    both_epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    both_learning_rate: float
    weight_decay: float
    held_out: float
    seed: int
    shuffle_gains: bool
    gradient_checkpointing: bool
    test_benchmarks: tuple[str, ...]

    def __post_init__(self) -> None:
        for key, value, known in (("gain", self.gain, GAINS), ("objective", self.objective, OBJECTIVES)):
            if value not in known:
                raise ConfigError(f"train.{key}={value}: must be {' or '.join(known)}.")
        for key, least in (("text_epochs", 0), ("both_epochs", 0), ("patience", 1), ("batch_size", 1), ("seed", 0)):
            whole_number(f"train.{key}", getattr(self, key), least)
        for key in ("gain_temperature", "learning_rate", "both_learning_rate"):
            _number(key, getattr(self, key), above=0)
        for key in ("sufficient_loss", "least_range", "neutral", "weight_decay"):
            _number(key, getattr(self, key), least=0)
        _number("held_out", self.held_out, above=0)
        if self.held_out > 0.5:
            raise ConfigError(f"train.held_out={self.held_out}: must be a fraction of at most 0.5.")
        for key in ("shuffle_gains", "gradient_checkpointing"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigError(f"train.{key}={getattr(self, key)}: must be true or false.")
        if self.text_epochs + self.both_epochs == 0:
            raise ConfigError("train.text_epochs=0 and train.both_epochs=0: nothing would be trained.")


def train_settings(section: Mapping[str, Any]) -> TrainSettings:
    """The checked section; ConfigError for a key that there is not."""
    known = [field.name for field in fields(TrainSettings)]
    for key in section:
        if key not in known:
            raise ConfigError(f"train.{key}: no such key.{did_you_mean(key, known)} Available: {', '.join(known)}.")
    return TrainSettings(**{**section, "test_benchmarks": tuple(section["test_benchmarks"] or ())})


def _number(key: str, value: object, above: float | None = None, least: float | None = None) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and (above is None or value > above) and (least is None or value >= least):  # type: ignore[operator]
        return
    bound = f"above {above}" if above is not None else f"of at least {least}"
    raise ConfigError(f"train.{key}={value}: must be a number {bound}.")
