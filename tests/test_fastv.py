"""FastV: what the model answers without the dropped tokens, against plain eager transformers with masked layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from semclip_eval import cli
from semclip_eval.errors import ConfigError
from semclip_eval.mini import weights_folder
from semclip_eval.models.transformers.llava import Llava15
from semclip_eval.results.summary import read_rows
from semclip_eval.selectors.fastv import FastV
from semclip_eval.selectors.no_crop import NoCrop
from semclip_eval.selectors.sparse import Sparse
from semclip_eval.types import Drops
from tests.family_insight import check_dropping
from tests.llava_small import save_llama_style, save_qwen_style
from tests.test_llava_insight import PlainLlava


@pytest.mark.parametrize("style", ["mini", "llama", "qwen"])
def test_the_answers_are_those_of_masked_layers(style: str, tmp_path: Path) -> None:
    folder = {"mini": lambda: Path(weights_folder("vlm")), "llama": lambda: save_llama_style(tmp_path),
              "qwen": lambda: save_qwen_style(tmp_path)}[style]()  # fmt: skip
    vlm = Llava15(name="small", hub_id=None, path=str(folder))
    check_dropping(vlm, PlainLlava(folder, vlm))  # type: ignore[arg-type]


def test_how_many_are_kept() -> None:
    assert [Drops(2, ratio).kept(49) for ratio in (0.001, 0.25, 0.5, 1)] == [1, 12, 25, 49]
    assert Drops(2, 0.5).kept(0) == 0


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ({"layer": 0}, r"selector\.layer=0"),
        ({"layer": 1.5}, r"selector\.layer=1\.5"),
        ({"keep_ratio": 0}, r"selector\.keep_ratio=0"),
        ({"keep_ratio": 1.1}, r"selector\.keep_ratio=1\.1"),
        ({"keep_ratio": True}, r"selector\.keep_ratio=True"),
        ({"inner": None}, r"selector\.inner=None"),
        ({"inner": FastV(inner=NoCrop("no_crop"))}, r"selector\.inner=fastv"),
        ({"inner": Sparse(inner=NoCrop("no_crop"))}, r"selector\.inner=sparse"),
    ],
)
def test_wrong_values_are_named(keys: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        FastV(**{"inner": NoCrop("no_crop"), **keys})


def test_tokens_are_not_pruned_before_what_drops_them() -> None:
    with pytest.raises(ConfigError, match=r"selector\.inner=fastv"):
        Sparse(inner=FastV(inner=NoCrop("no_crop")))


def records(folder: Path) -> list[dict[str, Any]]:
    (samples,) = folder.glob("mini/vstar/mini_llava/*/*/samples.jsonl")
    return [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]


def test_in_the_program_the_answers_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    run = ["profile=mini", "selector=fastv", "selector.inner=full_crop", "selector.keep_ratio=0.25", "run.limit=8"]
    for batch in (1, 4):
        folder = tmp_path / str(batch)
        assert cli.main([*run, f"run.batch_size={batch}", "crops=grid2x2", f"run.output_dir={folder}"]) == 0
    alone, together = records(tmp_path / "1"), records(tmp_path / "4")
    for one, other in zip(alone, together, strict=True):
        assert one["option_losses"] == pytest.approx(other["option_losses"], abs=1e-4)
        # 5 views of 49 tokens in 2 of 4 layers, a quarter of them in the others.
        assert (one["visual_tokens"], one["measures"]["effective_tokens"]) == (245, (2 * 245 + 2 * 61) / 4)
    (row,) = read_rows(tmp_path / "1" / "runs.csv")
    assert (row["n_error"], float(row["forwards_mean"])) == ("0", 0)


def test_all_tokens_kept_are_the_inner_selectors_answers(tmp_path: Path) -> None:
    base = ["profile=mini", "run.limit=6"]
    assert cli.main([*base, "selector=fastv", "selector.keep_ratio=1", f"run.output_dir={tmp_path / 'all'}"]) == 0
    assert cli.main([*base, "selector=fastv", "selector.keep_ratio=.1", f"run.output_dir={tmp_path / 'few'}"]) == 0
    assert cli.main([*base, "selector=no_crop", f"run.output_dir={tmp_path / 'inner'}"]) == 0
    losses = {
        name: [loss for record in records(tmp_path / name) for loss in record["option_losses"]]
        for name in ("all", "few", "inner")
    }
    assert losses["all"] == pytest.approx(losses["inner"], abs=1e-5)
    assert losses["few"] != pytest.approx(losses["inner"], abs=1e-2)


def test_what_cannot_be_is_refused_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = ["model=openai", "model.base_url=http://127.0.0.1:9/v1", "model.model=x"]
    for wrong, word in (
        (served, "drop"), (["model=smolvlm_256m"], "drop"), (["run.mode=latency"], "run.mode=latency"),
        (["selector.layer=4"], "selector.layer=4"),
    ):  # fmt: skip
        assert cli.main(["profile=mini", "selector=fastv", *wrong, f"run.output_dir={tmp_path}"]) == 2
        message = capsys.readouterr().err
        assert word in message
