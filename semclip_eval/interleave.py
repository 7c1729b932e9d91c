"""`semclip-eval latency selector=a,b,c`: latency runs of several selectors that take turns, A B C A B C.

What drifts on a machine (temperature, clocks, other work) meets every selector alike. Each run is the one that
`-m run.mode=latency selector=a,b,c` makes, with the same identity in the same folder; `environment.json` says which
runs it took turns with. Either finishes what the other began.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from semclip_eval.errors import ConfigError, RunFailed

if TYPE_CHECKING:
    from semclip_eval.plan import Plan
    from semclip_eval.results.records import SampleWriter
    from semclip_eval.run import Begun

HELP = """\
semclip-eval latency selector=no_crop,semclip [overrides]

  Times several selectors on the same questions, one question each in turn, with the models loaded once.
  Overrides as for a run; run.mode=latency is set. Latency mode: docs/latency.md.
"""


@dataclass
class Turn:
    """One of the runs that take turns: what it asked so far and what that took."""

    run: Begun
    writer: SampleWriter
    asked: int = 0
    seconds: float = 0.0
    peak_memory_mib: list[float] = field(default_factory=list)


def run_latency(arguments: list[str]) -> int:
    """The verb; ConfigError before anything is asked where one of the runs cannot be made."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(HELP, end="")
        return 0
    names, overrides = _taken_apart(arguments)
    from semclip_eval.compose import compose
    from semclip_eval.console import notice, out
    from semclip_eval.credentials import refuse_in_arguments
    from semclip_eval.plan import make_plan
    from semclip_eval.results.summary import write_roll_up
    from semclip_eval.results.sweep_table import sweep_tables
    from semclip_eval.run import judge

    refuse_in_arguments(arguments)
    profile = next((text.partition("=")[2] for text in overrides if text.startswith("profile=")), "auto")
    overrides = [text for text in overrides if not text.startswith("profile=")]
    configs = [compose([*overrides, f"selector={name}", "run.mode=latency"], profile) for name in names]
    announced = configs[0]["profile"]
    notice(f"profile={announced['name']}: {announced['announcement']}")
    plans = [make_plan(config) for config in configs]
    for text in dict.fromkeys(text for plan in plans for text in plan.notices):
        notice(text)
    take_turns(plans)
    write_roll_up(Path(plans[0].run.output_dir))
    for table in sweep_tables([plan.folder for plan in plans], "Latency, the selectors taking turns"):
        out.print(table)
    failures = []
    for plan in plans:
        try:
            judge(plan)
        except RunFailed as error:
            failures.append(f"selector={plan.source.selector_name}: {error}")
    if failures:
        raise RunFailed(" ".join(failures))
    return 0


def take_turns(plans: Sequence[Plan]) -> None:
    """Finish the runs that are not finished, each with one question in turn. They share model, ψ and questions."""
    from semclip_eval.console import notice
    from semclip_eval.results.records import lock
    from semclip_eval.results.sessions import write_environment
    from semclip_eval.run import begin, finish, is_finished, nothing_left_of_a_refusal

    with ExitStack() as stack:
        for plan in plans:
            stack.enter_context(lock(plan.folder))
        left = []
        for plan in plans:
            if is_finished(plan):
                notice(f"This run is finished already; nothing is asked again: {plan.folder}")
            else:
                left.append(plan)
                stack.enter_context(nothing_left_of_a_refusal(plan.folder))
        runs = [begin(plan) for plan in left]
        for run in runs:
            others = [other.plan.run_id for other in runs if other is not run]
            run.environment["sessions"][-1]["took_turns_with"] = others
            write_environment(run.plan.folder, run.environment)
        with _turns(runs) as turns:
            _ask(turns)
        for turn in turns:
            closing = turn.run.answers.closing()
            if turn.peak_memory_mib:
                measured = {**closing.measured, "peak_memory_mib": max(turn.peak_memory_mib)}
                closing = replace(closing, measured=measured)
            finish(turn.run, closing, turn.asked, turn.seconds)


@contextmanager
def _turns(runs: Sequence[Begun]) -> Iterator[list[Turn]]:
    from semclip_eval.results.records import SampleWriter

    turns = [Turn(run, SampleWriter(run.plan.folder)) for run in runs]
    try:
        yield turns
    finally:
        for turn in turns:
            turn.writer.close()


def _ask(turns: Sequence[Turn]) -> None:
    """Every question of every run that has no record yet, question by question and run by run."""
    from dataclasses import asdict

    from semclip_eval.console import Progress
    from semclip_eval.measure.stages import peak_memory_mib, reset_peak_memory

    if not turns:
        return
    plan = turns[0].run.plan
    before = [record for turn in turns for record in turn.run.done.values()]
    label = f"{plan.benchmark.name} {', '.join(turn.run.plan.source.selector_name for turn in turns)}"
    with Progress(label, len(turns) * len(plan.questions), before, "answers right") as progress:
        for place in range(len(plan.questions)):
            for turn in turns:
                question = turn.run.plan.questions[place]
                if question.id in turn.run.done:
                    continue
                device = turn.run.plan.run.device
                reset_peak_memory(device)
                start = time.perf_counter()
                record = turn.run.answers.ask(question)
                turn.seconds += time.perf_counter() - start
                peak = peak_memory_mib(device)
                turn.peak_memory_mib += [] if peak is None else [peak]
                turn.asked += 1
                turn.writer.write(record)
                progress.advance(asdict(record))


def _taken_apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The selectors that take turns, and the other overrides."""
    for text in arguments:
        if text.startswith("-") or "=" not in text:
            raise ConfigError(f"latency {text}: takes overrides such as selector=no_crop,semclip run.limit=50.")
    chosen = [text.partition("=")[2] for text in arguments if text.startswith("selector=")]
    names = [name.strip() for name in chosen[-1].split(",")] if chosen else []
    if len(names) < 2 or len(set(names)) < len(names) or "" in names:
        raise ConfigError(
            f"latency selector={chosen[-1] if chosen else ''}: needs two or more different selectors that take turns, "
            "selector=no_crop,semclip; for a single one use run.mode=latency."
        )
    rest = [text for text in arguments if not text.startswith("selector=")]
    for text in rest:
        if text.startswith("run.mode="):
            raise ConfigError(f"latency {text}: the mode is run.mode=latency; leave it out.")
    return names, rest
