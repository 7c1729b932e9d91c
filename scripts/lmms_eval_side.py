"""lmms-eval's side of `bench_peer.py`: a process of the Python that has lmms-eval, which asks when it is told to.

    PYTHON scripts/lmms_eval_side.py TASKS MODEL TEMPLATE

TASKS: a folder with task files for lmms-eval. MODEL: a folder with a checkpoint for its `llava_hf`, TEMPLATE: the chat
template for it. Each line of standard input names a task; each line of the answer is a JSON object with CPU seconds of
the whole `simple_evaluate` and of the model's part in it, and what the model gave, by document.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any


def main() -> None:
    """Load the model, say so, and answer until the input ends."""
    folder, checkpoint, template = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what lmms-eval prints is no answer
    import torch
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models.simple.llava_hf import LlavaHf
    from lmms_eval.tasks import TaskManager

    torch.set_num_threads(1)
    model = LlavaHf(pretrained=checkpoint, device="cpu", device_map="cpu", dtype="float32", chat_template=template)
    manager = TaskManager("ERROR", include_path=folder, include_defaults=False)
    given: list[tuple[int, Any]] = []
    inside = 0.0

    def kept(ask: Any) -> Any:
        def asked(requests: Sequence[Any]) -> Any:
            nonlocal inside
            start = time.process_time()
            results = ask(requests)
            inside += time.process_time() - start
            given.extend((request.args[3], result) for request, result in zip(requests, results, strict=True))
            return results

        return asked

    model.loglikelihood, model.generate_until = kept(model.loglikelihood), kept(model.generate_until)
    whole = dict(vars(model))  # of which lmms-eval lets go when it has asked
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        given.clear()
        vars(model).update(whole)
        inside, start = 0.0, time.process_time()
        simple_evaluate(model, tasks=[line.strip()], task_manager=manager, bootstrap_iters=0, log_samples=False)
        spent = time.process_time() - start
        print(json.dumps({"seconds": spent, "model_seconds": inside, "given": given}), file=answers, flush=True)


if __name__ == "__main__":
    main()
