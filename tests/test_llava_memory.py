"""Out of memory on one question: an error record with the views and their sizes, and the run goes on."""

import json

import pytest
import torch

from semclip_eval import cli, session
from semclip_eval.errors import ModelError
from semclip_eval.models.transformers import weights
from semclip_eval.models.transformers.llava import Llava15
from semclip_eval.models.transformers.memory import out_of_memory
from semclip_eval.places import model_folder


def test_a_question_that_runs_out_of_memory_is_a_record_and_the_run_goes_on(tmp_path, monkeypatch):
    session.forget("model")
    real, tried, kept_before_retry = Llava15.prefill, [], []
    real_release = Llava15.release_memory

    def release_memory(self):
        kept_before_retry.append(len(self.features))
        real_release(self)
        assert len(self.features) == 0

    def prefill(self, batch, features):
        tried.append(len(batch))
        if any(
            prepared.visual_tokens == 98 and "left" in self.tokenizer.decode(prepared.input_ids) for prepared in batch
        ):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return real(self, batch, features)

    monkeypatch.setattr(Llava15, "prefill", prefill)
    monkeypatch.setattr(Llava15, "release_memory", release_memory)
    overrides = ["profile=mini", "benchmark=vstar", "selector=semclip", "run.limit=8", "run.batch_size=4"]
    overrides += ["run.max_error_rate=1", "run.device=cpu", f"run.output_dir={tmp_path}"]
    assert cli.main(overrides) == 0
    (file,) = tmp_path.rglob("samples.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    failed = [record for record in records if record["status"] == "error"]
    assert len(records) == 8
    assert 0 < len(failed) < 8
    assert all("left" in record["question"] + " ".join(record["options"]) for record in failed)
    for record in failed:
        assert record["error"]["type"] == "OutOfMemoryError"
        boxes = [view["box"] for view in record["views"]]
        sizes = ", ".join(
            f"{view['kind']} {box[2] - box[0]}x{box[3] - box[1]}"
            for view, box in zip(record["views"], boxes, strict=True)
        )
        assert record["error"]["message"].startswith(
            f"out of memory with 2 views ({sizes}); 98 visual tokens: CUDA out"
        )
        assert (record["answer"], record["score"]) == (None, None)
    assert 1 in tried  # the batch that failed was asked again question by question
    assert all(record["score"] is not None for record in records if record["status"] == "ok")
    assert max(kept_before_retry) > 0  # what was kept for later questions makes room for this one


def test_a_failed_allocation_is_recognised_on_every_device():
    with pytest.raises(RuntimeError) as on_cpu:
        torch.empty(10**15)
    assert out_of_memory(on_cpu.value)
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert not out_of_memory(None)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), r"memory ran out on cpu .*CUDA out of memory.*bfloat16"),
        (OSError("bad header"), r"cannot be read \(OSError: bad header\); copy it again"),
    ],
)
def test_weights_that_exceed_the_memory_are_not_called_damaged(monkeypatch, error, told):
    from transformers import AutoModelForImageTextToText

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", fail)
    with pytest.raises(ModelError, match=told):
        weights.read_model(model_folder("mini://vlm"), "float32", "sdpa", "cpu")
