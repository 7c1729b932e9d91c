"""The Python interface on the miniature: the same answers as the command line, and README's example."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from semclip_eval import api, cli
from semclip_eval.benchmarks.vstar import VStar
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.models.base import VLM
from semclip_eval.relevance.base import Relevance
from semclip_eval.results.records import read_samples
from semclip_eval.selectors.semclip import SemClip
from semclip_eval.types import Question

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return api.load_vlm(profile="mini", device="cpu")


@pytest.fixture(scope="module")
def psi() -> Relevance:
    return api.load_psi(profile="mini", device="cpu")


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return VStar(path="mini://vstar").questions()


def test_ask_answers_as_a_run_does(vlm: VLM, psi: Relevance, questions: list[Question], tmp_path: Path) -> None:
    command = ["profile=mini", "benchmark=vstar", "selector=semclip", "selector.top_k=2", "crops=grid4x4"]
    assert cli.main([*command, "run.limit=4", "run.device=cpu", f"run.output_dir={tmp_path}"]) == 0
    (summary,) = tmp_path.glob("*/*/*/*/*/summary.csv")
    for record in read_samples(summary.parent):
        question = next(question for question in questions if question.id == record["question_id"])
        reply = api.ask(
            question.load_image(),
            question.text,
            options=question.options,
            selector=api.load_selector("semclip", top_k=2),
            vlm=vlm,
            psi=psi,
            crops=api.load_crops("grid4x4"),
        )
        assert reply.choice == record["choice"]
        assert reply.answer == question.options[record["choice"]]
        assert reply.option_losses == pytest.approx(record["option_losses"], abs=1e-4)
        assert [list(view.box) for view in reply.views] == [view["box"] for view in record["views"]]
        assert [list(box) for box in reply.boxes] == [view["box"] for view in record["views"][1:]]
        assert [image.size for image in reply.images] == [view.size for view in reply.views]
        assert (reply.visual_tokens, reply.text_tokens) == (record["visual_tokens"], record["text_tokens"])
        assert [list(box) for box, _ in reply.candidates] == [each["box"] for each in record["candidates"]]
        assert [score for _, score in reply.candidates] == pytest.approx(
            [each["psi"] for each in record["candidates"]], abs=1e-5
        )


def test_ask_in_other_words(vlm: VLM, psi: Relevance, questions: list[Question], tmp_path: Path) -> None:
    question = next(question for question in questions if question.category == "direct_attributes")
    path = tmp_path / "scene.png"
    question.load_image().save(path)
    asked: dict[str, Any] = {"vlm": vlm, "psi": psi, "options": question.options}
    oracle = api.ask(path, question.text, selector="oracle", boxes=question.target_boxes, **asked)
    assert oracle.choice == question.truth
    assert all(score is None for _, score in oracle.candidates)
    letter = api.ask(path, question.text, protocol="letter", selector="no_crop", **asked)
    assert letter.option_losses is None
    assert letter.status == "unparsed" or letter.answer == question.options[letter.choice or 0]
    free = api.ask(path, question.text, vlm=vlm, selector="no_crop")
    assert free.answer
    assert free.choice is None


def test_what_cannot_be_asked_is_said(vlm: VLM) -> None:
    image = Image.new("RGB", (60, 60))
    with pytest.raises(ConfigError, match="oracle"):
        api.ask(image, "What?", selector="oracle", vlm=vlm)
    with pytest.raises(QuestionError, match="two options"):
        api.ask(image, "What?", options=["one"], vlm=vlm, selector="no_crop")
    with pytest.raises(ConfigError, match=r"protocol=guess"):
        api.ask(image, "What?", protocol="guess", vlm=vlm, selector="no_crop")
    with pytest.raises(QuestionError):
        api.ask(image, "word " * 5000, vlm=vlm, selector="no_crop")
    with pytest.raises(ConfigError, match="semclop"):
        api.load_selector("semclop")
    with pytest.raises(ConfigError, match=r"selector\.top_q"):
        api.load_selector("semclip", top_q=1)


def test_components_by_name_and_keys(tmp_path: Path) -> None:
    selector = api.load_selector("semclip", top_k=3)
    assert isinstance(selector, SemClip)
    assert selector.top_k == 3
    folder = tmp_path / "selector"
    folder.mkdir()
    (folder / "twice.yaml").write_text("_target_: semclip_eval.selectors.semclip.SemClip\nname: twice\ntop_k: 2\n")
    assert api.load_selector("twice", config_dir=tmp_path).name == "twice"


def test_results_as_a_frame(tmp_path: Path) -> None:
    sweep = ["-m", "profile=mini", "selector=no_crop,random_crop", "run.limit=6", f"run.output_dir={tmp_path}"]
    assert cli.main(sweep) == 0
    frame = api.load_results(tmp_path)
    assert sorted(frame["selector"]) == ["no_crop", "random_crop"]
    assert frame.set_index("selector")["visual_tokens_mean"].to_dict() == {"no_crop": 49.0, "random_crop": 98.0}
    assert frame["e2e_ms_p50"].isna().all()
    assert all((Path(folder) / "samples.jsonl").is_file() for folder in frame["folder"])
    with pytest.raises(ConfigError, match="no finished run"):
        api.load_results(tmp_path / "elsewhere")


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_pages_examples_run(
    page: str,
    questions: list[Question],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    assert blocks
    questions[0].load_image().save(tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["profile=mini", "selector=no_crop", "run.limit=4", "run.output_dir=results"]) == 0
    capsys.readouterr()
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
        assert capsys.readouterr().out.strip()
