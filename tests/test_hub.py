"""The Hub's reachability, against real sockets on this machine."""

from __future__ import annotations

import http.server
import threading

import pytest
from huggingface_hub import constants

from semclip_eval.hub import offline_if_unreachable, unreachable_because


@pytest.fixture
def server():
    """A server that answers everything with an error page: reachable all the same."""
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()


@pytest.fixture(autouse=True)
def _online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_a_hub_that_answers_is_reachable(server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", server)
    with offline_if_unreachable() as reason:
        assert reason is None
        assert constants.HF_HUB_OFFLINE is False


def test_a_closed_port_puts_the_client_offline_for_the_while(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with offline_if_unreachable() as reason:
        assert "http://127.0.0.1:9 cannot be reached" in reason
        assert constants.HF_HUB_OFFLINE is True
    assert constants.HF_HUB_OFFLINE is False


def test_the_users_own_offline_setting_is_kept_and_said(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert unreachable_because() == "HF_HUB_OFFLINE is set"
    with offline_if_unreachable():
        pass
    assert constants.HF_HUB_OFFLINE is True
