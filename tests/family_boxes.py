"""`hide` and `self_box` on shrunken families: against plain transformers, and through the whole program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from semclip_eval import cli, session
from semclip_eval.measure.stages import StageClock
from semclip_eval.selectors.base import SelectionInput
from semclip_eval.selectors.hide import BACKGROUNDS, Hide
from semclip_eval.selectors.tools import SelectorVLM, Tools
from semclip_eval.types import Prompt, Request
from tests.family_insight import eager
from tests.llava_small import noise_image
from tests.published_hide import naive_hide

WORDS = "Search the following entities in the images:"


def check_hide(vlm: Any, reference: Any, image: Image.Image, cells: tuple[int, int], before: int, behind: str) -> None:
    """The collage equals that of the published procedure over plain transformers' eager attention.

    cells: (rows, columns) of the map. before: tokens of the template between the view and the text. behind: the
    template behind the text's first closing token, which the published code does not cut off.
    """
    tokenizer = reference.processor.tokenizer
    item = SelectionInput("q", "i", image, "Is it the cup?", (), None, 0)
    selector = Hide(entities="noun_phrases", sigma=1, threshold=0.9)
    facade = SelectorVLM(vlm, selector.needs, None, StageClock("cpu", on=False))
    (selection,) = selector.select([item], Tools(vlm=facade))

    image_id = tokenizer.convert_tokens_to_ids(reference.processor.image_token)
    with torch.no_grad():
        inputs, outputs = eager(reference, Request((image,), Prompt(f"{WORDS} cup")))
    visual = (inputs.input_ids[0] == image_id).nonzero()[:, 0]
    first, count = int(visual[-1]) + 1 + before, len(tokenizer(WORDS, add_special_tokens=False).input_ids)
    last = inputs.input_ids.shape[1] - len(tokenizer(behind, add_special_tokens=False).input_ids)
    maps = torch.stack([layer[0, :, first:last][:, :, visual].mean(0) for layer in outputs.attentions]).mean(0)
    grids = maps.double().numpy().reshape(-1, *cells)
    pixels, boxes = naive_hide(grids, count, image, 1, 0.9, BACKGROUNDS["white"])
    assert pixels is not None
    assert boxes
    assert 0 < selection.measures["shown"] < 1  # a choice: the comparison could fail
    np.testing.assert_array_equal(np.asarray(selection.views[1].pixels(image)), pixels)


def check_box_prompt(vlm: Any, reference: Any) -> None:
    """The ids of the family's box prompt are those of its published processor, which reads special tokens in text."""
    request = Request((noise_image(5, 90, 60),), vlm.box_prompt("red star", 20))
    assert list(vlm.prepare(request).input_ids) == reference.ids(request)


def check_program(model: str, folder: Path, output: Path) -> None:
    """The whole program, whatever the batch. What random weights write is no box; where they look is somewhere."""
    output.mkdir(exist_ok=True)
    rows = []
    for number in range(3):
        noise_image(number, 120, 120).save(output / f"{number}.png")
        row = {"image": f"{number}.png", "question": "Is the cup on the left side of the mug?", "answer": "A"}
        rows.append(json.dumps(row | {"options": ["yes", "no"], "boxes": [0, 0, 20, 20]}))
    (output / "questions.jsonl").write_text("\n".join(rows))
    run = ["-m", "profile=mini", "benchmark=custom", f"benchmark.path={output}/questions.jsonl", f"model={model}"]
    run += [f"model.path={folder}", "selector.max_forwards=4"]
    able = cli_selectors(model)
    written: dict[str, list[Any]] = {}
    try:
        for batch in (1, 3):
            place = output / str(batch)
            sweep = [*run, f"selector={','.join(able)}", f"run.batch_size={batch}", f"run.output_dir={place}"]
            assert cli.main(sweep) == 0
            for file in sorted(place.glob("*/*/*/*/*/samples.jsonl")):
                records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
                assert [record["status"] for record in records] != []
                written.setdefault(file.parent.parent.name, []).append(
                    [(record["views"], record["cost"], record["measures"], record["error"]) for record in records]
                )
    finally:
        session.forget("model")
    assert set(written) == set(able)
    for first, second in written.values():
        assert first == second
        assert all(error is None for _, _, _, error in first)
    assert all(measures == {"unread": 1} and len(views) == 1 for views, _, measures, _ in written["self_box"][0])
    assert all(cost["forwards"] == 2 for _, cost, _, _ in written["self_box"][0])


def cli_selectors(model: str) -> list[str]:
    """Those of the two that a model can run."""
    return ["self_box"] if model.startswith("qwen3") else ["hide", "self_box"]
