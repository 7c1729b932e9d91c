"""ask --serve as people meet it: Gradio's page of the miniature, asked over HTTP and in a real browser."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from semclip_eval import cli
from semclip_eval.benchmarks.vstar import VStar
from tests.browser import Browser, started

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the extra `serve` is not installed"),
]
NUMBERS = ".match(/[0-9]+/g).slice(0, 3).map(Number)"
GROUND = f"getComputedStyle(document.body).backgroundColor{NUMBERS}"
INK = f"getComputedStyle(document.querySelector('#answers .answer')).color{NUMBERS}"
BUTTON = "document.querySelector('#ask')"
ANSWERS = "[...document.querySelectorAll('#answers .answer')].map((one) => one.textContent)"
DONE = "document.querySelectorAll('#answers section').length === {} && !document.querySelector('#answers .waiting')"
PROBLEM = "document.querySelector('#answers > * .problem')?.textContent ?? ''"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in a process of its own; Ctrl-C ends it with exit code 0, and its uploads go with it."""
    folder = tmp_path_factory.mktemp("uploads")
    command = [sys.executable, "-m", "semclip_eval", "ask", "--serve", "profile=mini", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+", line)
        assert list(folder.glob("semclip-eval-*"))
        yield url
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert not list(folder.glob("semclip-eval-*"))
    finally:
        process.kill()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    VStar(path="mini://vstar").questions()[7].load_image().save(path)
    return path


@pytest.fixture
def browser() -> Iterator[Browser]:
    """One for each test: Chromium does not leave this page any more after its colours have changed under it."""
    with started() as opened:
        yield opened


def asked(address: str, image: Path, question: str, selectors: list[str], **fields: str) -> str:
    """What Gradio's own client gets."""
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, analytics_enabled=False)
    given = {"options": "", "protocol": "automatic", "boxes": "", **fields}
    fixed = (handle_file(image), question, given["options"], given["protocol"], given["boxes"], selectors)
    return str(client.predict(*fixed, api_name="/ask"))


def test_the_page_answers_as_the_command_does(address: str, scene: Path, capsys: Any) -> None:
    question, options = "What is the color of the circle?", ["red", "black", "green"]
    html = asked(address, scene, question, ["no_crop", "semclip"], options="\n".join(options))
    command = ["ask", str(scene), question, "profile=mini", "selector=no_crop,semclip", "--json"]
    assert cli.main([*command, *(word for option in options for word in ("--option", option))]) == 0
    results = json.loads(capsys.readouterr().out)
    assert re.findall(r"<p class='answer'>(.*?)</p>", html) == [result["answer"] for result in results]
    for result in results:
        for loss in result["option_losses"]:
            assert f"{loss:.3f}</" in html
        for view in result["views"][1:]:
            assert f"{','.join(map(str, view['box']))}, ψ {view['psi']:.3f}" in html


def test_what_is_wrong_is_one_line_and_the_server_goes_on(address: str, scene: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(scene.read_bytes()[:2000])
    html = asked(address, broken, "Q?", ["no_crop"])
    assert html.count("role='alert'") == 1
    assert "cannot be read as an image" in html
    assert "role='alert'" in asked(address, scene, " ", ["no_crop"])
    html = asked(address, scene, "Is there a star?", ["self_box", "oracle", "no_crop"])
    assert html.count("role='alert'") == 2  # self_box needs boxes of the model, oracle the answer's
    assert html.count("class='answer'") == 1


def test_two_users_at_once_are_both_answered(address: str, scene: Path) -> None:
    answers: list[str] = []
    users = [
        threading.Thread(target=lambda: answers.append(asked(address, scene, "Is there a star?", ["semclip"])))
        for _ in range(2)
    ]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert [html.count("class='answer'") for html in answers] == [1, 1]


def test_it_is_there_for_this_machine_alone(address: str) -> None:
    with urllib.request.urlopen(address) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    foreign = urllib.request.Request(address, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(foreign)
    with urllib.request.urlopen(f"{address}/config") as answer:
        assert json.load(answer)["analytics_enabled"] is False


def fill(browser: Browser, field: str, text: str) -> None:
    browser.run(
        f"(() => {{ const one = document.querySelector('#{field} :is(textarea, input)');"
        f" one.value = {json.dumps(text)}; one.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
    )


def tick(browser: Browser, name: str) -> None:
    browser.run(
        "[...document.querySelectorAll('#selectors label')]"
        f".find((one) => one.textContent.trim() === {json.dumps(name)}).querySelector('input').click()"
    )


@pytest.mark.parametrize("width", [1280, 390])
def test_an_image_is_dropped_and_asked(browser: Browser, address: str, scene: Path, width: int) -> None:
    browser.resize(width, 900)
    browser.visit(address)
    browser.wait(f"{BUTTON} !== null", "the page")
    browser.run(f"{BUTTON}.click()")
    browser.wait(f"({PROBLEM}).includes('no image')", "the line that says so")
    browser.drop(scene, "#image button")
    browser.wait("document.querySelector('#image img') !== null", "the dropped image")
    fill(browser, "question", "What is the color of the circle?")
    tick(browser, "self_box")
    browser.run(f"{BUTTON}.click()")
    browser.wait(DONE.format(3), "the answers", 120)
    answers = browser.run(ANSWERS)
    assert len(answers) == 2
    assert all(answers)
    assert browser.run("document.querySelector('#answers section .problem').textContent").startswith(
        "selector=self_box"
    )
    figures = "[...document.querySelectorAll('#answers section:nth-of-type(2) figure')].map((one) => one.innerText)"
    overview, heat, crop = browser.run(figures)
    assert "crop" in overview
    assert "ψ of 16 candidates" in heat
    assert "ψ" in crop
    assert browser.run("document.querySelectorAll('#answers .cell').length") == 16
    # All pictures have their pixels.
    assert browser.run("[...document.querySelectorAll('#answers img')].every((one) => one.naturalWidth > 0)")
    assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    # The answers are in sight, on a phone too.
    browser.wait("document.querySelector('#answers section').getBoundingClientRect().top < 900", "answers in sight")
    for scheme in ("dark", "light"):
        browser.colours(scheme)
        is_right = "Math.max(...ground) < 60 && Math.min(...ink) > 180"
        if scheme == "light":
            is_right = "Math.min(...ground) > 200 && Math.max(...ink) < 80"
        # Colours fade into each other.
        browser.wait(f"(([ground, ink]) => {is_right})([{GROUND}, {INK}])", f"the {scheme} page")
    assert [request for request in browser.requests if not request.startswith(address)] == []
    assert browser.complaints == []


def test_a_scene_of_the_miniature_fills_the_form(browser: Browser, address: str) -> None:
    browser.resize(1280, 900)
    browser.visit(address)
    browser.wait("document.querySelector('tr.tr-body') !== null", "the scenes")
    browser.run("document.querySelector('tr.tr-body').click()")
    browser.wait("document.querySelector('#options textarea').value.split('\\n').length === 4", "the options")
    for name in ("semclip", "oracle"):
        tick(browser, name)
    browser.run(f"{BUTTON}.click()")
    browser.wait(DONE.format(2), "the answers", 120)
    assert len(browser.run(ANSWERS)) == 2  # no_crop, and oracle with the scene's boxes
