"""scripts/benchmark_gpu.py from end to end, on the CPU with the miniature's VLM and a small random ψ."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from semclip_eval.mini.world import SCENE_SIZE

SCRIPT = Path(__file__).parent.parent / "scripts" / "benchmark_gpu.py"
SELECTORS = ["no_crop", "full_crop", "semclip"]


def script() -> Any:
    specification = importlib.util.spec_from_file_location("benchmark_gpu", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_row_a_selector_in_three_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "mini_llava", "--questions", "3", "--output", str(tmp_path)]
    overrides = ["model.load_format=auto", "psi.model=ViT-S-32-alt", "run.warmup=1", "run.device=cpu"]
    assert script().main([*arguments, *overrides]) == 0

    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("mini_llava-")
    assert sorted(file.name for file in folder.iterdir()) == ["environment.json", "latency.csv", "latency.md"]
    with (folder / "latency.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["selector"] for row in rows] == SELECTORS
    # 49 visual tokens a view; the overview, with four crops of grid2x2, with one.
    assert [float(row["visual_tokens_mean"]) for row in rows] == [49, 5 * 49, 2 * 49]
    for row in rows:
        assert (row["n"], row["dtype"], row["new_tokens_mean"]) == ("3", "float32", "16")
        stages = [float(row[f"{name}_ms_p50"]) for name in ("load", "select", "prepare", "vision", "prefill", "decode")]
        assert all(stage >= 0 for stage in stages)
        assert min(stages[0], *stages[2:]) > 0
        assert float(row["e2e_ms_p50"]) <= float(row["e2e_ms_p99"])
        assert row["peak_memory_mib"] == ""  # not measured on the CPU
        assert row["model_revision"].startswith("local:")
    assert [row["psi_revision"] for row in rows] == ["", "", "dummy:seed0"]
    assert float(rows[2]["select_ms_p50"]) > float(rows[0]["select_ms_p50"])

    table = (folder / "latency.md").read_text(encoding="utf-8")
    lines = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert lines == ["selector", "---", *SELECTORS]
    assert "ψ clip_vit_l_14_336 (dummy:seed0)" in table
    assert table in capsys.readouterr().out
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    assert environment["model_revision"].startswith("local:")
    assert not list(tmp_path.rglob("samples.jsonl"))  # the runs themselves are not kept


def test_photographs_have_the_published_layout_and_size(tmp_path: Path) -> None:
    """Boxes grow with the image: inside it, and as large a part of it as before."""
    module = script()
    module.write_photographs(tmp_path / "data", 2)
    pictures = sorted((tmp_path / "data").glob("*/*.jpg"))
    assert len(pictures) == 2
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.size == module.PHOTOGRAPH == (2246, 1582)
        small = json.loads(
            (tmp_path / "small" / picture.relative_to(tmp_path / "data")).with_suffix(".json").read_text()
        )
        large = json.loads(picture.with_suffix(".json").read_text())
        for before, after in zip(small["bbox"], large["bbox"], strict=True):
            left, top, width, height = after
            assert 0 <= left < left + width <= 2246
            assert 0 <= top < top + height <= 1582
            x, y = 2246 / SCENE_SIZE, 1582 / SCENE_SIZE
            assert after == pytest.approx([before[0] * x, before[1] * y, before[2] * x, before[3] * y])
