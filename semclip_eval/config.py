"""The resolved config of one run: what Hydra composed, checked, with `auto` values settled, and its short hash.

The sections `benchmark`, `model`, `selector`, `crops` and `psi` are checked by the classes that they name
(`components.build`); the section `run` is checked here.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from semclip_eval.answers.replay import REVISION_MARK
from semclip_eval.components import did_you_mean
from semclip_eval.devices import settled_device
from semclip_eval.errors import ConfigError
from semclip_eval.modes import UNUSED_KEYS, identity_of
from semclip_eval.places import MINI
from semclip_eval.trackers import TRACKERS

GROUPS = ("benchmark", "model", "selector", "crops", "psi")
DTYPES = ("float32", "bfloat16", "float16")
# What may change between two calls of one run without changing a single answer: not part of the run's identity.
# How the revision of files on this machine begins: a digest of their content, which makes their place irrelevant.
LOCAL_MARKS = ("local:", REVISION_MARK)
# Keys of the components that change what is kept and not what is computed.
NOT_IN_IDENTITY = (
    "description",
    "cache_images",
    "store_mib",
    "cache",
    "feature_cache_mib",
    "max_in_flight",
    "timeout_s",
    "max_retries",
    "max_reply_mib",
    "api_key_env",
)
EXECUTORS = ("local", "ray")
NOT_IN_RUN_ID = (
    "output_dir",
    "resume",
    "num_workers",
    "max_error_rate",
    "retry_errors",
    "executor",
    "workers",
    "gpus_per_worker",
    "worker_timeout_s",
    "track",
)


@dataclass(frozen=True)
class RunConfig:
    """The section `run`.

    limit: first N questions, stratified over categories (null: all). seed: of every random choice. device: `auto`,
    `cpu`, `cuda` or `cuda:N`. dtype: `auto` is bfloat16 on CUDA and float32 elsewhere. batch_size: questions in one
    forward pass (accuracy mode), `auto` by what the model has room for (`answers.batching`). mode: `accuracy` or
    `latency`. warmup: questions asked before the clock counts, and new_tokens: number of tokens that every generation
    makes (both in latency mode). num_workers: threads that load and prepare images ahead (accuracy mode; 0 for none),
    `auto` for as many as the cores allow. max_error_rate: fraction of questions that may end in an error before the run
    counts as failed. retry_errors: ask the questions that ended in an error again. workers: models that answer side by
    side, a number or `auto` (one for each CUDA device, or one; accuracy mode). executor: where they are, `local`
    (processes of this machine) or `ray` (Ray actors). gpus_per_worker: 1, more (with model.device_map=auto) or 1/N for
    N workers on a device. worker_timeout_s: for loading a model and for each block, before a worker counts as hung
    (null: never). track: the trackers that a finished run is written to (`semclip_eval.trackers`).
    """

    limit: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | str = "auto"
    mode: str = "accuracy"
    warmup: int = 5
    new_tokens: int = 16
    output_dir: str = "results"
    resume: bool = True
    retry_errors: bool = False
    num_workers: int | str = "auto"
    max_error_rate: float = 0.01
    executor: str = "local"
    workers: int | str = 1
    gpus_per_worker: float = 1
    worker_timeout_s: float | None = 1800
    track: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("seed", "warmup", "new_tokens"):
            _whole_number(name, getattr(self, name))
        if self.limit is not None:
            _whole_number("limit", self.limit)
            if self.limit < 1:
                raise ConfigError(f"run.limit={self.limit}: must be at least 1 (run.limit=null asks all questions).")
        for name, least in (("warmup", 0), ("new_tokens", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"run.{name}={getattr(self, name)}: must be at least {least}.")
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if value != "auto":
                _whole_number(name, value)
                if value < least:
                    raise ConfigError(f"run.{name}={value}: must be at least {least}, or auto.")
        if self.mode not in UNUSED_KEYS:
            raise ConfigError(f"run.mode={self.mode}: must be {' or '.join(UNUSED_KEYS)}.")
        if self.dtype not in ("auto", *DTYPES):
            raise ConfigError(f"run.dtype={self.dtype}: must be auto, {', '.join(DTYPES)}.")
        if not isinstance(self.max_error_rate, (int, float)) or not 0 <= self.max_error_rate <= 1:
            raise ConfigError(f"run.max_error_rate={self.max_error_rate}: must be a fraction between 0 and 1.")
        for name in ("resume", "retry_errors"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"run.{name}={getattr(self, name)}: must be true or false.")
        for name in _track_names(self.track):
            if name not in TRACKERS:
                hint = did_you_mean(name, TRACKERS)
                raise ConfigError(f"run.track={name}: no such tracker.{hint} Available: {', '.join(TRACKERS)}.")
        if not isinstance(self.output_dir, str) or not self.output_dir:
            raise ConfigError(f"run.output_dir={self.output_dir!r}: must be a folder.")
        self._check_workers()

    def _check_workers(self) -> None:
        if self.executor not in EXECUTORS:
            raise ConfigError(f"run.executor={self.executor}: must be {' or '.join(EXECUTORS)}.")
        if self.workers != "auto":
            _whole_number("workers", self.workers)
            if int(self.workers) < 1:
                raise ConfigError(f"run.workers={self.workers}: must be at least 1, or auto.")
        gpus = _number("gpus_per_worker", self.gpus_per_worker)
        if gpus <= 0 or (gpus >= 1 and gpus != int(gpus)) or (gpus < 1 and abs(1 / gpus - round(1 / gpus)) > 0.02):
            raise ConfigError(
                f"run.gpus_per_worker={gpus:g}: must be a whole number, or a fraction such as 0.5 for two workers on a "
                "device."
            )
        if self.worker_timeout_s is not None and _number("worker_timeout_s", self.worker_timeout_s) <= 0:
            raise ConfigError(f"run.worker_timeout_s={self.worker_timeout_s}: must be above 0, or null for never.")
        if self.mode == "latency" and (self.executor, self.workers) not in (("local", 1), ("local", "auto")):
            raise ConfigError(
                f"run.mode=latency times one question at a time in one process, not run.workers={self.workers} with "
                f"run.executor={self.executor}; leave both out."
            )


def _track_names(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"run.track={value}: must be a list of {', '.join(TRACKERS)}, such as [tensorboard].")
    return value


def _whole_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"run.{name}={value}: must be a whole number.")


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"run.{name}={value}: must be a number.")
    return float(value)


def run_config(section: Mapping[str, Any]) -> RunConfig:
    """The checked `run` section, with device and dtype settled for this machine."""
    known = {each.name for each in fields(RunConfig)}
    unknown = [key for key in section if key not in known]
    if unknown:
        raise ConfigError(f"run.{unknown[0]}: no such key. Available: {', '.join(sorted(known))}.")
    track = section.get("track", [])
    settled = {
        "output_dir": _folder_name(section.get("output_dir", RunConfig.output_dir)),
        "track": [track] if isinstance(track, str) else track,  # run.track=tensorboard
    }
    config = RunConfig(**{**section, **settled})
    # Ray's workers may live on other machines than this one: they check the device themselves.
    device = settled_device(config.device, here=config.executor == "local")
    workers = 1 if config.mode == "latency" else config.workers
    dtype = config.dtype if config.dtype != "auto" else ("bfloat16" if device.startswith("cuda") else "float32")
    return RunConfig(**{**config.__dict__, "device": device, "dtype": dtype, "workers": workers})


def _folder_name(value: Any) -> Any:
    """A folder as it was typed: Hydra reads 2024 as a number, and nobody expands `~` behind an equals sign."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return os.path.expanduser(value) if isinstance(value, str) else value


def run_id(
    config: Mapping[str, Any], revisions: Mapping[str, str | None], code: Mapping[str, str] | None = None
) -> str:
    """Ten hex digits of the SHA-256 of everything that can change an answer or a measurement.

    config: resolved. revisions: of `benchmark`, `model` and `psi`, as found. code: digests of the source
    (`code_identity.code_digests`). Local files count by the digest of their content, not by where they lie or how the
    path was typed.
    """
    identity: dict[str, Any] = {"profile": config["profile"]["name"], "code": dict(code or {})}
    for group in GROUPS:
        identity[group] = _identity(config[group], revisions.get(group)) if config[group] else None
    identity["run"] = identity_of(config["run"], NOT_IN_RUN_ID)
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _identity(section: Mapping[str, Any], revision: str | None) -> dict[str, Any]:
    identity = {key: value for key, value in section.items() if key not in NOT_IN_IDENTITY}
    if revision is not None:
        identity["revision"] = revision
    if str(revision or "").startswith(LOCAL_MARKS):
        for place in ("path", "hub_id", "pretrained"):
            identity.pop(place, None)
        if str(section.get("model", "")).startswith(("local-dir:", MINI)):
            identity.pop("model", None)
    return identity
