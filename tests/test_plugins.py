"""Selectors around the models of lmms-eval and VLMEvalKit; with the real packages where they are installed."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.plugins.chooser import ViewChooser, only_image
from tests.llava_small import noise_image

ROOT = Path(__file__).resolve().parent.parent
SEEN: list[list[Image.Image]] = []
ASKED: list[str] = []


def same(views: list[Image.Image], others: list[Image.Image]) -> bool:
    return [np.asarray(view).tolist() for view in views] == [np.asarray(other).tolist() for other in others]


def centre_of(image: Image.Image) -> Image.Image:
    """The middle of `crops=grid2x2`, by hand: a box of half the sides."""
    wide, high = image.width // 2, image.height // 2
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    return image.crop((left, top, left + wide, top + high))


CENTRE = {"selector": "center_crop", "crops": "grid2x2", "profile": "mini"}


def test_the_views_are_those_of_the_selector() -> None:
    image = noise_image(1, 80, 60)
    assert same(ViewChooser(CENTRE).views("q", image, "Is it?"), [image, centre_of(image)])
    full = ViewChooser({"selector": "full_crop", "crops": "grid2x2", "profile": "mini"}).views("q", image, "Is it?")
    boxes = [(0, 0, 40, 30), (40, 0, 80, 30), (0, 30, 40, 60), (40, 30, 80, 60)]
    assert same(full, [image, *(image.crop(box) for box in boxes)])


@pytest.mark.parametrize(("mode", "read"), [("question", "What is the color of the mug?"), ("noun_phrases", "mug")])
def test_psi_reads_what_its_settings_say(mode: str, read: str) -> None:
    chooser = ViewChooser({"selector": "semclip", "profile": "mini", "psi.text": mode})
    texts: list[str] = []

    def score(requests: Any) -> list[tuple[float, ...]]:
        texts.extend(request.text for request in requests)
        return [(0.0,) * len(request.boxes) for request in requests]

    chooser.psi.score = score
    chooser.views("q", noise_image(1, 80, 60), "What is the color of the mug?")
    assert texts == [read]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"selector": "oracle"}, "sees the annotated boxes"),
        ({"selector": "attention"}, "needs .* of the model"),
        ({"selector": "semclip", "psi": "tower"}, "our own model's tower"),
        ({"selector": "centre_crop"}, "centre_crop"),
    ],
)
def test_what_another_harness_cannot_offer_is_refused(settings: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ViewChooser({"profile": "mini", **settings})


def test_a_question_with_several_images_is_refused() -> None:
    with pytest.raises(QuestionError, match="2 images"):
        only_image([1, 2], "task/3")


def test_the_entry_point_names_what_there_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["lmms_eval.models"] == {"semclip_eval": "semclip_eval.plugins:lmms_eval_models"}


# With lmms-eval: a task of its own over three images, and inner models that say what they were shown.


def visual(document: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(document["path"]).convert("RGB")]


def inner_classes() -> tuple[type, type]:
    from lmms_eval.api.model import lmms

    class Shown(lmms):
        """Answers with the number of images, and keeps them."""

        is_simple = True

        def __init__(self, greeting: str = "", **keys: Any) -> None:
            super().__init__()
            assert greeting == "hello", "the inner model's own arguments"

        def generate_until(self, requests: Any) -> list[str]:
            answers = []
            for context, _, doc_to_visual, doc_id, task, split in [request.args for request in requests]:
                SEEN.append(doc_to_visual(self.task_dict[task][split][doc_id]))
                ASKED.append(context)
                answers.append(str(len(SEEN[-1])))
            return answers

        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        generate_until_multi_round = loglikelihood

    class ShownChat(Shown):
        is_simple = False

        def generate_until(self, requests: Any) -> list[str]:
            answers = []
            for _, doc_to_messages, _, doc_id, task, split in [request.args for request in requests]:
                (message,) = doc_to_messages(self.task_dict[task][split][doc_id])
                SEEN.append([part["url"] for part in message["content"] if part["type"] == "image"])
                ASKED.append("".join(part["text"] for part in message["content"] if part["type"] == "text"))
                answers.append(str(len(SEEN[-1])))
            return answers

    return Shown, ShownChat


@pytest.mark.parametrize("is_simple", [True, False])
def test_lmms_eval_runs_its_task_with_our_views(is_simple: bool, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("lmms_eval.evaluator")
    from lmms_eval import evaluator, models
    from lmms_eval.models.registry_v2 import ModelManifest
    from lmms_eval.tasks import TaskManager

    from semclip_eval.plugins import lmms_eval_models

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    images = [noise_image(number, 80, 60) for number in range(3)]
    lines = []
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
        path = str(tmp_path / f"{number}.png")
        lines.append(json.dumps({"path": path, "question": f"What is {number}?", "answer": "2"}))
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "utils.py").write_text("from tests.test_plugins import visual\n")
    (folder / "drawn.yaml").write_text(
        f"""
task: drawn
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/data.jsonl}}, cache_dir: {tmp_path}/cache}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: "{{{{question}}}} Answer briefly."
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 4}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
    )
    shown, shown_chat = inner_classes()
    monkeypatch.setattr("tests.test_plugins.Shown", shown, raising=False)
    monkeypatch.setattr("tests.test_plugins.ShownChat", shown_chat, raising=False)
    manifest = ModelManifest("shown", "tests.test_plugins.Shown", "tests.test_plugins.ShownChat")
    models.MODEL_REGISTRY_V2.register_manifest(manifest, overwrite=True)
    models.MODEL_REGISTRY_V2.register_manifest(lmms_eval_models(), overwrite=True)
    SEEN.clear()
    ASKED.clear()
    results = evaluator.simple_evaluate(
        model="semclip_eval",
        model_args="inner=shown,greeting=hello,selector=center_crop,crops=grid2x2,profile=mini",
        tasks=["drawn"],
        task_manager=TaskManager(include_path=str(folder), model_name="semclip_eval"),
        force_simple=is_simple,
        batch_size=1,
        device="cpu",
    )
    assert results["results"]["drawn"]["exact_match,none"] == 1.0, "two images each"
    assert len(SEEN) == 3
    for image, views in zip(images, SEEN, strict=True):
        assert same(views, [image, centre_of(image)])
    assert [f"What is {number}? Answer briefly." for number in range(3)] == ASKED


def test_vlmevalkits_message_gets_our_views(tmp_path: Path) -> None:
    base = pytest.importorskip("vlmeval.vlm.base")
    from semclip_eval.plugins.vlmevalkit import SelectedViews

    class Shown(base.BaseModel):
        INTERLEAVE = True

        def generate_inner(self, message: Any, dataset: str | None = None) -> str:
            SEEN.append([Image.open(part["value"]).convert("RGB") for part in message if part["type"] == "image"])
            ASKED.append("".join(part["value"] for part in message if part["type"] == "text"))
            return dataset or ""

        def use_custom_prompt(self, dataset: str) -> bool:
            return dataset == "Ours"

    image = noise_image(4, 80, 60)
    image.save(tmp_path / "4.png")
    model = SelectedViews(Shown(), **CENTRE)
    text = "Question: What is it?\nOptions:\nA. this\nB. that\nPlease select the correct answer."
    message = [{"type": "image", "value": str(tmp_path / "4.png")}, {"type": "text", "value": text}]
    SEEN.clear()
    ASKED.clear()
    told: list[str] = []
    views = model.chooser.views
    model.chooser.views = lambda identity, picture, question: (
        told.append(question) or views(identity, picture, question)
    )
    assert model.generate(message, dataset="MMBench_DEV_EN") == "MMBench_DEV_EN"
    assert same(SEEN[0], [image, centre_of(image)])
    assert [text] == ASKED
    assert told == ["What is it?"]
    assert model.use_custom_prompt("Ours")
    assert not model.use_custom_prompt("MMBench_DEV_EN")
    with pytest.raises(QuestionError, match="2 images"):
        model.generate([message[0], *message], dataset="Two")
