"""ask: one image from the command line; table, JSON, files and page say the same, and errors name what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from semclip_eval import api, cli
from semclip_eval.ask.asking import Asker, Query
from semclip_eval.ask.drawing import MOST_CELLS, heat_cells
from semclip_eval.ask.terminal import half_blocks
from semclip_eval.benchmarks.vstar import VStar
from semclip_eval.types import Box


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    question = VStar(path="mini://vstar").questions()[0]
    path = tmp_path_factory.mktemp("ask") / "scene.png"
    question.load_image().save(path)
    return path


def test_answers_side_by_side_as_json_files_and_page(image: Path, tmp_path: Path, capsys: Any) -> None:
    command = ["ask", str(image), "What is the color of the star?", "profile=mini", "selector=no_crop,semclip,oracle"]
    command += ["--option", "red", "--option", "blue", "crops=grid2x2", "--box", "10,20,30,40"]
    assert cli.main([*command, "--json", "--html", str(tmp_path / "a.html"), "--save", str(tmp_path / "views")]) == 0
    plain, semclip, oracle = json.loads(capsys.readouterr().out)
    assert (plain["selector"], len(plain["views"]), plain["visual_tokens"]) == ("no_crop", 1, 49)
    assert {result["answer"] for result in (plain, semclip, oracle)} <= {"red", "blue"}
    assert all(len(result["option_losses"]) == 2 for result in (plain, semclip, oracle))
    shown = semclip["views"][1]
    assert len(semclip["candidates"]) == 4
    assert shown["psi"] == max(candidate["psi"] for candidate in semclip["candidates"])
    left, top, right, bottom = oracle["views"][1]["box"]
    assert left <= 10 < 40 <= right
    assert top <= 20 < 60 <= bottom
    assert all(result["milliseconds"] > 0 for result in (plain, semclip, oracle))
    with Image.open(tmp_path / "views" / "semclip_1_crop.png") as crop, Image.open(image) as whole:
        assert crop.tobytes() == whole.convert("RGB").crop(shown["box"]).tobytes()
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 3
    assert not re.findall(r"(?:src|href)='(?!data:|#)", page)  # self-contained
    for word in ("semclip", "visual tokens", "What is the color of the star?"):
        assert word in page


def test_the_table_shows_answers_and_what_cannot_answer(image: Path, capsys: Any) -> None:
    command = ["ask", str(image), "Is there a star?", "profile=mini", "selector=no_crop,oracle", "--protocol", "plain"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "no_crop" in printed
    assert "--box" in printed  # the oracle's row says what it lacks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/no/such.png", "Q?"], "/no/such.png"),
        (["IMAGE", "Q?", "selector=oracle"], "--box"),
        (["IMAGE", "Q?", "selector=nothing"], "nothing"),
        (["IMAGE", "What", "color?"], "color?"),
        (["IMAGE"], "an image and a question"),
        (["IMAGE", "Q?", "selector=no_crop,semclip", "selector.top_k=2"], "selector=no_crop"),
        (["IMAGE", "Q?", "selector=hindsight", "--box", "1,2,3,4"], "the right one"),
        (["mini://vstar", "Q?"], "mini://vstar/direct_attributes/sa_"),
        (["mini://nothing/a.jpg", "Q?"], "mini://nothing"),
        (["IMAGE", "Q?", "--box", "1,2"], "--box 1,2"),
        (["IMAGE", "Q?", "--protocol", "letter"], "letter"),
    ],
)
def test_a_wrong_command_names_what_is_wrong(arguments: list[str], said: str, image: Path, capsys: Any) -> None:
    given = [str(image) if argument == "IMAGE" else argument for argument in arguments]
    assert cli.main(["ask", *given, "profile=mini"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_half_blocks_hold_two_pixels_a_character() -> None:
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    image.paste((0, 0, 255), (0, 2, 4, 4))
    segments = [segment for segment in half_blocks(image, 4).segments if segment.text != "\n"]
    assert len(segments) == 4 * 2
    styles = [(segment.style.color.triplet[0], segment.style.bgcolor.triplet[2]) for segment in segments]
    assert styles[0] == (255, 0)
    assert styles[-1] == (0, 255)


def test_an_image_of_the_miniature_is_named_by_its_place(capsys: Any) -> None:
    command = ["ask", "mini://vstar/direct_attributes/sa_100000.jpg", "Is there a star?", "profile=mini"]
    assert cli.main([*command, "selector=no_crop", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)[0]["views"][0]["box"] == [0, 0, 504, 504]
    assert "profile=mini" in captured.err  # whose answer it is


def test_what_is_timed_is_done_again(image: Path) -> None:
    """ψ keeps crops in memory and on disk, the VLM features: a later call must not look faster for it."""
    query = Query(Image.open(image).convert("RGB"), "What is the color of the star?")
    asker = Asker(["profile=mini"])
    for _ in range(2):
        latencies = asker.answer("semclip", query).latency_ms
        assert latencies["psi_image"] > 0
        assert latencies["select"] >= latencies["psi_image"] + latencies["psi_text"]
        assert latencies["e2e"] >= latencies["select"] + latencies["vision"] + latencies["prefill"]
    assert asker.answer("no_crop", query).latency_ms["vision"] > 0


def test_two_images_are_never_taken_for_each_other() -> None:
    """They differ only where the sample that tells images apart does not look."""
    first = Image.new("RGB", (504, 504), (120, 120, 120))
    second = first.copy()
    second.paste((200, 20, 20), (2, 2, 14, 14))
    assert first.resize((16, 16), Image.Resampling.NEAREST) == second.resize((16, 16), Image.Resampling.NEAREST)
    vlm, psi = api.load_vlm(profile="mini"), api.load_psi(profile="mini", store_mib=0)

    def scores(image: Image.Image, own_psi: Any) -> list[float | None]:
        reply = api.ask(image, "Is there a square?", vlm=vlm, psi=own_psi, profile="mini")
        assert reply.latency_ms is None  # not asked for
        return [score for _, score in reply.candidates]

    scores(first, psi)
    assert scores(second, psi) == scores(second, api.load_psi(profile="mini", store_mib=0))


def test_the_heat_map_shows_the_best_box_of_every_place() -> None:
    candidates = [(Box(0, 0, 6, 6), 0.2), (Box(3, 2, 9, 8), 0.7), (Box(4, 4, 5, 5), -0.1), (Box(8, 0, 10, 1), 0.4)]
    cells = heat_cells(candidates)
    for x in range(10):
        for y in range(8):
            covering = [score for box, score in candidates if box.left <= x < box.right and box.top <= y < box.bottom]
            (drawn,) = [score for box, score in cells if box.left <= x < box.right and box.top <= y < box.bottom]
            assert drawn == (max(covering) if covering else None), (x, y)
    crowd = [(Box(number, number, 400 + number, 400 + number), 0.1) for number in range(200)]
    assert MOST_CELLS < 200 * 200
    assert heat_cells(crowd) == []
