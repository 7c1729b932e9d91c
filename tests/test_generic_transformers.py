"""model=transformers on six families without help from an adapter, against the published processors and generate()."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from semclip_eval import cli, session
from semclip_eval.errors import ConfigError, ModelError, QuestionError
from semclip_eval.models.transformers.generic import GenericTransformers
from semclip_eval.models.transformers.generic_boxes import Qwen3VL
from semclip_eval.results.summary import read_rows
from semclip_eval.types import Prompt, Request
from tests.family_boxes import check_program as check_boxes_program
from tests.family_small import OPTIONS, QUESTION, three_selections
from tests.generic_small import FAMILIES, save
from tests.llava_small import noise_image

# Visual tokens of an overview of 120 x 90 pixels and a crop of 60 x 45, by the published rules.
VISUAL_TOKENS = {
    "qwen3_vl": 4 * 3 + 3 * 2,  # multiples of 32 px: 128 x 96, and 96 x 64, since 64 x 32 is below the least area
    "smolvlm": None,
    "gemma3": 4 + 4,
    "internvl": None,
    "mistral3": None,
    "llava_onevision": None,
}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(request.param, tmp_path_factory.mktemp(request.param) / request.param)


@pytest.fixture(scope="module")
def vlm(folder: Path) -> GenericTransformers:
    return GenericTransformers(name=folder.name, path=str(folder))


@pytest.fixture(scope="module")
def plain(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


def turns(request: Request, answer: str | None = None) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image} for image in request.images]
    said = [{"role": "user", "content": [*content, {"type": "text", "text": request.prompt.text}]}]
    if answer is not None:
        said.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return said


@pytest.mark.parametrize("selector", ["no_crop", "full_crop", "semclip"])
def test_tokens_and_greedy_answers_are_those_of_plain_transformers(
    vlm: GenericTransformers, plain: Any, selector: str
) -> None:
    model, processor = plain
    images = three_selections()[selector]
    answers = set()
    for text in (QUESTION, "Is there a ring?", "Which circle is on the left?"):
        request = Request(images, Prompt(text, max_new_tokens=6))
        inputs = processor.apply_chat_template(
            turns(request), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        prepared = vlm.prepare(request)
        assert list(prepared.input_ids) == inputs["input_ids"][0].tolist()
        made = model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :].tolist()
        (answer,) = vlm.answer([prepared])
        assert answer.text == processor.tokenizer.decode(made, skip_special_tokens=True).strip()
        assert answer.new_tokens == len(made)
        answers.add(tuple(made))
    assert len(answers) > 1  # the comparison could fail


def test_option_losses_are_those_of_whole_conversations(vlm: GenericTransformers, plain: Any) -> None:
    """The processor's own ids for prompt and answered conversation; the options' tokens are what is new in it."""
    model, processor = plain
    request = Request(three_selections()["semclip"], Prompt(QUESTION, OPTIONS))
    start = processor.apply_chat_template(
        turns(request), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )["input_ids"].shape[1]
    expected = []
    for option in OPTIONS:
        inputs = processor.apply_chat_template(
            turns(request, option), tokenize=True, return_dict=True, return_tensors="pt"
        )
        ids = inputs["input_ids"][0]
        end = next(place for place in range(start, len(ids)) if int(ids[place]) in vlm.stop_ids) + 1
        with torch.no_grad():
            log_probabilities = model(**inputs).logits[0].double().log_softmax(-1)
        losses = [-float(log_probabilities[place - 1, ids[place]]) for place in range(start, end)]
        expected.append(sum(losses) / len(losses))
    (answer,) = vlm.answer([vlm.prepare(request)])
    assert answer.option_losses == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.01


def test_visual_tokens_are_counted(vlm: GenericTransformers) -> None:
    crop = noise_image(1, 60, 45)
    whole = vlm.prepare(Request((noise_image(0, 120, 90),), Prompt("x")))
    both = vlm.prepare(Request((noise_image(0, 120, 90), crop), Prompt("x")))
    none = vlm.prepare(Request((), Prompt("x")))
    assert none.visual_tokens == 0
    assert both.visual_tokens is not None
    assert whole.visual_tokens is not None
    assert both.visual_tokens > 0
    # LLaVA-OneVision cuts a single image into tiles and several ones not.
    assert 0 < whole.visual_tokens < both.visual_tokens or vlm.name == "llava_onevision"
    wanted = VISUAL_TOKENS[vlm.name]
    assert wanted is None or both.visual_tokens == wanted
    assert (both.text_tokens or 0) + both.visual_tokens == len(both.input_ids)


def test_confidence_and_entropy_are_those_of_the_first_token(vlm: GenericTransformers, plain: Any) -> None:
    model, processor = plain
    words = ("Yes", "no") if vlm.name != "smolvlm" else ("red", "Yes")
    request = Request((noise_image(3),), Prompt("Is there a ring?", words))
    prepared = vlm.prepare(request)
    inputs = processor.apply_chat_template(
        turns(request), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1].double()
    first, second = (ids[0] for ids in prepared.continuation_ids)
    if first == second:
        with pytest.raises(ConfigError, match="same token"):
            vlm.confidence([prepared])
    else:
        assert vlm.confidence([prepared])[0] == pytest.approx(float(logits[[first, second]].softmax(0)[0]), abs=1e-5)
    probabilities = logits.softmax(-1)
    entropy = -float((probabilities * probabilities.clamp_min(1e-300).log()).sum())
    assert vlm.answer_entropy([prepared])[0] == pytest.approx(entropy, abs=1e-3)


def test_an_answer_does_not_depend_on_its_batch(vlm: GenericTransformers) -> None:
    batch = [
        vlm.prepare(Request(images, prompt))
        for images, prompt in zip(
            three_selections().values(),
            (Prompt(QUESTION, OPTIONS), Prompt("What?", max_new_tokens=5), Prompt("Where?", max_new_tokens=3)),
            strict=True,
        )
    ]
    together = vlm.answer(batch)
    alone = [vlm.answer([each])[0] for each in batch]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert together[0].option_losses == pytest.approx(alone[0].option_losses, abs=1e-6)


def test_a_fixed_length_is_kept_in_latency_mode(vlm: GenericTransformers) -> None:
    prepared = vlm.prepare(Request((noise_image(0),), Prompt("What?", max_new_tokens=9, forces_length=True)))
    state = vlm.prefill([prepared], vlm.encode([prepared]))
    (answer,) = vlm.decode([prepared], state, ignore_end_token=True)
    assert answer.new_tokens == 9


def test_the_placeholder_and_the_context_are_the_questions_own_errors(vlm: GenericTransformers) -> None:
    for placeholder in vlm.placeholders:
        with pytest.raises(QuestionError, match="placeholder"):
            vlm.prepare(Request((noise_image(0),), Prompt(f"What is {placeholder}?")))
    with pytest.raises(QuestionError, match="4096 tokens"):
        vlm.prepare(Request((), Prompt("x " * 5000)))


def test_the_program_runs_it_with_the_main_selectors(folder: Path, tmp_path: Path) -> None:
    sweep = ["-m", "profile=mini", "model=transformers", f"model.path={folder}", "crops=grid2x2", "run.limit=2"]
    sweep += ["selector=no_crop,semclip", f"run.output_dir={tmp_path}"]
    try:
        assert cli.main(sweep) == 0
        assert cli.main([*sweep[1:6], "selector=no_crop", "run.mode=latency", f"run.output_dir={tmp_path}"]) == 0
    finally:
        session.forget("model")
    rows = read_rows(tmp_path / "runs.csv")
    assert {(row["selector"], row["n_error"]) for row in rows} == {("no_crop", "0"), ("semclip", "0")}
    timed = next(row for row in rows if row["mode"] == "latency")
    assert float(timed["prefill_ms_p50"]) > 0


def test_selectors_that_need_more_are_refused_before_the_run(folder: Path, tmp_path: Path, capsys: Any) -> None:
    run = ["profile=mini", "model=transformers", f"model.path={folder}", f"run.output_dir={tmp_path}"]
    assert cli.main([*run, "selector=attention"]) == 2
    assert "attention" in capsys.readouterr().err


def test_qwen3_vl_writes_boxes_in_thousandths(tmp_path: Path) -> None:
    folder = save("qwen3_vl", tmp_path / "qwen3_vl")
    vlm = Qwen3VL(name="small", path=str(folder))
    prepared = vlm.prepare(Request((noise_image(0, 120, 90),), vlm.box_prompt("red cup", 9)))
    assert 'description "red cup"' in vlm.tokenizer.decode(prepared.input_ids)
    assert vlm.read_boxes('```json\n[{"bbox_2d": [250, 500, 1000, 750]}]\n```', 200, 100) == [(50, 50, 200, 75)]
    check_boxes_program("qwen3_vl_2b", folder, tmp_path / "runs")


def test_missing_parts_of_a_folder_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path"):
        GenericTransformers(name="none")
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "chat_template.jinja").unlink()
    for name in ("tokenizer_config.json", "processor_config.json"):
        if (copy / name).is_file():
            values = json.loads((copy / name).read_text())
            values.pop("chat_template", None)
            (copy / name).write_text(json.dumps(values))
    with pytest.raises(ModelError, match="chat template"):
        GenericTransformers(name="x", path=str(copy))
    (copy / "model.safetensors").unlink()
    (copy / "chat_template.jinja").write_text("{{ nonsense(")
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        GenericTransformers(name="x", path=str(copy))
