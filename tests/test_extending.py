"""docs/extending.md, taken at its word: its code, its configs and its commands, and nothing else."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semclip_eval import cli, session
from semclip_eval.results.summary import read_rows
from semclip_eval.types import Prompt, Request
from tests import llava_small

PAGE = Path(__file__).resolve().parent.parent / "docs" / "extending.md"
SELECTORS = {"last_crop", "most_confident", "best_region"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page tells one to write; several blocks may name one file."""
    for block in (*blocks("python"), *blocks("yaml")):
        path = tmp_path / re.match(r"# ([\w/.]+)", block)[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(block + "\n\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_components", raising=False)
    session._loaded.clear()
    return tmp_path


def command(number: int) -> list[str]:
    words = shlex.split(blocks("sh")[0].splitlines()[number])
    assert words[:2] == ["PYTHONPATH=.", "semclip-eval"]
    return words[2:]


def records(folder: Path, selector: str) -> list[dict]:
    (samples,) = (folder / "out").glob(f"mini/vstar/mini_llava/{selector}*/*/samples.jsonl")
    return [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]


def test_the_selectors_run_and_their_cost_and_tokens_are_recorded(workplace, capsys):
    assert cli.main([*command(0), "profile=mini", "run.limit=4", "run.output_dir=out"]) == 0
    rows = {row["selector"]: row for row in read_rows(workplace / "out" / "runs.csv")}
    assert set(rows) == SELECTORS
    assert all((row["n_scored"], row["n_error"]) == ("4", "0") for row in rows.values())
    assert (float(rows["last_crop"]["forwards_mean"] or 0), rows["last_crop"]["views_mean"]) == (0, "2")
    assert (float(rows["most_confident"]["forwards_mean"]), rows["most_confident"]["views_mean"]) == (16, "2")
    assert rows["best_region"]["views_mean"] == "1"
    for record in records(workplace, "most_confident"):
        scores = [step["score"] for step in record["trace"]]
        # One forward a crop of 49 visual tokens, and the shown crop is the one with the highest confidence.
        assert (record["cost"]["forwards"], record["cost"]["visual_tokens"], len(scores)) == (16, 16 * 49, 16)
        assert record["views"][1]["box"] == record["trace"][int(np.argmax(scores))]["box"]
    for record in records(workplace, "best_region"):
        # A quarter of the side of a picture of seven by seven tokens is one or two of them.
        assert record["encoded_tokens"] == 49
        assert record["visual_tokens"] in (1, 2, 4)
        assert record["visual_tokens"] == len(record["kept"][0])


def test_a_budget_of_the_config_is_kept_and_the_psi_scores(workplace, capsys):
    limits = ["profile=mini", "run.limit=2", "run.output_dir=out"]
    arguments = ["--config-dir", "my_configs", *limits]
    assert cli.main([*arguments, "selector=most_confident", "selector.max_forwards=15"]) == 1
    assert all("max_forwards=15" in record["error"]["message"] for record in records(workplace, "most_confident"))
    assert cli.main([*command(1), *limits]) == 0
    for record in records(workplace, "semclip"):
        scores = [candidate["psi"] for candidate in record["candidates"]]
        assert record["views"][1]["box"] == record["candidates"][int(np.argmax(scores))]["box"]
    assert cli.main(command(2)) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in SELECTORS)


def test_a_model_without_transformers_answers_both_protocols(workplace, capsys):
    arguments = ["--config-dir", "my_configs", "profile=mini", "model=shortest", "selector=no_crop", "run.limit=6"]
    for protocol in ("likelihood", "letter"):
        assert cli.main([*arguments, f"benchmark.protocol={protocol}", "run.output_dir=out"]) == 0
    for path in (workplace / "out").glob("mini/vstar/shortest/no_crop/*/samples.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["option_losses"] is None:
                assert record["answer"] == "A"
            else:
                lengths = [len(option) for option in record["options"]]
                shortest = min(lengths)
                assert record["choice"] == (lengths.index(shortest) if lengths.count(shortest) == 1 else None)


def test_candidates_that_are_not_declared_cannot_be_used(workplace, capsys):
    import my_components

    class Forgetful(my_components.LastCrop):
        needs = frozenset()

    my_components.Forgetful = Forgetful
    (workplace / "my_configs" / "selector" / "forgetful.yaml").write_text(
        "_target_: my_components.Forgetful\nname: forgetful\ndescription: forgets to say what it needs\n"
    )
    arguments = ["--config-dir", "my_configs", "profile=mini", "run.limit=4", "run.output_dir=out"]
    assert cli.main([*arguments, "selector=forgetful"]) == 2
    error = capsys.readouterr().err
    assert "candidates" in error
    assert "needs" in error
    assert not list((workplace / "out").rglob("config.yaml")), "a refusal leaves nothing that looks like a run"


@pytest.mark.parametrize(("method", "words"), [("select", "0 selections"), ("prune", "0 results")])
def test_one_result_for_each_question_is_required(workplace, capsys, method, words):
    import my_components

    class Silent(my_components.BestRegion):
        pass

    setattr(Silent, method, lambda self, inputs, tools: [])
    my_components.Silent = Silent
    (workplace / "my_configs" / "selector" / "silent.yaml").write_text(
        "_target_: my_components.Silent\nname: silent\ndescription: gives nothing\n"
    )
    arguments = ["--config-dir", "my_configs", "profile=mini", "run.limit=4", "run.output_dir=out"]
    assert cli.main([*arguments, "selector=silent"]) == 2
    assert words in capsys.readouterr().err


def test_a_question_keeps_at_least_one_token(workplace, capsys):
    import my_components

    class Empty(my_components.BestRegion):
        def prune(self, inputs, tools):
            return [my_components.Kept(((),)) for _ in inputs]

    my_components.Empty = Empty
    (workplace / "my_configs" / "selector" / "empty.yaml").write_text(
        "_target_: my_components.Empty\nname: empty\ndescription: keeps nothing\n"
    )
    arguments = ["--config-dir", "my_configs", "profile=mini", "run.limit=4", "run.output_dir=out"]
    assert cli.main([*arguments, "selector=empty"]) == 1
    assert all("visual tokens" in record["error"]["message"] for record in records(workplace, "empty"))


def save_small_vip_llava(folder: Path) -> Path:
    """Random weights in ViP-LLaVA's layout, the tokenizer and files of `llava_small`."""
    from transformers import CLIPVisionConfig, LlamaConfig, VipLlavaConfig, VipLlavaForConditionalGeneration

    size = llava_small.save_llama_tokenizer(folder)
    layers = {"vision_feature_layers": [-2, 1]}
    config = VipLlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=28, patch_size=7, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
            num_attention_heads=2, projection_dim=8,
        ),
        text_config=LlamaConfig(
            vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=1024, bos_token_id=1, eos_token_id=2,
        ),
        image_token_index=size - 2,
        **layers,
    )  # fmt: skip
    torch.manual_seed(3)
    model = VipLlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.2 / parameter.shape[-1] ** 0.5)
        model.get_input_embeddings().weight.normal_(0, 0.8)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({
            "image_processor_type": "CLIPImageProcessor", "do_resize": True, "do_center_crop": True,
            "do_rescale": True, "do_normalize": True, "do_convert_rgb": True, "resample": 3,
            "rescale_factor": 1 / 255, "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711], "size": {"shortest_edge": 28},
            "crop_size": {"height": 28, "width": 28},
        })
    )  # fmt: skip
    return folder


def test_the_model_says_what_plain_transformers_says(workplace):
    import my_components
    from transformers import AutoTokenizer, VipLlavaForConditionalGeneration

    folder = save_small_vip_llava(workplace / "weights")
    vlm = my_components.VipLlava(name="vip", path=str(folder), conversation="vip_llava")
    plain = VipLlavaForConditionalGeneration.from_pretrained(folder).eval()
    rng = np.random.default_rng(0)
    images = tuple(Image.fromarray(rng.integers(0, 255, (28, 28, 3), dtype=np.uint8)) for _ in range(2))
    prepared = vlm.prepare(Request(images, Prompt("What is the color of this ?", max_new_tokens=6)))
    system = (
        "A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions."
    )
    text = f"{system}###Human: <image>\n<image>\nWhat is the color of this ?###Assistant:"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text.replace("<image>", "<image>" * 16), return_tensors="pt").input_ids
    assert list(prepared.input_ids) == ids[0].tolist()
    with torch.no_grad():
        generated = plain.generate(input_ids=ids, pixel_values=prepared.pixel_values, max_new_tokens=6, do_sample=False)
    new = generated[0, ids.shape[1] :]
    (answer,) = vlm.answer([prepared])
    assert answer.text == tokenizer.decode(new, skip_special_tokens=True).strip()
    assert answer.new_tokens == len(new)
