"""Latency and memory of a full-size model under each selector, with random weights and no download.

    python scripts/benchmark_gpu.py [--model llava15_7b] [--selectors no_crop,full_crop,semclip] [--questions 50]

Writes photographs of V* Bench's mean size (2246 x 1582 pixels, generated) in its published layout, asks them with
`run.mode=latency`, the model's true architecture and ψ's (both `load_format=dummy`), and puts `latency.csv` (a row a
selector), `latency.md` and `environment.json` into results/gpu/MODEL-DEVICE/. With random weights the choices mean
nothing and accuracies are left out; shapes, tokens, time and memory are those of the real weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from semclip_eval.cli import main as semclip_eval
from semclip_eval.mini.build import build_vstar
from semclip_eval.mini.world import SCENE_SIZE
from semclip_eval.results.records import write_atomically
from semclip_eval.results.summary import ROLL_UP, csv_text, finished_runs, read_rows

REPOSITORY = Path(__file__).resolve().parent.parent
# The mean image of V* Bench (modelscope/evalscope, evalscope/benchmarks/_meta/vstar_bench.json).
PHOTOGRAPH = (2246, 1582)
WEIGHTS = ("model.load_format=dummy", "psi.load_format=dummy")
COLUMNS = (
    "model model_revision protocol selector crops psi psi_revision n views_mean visual_tokens_mean text_tokens_mean "
    "load_ms_p50 select_ms_p50 prepare_ms_p50 vision_ms_p50 prefill_ms_p50 decode_ms_p50 ttft_ms_p50 tpot_ms_p50 "
    "e2e_ms_p50 e2e_ms_p90 e2e_ms_p99 peak_memory_mib device dtype attn new_tokens_mean package_version git_commit "
    "e2e_ms_p25 e2e_ms_p75 psi_crop_ms_p50 psi_image_ms_p50 psi_text_ms_p50 crop_ms_p50 first_call_ms stages_share "
    "gflops_mean psi_gflops_mean select_vlm_gflops_mean vision_gflops_mean prefill_gflops_mean decode_gflops_mean "
    "gflops_per_s energy_j_mean ceiling_share"
).split()
SHOWN = {
    "selector": "selector",
    "visual_tokens_mean": "visual tokens",
    "select_ms_p50": "select",
    "prepare_ms_p50": "prepare",
    "vision_ms_p50": "vision",
    "prefill_ms_p50": "prefill",
    "decode_ms_p50": "decode",
    "ttft_ms_p50": "TTFT",
    "e2e_ms_p50": "E2E p50",
    "e2e_ms_p99": "E2E p99",
    "peak_memory_mib": "peak memory, MiB",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the three files; the exit code is the program's own."""
    parser = argparse.ArgumentParser(description="Latency and memory with random weights of the true architecture.")
    parser.add_argument("--model", default="llava15_7b")
    parser.add_argument("--selectors", default="no_crop,full_crop,semclip")
    parser.add_argument("--questions", type=int, default=50, help="questions that are timed, for each selector")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "results" / "gpu")
    parser.add_argument("--turns", action="store_true", help="the selectors take turns (semclip-eval latency)")
    parser.add_argument("overrides", nargs="*", help="more keys, such as crops=grid3x3 psi=tower run.device=cpu")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        data, runs = Path(temporary) / "data", Path(temporary) / "runs"
        write_photographs(data, chosen.questions)
        given = {override.partition("=")[0] for override in chosen.overrides}
        defaults = ["profile=full", *WEIGHTS, "benchmark.protocol=letter"]
        defaults += [] if chosen.turns else ["run.mode=latency"]
        code = semclip_eval(
            [
                "latency" if chosen.turns else "-m",
                f"selector={chosen.selectors}",
                f"model={chosen.model}",
                *(default for default in defaults if default.partition("=")[0] not in given),
                f"benchmark.path={data}",
                f"run.limit={chosen.questions}",
                f"run.output_dir={runs}",
                *chosen.overrides,
            ]
        )
        if code:
            return code
        rows = read_rows(runs / ROLL_UP)
        order = chosen.selectors.split(",")
        rows.sort(key=lambda row: order.index(row["selector"]))
        device = rows[0]["device"].lower().replace(" ", "-").replace("/", "-")
        folder = chosen.output / f"{chosen.model}-{device}"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "latency.csv", csv_text(COLUMNS, rows))
        write_atomically(folder / "latency.md", markdown(rows))
        environment = json.loads((finished_runs(runs)[0].parent / "environment.json").read_text())
        write_atomically(folder / "environment.json", json.dumps(environment, indent=2) + "\n")
    print(f"{folder}\n{markdown(rows)}")
    return 0


def write_photographs(folder: Path, questions: int) -> None:
    """V*-format questions over images of `PHOTOGRAPH` pixels; boxes are scaled with them."""
    small = folder.with_name("small")
    small.mkdir()
    build_vstar(small, (questions + 1) // 2)
    shutil.copytree(small, folder)
    wide, high = (side / SCENE_SIZE for side in PHOTOGRAPH)
    for picture in folder.glob("*/*.jpg"):
        with Image.open(picture) as image:
            image.resize(PHOTOGRAPH, Image.Resampling.BICUBIC).save(picture, quality=90)
        annotation = json.loads(picture.with_suffix(".json").read_text())
        annotation["bbox"] = [[x * wide, y * high, w * wide, h * high] for x, y, w, h in annotation["bbox"]]
        picture.with_suffix(".json").write_text(json.dumps(annotation))


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """The table for people: medians in milliseconds by stage, tokens and memory; what was not measured is a dash."""
    first = rows[0]
    psi = next((f"{row['psi']} ({row['psi_revision']})" for row in rows if row["psi"]), "none")
    weights = "random weights" if first["model_revision"].startswith("dummy") else f"weights {first['model_revision']}"
    lines = [
        f"{first['model']}, {weights}, {first['dtype']} ({first['attn']}) on {first['device']}: milliseconds a "
        f"question, median of {first['n']} questions one at a time, {first['new_tokens_mean']} answer tokens, "
        f"images {PHOTOGRAPH[0]} x {PHOTOGRAPH[1]}, crops {next((r['crops'] for r in rows if r['crops']), 'none')}, "
        f"ψ {psi}.",
        "",
        f"| {' | '.join(SHOWN.values())} |",
        f"| --- {'| ---: ' * (len(SHOWN) - 1)}|",
    ]
    for row in rows:
        cells = [row["selector"], *(f"{float(row[key]):.0f}" if row[key] else "-" for key in list(SHOWN)[1:])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
