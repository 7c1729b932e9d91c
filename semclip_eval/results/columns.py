"""The columns of summary.csv, runs.csv and categories.csv, declared once.

The files, the report's headings, the Python frames and the tables of docs/files.md are made from this list.
`docs/files.md` is checked against it by a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["text", "flag", "count", "fraction", "ms", "s", "1/s", "MiB", "GFLOP", "GFLOP/s", "J"]
Source = Literal["config", "data", "samples", "clock", "machine"]


@dataclass(frozen=True)
class Column:
    """One column.

    unit: `text`, `flag` (true or false), `count` (of questions, views or tokens, a mean of them where the name says
    so), `fraction` (in [0, 1]), `ms`, `s`, `1/s`, `MiB`, `GFLOP` (10^9 FLOPs), `GFLOP/s`,
    `J`. source: where the value comes from: the resolved `config`,
    the benchmark's `data`, the records in samples.jsonl, the `clock`, or the `machine`. heading: in the report, where
    the name is not clear enough.
    """

    name: str
    unit: Unit
    source: Source
    description: str
    heading: str = ""


def _latency(stage: str, description: str, heading: str = "") -> Column:
    return Column(f"{stage}_ms_p50", "ms", "clock", description, heading)


ACCURACY = (
    Column("n_scored", "count", "samples", "questions that the accuracy is taken over: all but the errors"),
    Column("n_unparsed", "count", "samples", "answers that could not be read: scored 0, counted here"),
    Column("n_error", "count", "samples", "questions that ended in an error: not scored"),
    Column("accuracy", "fraction", "samples", "mean score of the scoring units"),
    Column("accuracy_ci_low", "fraction", "samples", "lower end of its 95 % interval"),
    Column("accuracy_ci_high", "fraction", "samples", "upper end of its 95 % interval"),
    Column("chance_accuracy", "fraction", "data", "expected accuracy of guessing; empty where answers are open"),
    Column(
        "hit_rate",
        "fraction",
        "samples",
        "questions with boxes whose every target is covered by at least half by the selected crops; the overview does "
        "not count, so no_crop has none",
    ),
)

SUMMARY_COLUMNS = (
    Column("run_id", "text", "config", "short hash of everything that can change an answer", "run"),
    Column("profile", "text", "config", "`mini` or `full`"),
    Column("benchmark", "text", "config", "the benchmark's name"),
    Column("split", "text", "config", "which part of the data"),
    Column("protocol", "text", "config", "how a question is put and scored; with the parser where not the strict one"),
    Column("model", "text", "config", "the VLM's name"),
    Column("model_revision", "text", "data", "the Hub's commit, or a digest of local files", "model revision"),
    Column("dataset_revision", "text", "data", "the Hub's commit, or a digest of local files", "data revision"),
    Column("selector", "text", "config", "the selector's name"),
    Column("crops", "text", "config", "the crop scheme's name; empty where the selector has no candidates"),
    Column("psi", "text", "config", "the name of ψ; empty where the selector has none", "ψ"),
    Column("uses_truth", "flag", "config", "`true` for an oracle: an upper bound, not a method"),
    Column("mode", "text", "config", "`accuracy` or `latency`"),
    Column("n", "count", "samples", "questions asked"),
    *ACCURACY[:3],
    Column("metric", "text", "config", "what `accuracy` is called for this benchmark"),
    *ACCURACY[3:],
    Column("views_mean", "count", "samples", "mean number of images that the VLM was given"),
    Column("visual_tokens_mean", "count", "samples", "mean visual tokens that the language model read"),
    Column("text_tokens_mean", "count", "samples", "mean text tokens of the prompt"),
    Column("new_tokens_mean", "count", "samples", "mean generated tokens; empty where options were scored"),
    Column("e2e_ms_p50", "ms", "clock", "median of the whole question", "E2E p50, ms"),
    Column("e2e_ms_p90", "ms", "clock", "its 90th percentile", "E2E p90, ms"),
    Column("e2e_ms_p99", "ms", "clock", "its 99th percentile", "E2E p99, ms"),
    _latency("load", "median of opening the image"),
    _latency("select", "median of choosing the views, the VLM's part included"),
    _latency("vision", "median of the vision encoder"),
    _latency("prefill", "median of the prefill"),
    _latency("decode", "median of the decode"),
    _latency("ttft", "median time to the first token's logits", "TTFT p50, ms"),
    _latency("tpot", "median time per output token after the first", "TPOT p50, ms"),
    Column("questions_per_s", "1/s", "clock", "throughput of the last process, models loaded"),
    Column("peak_memory_mib", "MiB", "machine", "peak of torch's allocations on the CUDA device", "peak memory, MiB"),
    Column("device", "text", "machine", "where the model ran"),
    Column("dtype", "text", "config", "number format of the weights"),
    Column("attn", "text", "config", "attention kernel", "attention"),
    Column("batch_size", "count", "config", "questions in one forward pass", "batch"),
    Column("seed", "count", "config", "of every random choice"),
    Column("wall_s", "s", "clock", "seconds from first to last question; empty where a run was resumed"),
    Column("package_version", "text", "machine", "version of semclip-eval", "version"),
    Column("git_commit", "text", "machine", "commit of its source tree, where there is one", "git commit"),
    Column("started_at", "text", "machine", "UTC start of the last process", "started at"),
    _latency("prepare", "median of cutting, resizing and tokenising on the CPU"),
    Column("psi_revision", "text", "data", "the pretrained tag, or a digest of local files", "ψ revision"),
    Column(
        "n_units",
        "count",
        "samples",
        "what `accuracy` is the mean of; fewer than `n_scored` where several questions count as one",
    ),
    Column(
        "forwards_mean",
        "count",
        "samples",
        "mean VLM forwards that the selector spent, the answer's own not counted",
        "forwards",
    ),
    Column("encoded_tokens_mean", "count", "samples", "mean visual tokens before pruning", "encoded tokens"),
    _latency("select_vlm", "median of the VLM's part of `select`"),
    _latency("prune", "median of choosing and dropping visual tokens"),
    Column("psi_training", "text", "data", "what ψ has learned from (`train-psi`); empty for weights as published"),
    Column("workers", "count", "config", "workers of the last session; `questions_per_s` is that of all of them"),
    Column("e2e_ms_p25", "ms", "clock", "25th percentile of the whole question", "E2E p25, ms"),
    Column("e2e_ms_p75", "ms", "clock", "its 75th percentile; less the 25th: the interquartile range", "E2E p75, ms"),
    _latency("psi_crop", "median of cutting and resizing the candidates for ψ, a part of `select`", "ψ crop p50, ms"),
    _latency("psi_image", "median of ψ's image tower, a part of `select`", "ψ image p50, ms"),
    _latency("psi_text", "median of ψ's text tower and tokenizer, a part of `select`", "ψ text p50, ms"),
    _latency("crop", "median of cutting the views out of the image, a part of `prepare`"),
    Column(
        "first_call_ms",
        "ms",
        "clock",
        "E2E of the first question that the process warmed up with, which no percentile counts",
        "first call, ms",
    ),
    Column("stages_share", "fraction", "clock", "sum of the stages over E2E, which is measured on its own"),
    Column("gflops_mean", "GFLOP", "samples", "mean analytic FLOPs a question, nothing cached; ψ and all stages"),
    Column("psi_gflops_mean", "GFLOP", "samples", "those of ψ; empty where the selector has none"),
    Column("select_vlm_gflops_mean", "GFLOP", "samples", "those of what the selector asked of the VLM"),
    Column("vision_gflops_mean", "GFLOP", "samples", "those of vision tower and projector"),
    Column("prefill_gflops_mean", "GFLOP", "samples", "those of the prefill"),
    Column("decode_gflops_mean", "GFLOP", "samples", "those of the decode"),
    Column("gflops_per_s", "GFLOP/s", "clock", "analytic FLOPs over E2E, in latency mode", "GFLOP/s"),
    Column("energy_j_mean", "J", "machine", "energy of the CUDA device a question, by NVML, over the last process"),
    Column("ceiling_share", "fraction", "clock", "that over the device's measured matrix product (`doctor`)"),
)

CATEGORY_COLUMNS = (
    Column("run_id", "text", "config", "short hash of everything that can change an answer"),
    Column("breakdown", "text", "data", "what the row is one of: `category`, the name of another property, or `all`"),
    Column("category", "text", "data", "the value"),
    Column("n", "count", "samples", "questions asked"),
    *ACCURACY,
    Column("visual_tokens_mean", "count", "samples", "mean visual tokens that the language model read"),
    Column("n_units", "count", "samples", "what `accuracy` is the mean of"),
)

SUMMARY_NAMES = tuple(column.name for column in SUMMARY_COLUMNS)
CATEGORY_NAMES = tuple(column.name for column in CATEGORY_COLUMNS)
HEADINGS = {column.name: column.heading or column.name.replace("_", " ") for column in SUMMARY_COLUMNS}
NUMERIC_NAMES = frozenset(
    column.name for column in (*SUMMARY_COLUMNS, *CATEGORY_COLUMNS) if column.unit not in ("text", "flag")
)
FLAG_NAMES = frozenset(column.name for column in SUMMARY_COLUMNS if column.unit == "flag")
TEXT_NAMES = tuple(column.name for column in SUMMARY_COLUMNS if column.unit == "text")


def markdown_table(columns: tuple[Column, ...]) -> str:
    """The columns as the table of docs/files.md."""
    rows = [f"| `{column.name}` | {column.unit} | {column.source} | {column.description} |" for column in columns]
    return "\n".join(["| column | unit | from | meaning |", "| --- | --- | --- | --- |", *rows])
