"""Weights & Biases: a run with its summary, and a table of its categories; its own variables (WANDB_MODE) count."""

from __future__ import annotations

import os

from semclip_eval.files import shown
from semclip_eval.trackers.base import PROJECT, TrackedRun, Tracker

# A key that is missing is an error after this time, never a question that waits at the end of a night.
LOGIN_TIMEOUT_S = 30


class WeightsAndBiases(Tracker):
    """Files of a run that is not sent yet (WANDB_MODE=offline) lie in the run's folder, or in WANDB_DIR."""

    def write(self, run: TrackedRun) -> str:
        import wandb

        settings = wandb.Settings(console="off", silent=True, save_code=False, login_timeout=LOGIN_TIMEOUT_S)
        tracked = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            group=os.environ.get("WANDB_RUN_GROUP", str(run.row["benchmark"])),
            config=dict(run.config) | {"run_id": run.row["run_id"]},
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            settings=settings,
            reinit="create_new",
        )
        try:
            columns = list(run.rows[0])
            table = wandb.Table(columns=columns, data=[[row[name] for name in columns] for row in run.rows])
            tracked.log({"categories": table})
            tracked.summary.update({**run.texts, **run.metrics})
            return str(tracked.url or shown(tracked.settings.sync_dir))
        finally:
            tracked.finish()
