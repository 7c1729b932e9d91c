"""MLflow: a run with metrics, parameters and the run's own files; MLFLOW_TRACKING_URI and the like count."""

from __future__ import annotations

import os
import re

from semclip_eval.results.summary import CATEGORIES, SUMMARY
from semclip_eval.trackers.base import CONFIG, PROJECT, TrackedRun, Tracker

# What a metric's name may hold (mlflow.utils.validation).
NOT_IN_NAMES = re.compile(r"[^/\w.\- :]")


class MLflow(Tracker):
    """The experiment is MLFLOW_EXPERIMENT_NAME, or semclip-eval."""

    def write(self, run: TrackedRun) -> str:
        import mlflow

        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        client = mlflow.MlflowClient()
        known = client.get_experiment_by_name(experiment)
        place = known.experiment_id if known is not None else client.create_experiment(experiment)
        tracked = client.create_run(place, run_name=run.name, tags=run.texts)
        identity = tracked.info.run_id
        try:
            for name, value in run.settings.items():
                client.log_param(identity, name, value)
            for name, value in run.metrics.items():
                client.log_metric(identity, NOT_IN_NAMES.sub("", name), value)
            for file in (SUMMARY, CATEGORIES, CONFIG):
                client.log_artifact(identity, str(run.folder / file))
        except BaseException:
            client.set_terminated(identity, "FAILED")
            raise
        client.set_terminated(identity)
        return f"{mlflow.get_tracking_uri()}, experiment {experiment}, run {identity}"
