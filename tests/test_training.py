"""train-psi: gains, objectives against formulas written out, resumption, provenance, and test images refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from semclip_eval import cli
from semclip_eval.benchmarks.vstar import VStar
from semclip_eval.components import build
from semclip_eval.compose import compose
from semclip_eval.errors import ModelError
from semclip_eval.relevance.open_clip_relevance import OpenClipRelevance
from semclip_eval.relevance.trained import load_trained
from semclip_eval.results.summary import read_rows
from semclip_eval.training import loop, objectives
from semclip_eval.training.labels import Label, training_prompt, usable
from semclip_eval.training.loop import Example, is_held_out, shuffled_gains
from semclip_eval.training.overlap import image_digest
from semclip_eval.types import Box, Question

TRAIN = ["train-psi", "profile=mini", "psi.text=question", "benchmark.path=mini://vstar-train", "run.batch_size=32"]
BRIEF = ["run.limit=60", "train.text_epochs=3", "train.both_epochs=1", "train.batch_size=8", "train.test_benchmarks=[]"]
BRIEF += ["train.learning_rate=3e-4", "train.held_out=0.5"]
rows_of_numbers = st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=1, max_size=5)


def a_label(overview: tuple[float, ...], crops: list[tuple[float, ...]], right: int = 0) -> Label:
    return Label("q", "i", "text", right, overview, tuple(crops), tuple(Box(0, 0, 1, 1) for _ in crops))


def test_gains_by_hand() -> None:
    label = a_label((1.0, 0.5, 2.0), [(0.25, 0.5, 2.0), (1.5, 0.25, 0.5)], right=0)
    # Margins: 0.5 - 1 = -0.5 with the overview, then 0.25 and -1.25.
    assert label.gains("margin") == [0.75, -0.75]
    assert label.gains("loss") == [0.75, -0.5]


def test_questions_that_teach_nothing_are_left_out() -> None:
    sufficient = a_label((0.01, 2.0), [(0.0, 1.0), (1.0, 0.0)])
    alike = a_label((1.0, 2.0), [(0.50, 1.0), (0.51, 1.0)])
    teaches = a_label((1.0, 2.0), [(0.5, 1.0), (0.9, 1.0)])
    assert usable([sufficient, alike, teaches], "loss", 0.05, 0.05) == [teaches]


@given(rows_of_numbers, rows_of_numbers, st.floats(1, 50), st.floats(0.1, 1))
def test_kl_is_the_sum_written_out(cosines: Any, gains: Any, scale: float, temperature: float) -> None:
    count = min(len(cosines), len(gains))
    expected = 0.0
    for given_row, gain_row in zip(cosines[:count], gains[:count], strict=True):
        spread = max(float(np.std(gain_row)), 1e-6)
        wanted = [(gain - float(np.mean(gain_row))) / spread / temperature for gain in gain_row]
        wanted_sum = math.log(sum(math.exp(value - max(wanted)) for value in wanted)) + max(wanted)
        scaled = [scale * value for value in given_row]
        scaled_sum = math.log(sum(math.exp(value - max(scaled)) for value in scaled)) + max(scaled)
        expected += sum(
            math.exp(w - wanted_sum) * ((w - wanted_sum) - (s - scaled_sum))
            for w, s in zip(wanted, scaled, strict=True)
        )
    made = objectives.kl(
        torch.tensor(cosines[:count], dtype=torch.double), torch.tensor(gains[:count], dtype=torch.double),
        torch.tensor(scale, dtype=torch.double), temperature,
    )  # fmt: skip
    assert float(made) == pytest.approx(expected / count, abs=1e-6, rel=1e-6)


def test_infonce_and_sigmoid_by_hand() -> None:
    cosines = torch.tensor([[0.1, 0.5], [0.3, 0.2]])
    gains = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    others = torch.tensor([[0.9, 0.4], [0.7, 0.2]])
    excluded = torch.tensor([[True, False], [True, True]])
    first = -math.log(math.exp(5.0) / (math.exp(1.0) + math.exp(5.0) + math.exp(4.0)))
    second = -math.log(math.exp(3.0) / (math.exp(3.0) + math.exp(2.0)))
    scale = torch.tensor(10.0, requires_grad=True)
    made = objectives.infonce(cosines, gains, scale, others, excluded)
    assert float(made) == pytest.approx((first + second) / 2, abs=1e-5)
    made.backward()
    assert math.isfinite(float(scale.grad))
    # Standardised gains are -1 and 1: every crop has a label.
    logits = [[-(0.1 * 10 - 3), 0.5 * 10 - 3], [0.3 * 10 - 3, -(0.2 * 10 - 3)]]
    expected = np.mean([math.log(1 + math.exp(-value)) for row in logits for value in row])
    made = objectives.sigmoid(cosines, gains, torch.tensor(10.0), torch.tensor(-3.0), 0.3)
    assert float(made) == pytest.approx(expected, abs=1e-5)
    # Gains within `neutral` of the mean teach nothing.
    flat = torch.tensor([[0.0, 0.0, 3.0]])
    low = (0.0 - 1.0) / math.sqrt(2)
    kept = objectives.sigmoid(torch.zeros(1, 3), flat, torch.tensor(1.0), torch.tensor(-1.0), abs(low) + 0.01)
    assert float(kept) == pytest.approx(math.log(1 + math.exp(1)), abs=1e-5)


def test_regret_is_what_the_choice_costs() -> None:
    gains = torch.tensor([[0.0, 1.0, 3.0], [5.0, 1.0, 0.0]])
    cosines = torch.tensor([[0.1, 0.9, 0.3], [0.8, 0.2, 0.1]])
    assert objectives.regret(cosines, gains).tolist() == [2.0, 0.0]


def test_an_images_side_of_the_split_is_fixed_and_the_shares_are_right() -> None:
    names = [f"{number:016x}" for number in range(4000)]
    assert sum(is_held_out(name, 0.2) for name in names) / len(names) == pytest.approx(0.2, abs=0.03)
    assert all(is_held_out(name, 0.3) for name in names if is_held_out(name, 0.2))


def test_shuffled_gains_are_those_of_the_question() -> None:
    question = Question("q", "t", "c", "i", lambda: Image.new("RGB", (1, 1)), 0)
    examples = [Example(question, a_label((0.0,), []), tuple(range(20)))]
    (shuffled,) = shuffled_gains(examples, 0)
    assert sorted(shuffled.gains) == list(range(20)) != list(shuffled.gains)
    assert shuffled_gains(examples, 0) == [shuffled]


def test_every_kind_of_question_has_answers_to_weigh() -> None:
    for protocol in ("likelihood", "letter"):
        benchmark = VStar(path="mini://vstar", protocol=protocol)
        for question in benchmark.questions()[:3]:
            prompt, right = training_prompt(benchmark, question)
            assert prompt.text == benchmark.prompt(question).text
            wanted = "ABCD"[right] if protocol == "letter" else question.options[0]
            assert prompt.continuations[right] == wanted
            assert len(prompt.continuations) == len(question.options)
    gqa = build("benchmark", compose(["benchmark=gqa"], "mini")["benchmark"])
    question = gqa.questions()[0]
    assert training_prompt(gqa, question)[0].continuations == (question.truth,)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("psi") / "trained"
    assert cli.main([*TRAIN, *BRIEF, f"train.output={folder}"]) == 0
    return folder


def test_labels_are_what_a_run_with_that_crop_says(trained: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (trained / "labels.jsonl").read_text(encoding="utf-8").splitlines()[1:]]
    labels = {line["question_id"]: line for line in lines}
    runs = ["-m", "profile=mini", "benchmark.path=mini://vstar-train", "selector=semclip,no_crop", "run.limit=12"]
    assert cli.main([*runs, f"run.output_dir={tmp_path}"]) == 0
    compared = 0
    for samples in tmp_path.glob("mini/vstar/*/*/*/samples.jsonl"):
        for record in map(json.loads, samples.read_text(encoding="utf-8").splitlines()):
            label = labels.get(record["question_id"])
            if label is None:  # a larger limit keeps every question of a smaller one
                raise AssertionError(record["question_id"])
            if len(record["views"]) == 1:
                losses = label["overview"]
            else:
                losses = label["crops"][label["boxes"].index(record["views"][1]["box"])]
            assert record["option_losses"] == pytest.approx(losses, abs=1e-4)
            compared += 1
    assert compared == 24


def test_the_trained_psi_is_used_and_named(trained: Path, tmp_path: Path, capsys: Any) -> None:
    run = ["profile=mini", "selector=semclip", "psi.text=question", "run.limit=6", f"run.output_dir={tmp_path}"]
    assert cli.main([*run]) == 0
    assert cli.main([*run, f"psi.pretrained={trained}"]) == 0
    before, after = sorted(read_rows(tmp_path / "runs.csv"), key=lambda row: row["psi_training"])
    assert before["psi_training"] == ""
    assert after["psi_training"].startswith("kl/margin: ")
    assert before["psi_revision"] != after["psi_revision"]
    assert before["run_id"] != after["run_id"]
    # Trained weights are laid over the base, and nothing else moves.
    model = OpenClipRelevance("p", "mini://clip", str(trained), text="question").loaded_model
    weights = load_file(trained / "weights.safetensors")
    base = OpenClipRelevance("p", "mini://clip").loaded_model.state_dict()
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, base[name])]
    assert set(moved) <= set(weights)
    assert moved
    # Its text mode is part of what it is.
    assert cli.main([*run, f"psi.pretrained={trained}", "psi.text=noun_phrases"]) == 2
    assert "psi.text=noun_phrases" in capsys.readouterr().err


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = 0

    def broken(self: loop.Training, *arguments: Any) -> None:
        nonlocal epochs
        epochs += 1
        if epochs in (3, 6):
            raise KeyboardInterrupt
        original(self, *arguments)

    original = loop.Training._measured
    monkeypatch.setattr(loop.Training, "_measured", broken)
    command = [*TRAIN, *BRIEF, f"train.output={tmp_path / 'again'}"]
    assert [cli.main(command), cli.main(command), cli.main(command)] == [130, 130, 0]
    once, again = (load_file(folder / "weights.safetensors") for folder in (trained, tmp_path / "again"))
    assert once.keys() == again.keys()
    assert all(torch.equal(once[name], again[name]) for name in once)
    logs = [(folder / "training.csv").read_text(encoding="utf-8") for folder in (trained, tmp_path / "again")]
    assert logs[0] == logs[1]


def test_test_images_are_refused_whatever_their_name(tmp_path: Path, capsys: Any) -> None:
    """The miniature's test questions copied under other names: the pixels tell."""
    source = VStar(path="mini://vstar").questions()
    (tmp_path / "data" / "direct_attributes").mkdir(parents=True)
    (tmp_path / "data" / "relative_position").mkdir(parents=True)
    for number, question in enumerate(source[:4]):
        stem = tmp_path / "data" / "direct_attributes" / f"renamed_{number}"
        question.load_image().save(stem.with_suffix(".png"))
        boxes = [[box.left, box.top, box.width, box.height] for box in question.target_boxes]
        record = {
            "target_object": ["x"] * len(boxes),
            "bbox": boxes,
            "question": "Another?",
            "options": list(question.options),
        }
        stem.with_suffix(".json").write_text(json.dumps(record))
    command = ["train-psi", "profile=mini", f"benchmark.path={tmp_path / 'data'}", "train.test_benchmarks=[vstar]"]
    assert cli.main([*command, f"train.output={tmp_path / 'psi'}"]) == 2
    said = capsys.readouterr().err
    assert "4 of 4 training questions are about test images of vstar" in said
    assert not (tmp_path / "psi" / "weights.safetensors").exists()


def test_a_missing_image_costs_its_question_alone(tmp_path: Path, capsys: Any) -> None:
    """In the training data and in the test data: what cannot be read is left out and said."""
    rows = []
    for number, question in enumerate(VStar(path="mini://vstar-train").questions()[:24]):
        name = f"{number}.png"
        if number:
            question.load_image().save(tmp_path / name)
        rows.append({"image": name, "question": question.text, "options": list(question.options), "answer": 0})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = ["benchmark=custom", f"benchmark.path={tmp_path / 'rows.jsonl'}", "benchmark.protocol=likelihood"]
    command = ["train-psi", "profile=mini", *data, "train.test_benchmarks=[]", "train.held_out=0.5", "crops=grid2x2"]
    code = cli.main([*command, "train.text_epochs=1", "train.both_epochs=0", f"train.output={tmp_path / 'psi'}"])
    said = capsys.readouterr().err
    assert code in (0, 1), said  # one epoch may not lower the regret
    assert "question 0: left out" in said
    labels = (tmp_path / "psi" / "labels.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    assert len(labels) == 23


def test_an_images_digest_is_that_of_its_pixels() -> None:
    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    assert image_digest(image) == image_digest(image.copy())
    assert image_digest(image) != image_digest(image.transpose(Image.Transpose.ROTATE_180))
    assert image_digest(Image.new("RGB", (4, 6))) != image_digest(Image.new("RGB", (6, 4)))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.objective=mse", "train.objective=mse"),
        ("train.gain=score", "train.gain=score"),
        ("train.held_out=0.9", "train.held_out=0.9"),
        ("train.learning_rate=0", "train.learning_rate=0"),
        ("train.batch_size=0", "train.batch_size=0"),
        ("+train.epoch=3", "train.epoch"),
        ("psi=tower", "psi=tower"),
        ("crops.rows=2", "crops"),
    ],
)
def test_what_cannot_be_trained_is_refused(override: str, said: str, trained: Path, capsys: Any) -> None:
    labels = trained.parent / "labels_only"
    if not labels.exists():
        labels.mkdir()
        (labels / "labels.jsonl").write_bytes((trained / "labels.jsonl").read_bytes())
    assert cli.main([*TRAIN, *BRIEF, f"train.output={labels}", override]) == 2
    assert said in capsys.readouterr().err


def test_weights_of_another_base_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"psi\.pretrained="):
        _ = OpenClipRelevance("p", "local-dir:/other", str(trained), text="question").revision
    values = json.loads((trained / "psi.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "weights.safetensors").write_bytes((trained / "weights.safetensors").read_bytes())
    (other / "psi.json").write_text(json.dumps({**values, "base_revision": "local:000000000000"}))
    with pytest.raises(ModelError, match="local:000000000000"):
        _ = OpenClipRelevance("p", "mini://clip", str(other), text="question").revision
    with pytest.raises(ModelError, match="does not fit"):
        load_trained(torch.nn.Linear(2, 2), trained)
