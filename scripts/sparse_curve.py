"""Accuracy against visual tokens as fewer and fewer are kept, for overview + crop and for every crop.

    python scripts/sparse_curve.py [--output FOLDER] [--limit N] [--scores NAME,NAME] [--path mini://vstar-dev]

Each row is paired with the same selector unpruned (keep_ratio 1). Writes `sparse.csv`, `sparse.md` and `sparse.png`. A
second call finds finished runs. Choose the score with `--path mini://vstar-dev`, report it on the test scenes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from semclip_eval.cli import main as semclip_eval
from semclip_eval.results.comparison import Pair, Run, paired, read_run
from semclip_eval.results.summary import finished_runs

INNER = ("semclip", "full_crop")
RATIOS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05)
COLOURS = {"semclip": "#1b6ca8", "full_crop": "#c1440e"}
MARKS = ("o", "s", "^", "D", "v")


@dataclass(frozen=True)
class Point:
    """One run of the curve, and how it compares with the unpruned one."""

    inner: str
    score: str
    keep_ratio: float
    run: Run
    pair: Pair | None


def main() -> int:
    """Run what is missing, write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/sparse"), help="where runs, table and picture go")
    parser.add_argument("--limit", type=int, default=600, help="questions")
    parser.add_argument("--scores", default="max_min,random", help="scores, separated by commas")
    parser.add_argument("--ratios", default=",".join(map(str, RATIOS)), help="kept parts; 1.0 is always run")
    parser.add_argument("--path", default="mini://vstar", help="benchmark.path")
    chosen = parser.parse_args()
    ratios = [float(ratio) for ratio in chosen.ratios.split(",") if float(ratio) < 1]
    points = []
    for inner in INNER:
        whole = _run(chosen, f"{inner}_whole", [f"selector={inner}"])
        for score in chosen.scores.split(","):
            points.append(Point(inner, score, 1.0, whole, None))
            for ratio in ratios:
                overrides = ["selector=sparse", f"selector.inner={inner}", f"selector.score={score}"]
                run = _run(chosen, f"{inner}_{score}_{ratio:g}", [*overrides, f"selector.keep_ratio={ratio}"])
                points.append(Point(inner, score, ratio, run, paired(whole, run)))
    frame = pd.DataFrame([_row(point) for point in points])
    frame.to_csv(chosen.output / "sparse.csv", index=False, float_format="%.6g")
    text = markdown(frame)
    (chosen.output / "sparse.md").write_text(text, encoding="utf-8")
    draw(frame, chosen.output / "sparse.png", chosen.limit)
    print(text)
    return 0


def _run(chosen: argparse.Namespace, name: str, overrides: list[str]) -> Run:
    folder = chosen.output / name
    base = ["profile=mini", f"benchmark.path={chosen.path}", f"run.limit={chosen.limit}", "run.batch_size=16"]
    code = semclip_eval([*base, f"run.output_dir={folder}", *overrides])
    if code:
        sys.exit(code)
    return read_run(finished_runs(folder)[-1].parent)


def _row(point: Point) -> dict[str, object]:
    row, pair = point.run.row, point.pair
    difference = pair.difference if pair else None
    return {
        "inner": point.inner,
        "score": point.score,
        "keep_ratio": point.keep_ratio,
        "n": int(row["n"]),
        "accuracy": float(row["accuracy"]),
        "accuracy_ci_low": float(row["accuracy_ci_low"]),
        "accuracy_ci_high": float(row["accuracy_ci_high"]),
        "visual_tokens_mean": float(row["visual_tokens_mean"]),
        "encoded_tokens_mean": float(row["encoded_tokens_mean"]),
        "difference": pair.other_accuracy - pair.reference_accuracy if pair else None,
        "difference_ci_low": difference.low if difference else None,
        "difference_ci_high": difference.high if difference else None,
        "p": pair.p if pair else None,
    }


def markdown(frame: pd.DataFrame) -> str:
    """The rows as a Markdown table, accuracies in percent."""
    lines = [
        "| views | score | kept | visual tokens | accuracy % (95 %) | against all tokens | p |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in frame.itertuples():
        accuracy = f"{100 * row.accuracy:.1f} ({100 * row.accuracy_ci_low:.1f}-{100 * row.accuracy_ci_high:.1f})"
        change, p = "", ""
        if row.keep_ratio < 1:
            low, high = 100 * row.difference_ci_low, 100 * row.difference_ci_high
            change, p = f"{100 * row.difference:+.1f} [{low:+.1f}, {high:+.1f}]", f"{row.p:.2g}"
        tokens = f"{row.visual_tokens_mean:.0f}"
        lines.append(f"| {row.inner} | {row.score} | {row.keep_ratio:g} | {tokens} | {accuracy} | {change} | {p} |")
    return "\n".join(lines) + "\n"


def draw(frame: pd.DataFrame, path: Path, limit: int) -> None:
    """Accuracy with its interval against visual tokens, a line for each score of each selector."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    for inner, of_inner in frame.groupby("inner", sort=False):
        for (score, line), mark in zip(of_inner.groupby("score", sort=False), MARKS, strict=False):
            low = 100 * (line.accuracy - line.accuracy_ci_low)
            high = 100 * (line.accuracy_ci_high - line.accuracy)
            axes.errorbar(
                line.visual_tokens_mean, 100 * line.accuracy, yerr=[low, high], color=COLOURS[inner], marker=mark,
                linestyle="--" if score == "random" else "-", markersize=4, linewidth=1.2, elinewidth=0.6,
                label=f"{inner}, tokens by {score}",
            )  # fmt: skip
    axes.set_xscale("log")
    ticks = [5, 10, 20, 50, 100, 200, 500, 800]
    axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("visual tokens that the language model reads")
    axes.set_ylabel("accuracy %")
    axes.set_title(f"Miniature V*, {limit} questions, 95 % intervals", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
