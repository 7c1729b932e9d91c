"""The command `ask --serve`: arguments, models loaded once, the page until Ctrl-C."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import socket
import tempfile
from pathlib import Path

from semclip_eval.ask.asking import Asker, named_selectors
from semclip_eval.console import notice, out, warn
from semclip_eval.errors import ConfigError, Terminated
from semclip_eval.listing import describe_group
from semclip_eval.paths import config_folder
from semclip_eval.serve.desk import Desk
from semclip_eval.serve.server import LOOPBACK, address_of, open_socket, serve

INSTALL = "pip install 'semclip-eval[serve]'"
PORT = 7860
# Scores answers against the right one, which nobody types.
NOT_OFFERED = ("hindsight",)


def run_serve(arguments: list[str]) -> int:
    """Serve until Ctrl-C, which is how it ends: exit code 0. ConfigError for a wrong command or a taken port."""
    chosen = _parsed(arguments)
    names, overrides = named_selectors(chosen.overrides)
    for package in ("gradio", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"ask --serve: the package {package} is not installed: {INSTALL}")
    asker = Asker(overrides)
    for name in names:
        asker.config(name)
    with (
        open_socket(chosen.host, chosen.port) as listener,
        tempfile.TemporaryDirectory(prefix="semclip-eval-") as folder,
    ):
        notice(asker.announcement(names[0]))
        for name in names:
            asker.load(name)
        # Uploads and examples are kept here, and go with the server.
        os.environ["GRADIO_TEMP_DIR"] = folder
        return _serve(asker, names, listener, chosen.host, Path(folder))


def _serve(asker: Asker, names: list[str], listener: socket.socket, host: str, folder: Path) -> int:
    from semclip_eval.serve.app import build_page, silence, web_app
    from semclip_eval.serve.scenes import example_forms

    silence()
    offered = [name for name in describe_group("selector", [config_folder()]) if name not in NOT_OFFERED]
    headings = [asker.described(names[0]), asker.announcement(names[0])]
    examples = example_forms(folder) if asker.profile == "mini" else []
    desk = Desk(asker)
    app = web_app(
        build_page(desk, offered, names, headings, examples), LOOPBACK if host in LOOPBACK else ("*",), folder
    )
    if host not in LOOPBACK:
        warn(f"--host {host}: whoever reaches this port may ask, and upload images; there is no password.")
    out.print(f"{address_of(listener)}   (Ctrl-C ends it)", highlight=False)
    try:
        serve(app, listener)
    except Terminated:
        raise
    except KeyboardInterrupt:
        pass
    finally:
        _close(desk, folder)
    return 0


def _close(desk: Desk, folder: Path) -> None:
    if desk.is_busy:
        notice("The answer in the making is finished first; Ctrl-C again ends at once.")
    try:
        desk.close()
    except KeyboardInterrupt:  # a thread in the middle of a forward pass is stopped by nothing else
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(130)


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="semclip-eval ask --serve",
        description="A page on this machine: drop an image, type a question, compare selectors.",
        epilog="Example: semclip-eval ask --serve selector=no_crop,semclip,focus profile=mini --port 0",
    )
    parser.add_argument(
        "overrides", nargs="*", help="selector=a,b,c (ticked at first) and other overrides, as for a run"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0 for any free one, which is printed")
    parser.add_argument(
        "--host", default=LOOPBACK[0], help=f"address to listen on (default {LOOPBACK[0]}: this machine)"
    )
    chosen = parser.parse_intermixed_args(arguments)
    for text in chosen.overrides:
        if "=" not in text:
            raise ConfigError(f"{text}: ask --serve takes overrides only; image and question are given on the page.")
    return chosen
