"""`semclip-eval train-psi`: from questions with answers to a folder that `psi.pretrained=FOLDER` loads."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semclip_eval import __version__, session
from semclip_eval.answers.sources import LARGE_SIDE
from semclip_eval.benchmarks.base import Benchmark, stratified_limit
from semclip_eval.components import build, component_class
from semclip_eval.compose import compose
from semclip_eval.config import RunConfig, run_config
from semclip_eval.console import Progress, notice, out, warn
from semclip_eval.errors import ConfigError, QuestionError, RunFailed
from semclip_eval.results.records import write_atomically
from semclip_eval.training.settings import TrainSettings, train_settings
from semclip_eval.types import Question

if TYPE_CHECKING:
    from semclip_eval.training.labels import Label

HELP = """\
semclip-eval train-psi [benchmark=NAME] [benchmark.path=FOLDER] [model=NAME] [psi=NAME] [crops=NAME] [train.KEY=VALUE]

Trains ψ with what the frozen VLM gains from each crop; the same command again goes on where it stopped. Miniature:
  semclip-eval train-psi profile=mini benchmark.path=mini://vstar-train
  semclip-eval profile=mini selector=semclip psi.pretrained=results/psi/mini_clip-kl
Keys: configs/train/default.yaml and docs/training_psi.md.
"""
LABELS, LOG, STATE = "labels.jsonl", "training.csv", "state.pt"
LOG_COLUMNS = ("stage", "epoch", "loss", "regret", "best_chosen")


def run_train_psi(arguments: list[str]) -> int:
    """The verb. ConfigError for settings, data or models that do not fit each other."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(HELP, end="")
        return 0
    config_dir, overrides = _config_dir(arguments)
    config = compose(["+train=default", *overrides], config_dir=config_dir)
    folder = train_psi(config, partial(_test_benchmark, overrides=overrides, config_dir=config_dir))
    out.print(f"Use it with psi.pretrained={folder}", highlight=False, soft_wrap=True)
    return 0


def _config_dir(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    rest, folder = list(arguments), None
    for flag in ("--config-dir", "-cd"):
        if flag in rest:
            place = rest.index(flag)
            if place + 1 >= len(rest):
                raise ConfigError(f"{flag}: name the folder of your own configs.")
            folder = rest[place + 1]
            del rest[place : place + 2]
    for argument in rest:
        if argument.startswith("-"):
            raise ConfigError(f"{argument}: train-psi takes overrides such as train.objective=kl (see --help).")
    return folder, rest


def _test_benchmark(name: str, overrides: Sequence[str], config_dir: str | None) -> Benchmark:
    """Benchmark `name` as this profile has it, without what the command says of the one it trains on."""
    profile = next((text.partition("=")[2] for text in overrides if text.startswith("profile=")), "auto")
    benchmark: Benchmark = build("benchmark", compose([f"benchmark={name}"], profile, config_dir)["benchmark"])
    return benchmark


def train_psi(config: Mapping[str, Any], test_benchmark: Any) -> Path:
    """The trained ψ's folder. config: composed, with the section `train`. test_benchmark: name -> its test questions.

    Raises ConfigError for settings, data or models that do not fit each other, and ModelError.
    """
    settings = train_settings(config["train"])
    run = run_config(config["run"])
    if (run.executor, run.workers) != ("local", 1):
        notice(f"run.workers={run.workers} is not used: train-psi is one process.")
    benchmark: Benchmark = build("benchmark", config["benchmark"])
    relevance = _trainable(config["psi"], run)
    crops = build("crops", config["crops"])
    questions = benchmark.questions()
    if run.limit is not None:
        questions = stratified_limit(questions, run.limit, run.seed, benchmark.keeps_clusters_together)
    folder = _folder(settings, run, relevance.name)
    from semclip_eval.relevance.trained import is_trained

    if is_trained(folder):
        notice(f"{folder}: is finished; delete it, or choose another train.output, to train again.")
        return folder
    origin = {
        "dataset": benchmark.dataset_revision,
        "protocol": benchmark.protocol,
        "model": config["model"]["name"],
        "model_revision": session.model_revision(config["model"]),
        "crops": {key: value for key, value in config["crops"].items() if key != "description"},
        "psi_text": relevance.text,
    }
    compared, missing = _refuse_test_images(questions, settings, test_benchmark)
    made = _labels(config, run, benchmark, questions, crops, relevance.text, folder / LABELS, origin)
    return _train(settings, relevance, benchmark, questions, made, folder, origin, compared, missing)


def _trainable(section: Mapping[str, Any] | None, run: RunConfig) -> Any:
    from semclip_eval.relevance.open_clip_relevance import OpenClipRelevance

    if not section or component_class("psi", section) is not OpenClipRelevance:
        name = (section or {}).get("name")
        raise ConfigError(f"psi={name}: cannot be trained; choose one of open_clip's models (semclip-eval list psi).")
    # Weights move in float32, whatever they are used in.
    relevance = build("psi", {**section, "precision": "fp32", "store_mib": 0}, device=run.device, dtype="float32")
    if relevance.training:
        raise ConfigError(f"psi.pretrained={relevance.pretrained}: is trained already; start from its base weights.")
    return relevance


def _folder(settings: TrainSettings, run: RunConfig, name: str) -> Path:
    if settings.output is not None:
        return Path(settings.output).expanduser()
    control = "-shuffled" if settings.shuffle_gains else ""
    return Path(run.output_dir) / "psi" / f"{name}-{settings.objective}{control}"


def _refuse_test_images(
    questions: Sequence[Question], settings: TrainSettings, test_benchmark: Any
) -> tuple[dict[str, int], dict[str, str]]:
    from semclip_eval.paths import default_cache_folder
    from semclip_eval.training.overlap import image_digest, refuse_test_images

    digest_of: dict[str, str] = {}
    for question in questions:
        if question.image_id not in digest_of:
            try:
                digest_of[question.image_id] = image_digest(question.load_image())
            except QuestionError:
                continue  # asked later, and left out then
    images = {question.id: digest_of.get(question.image_id, "") for question in questions}
    makers = {name: partial(test_benchmark, name) for name in settings.test_benchmarks}
    compared, missing = refuse_test_images(images, questions, makers, default_cache_folder())
    if missing:
        warn(
            f"train-psi: no test image of {', '.join(compared) or 'any benchmark'} is trained on. Not compared, since "
            f"their data are not here: {', '.join(missing)}."
        )
    return compared, missing


def _labels(
    config: Mapping[str, Any], run: RunConfig, benchmark: Benchmark, questions: Sequence[Question], crops: Any,
    psi_reads: str, file: Path, origin: Mapping[str, Any],
) -> list[Label]:  # fmt: skip
    from semclip_eval.training.labels import labels

    vlm = session.loaded("model", dict(config["model"]), device=run.device, dtype=run.dtype)
    if vlm.is_served:
        raise ConfigError(f"model={vlm.name}: a served model gives no likelihoods to learn from; choose a local one.")
    vlm.reset()
    vlm.check_views(2, 1)
    notice(
        f"{len(questions)} questions, each with the overview alone and with every crop "
        f"({len(crops.candidates(LARGE_SIDE, LARGE_SIDE))} of a large image)."
    )
    with Progress("what each crop is worth", len(questions), [], "right with the overview alone") as progress:

        def step(label: Label) -> None:
            right = label.overview[label.right] <= min(label.overview) if len(label.overview) > 1 else None
            progress.advance({"score": None if right is None else float(right), "status": "ok"})

        # A question is a batch by itself: it is asked with every crop.
        batch_size = 1 if run.batch_size == "auto" else int(run.batch_size)
        return labels(questions, benchmark, crops, vlm, psi_reads, file, origin, batch_size, step)


def _train(
    settings: TrainSettings,
    relevance: Any,
    benchmark: Benchmark,
    questions: Sequence[Question],
    made: Sequence[Any],
    folder: Path,
    origin: Mapping[str, Any],
    compared: Mapping[str, int],
    missing: Mapping[str, str],
) -> Path:
    from semclip_eval.relevance.trained import Provenance, save_trained
    from semclip_eval.training.labels import usable
    from semclip_eval.training.loop import Example, Training, is_held_out, shuffled_gains

    kind = _gain(settings.gain, made, benchmark)
    taught = usable(made, kind, settings.sufficient_loss, settings.least_range)
    by_id = {question.id: question for question in questions}
    examples = [Example(by_id[label.question_id], label, tuple(label.gains(kind))) for label in taught]
    held_out = [example for example in examples if is_held_out(example.label.image, settings.held_out)]
    training = [example for example in examples if not is_held_out(example.label.image, settings.held_out)]
    if not held_out or not training:
        raise ConfigError(
            f"train-psi: {len(taught)} of {len(made)} questions teach anything (train.sufficient_loss="
            f"{settings.sufficient_loss}, train.least_range={settings.least_range}), too few for a training and a "
            "held-out part. Give more questions."
        )
    notice(
        f"{len(training)} questions to train on, {len(held_out)} held out; {len(made) - len(taught)} left out, since "
        "the overview suffices or all crops are worth the same."
    )
    if settings.shuffle_gains:
        training = shuffled_gains(training, settings.seed)
    out.print(f"{'stage':>6} {'epoch':>5} {'loss':>8}  held out: {'regret':>7}  {'best chosen %':>13}")
    job = Training(relevance, training, held_out, settings, folder / STATE, _print_epoch)
    weights = job.run()
    start = job.history[0]
    best = min(job.history, key=lambda epoch: epoch.regret)
    _write_log(folder / LOG, job.history)
    if not weights:
        raise RunFailed(
            f"train-psi: no epoch lowered the held-out regret of {start.regret:.3f}; nothing is written but the labels "
            f"({folder / LABELS}). Try another train.learning_rate, or more questions."
        )
    details = {
        "benchmark": benchmark.name,
        **origin,
        "settings": {**asdict(settings), "output": None},
        "gain": kind,
        "questions": len(made),
        "trained_on": len(training),
        "held_out": len(held_out),
        "start": {"regret": start.regret, "best_chosen": start.best_chosen},
        "kept": {**asdict(best)},
        "test_images_compared": dict(compared),
        "test_images_not_compared": dict(missing),
        "package_version": __version__,
    }
    control = ", gains shuffled" if settings.shuffle_gains else ""
    summary = (
        f"{settings.objective}/{kind}{control}: {len(training)} questions of {benchmark.name} "
        f"({benchmark.dataset_revision[:18]}) with {origin['model']}"
    )
    provenance = Provenance(relevance.model, relevance.pretrained, relevance.revision, relevance.text, summary, details)
    save_trained(folder, weights, provenance)
    (folder / STATE).unlink(missing_ok=True)
    out.print(
        f"held-out regret {start.regret:.3f} -> {best.regret:.3f} nats a token, best crop chosen "
        f"{100 * start.best_chosen:.1f} -> {100 * best.best_chosen:.1f} %"
    )
    return folder


def _gain(chosen: str, made: Sequence[Any], benchmark: Benchmark) -> str:
    has_options = all(len(label.overview) > 1 for label in made)
    if chosen == "margin" and not has_options:
        raise ConfigError(f"train.gain=margin: questions of benchmark={benchmark.name} have no options; use loss.")
    return ("margin" if has_options else "loss") if chosen == "auto" else chosen


def _print_epoch(epoch: Any) -> None:
    loss = "" if epoch.loss is None else f"{epoch.loss:.4f}"
    out.print(f"{epoch.stage:>6} {epoch.epoch:>5} {loss:>8}  {epoch.regret:>17.4f}  {100 * epoch.best_chosen:>13.1f}")


def _write_log(file: Path, history: Sequence[Any]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LOG_COLUMNS)
    for epoch in history:
        values = asdict(epoch)
        writer.writerow(["" if values[name] is None else values[name] for name in LOG_COLUMNS])
    write_atomically(file, text.getvalue())
