"""The table of all ways of choosing regions on the miniature's V*: accuracy, tokens, forwards and milliseconds.

    python scripts/selector_table.py [--output FOLDER] [--limit N] [--timed N]

One run a variant over the same questions (stratified), and one in latency mode over fewer. Writes `selectors.md` and
`selectors.csv` into the output folder. A second call finds finished runs.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
from pathlib import Path

from semclip_eval.api import load_results
from semclip_eval.cli import main as semclip_eval
from semclip_eval.console import notice
from semclip_eval.results.summary import finished_runs

# Name in the table -> overrides. The settings are the defaults of profile=mini but for what is named.
VARIANTS: dict[str, tuple[str, ...]] = {
    "no_crop": ("selector=no_crop",),
    "full_crop": ("selector=full_crop",),
    "semclip": ("selector=semclip",),
    "semclip, 3 x 3": ("selector=semclip", "crops=grid3x3"),
    "semclip, whole question": ("selector=semclip", "psi.text=question"),
    "semclip, top 2 by phrase": ("selector=semclip", "selector.top_k=2", "selector.each_phrase=true"),
    "semclip, dense ψ": ("selector=semclip", "psi=dense", "psi.tiles=4", "psi.text=noun_phrases"),
    "gate, standout": ("selector=gate",),
    "attention, tiles": ("selector=attention",),
    "zoom, 25 forwards": ("selector=zoom", "selector.max_forwards=25"),
    "rap, best 4 tiles": ("selector=rap", "selector.search=false", "selector.keep_overview=true"),
    "rap, 25 forwards": ("selector=rap", "selector.max_forwards=25"),
    "hide": ("selector=hide",),
    "focus, m 1": ("selector=focus", "selector.steps=1", "selector.overrun=false"),
    "focus, m 4": ("selector=focus", "selector.steps=4"),
    "focus, m 8": ("selector=focus",),
    "sparse semclip, a fifth": ("selector=sparse", "selector.score=max_min", "selector.keep_ratio=0.2"),
    "sparse full_crop, a fifth": (
        "selector=sparse",
        "selector.inner=full_crop",
        "selector.score=max_min",
        "selector.keep_ratio=0.2",
    ),
    "fastv semclip, half": ("selector=fastv", "selector.inner=semclip"),
    "fastv full_crop, tenth": ("selector=fastv", "selector.inner=full_crop", "selector.keep_ratio=0.1"),
    "random_crop": ("selector=random_crop",),
    "center_crop": ("selector=center_crop",),
    "blank_crop": ("selector=blank_crop",),
    "oracle": ("selector=oracle",),
    "hindsight": ("selector=hindsight",),
}
HEADINGS = (
    "selector", "accuracy % (95 %)", "hit %", "visual tokens read", "encoded", "extra VLM forwards", "ms",
    "sees the truth",
)  # fmt: skip


def main() -> int:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/selectors"), help="where runs and table go")
    parser.add_argument("--limit", type=int, default=600, help="questions")
    parser.add_argument("--timed", type=int, default=30, help="questions of the latency runs; 0 for none")
    chosen = parser.parse_args()
    rows = []
    for name, overrides in VARIANTS.items():
        notice(name)
        folder = chosen.output / re.sub(r"\W+", "_", name.replace("ψ", "psi"))
        base = ["profile=mini", f"run.output_dir={folder}", *overrides]
        code = semclip_eval([*base, f"run.limit={chosen.limit}", "run.batch_size=16"])
        if code == 0 and chosen.timed and "selector=fastv" not in overrides:  # it masks: there is no time to measure
            code = semclip_eval([*base, f"run.limit={chosen.timed}", "run.mode=latency"])
        if code:
            return code
        rows.append((name, *cells(folder)))
    (chosen.output / "selectors.md").write_text(markdown(rows), encoding="utf-8")
    (chosen.output / "selectors.csv").write_text(comma_separated(rows), encoding="utf-8")
    print(markdown(rows))
    return 0


def cells(folder: Path) -> tuple[str, ...]:
    """The measured cells of a variant, from its accuracy run and its latency run."""
    frame = load_results(folder)
    row = frame[frame["mode"] == "accuracy"].iloc[-1]
    timed = frame[frame["mode"] == "latency"]
    hit = row["hit_rate"]
    return (
        f"{100 * row['accuracy']:.1f} ({100 * row['accuracy_ci_low']:.1f}-{100 * row['accuracy_ci_high']:.1f})",
        "-" if hit != hit or hit is None else f"{100 * hit:.1f}",
        f"{effective_tokens(folder) or row['visual_tokens_mean']:.0f}",
        f"{row['encoded_tokens_mean']:.0f}",
        f"{row['forwards_mean']:.1f}",
        f"{timed.iloc[-1]['e2e_ms_p50']:.0f}" if len(timed) else "-",
        "yes" if str(row["uses_truth"]).lower() == "true" else "",
    )


def effective_tokens(folder: Path) -> float | None:
    """Visual tokens that an average layer reads, where a selector drops some inside the language model (fastv)."""
    for run in finished_runs(folder):
        with (run.parent / "categories.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["category"] == "all" and row.get("effective_tokens"):
                    return float(row["effective_tokens"])
    return None


def markdown(rows: list[tuple[str, ...]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "| " + " | ".join("---" for _ in HEADINGS) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def comma_separated(rows: list[tuple[str, ...]]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADINGS, *rows])
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())
