"""The report's question viewer and what came with it: its data against the records, and its page in a real browser."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import random
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from semclip_eval.cli import main
from semclip_eval.models.transformers.layout import grid, padded_square
from semclip_eval.report.calibration import GROUPS, margin, separation
from semclip_eval.report.pictures import THUMBNAIL_SIDES, thumbnail
from semclip_eval.report.plots import pareto_front
from semclip_eval.report.verb import report
from semclip_eval.report.viewer import SQUARE_GRID, as_json
from semclip_eval.results.summary import read_rows
from semclip_eval.run import execute
from tests.browser import Browser, started
from tests.fakes import ORACLE, SEMCLIP, DrawnBenchmark, config

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)"> & {{ 7 * 7 }} \u2028 <b>bold</b>'
COUNT = 60


class Hostile(DrawnBenchmark):
    """Question 3 is markup, and so are its id, category and an option."""

    def _question(self, index: int) -> Any:
        question = super()._question(index)
        if index != 3:
            return question
        changes = {"id": "<i>3</i>&q=1", "text": HOSTILE, "category": HOSTILE, "options": ("a", HOSTILE, "c", "d")}
        return type(question)(**{**question.__dict__, **changes})


HOSTILE_BENCHMARK = {"_target_": "tests.test_report_viewer.Hostile", "name": "drawn", "count": COUNT}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three selectors on hostile data, timed too; semclip's records have a trace, and kept tokens of a 3 x 3 grid."""
    folder = tmp_path_factory.mktemp("viewer")
    for selector in (config(folder)["selector"], SEMCLIP, ORACLE):
        execute(config(folder, selector=selector, benchmark=HOSTILE_BENCHMARK))
        execute(config(folder, selector=selector, benchmark=HOSTILE_BENCHMARK, run__mode="latency", run__limit=4))
    (path,) = [path for path in folder.glob("*/*/*/semclip/*/samples.jsonl") if len(lines_of(path)) == COUNT]
    lines = lines_of(path)
    steps = [
        {"kind": "zoom", "box": [0, 0, 30, 20], "score": 0.25},
        {"kind": "zoom", "box": [0, 0, 15, 10], "score": None},
    ]
    lines[0] |= {"trace": steps, "cost": {"forwards": 5}}
    lines[1] |= {"kept": [[0, 4], [8]], "encoded_tokens": 18, "visual_tokens": 3}
    lines[2] |= {"status": "unparsed", "score": 0.0, "reason": "two letters", "answer": HOSTILE}
    # A family that shows a view twice: 2 x 2 tokens of the whole, and behind one without a place a row of three.
    grids = [[[0, 2, 2, 2, 0, 0, 60, 40], [5, 1, 3, 3, 0, 0, 60, 40]], [[0, 1, 2, 2, 0, 0, 30, 20]]]
    views = [view | {"token_grids": own} for view, own in zip(lines[5]["views"], grids, strict=True)]
    lines[5] |= {"views": views, "kept": [[0, 6], [1]], "encoded_tokens": 10, "visual_tokens": 3}
    lines[4] |= {"status": "error", "score": None, "error": {"type": "OSError", "message": HOSTILE}}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in folder.glob("*/*/*/*/*/config.yaml"):
        content = yaml.safe_load(name.read_text())
        content["model"] |= {"_target_": SQUARE_GRID, "conversation": "vicuna_v1"}
        name.write_text(yaml.safe_dump(content))
    return folder


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture(scope="module")
def files(results: Path) -> dict[str, bytes]:
    return report(results, 4)[0]


@pytest.fixture(scope="module")
def data(files: dict[str, bytes]) -> dict[str, Any]:
    return data_of(files)


def data_of(files: dict[str, bytes]) -> dict[str, Any]:
    html = files["report.html"].decode()
    (text,) = re.findall(r'<script type="application/json" id="question-data">(.*?)</script>', html, flags=re.S)
    decoded: dict[str, Any] = json.loads(text)
    return decoded


def records(files: dict[str, bytes], ending: str) -> list[dict[str, str]]:
    (name,) = [name for name in files if name.endswith(ending)]
    return list(csv.DictReader(io.StringIO(files[name].decode())))


# ---------------------------------------------------------------------- the data


def test_every_question_is_there_with_every_answer(results: Path, data: dict[str, Any]) -> None:
    (section,) = data["sections"]
    assert [run["name"] for run in section["runs"]] == ["no_crop", "semclip", "oracle"]
    for index, run in enumerate(section["runs"]):
        (path,) = results.glob(f"*/*/*/*/{run['id']}/samples.jsonl")
        for line, question in zip(lines_of(path), section["questions"], strict=True):
            answer = question["answers"][index]
            assert question["id"] == line["question_id"]
            assert question["truth"] == line["truth"]
            assert question["targets"] == line["target_boxes"]
            assert answer.get("status", "ok") == line["status"]
            assert answer.get("score") == line["score"]
            assert [view["box"] for view in answer["views"]] == [view["box"] for view in line["views"]]
            assert answer["losses"] == pytest.approx(line["option_losses"], rel=1e-3)
            if run["name"] == "semclip":
                number, scores = answer["candidates"]
                flat = [value for candidate in line["candidates"] for value in candidate["box"]]
                assert data["boxes"][number] == flat
                assert scores == pytest.approx([candidate["psi"] for candidate in line["candidates"]], rel=1e-3)
    semclip = [question["answers"][1] for question in section["questions"]]
    assert semclip[0]["trace"] == [["zoom", data["boxes"].index([0, 0, 30, 20, 0, 0, 15, 10]), [0.25, None]]]
    assert semclip[0]["forwards"] == 5
    # Bits of a 3 x 3 grid, four to a digit: cells 0 and 4, and cell 8.
    assert semclip[1]["kept"] == ["880", "008"]
    assert section["chat"]["after"] == " ASSISTANT:"
    assert section["prompts"] is True


def test_pictures_are_small_shared_and_capped_openly(results: Path, data: dict[str, Any]) -> None:
    images = [Image.open(io.BytesIO(base64.b64decode(text))) for text in data["pictures"]]
    assert len(images) == COUNT
    assert {image.size for image in images} == {(60, 40)}
    capped = report(results, 0, 5)[0]
    html = capped["report.html"].decode()
    assert "pictures are capped at 5 images" in html
    assert "pictures are capped" not in report(results, 0, COUNT)[0]["report.html"].decode()
    (section,) = data_of(capped)["sections"]
    assert len(data_of(capped)["pictures"]) == 5
    pictured = [question for question in section["questions"] if "picture" in question]
    assert len(pictured) == 5
    # Those on which the runs differ come first, and there are more than five of them.
    assert all(len({answer.get("score") for answer in question["answers"]}) > 1 for question in pictured)
    assert all("5 images" in question["missing"] for question in section["questions"] if "picture" not in question)
    assert main(["report", str(results), "--pictures", "-1"]) == 2


def test_a_thumbnail_keeps_its_shape_and_its_limit() -> None:
    noise = Image.effect_noise((1600, 900), 90).convert("RGB")
    for limit in (3000, 9000, 24_000):
        encoded = thumbnail(noise, limit)
        image = Image.open(io.BytesIO(base64.b64decode(encoded)))
        assert len(encoded) <= limit or max(image.size) == THUMBNAIL_SIDES[-1]
        assert image.width / image.height == pytest.approx(16 / 9, rel=0.02)
    small = Image.new("L", (30, 20))
    assert Image.open(io.BytesIO(base64.b64decode(thumbnail(small, 9000)))).size == (30, 20)


def test_json_in_a_page_is_the_same_value_and_no_markup() -> None:
    value = {"a": HOSTILE, "b": ["<!--", "]]>", "&lt;", 'quote " and \\', None, 1.5]}
    text = as_json(value)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == value


# ---------------------------------------------------------------------- what the numbers say


def test_the_front_is_what_nothing_beats() -> None:
    draw = random.Random(1)
    for _ in range(200):
        points = [(draw.randint(1, 6), draw.randint(0, 6) / 6) for _ in range(draw.randint(1, 9))]
        beaten = {
            (cost, accuracy)
            for cost, accuracy in points
            for other in points
            if other[0] <= cost and other[1] >= accuracy and other != (cost, accuracy)
        }
        assert pareto_front(points) == sorted(set(points) - beaten)


def test_separation_is_the_part_of_pairs_in_order() -> None:
    draw = random.Random(2)
    for _ in range(50):
        hits = [draw.randint(0, 5) for _ in range(draw.randint(1, 12))]
        misses = [draw.randint(0, 5) for _ in range(draw.randint(1, 12))]
        pairs = [1.0 if hit > miss else 0.5 if hit == miss else 0.0 for hit, miss in itertools.product(hits, misses)]
        assert separation(hits, misses) == pytest.approx(fmean(pairs))
    assert separation([1.0], []) is None


def test_calibration_by_fifths_of_the_margin(results: Path, files: dict[str, bytes]) -> None:
    rows = records(files, ".psi_margin.csv")
    assert {row["selector"] for row in rows} == {"semclip"}
    (path,) = results.glob(f"*/*/*/*/{rows[0]['run_id']}/samples.jsonl")
    lines = [line for line in lines_of(path) if line["status"] != "error"]

    def best_minus_second(line: dict[str, Any]) -> float:
        scores = sorted(candidate["psi"] for candidate in line["candidates"])
        return float(scores[-1] - scores[-2])

    lines.sort(key=best_minus_second)
    parts = np.array_split(np.arange(len(lines)), GROUPS)
    assert sum(int(row["n"]) for row in rows) == len(lines) == COUNT - 1
    start = 0
    for row in rows:
        part = lines[start : start + int(row["n"])]
        start += int(row["n"])
        assert abs(len(part) - len(parts[0])) <= 1
        assert float(row["margin_high"]) == pytest.approx(best_minus_second(part[-1]), rel=1e-4)
        assert float(row["hit_rate"]) == pytest.approx(fmean(line["target_coverage"] >= 0.5 for line in part), rel=1e-5)
        assert float(row["accuracy"]) == pytest.approx(fmean(line["score"] for line in part), rel=1e-5)
    assert margin({"candidates": [{"psi": 1.0}]}) is None
    assert margin({"candidates": None}) is None


def test_accuracy_is_joined_with_the_latency_of_the_same_configuration(results: Path, files: dict[str, bytes]) -> None:
    (name,) = [name for name in files if name.endswith(".accuracy_ms.svg")]
    assert "accuracy-seed0-n60" in name
    html = files["report.html"].decode()
    (alt,) = re.findall(r'alt="(Accuracy against milliseconds[^"]*)"', html)
    rows = [row for path in results.glob("*/*/*/*/*/summary.csv") for row in read_rows(path)]
    for selector in ("no_crop", "semclip", "oracle"):
        (accuracy,) = [row for row in rows if row["selector"] == selector and row["mode"] == "accuracy"]
        (latency,) = [row for row in rows if row["selector"] == selector and row["mode"] == "latency"]
        told = f"{selector} {100 * float(accuracy['accuracy']):.1f} % at {float(latency['e2e_ms_p50']):.1f} ms"
        assert told in alt


def test_latencies_of_two_machines_share_no_axis(results: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(results, tmp_path / "copy"))
    for path in copy.glob("*/*/*/semclip/*/summary.csv"):
        path.write_text(path.read_text().replace(",cpu,", ",cuda:0,"))
    html = report(copy, 0)[0]["report.html"].decode()
    (alt,) = re.findall(r'alt="(Accuracy against milliseconds[^"]*)"', html)
    assert "no_crop" in alt
    assert "oracle" in alt
    assert "semclip" not in alt


def test_several_benchmarks_stand_side_by_side(tmp_path: Path) -> None:
    for name, count in (("first", 12), ("second", 8)):
        for selector in (config(tmp_path)["selector"], SEMCLIP):
            execute(config(tmp_path, selector=selector, benchmark__name=name, benchmark__count=count))
    files = report(tmp_path, 0)[0]
    table = files["tables/overview.md"].decode().splitlines()
    assert [cell.strip() for cell in table[2].strip("|").split("|")] == [
        "selector",
        "first (n 12, chance 25.0)",
        "second (n 8, chance 25.0)",
    ]
    main_rows = {
        (row["benchmark"], row["selector"]): row
        for name in files
        if name.endswith(".main.csv")
        for row in csv.DictReader(io.StringIO(files[name].decode()))
    }
    for row in csv.DictReader(io.StringIO(files["tables/overview.csv"].decode())):
        same = main_rows[row["benchmark"], row["selector"]]
        assert (row["accuracy"], row["difference"]) == (same["accuracy"], same["difference"])
    cells = [cell.strip() for cell in table[5].strip("|").split("|")]
    accuracies = [100 * float(main_rows[name, "semclip"]["accuracy"]) for name in ("first", "second")]
    assert [cell.split(" ")[0] for cell in cells] == ["semclip", *(f"{accuracy:.1f}" for accuracy in accuracies)]


# ---------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def page(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(files["report.html"])
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as opened:
        yield opened


COUNTED = "document.getElementById('viewer-count').textContent"
SHOWN = "[...document.querySelectorAll('#viewer-cards article a')].map((link) => link.textContent)"


def choose(browser: Browser, control: str, value: str, event: str = "change") -> None:
    browser.run(
        f"(() => {{ const one = document.getElementById('viewer-{control}'); one.value = {json.dumps(value)};"
        f" one.dispatchEvent(new Event('{event}')); }})()"
    )


def test_the_page_opens_from_disk_alone(browser: Browser, page: Path) -> None:
    browser.events.clear()
    browser.open(page)
    assert browser.complaints == []
    assert browser.requests == [page.resolve().as_uri()]
    assert browser.run(COUNTED) == f"Questions 1 to 10 of {COUNT}"
    assert browser.run(SHOWN)[:3] == ["q0", "q1", "q2"]


def test_hostile_texts_stay_texts(browser: Browser, page: Path) -> None:
    browser.events.clear()
    browser.open(page)
    assert HOSTILE in browser.run("document.getElementById('viewer-cards').textContent")
    found = "document.querySelectorAll('#viewer-cards :is(img, script, b, i)').length"
    assert browser.run(found) == 0
    # Its own link leads to it, whatever its id holds.
    browser.run("[...document.querySelectorAll('#viewer-cards article a')][3].click()")
    assert browser.run(SHOWN) == ["<i>3</i>&q=1"]
    assert browser.complaints == []


def test_filters_search_and_links(browser: Browser, page: Path, data: dict[str, Any]) -> None:
    (section,) = data["sections"]
    scores = [[answer.get("score") for answer in question["answers"]] for question in section["questions"]]
    run = section["runs"][1]["id"]
    expected = {
        "right": sum(own == 1 for _, own, _ in scores),
        "differs": sum(own is not None and own != before for before, own, _ in scores),
        "better": sum(own is not None and own > before for before, own, _ in scores),
        "worse": sum(own is not None and own < before for before, own, _ in scores),
        "unparsed": 1,
        "error": 1,
    }
    browser.open(page)
    choose(browser, "run", run)
    for outcome, count in expected.items():
        choose(browser, "outcome", outcome)
        found = re.findall(r"(\d+), of", browser.run(COUNTED)) or re.findall(r"None", browser.run(COUNTED))
        assert found == [str(count) if count else "None"], outcome
    choose(browser, "outcome", "error")
    address = browser.run("location.hash")
    assert browser.run(SHOWN) == ["q4"]
    browser.open(page, address)  # the address alone brings the filters back
    assert browser.run(SHOWN) == ["q4"]
    browser.run("document.getElementById('viewer-clear').click()")
    assert browser.run(COUNTED) == f"Questions 1 to 10 of {COUNT}"
    choose(browser, "find", "NUMBER 17?", "input")
    assert browser.run(SHOWN) == ["q17"]
    browser.open(page, "#q=q42")
    assert browser.run(SHOWN) == ["q42"]
    assert browser.run("document.getElementById('questions').getBoundingClientRect().top") < 100
    browser.open(page, "#q=nothing")
    assert "no question nothing" in browser.run(COUNTED)
    browser.open(page)
    choose(browser, "category", "odd")
    browser.run("document.querySelector('#viewer-pages button:last-child').click()")
    odd = sum(question["category"] == "odd" for question in section["questions"])
    assert browser.run(COUNTED) == f"Questions 11 to 20 of {odd}, of {COUNT} in all"


def test_pictures_show_boxes_map_steps_and_kept_tokens(browser: Browser, page: Path) -> None:
    browser.open(page, "#q=q0")
    rectangles = (
        "[...document.querySelectorAll('#viewer-cards .picture {}')]"
        ".map((one) => ['x', 'y', 'width', 'height'].map((name) => +one.getAttribute(name)))"
    )
    assert browser.run(rectangles.format(".line.target")) == [[0, 0, 10, 10]]
    assert browser.run(rectangles.format(".line.step")) == [[0, 0, 30, 20], [0, 0, 15, 10]]
    choose(browser, "draw", "psi")
    assert len(browser.run(rectangles.format(".heat rect"))) == 4  # the quarters of a 2 x 2 grid
    assert "ψ of 4 candidates" in browser.run("document.querySelector('#viewer-cards .drawn').textContent")
    browser.run("document.querySelectorAll('#viewer-cards .pick')[0].click()")  # no_crop has no crop
    assert browser.run(rectangles.format(".line.crop")) == []
    assert browser.run("document.activeElement.textContent") == "no_crop"
    prompt = "document.querySelector('#viewer-cards pre').textContent"
    assert browser.run(prompt).endswith("USER: <image>\nWhat is number 0? ASSISTANT:")
    browser.open(page, "#q=q1")
    assert browser.run(prompt).endswith("USER: <image>\n<image>\nWhat is number 1? ASSISTANT:")
    # Dropped cells of the overview: all of LLaVA's 3 x 3 grid over the padded image but 0 and 4.
    path = browser.run("document.querySelector('#viewer-cards .picture .dropped').getAttribute('d')")
    corners = [[float(number) for number in corner] for corner in re.findall(r"M(\S+) (\S+?)h", path)]
    dropped = [index for index in range(9) if index not in (0, 4)]
    assert np.allclose(corners, grid(3, 3, padded_square(60, 40))[dropped, :2], atol=0.1)
    assert browser.run("document.querySelectorAll('#viewer-cards .views .dropped').length") == 2
    # A family whose record says where its tokens lie: tokens 1, 2, 3 of the whole, and 5 and 7 of the row of three.
    browser.open(page, "#q=q5")
    veil = "[...document.querySelectorAll('#viewer-cards .picture .dropped')]"
    paths = browser.run(f"{veil}.map((one) => one.getAttribute('d'))")
    assert paths == [
        "M30.0 0.0h30.0v20.0h-30.0zM0.0 20.0h30.0v20.0h-30.0zM30.0 20.0h30.0v20.0h-30.0z",
        "M0.0 0.0h20.0v40.0h-20.0zM40.0 0.0h20.0v40.0h-20.0z",
    ]
    words = "document.querySelector('#viewer-cards .drawn').textContent"
    assert "most where those of tile and thumbnail were" in browser.run(words)


def test_tables_sort_by_key_and_by_column(browser: Browser, page: Path) -> None:
    browser.open(page)
    first = "document.querySelector('#comparison-1 table')"
    column = f"[...{first}.tBodies[0].rows].map((row) => row.cells[{{}}].querySelector('bdi').textContent)"
    original = browser.run(column.format(0))
    accuracies = [float(text) for text in browser.run(column.format(1))]
    browser.run(f"{first}.tHead.rows[0].cells[1].querySelector('button').focus()")
    browser.press("Enter", 13, "\r")
    assert [float(text) for text in browser.run(column.format(1))] == sorted(accuracies, reverse=True)
    assert browser.run(f"{first}.tHead.rows[0].cells[1].getAttribute('aria-sort')") == "descending"
    browser.press("Enter", 13, "\r")
    assert [float(text) for text in browser.run(column.format(1))] == sorted(accuracies)
    browser.press("Enter", 13, "\r")
    assert browser.run(column.format(0)) == original
    browser.run(f"{first}.tHead.rows[0].cells[4].querySelector('button').click()")  # hit rate; no_crop has none
    assert browser.run(column.format(4))[-1] == "–"


def test_dark_light_narrow_and_printed(browser: Browser, page: Path) -> None:
    browser.open(page)
    paper = "getComputedStyle(document.body).backgroundColor"
    browser.colours("dark")
    assert browser.run(paper) == "rgb(23, 23, 23)"
    browser.run("document.getElementById('theme').click()")
    assert browser.run(paper) == "rgb(255, 255, 255)"
    browser.open(page)  # the choice is kept
    assert browser.run(paper) == "rgb(255, 255, 255)"
    browser.run("document.getElementById('theme').click()")
    assert browser.run(paper) == "rgb(23, 23, 23)"
    browser.colours("light")
    browser.run("localStorage.clear()")
    for width in (390, 1280):
        browser.resize(width, 900)
        browser.open(page)
        assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), width
    assert browser.printed().startswith(b"%PDF")


def test_the_questions_download_as_csv(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.open(page, "#outcome=unparsed")
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.run("document.getElementById('viewer-csv').click()")
    for _ in range(200):
        if (tmp_path / "questions.csv").exists():
            break
        time.sleep(0.05)
    with (tmp_path / "questions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["question_id"], row["selector"]) for row in rows] == [
        ("q2", "no_crop"),
        ("q2", "semclip"),
        ("q2", "oracle"),
    ]
    assert (rows[1]["status"], rows[1]["answer"]) == ("unparsed", HOSTILE)
