"""`semclip-eval latency selector=a,b,c`: latency runs of several selectors that take turns, A B C A B C.

What drifts on a machine (temperature, clocks, other work) meets every selector alike. Each run is the one that
`-m run.mode=latency selector=a,b,c` makes, with the same identity in the same folder; `environment.json` says which
runs it took turns with. Either finishes what the other began.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semclip_eval.errors import ConfigError, RunFailed

if TYPE_CHECKING:
    from semclip_eval.answers.answering import OwnProcess
    from semclip_eval.modes import Mode
    from semclip_eval.plan import Plan
    from semclip_eval.results.records import SampleWriter

HELP = """\
semclip-eval latency selector=no_crop,semclip [overrides]

  Times several selectors on the same questions, one question each in turn, with the models loaded once.
  Overrides as for a run; run.mode=latency is set. Latency mode: docs/latency.md.
"""


@dataclass
class Turn:
    """One of the runs that take turns: what it asked so far and what that took.

    done: the records of an earlier process, by question.
    """

    plan: Plan
    mode: Mode
    answers: OwnProcess
    environment: dict[str, Any]
    done: Mapping[str, Mapping[str, Any]]
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
    from semclip_eval.trackers import track

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
    for plan in plans:
        track(plan.folder, plan.run.track)
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
    from semclip_eval.answers.answering import Closing
    from semclip_eval.console import notice
    from semclip_eval.results.records import lock
    from semclip_eval.run import finish, is_finished, nothing_left_of_a_refusal

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
        with _turns(left) as turns:
            _ask(turns)
        for turn in turns:
            closing = turn.answers.closing()
            # No energy: NVML's counter moves in steps that are longer than a turn.
            measured: dict[str, Any] = {**closing.measured, "energy_j_mean": None}
            if turn.peak_memory_mib:
                measured["peak_memory_mib"] = max(turn.peak_memory_mib)
            closing = Closing(measured, closing.notes, closing.truncations)
            finish(turn.plan, turn.mode, turn.environment, closing, turn.asked, turn.seconds, bool(turn.done))


@contextmanager
def _turns(plans: Sequence[Plan]) -> Iterator[list[Turn]]:
    """The runs, begun and warm; their files are closed at the end."""
    from semclip_eval.results.records import SampleWriter
    from semclip_eval.results.sessions import write_environment

    begun = [_begun(plan) for plan in plans]
    turns = []
    for plan, mode, answers, environment, done in begun:
        environment["sessions"][-1]["took_turns_with"] = [other.run_id for other in plans if other is not plan]
        write_environment(plan.folder, environment)
        turns.append(Turn(plan, mode, answers, environment, done, SampleWriter(plan.folder)))
    try:
        yield turns
    finally:
        for turn in turns:
            turn.writer.close()


def _begun(plan: Plan) -> tuple[Plan, Mode, OwnProcess, dict[str, Any], Mapping[str, Mapping[str, Any]]]:
    from semclip_eval.answers.answering import OwnProcess
    from semclip_eval.modes import mode_of
    from semclip_eval.run import begin, records_so_far

    done, mode = records_so_far(plan), mode_of(plan.run)
    answers = OwnProcess(plan, mode)
    return plan, mode, answers, begin(plan, mode, answers, resumed=bool(done)), done


def _ask(turns: Sequence[Turn]) -> None:
    """Every question of every run that has no record yet, question by question and run by run."""
    from dataclasses import asdict

    from semclip_eval.console import Progress
    from semclip_eval.measure.stages import peak_memory_mib, reset_peak_memory

    if not turns:
        return
    plan = turns[0].plan
    before = [record for turn in turns for record in turn.done.values()]
    label = f"{plan.benchmark.name} {', '.join(turn.plan.source.selector_name for turn in turns)}"
    with Progress(label, len(turns) * len(plan.questions), before, "answers right") as progress:
        for place in range(len(plan.questions)):
            for turn in turns:
                question, device = turn.plan.questions[place], turn.plan.run.device
                if question.id in turn.done:
                    continue
                reset_peak_memory(device)
                start = time.perf_counter()
                ((record,),) = turn.answers.answered([[question]])
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
