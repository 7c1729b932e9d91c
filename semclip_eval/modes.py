"""Accuracy and latency as two modes: what may be kept, batched and read ahead, what is timed, and how long answers are.

Accuracy mode may batch, read ahead and keep whatever is deterministic, and times nothing: work that overlaps has no
latency of one question. Latency mode asks one question at a time, keeps nothing, warms up, and forces the length of
generated answers, so that selectors are compared at equal length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from semclip_eval.devices import reading_threads

if TYPE_CHECKING:
    from semclip_eval.config import RunConfig
    from semclip_eval.types import Prompt


@dataclass(frozen=True)
class Mode:
    """batch_size: questions in a block; None where that is settled when the model is there (`auto`). threads: that read
    and prepare ahead. keeps: may what was computed for one question serve another? times: does the clock run?
    forced_tokens: number of tokens of every generated answer, None for as many as the model wants. warmup: questions
    asked before the clock counts.
    """

    name: str
    batch_size: int | None
    threads: int
    keeps: bool
    times: bool
    forced_tokens: int | None
    warmup: int

    def scores(self, prompt: Prompt) -> bool:
        """Is the answer to this prompt scored? One of a forced length is not."""
        return self.forced_tokens is None or bool(prompt.continuations)

    def new_tokens(self, prompt: Prompt) -> int:
        """How many tokens the answer takes at most; a likelihood question takes one."""
        if prompt.continuations:
            return 1
        return prompt.max_new_tokens if self.forced_tokens is None else self.forced_tokens


# Keys of the section `run` that mean nothing in a mode, and so are no part of a run's identity there.
UNUSED_KEYS = {"accuracy": ("warmup", "new_tokens"), "latency": ("batch_size",)}


def mode_of(run: RunConfig) -> Mode:
    """The mode that `run.mode` names, with the run's own numbers."""
    if run.mode == "latency":
        return Mode("latency", 1, 0, keeps=False, times=True, forced_tokens=run.new_tokens, warmup=run.warmup)
    threads = reading_threads() if run.num_workers == "auto" else int(run.num_workers)
    size = None if run.batch_size == "auto" else int(run.batch_size)
    return Mode("accuracy", size, threads, keeps=True, times=False, forced_tokens=None, warmup=0)


def identity_of(section: Mapping[str, Any], left_out: tuple[str, ...]) -> dict[str, Any]:
    """What of a resolved section `run` can change an answer or a measurement in its mode."""
    without = (*left_out, *UNUSED_KEYS[section["mode"]])
    return {key: value for key, value in section.items() if key not in without}
