"""`semclip-eval choose`: the best selector within a budget, what cannot be told from it, and what to ask next."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semclip_eval.console import out, percent
from semclip_eval.errors import ConfigError, SemclipEvalError
from semclip_eval.json_output import print_json
from semclip_eval.report.comparisons import Labelled, comparisons, milliseconds
from semclip_eval.report.runs import FinishedRun, read_results
from semclip_eval.results.comparison import paired, read_run
from semclip_eval.scoring.statistics import questions_needed


@dataclass(frozen=True)
class Option:
    """A selector with what it costs. within: does it keep the budget; why_not says where not or what is not known.

    difference, low, high: best minus this one, fractions, with the 95 % paired interval; None for the best itself.
    p: McNemar's. needed: questions in all that would separate the two with 80 % power, None where they are apart or
    equal.
    """

    name: str
    accuracy: float
    accuracy_low: float | None
    accuracy_high: float | None
    tokens: float | None
    milliseconds: float | None
    forwards: float | None
    within: bool
    why_not: str = ""
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    needed: int | None = None

    @property
    def tied(self) -> bool:
        """Does the interval of the difference to the best hold 0?"""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high


@dataclass(frozen=True)
class Choice:
    """Of one set of comparable runs: the best within the budget (None where there is none), and all others."""

    title: str
    n: int
    best: Option | None
    others: tuple[Option, ...]


def run_choose(arguments: list[str]) -> int:
    """The verb. ConfigError for a folder without finished runs."""
    parser = argparse.ArgumentParser(
        prog="semclip-eval choose",
        description="The best selector within a budget, and what cannot be told from it. Oracles are no choice.",
    )
    parser.add_argument("results", type=Path, help="a results folder")
    parser.add_argument("--max-ms", type=float, help="median milliseconds a question, from latency runs")
    parser.add_argument("--max-tokens", type=float, help="mean visual tokens that the language model reads")
    parser.add_argument("--max-forwards", type=float, help="mean VLM forwards that the selector spends")
    parser.add_argument("--json", action="store_true", help="print JSON (docs/json.md)")
    chosen = parser.parse_args(arguments)
    limits = {"ms": chosen.max_ms, "tokens": chosen.max_tokens, "forwards": chosen.max_forwards}
    choices = choose(chosen.results, limits)
    if chosen.json:
        print_json([as_json(choice) for choice in choices])
    else:
        for choice in choices:
            _print(choice)
    return 0


def choose(results: Path, limits: Mapping[str, float | None]) -> list[Choice]:
    """A choice for every set of comparable accuracy runs below `results`; limits: of ms, tokens and forwards."""
    runs, _ = read_results(results)
    timed = [run for run in runs if run.row["mode"] == "latency"]
    asked = [run for run in runs if run.row["mode"] != "latency" and not run.random_weights]
    found = [_chosen(comparison.title, comparison.runs, timed, limits) for comparison in comparisons(asked)]
    found = [choice for choice in found if choice.best is not None or choice.others]
    if not found:
        raise ConfigError(f"{results}: holds no accuracy run of a method to choose from.")
    return found


def _chosen(
    title: str, labelled: Sequence[Labelled], timed: Sequence[FinishedRun], limits: Mapping[str, float | None]
) -> Choice:
    methods = [each for each in labelled if each.run.kind != "oracle" and each.run.number("accuracy") is not None]
    options = {each.run.id: _option(each, timed, limits) for each in methods}
    fitting = [each for each in methods if options[each.run.id].within]
    n = int(labelled[0].run.row["n"])
    if not fitting:
        return Choice(title, n, None, tuple(options.values()))
    # Of equal accuracies the one with fewer tokens, then forwards.
    best = min(
        fitting,
        key=lambda each: (
            -options[each.run.id].accuracy, options[each.run.id].tokens or 0, options[each.run.id].forwards or 0
        ),
    )  # fmt: skip
    others = [
        _against(best.run, each.run, options[each.run.id]) for each in methods if each is not best
    ]  # those beyond the budget too: what the budget costs
    others.sort(key=lambda option: (not option.within, -option.accuracy))
    return Choice(title, n, options[best.run.id], tuple(others))


def _option(each: Labelled, timed: Sequence[FinishedRun], limits: Mapping[str, float | None]) -> Option:
    run = each.run
    costs = {
        "ms": milliseconds(run, timed),
        "tokens": run.number("visual_tokens_mean"),
        "forwards": run.number("forwards_mean") or 0.0,
    }
    broken = []
    for name, limit in limits.items():
        cost = costs[name]
        if limit is None:
            continue
        if cost is None:
            broken.append(f"{name} not measured")
        elif cost > limit:
            broken.append(f"{cost:.0f} {name}")
    return Option(
        each.name, float(run.row["accuracy"]), run.number("accuracy_ci_low"), run.number("accuracy_ci_high"),
        costs["tokens"], costs["ms"], costs["forwards"], not broken, ", ".join(broken),
    )  # fmt: skip


def _against(best: FinishedRun, other: FinishedRun, option: Option) -> Option:
    try:
        pair = paired(read_run(other.folder), read_run(best.folder))
    except (SemclipEvalError, KeyError):
        return option
    if pair.difference is None:
        return option
    mean, low, high = pair.difference
    discordant = (len(pair.only_reference) + len(pair.only_other)) / pair.n_units
    needed = questions_needed(mean, discordant) if low <= 0 <= high and mean != 0 else None
    values = option.__dict__ | {"difference": mean, "low": low, "high": high, "p": pair.p, "needed": needed}
    return Option(**values)


def as_json(choice: Choice) -> dict[str, Any]:
    """Plain values, fractions as fractions."""
    plain = [{**option.__dict__, "tied": option.tied} for option in choice.others]
    best = None if choice.best is None else dict(choice.best.__dict__)
    return {"comparison": choice.title, "n": choice.n, "best": best, "others": plain}


def _print(choice: Choice) -> None:
    from rich.table import Table

    out.print(f"{choice.title} · {choice.n} questions", style="bold", highlight=False)
    best = choice.best
    if best is None:
        out.print("Nothing keeps the budget:", highlight=False)
    else:
        interval = f"{percent(best.accuracy_low)}-{percent(best.accuracy_high)}"
        cost = f"{best.tokens:.0f} visual tokens" if best.tokens is not None else "tokens not known"
        cost += f", {best.forwards:.0f} extra forwards" if best.forwards else ""
        cost += f", {best.milliseconds:.0f} ms" if best.milliseconds is not None else ""
        out.print(f"Choose {best.name}: {percent(best.accuracy)} % ({interval}), {cost}.", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("others", overflow="fold")
    for heading in ("accuracy %", "best minus it", "p", "tokens", "verdict"):
        table.add_column(heading, justify="left" if heading == "verdict" else "right", overflow="fold")
    for option in choice.others:
        table.add_row(
            option.name, percent(option.accuracy), _difference(option), "-" if option.p is None else f"{option.p:.2g}",
            "-" if option.tokens is None else f"{option.tokens:.0f}", _verdict(option),
        )  # fmt: skip
    if choice.others:
        out.print(table)
    tied = [option for option in choice.others if option.tied and option.within and option.needed]
    if tied:
        closest = min(tied, key=lambda option: option.needed or 0)
        out.print(
            f"To tell {best.name if best else ''} from {closest.name}: about {closest.needed} questions in all, if the "
            "difference is what it is here.",
            highlight=False,
        )
    out.print()


def _difference(option: Option) -> str:
    if option.difference is None or option.low is None or option.high is None:
        return "-"
    return f"{100 * option.difference:+.1f} [{100 * option.low:+.1f}, {100 * option.high:+.1f}]"


def _verdict(option: Option) -> str:
    if not option.within:
        return f"beyond the budget ({option.why_not})"
    if option.tied:
        return "not told apart"
    return "worse" if (option.low or 0) > 0 else "-"
