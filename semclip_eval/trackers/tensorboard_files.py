"""TensorBoard: an event file in the run's own folder, so that `tensorboard --logdir results` shows all runs."""

from __future__ import annotations

import yaml

from semclip_eval.files import shown
from semclip_eval.trackers.base import TrackedRun, Tracker

FOLDER = "tensorboard"


class TensorBoard(Tracker):
    """Scalars at step 0, and the config as text."""

    def write(self, run: TrackedRun) -> str:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / FOLDER
        for path in folder.glob("events.out.tfevents.*"):  # of the run before its errors were retried
            path.unlink()
        with SummaryWriter(str(folder)) as writer:
            for name, value in run.metrics.items():
                writer.add_scalar(name, value, 0)
            config = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True)
            writer.add_text("config", "\n".join(f"    {line}" for line in config.splitlines()), 0)
        return shown(folder)
