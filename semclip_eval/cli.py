"""The command line: a first word without `=` or a leading dash is a verb, everything else is Hydra's.

Exit codes: 0 done; 1 ran and failed; 2 the command, a config value, a path or a data file is wrong; 130 interrupted
and 143 terminated (SIGTERM), with everything done so far kept. Nothing heavy is imported before a verb needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from semclip_eval.errors import SemclipEvalError, Terminated
from semclip_eval.preemption import Terminate, terminable

HELP = """\
semclip-eval: what does choosing image regions buy a vision-language model?

  semclip-eval benchmark=vstar selector=semclip      one run; the same command again goes on where it stopped
  semclip-eval -m selector=no_crop,full_crop,semclip a sweep; models stay loaded between its jobs
  semclip-eval list [GROUP]                          what there is: {groups}
  semclip-eval show RUN_DIR [--question ID]          one run, or one question of it
  semclip-eval compare RUN_DIR RUN_DIR ...           paired differences with intervals, exact McNemar p
  semclip-eval choose RESULTS --max-tokens 600       the best selector within a budget, and what ties with it
  semclip-eval review RESULTS [--output FOLDER]      every selector at every budget: Pareto fronts, corrected tests
  semclip-eval rescore RUN_DIR benchmark.parser=...  stored answers under another rule, and what the rule alone moves
  semclip-eval ask IMAGE "QUESTION" selector=a,b     one question about one image, selectors side by side
  semclip-eval train-psi train.objective=kl ...      a ψ that learns from what each crop is worth to the VLM
  semclip-eval report RESULTS_DIR [--output DIR]     one page about all runs, its tables and its plots
  semclip-eval regress RUN_DIR BASELINE_CSV          0 where the run agrees with the baseline, 1 with what moved
  semclip-eval latency selector=a,b,c                latency runs of several selectors that take turns
  semclip-eval export RUN_DIR --format lmms-eval ... a run as lmms-eval's or inspect's files
  semclip-eval push RESULTS OWNER/NAME [--dry-run]   the runs as a dataset on the Hub, private unless --public
  semclip-eval new selector NAME [--folder DIR]      a selector, benchmark, psi or model of your own to begin with
  semclip-eval doctor [--ceilings]                   what this machine can run, and how fast it is at most
  ... --json with list, show, compare, choose, ask, regress, doctor: one JSON document instead of a table

Values are Hydra overrides: group=name or group.key=value, for example
  run.limit=100  run.device=cpu  run.mode=latency  selector.top_k=2  crops=grid4x4  benchmark.protocol=letter
  profile=mini   generated scenes and small trained models: runs anywhere (the default without a CUDA device)
  profile=full   the published models and data; local copies: model.path=FOLDER benchmark.path=FOLDER
  --cfg job      print the composed config instead of running it;  --hydra-help for the rest

Results: results/runs.csv (a row a run) and results/PROFILE/BENCHMARK/MODEL/SELECTOR/RUN_ID/.
"""


# How an argument begins that is Hydra's even without `=`: a flag, or an entry taken away or added.
HYDRAS_OWN = ("-", "~", "+")
FLAGS_WITH_VALUE = (
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--cfg",
    "-c",
    "--package",
    "-p",
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; the console script's entry point."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    terminate = Terminate()
    try:
        with terminable(terminate):
            return _dispatch(arguments)
    except KeyboardInterrupt as error:
        # Not by the exception's class alone: a library that waits (Ray) may raise an interrupt of its own for it.
        is_term = terminate.came.is_set() or isinstance(error, Terminated)
        what, code = ("terminated", 143) if is_term else ("interrupted", 130)
        _print_error(f"{what}. Everything done so far is kept; the same command goes on from there.")
        return code
    except BrokenPipeError:
        # The reader (head, less) went away: nothing left to say, and nothing to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SemclipEvalError as error:
        _print_error(str(error))
        return error.exit_code


def _verb_first(arguments: list[str]) -> list[str]:
    """The arguments with a verb that stands behind flags (`--config-dir DIR list`) in front."""
    if not arguments or not arguments[0].startswith("-"):
        return arguments
    place = 0
    while place < len(arguments) and arguments[place].startswith("-"):
        place += 2 if arguments[place] in FLAGS_WITH_VALUE else 1
    if place < len(arguments) and arguments[place] in _verbs():
        return [arguments[place], *arguments[:place], *arguments[place + 1 :]]
    return arguments


def _dispatch(arguments: list[str]) -> int:
    arguments = _verb_first(arguments)
    if not arguments or arguments[0][0:1] in HYDRAS_OWN or "=" in arguments[0]:
        if any(argument in ("--help", "-h") for argument in arguments):
            from semclip_eval.listing import GROUPS

            print(HELP.format(groups=", ".join(GROUPS)), end="")
            return 0
        if any(argument == "--version" for argument in arguments):
            from semclip_eval import __version__

            print(f"semclip-eval {__version__}")
            return 0
        from semclip_eval.launch import launch

        return launch(arguments)
    verb, rest = arguments[0], arguments[1:]
    verbs = _verbs()
    if verb not in verbs:
        from semclip_eval.components import did_you_mean

        _print_error(
            f"{verb!r} is no verb.{did_you_mean(verb, verbs)} Verbs: {', '.join(verbs)}; a run takes overrides such as "
            "benchmark=vstar (see --help)."
        )
        return 2
    return verbs[verb](rest)


def _verbs() -> dict[str, Callable[[list[str]], int]]:
    def list_verb(rest: list[str]) -> int:
        from semclip_eval.listing import run_list

        return run_list(rest)

    def show_verb(rest: list[str]) -> int:
        from semclip_eval.results.show import run_show

        return run_show(rest)

    def compare_verb(rest: list[str]) -> int:
        from semclip_eval.results.comparison import run_compare

        return run_compare(rest)

    def rescore_verb(rest: list[str]) -> int:
        from semclip_eval.rescore import run_rescore

        return run_rescore(rest)

    def report_verb(rest: list[str]) -> int:
        from semclip_eval.report.verb import run_report

        return run_report(rest)

    def regress_verb(rest: list[str]) -> int:
        from semclip_eval.results.regression import run_regress

        return run_regress(rest)

    def train_psi_verb(rest: list[str]) -> int:
        from semclip_eval.training.verb import run_train_psi

        return run_train_psi(rest)

    def ask_verb(rest: list[str]) -> int:
        from semclip_eval.ask.verb import run_ask

        return run_ask(rest)

    def choose_verb(rest: list[str]) -> int:
        from semclip_eval.choose import run_choose

        return run_choose(rest)

    def export_verb(rest: list[str]) -> int:
        from semclip_eval.export.verb import run_export

        return run_export(rest)

    def push_verb(rest: list[str]) -> int:
        from semclip_eval.export.push import run_push

        return run_push(rest)

    def new_verb(rest: list[str]) -> int:
        from semclip_eval.new import run_new

        return run_new(rest)

    def review_verb(rest: list[str]) -> int:
        from semclip_eval.review.verb import run_review

        return run_review(rest)

    def latency_verb(rest: list[str]) -> int:
        from semclip_eval.interleave import run_latency

        return run_latency(rest)

    def doctor_verb(rest: list[str]) -> int:
        from semclip_eval.doctor import run_doctor

        return run_doctor(rest)

    return {
        "list": list_verb,
        "show": show_verb,
        "compare": compare_verb,
        "rescore": rescore_verb,
        "report": report_verb,
        "regress": regress_verb,
        "ask": ask_verb,
        "choose": choose_verb,
        "review": review_verb,
        "train-psi": train_psi_verb,
        "export": export_verb,
        "push": push_verb,
        "new": new_verb,
        "latency": latency_verb,
        "doctor": doctor_verb,
    }


def _print_error(text: str) -> None:
    from semclip_eval.console import print_error

    print_error(text)


if __name__ == "__main__":
    sys.exit(main())
