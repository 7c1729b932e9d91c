"""Rebuild the miniature from nothing: scenes, tokenizers, mini CLIP, mini VLM, export, measurement.

    python scripts/train_mini.py --seed 0 --work ~/mini-training/0 --out semclip_eval/mini/weights

The same command after an interruption goes on from the last evaluation. 40 minutes to an hour on two CPU cores.
"""

import argparse
import os
import sys
from pathlib import Path

# Workers are separate one-thread processes; more threads in each would only fight for the cores.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from mini_training.clip import export_clip, train_clip  # noqa: E402
from mini_training.evaluate import TASKS, check_forward, evaluate  # noqa: E402
from mini_training.record import write_record  # noqa: E402
from mini_training.vlm import export_vlm, train_vlm  # noqa: E402

TRAIN_SCENES = 12_000
STEPS = ("train", "export", "measure")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=Path, required=True, help="checkpoints and log of this seed (outside the repository)"
    )
    parser.add_argument("--scenes", type=Path, help="scene arrays, 6 GB, may be shared by seeds (default: WORK/scenes)")
    parser.add_argument("--out", type=Path, required=True, help="where clip/ and vlm/ are written")
    parser.add_argument("--record", type=Path, help="folder for the log, the measured table and the learning curves")
    parser.add_argument("--only", choices=STEPS, nargs="+", default=STEPS, help="default: all three")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS), help="rows of the table")
    parser.add_argument("--questions", type=int, default=500, help="questions a task in the measurement")
    parser.add_argument("--split", choices=("dev", "test"), default="test", help="scenes of the measurement")
    arguments = parser.parse_args()
    work = arguments.work.expanduser().resolve()
    work.mkdir(parents=True, exist_ok=True)
    if arguments.scenes is not None and not (work / "scenes").exists():
        arguments.scenes.mkdir(parents=True, exist_ok=True)
        (work / "scenes").symlink_to(arguments.scenes.resolve())
    if "train" in arguments.only:
        train_clip(work, arguments.seed, TRAIN_SCENES)
        train_vlm(work, arguments.seed, TRAIN_SCENES)
    if "export" in arguments.only:
        export_clip(work, arguments.out / "clip")
        export_vlm(work, arguments.out / "vlm")
    if "measure" in arguments.only:
        print(f"largest difference between packed and separate option losses: {check_forward(arguments.out):.1e}")
        rows = evaluate(arguments.out, arguments.split, arguments.questions, tuple(arguments.tasks))
        if arguments.record is not None:
            write_record(arguments.record, arguments.seed, work / "log.jsonl", rows)


if __name__ == "__main__":
    main()
