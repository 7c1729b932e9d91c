"""ask --serve without Gradio: what the form says, the answers as cards, one question at a time, and wrong commands."""

from __future__ import annotations

import importlib.util
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from semclip_eval import cli
from semclip_eval.api import Reply
from semclip_eval.ask.asking import Asked, Query
from semclip_eval.errors import ConfigError
from semclip_eval.serve.desk import Desk, Form
from semclip_eval.serve.server import address_of, open_socket
from semclip_eval.types import Box, View

HOSTILE = "<script>alert(1)</script>' onload='x"


class FakeAsker:
    """Answers with the question's text; `broken` raises, `refused` says why it cannot."""

    def __init__(self) -> None:
        self.at_once, self.most_at_once, self.queries = 0, 0, list[Query]()

    def answer(self, selector: str, query: Query) -> Asked:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.02)
        self.at_once -= 1
        self.queries.append(query)
        if selector == "broken":
            raise ZeroDivisionError(HOSTILE)
        if selector == "refused":
            raise ConfigError("selector=refused: needs what the model has not")
        whole, crop = Box(0, 0, *query.image.size), Box(0, 0, 20, 10)
        views = (View("overview", whole), View("crop", crop, 0.25))
        reply = Reply(
            query.question, "ok", "", None, None, views, tuple(view.pixels(query.image) for view in views),
            ((crop, 0.25), (Box(20, 0, 40, 10), -0.5)), 7, 3, 2,
            {"load": 1.0, "select": 30.0, "prefill": 10.0, "e2e": 41.0},
        )  # fmt: skip
        return Asked(selector, reply)


@pytest.fixture
def asker() -> FakeAsker:
    return FakeAsker()


@pytest.fixture
def desk(asker: FakeAsker) -> Iterator[Desk]:
    opened = Desk(asker)  # type: ignore[arg-type]
    yield opened
    opened.close()


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "image.png"
    Image.new("RGB", (40, 20), (90, 10, 10)).save(path)
    return str(path)


def last(desk: Desk, form: Form) -> str:
    *_, html = desk.answers(form)
    return html


def test_every_selector_gets_a_card_as_it_answers(desk: Desk, image: str) -> None:
    shown = list(desk.answers(Form(image, " What? ", selectors=["first", "second"])))
    assert [html.count("<section class='waiting'>") for html in shown] == [2, 1, 0]
    assert [html.count("<p class='answer'>What?</p>") for html in shown] == [0, 1, 2]
    card = shown[-1].split("<section>")[1]
    for words in (
        "first",
        "<b>7</b> visual tokens",
        "<b>2</b> extra VLM forwards",
        "<b>41</b> ms",
        "crop: 0,0,20,10, ψ",
    ):
        assert words in card
    assert "select 30.0" in card
    assert "prefill 10.0" in card
    assert "load" not in card  # the image was given
    assert "width:75.00%" in card  # of the stages' 40 ms
    assert card.count("<figure>") == 3  # boxes, ψ, the crop
    assert card.count("class='crop'") == 1
    assert "dark -0.500 to bright 0.250" in card
    assert "the overview; outlined: its crop" in card
    # One copy of the image, whoever draws on it.
    assert shown[-1].count("<image ") == 1
    assert shown[-1].count("<use href='#asked-picture'/>") == 4


def test_fields_become_what_ask_is_given(desk: Desk, asker: FakeAsker, image: str) -> None:
    form = Form(image, "Q", " red \n\nblue\n", "letter", "1,2,3,4  5,6,7,8", ["first"])
    last(desk, form)
    (query,) = asker.queries
    assert (query.options, query.protocol) == (("red", "blue"), "letter")
    assert query.boxes == (Box(1, 2, 4, 6), Box(5, 6, 12, 14))
    assert query.image.size == (40, 20)
    last(desk, Form(image, "Q", selectors=["first"]))
    assert (asker.queries[1].options, asker.queries[1].protocol) == ((), None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": None}, "no image"),
        ({"image": "/no/such.png"}, "/no/such.png"),
        ({"image": __file__}, "cannot be read as an image"),
        ({"question": "  "}, "no question"),
        ({"selectors": []}, "choose at least one"),
        ({"options": "only one"}, "at least two options"),
        ({"protocol": "letter"}, "at least two options"),
        ({"protocol": "nothing"}, "nothing"),
        ({"boxes": "1,2"}, "1,2"),
    ],
)
def test_what_cannot_be_asked_is_one_line(desk: Desk, image: str, changes: dict[str, Any], said: str) -> None:
    fields: dict[str, Any] = {"image": image, "question": "Q", "selectors": ["first"], **changes}
    (html,) = desk.answers(Form(**fields))
    assert html.count("role='alert'") == 1
    assert said in html
    assert "\n" not in html
    assert "class='answer'" in last(desk, Form(image, "Q", selectors=["first"]))  # and the next one is answered


def test_a_selector_that_fails_is_a_line_in_its_card(desk: Desk, image: str, capsys: Any) -> None:
    html = last(desk, Form(image, HOSTILE, selectors=["refused", "broken", "first"]))
    assert html.count("role='alert'") == 2
    assert "needs what the model has not" in html
    assert "ZeroDivisionError" in html
    assert html.count("class='answer'") == 1
    assert "<script" not in html
    assert "' onload" not in html
    assert "ZeroDivisionError" in capsys.readouterr().err  # where, for whoever reports it


def test_a_second_user_waits(desk: Desk, asker: FakeAsker, image: str) -> None:
    users = [
        threading.Thread(target=last, args=(desk, Form(image, f"Q{number}", selectors=["first", "second"])))
        for number in range(3)
    ]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert asker.most_at_once == 1
    assert len(asker.queries) == 6


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    assert cli.main(["ask", "--serve", "profile=mini"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'semclip-eval[serve]'" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["street.jpg"], "street.jpg"),
        (["selector=nothing"], "nothing"),
        (["--port", "70000"], "--port 70000"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
    ],
)
def test_a_wrong_command_names_what_is_wrong(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: True)
    assert cli.main(["ask", "--serve", "profile=mini", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_taken_port_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: True)
    with open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address_of(taken) == f"http://127.0.0.1:{port}"
        assert cli.main(["ask", "--serve", "profile=mini", "--port", str(port)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--port {port}" in line
    with socket.create_server(("127.0.0.1", port)):  # given back
        pass


def test_ask_alone_needs_no_gradio(image: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name in ("gradio", "fastapi", "uvicorn"):
        monkeypatch.setitem(sys.modules, name, None)  # an import raises
    assert cli.main(["ask", image, "Is there a star?", "profile=mini", "selector=no_crop"]) == 0
    assert "no_crop" in capsys.readouterr().out
