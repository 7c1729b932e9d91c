"""A Hub cache that many read and nobody may write: found with the Hub and without it, and left as it is."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "a" * 40
PROGRAM = f"""
from semclip_eval.places import hub_folder
for revision in ("{COMMIT}", None):
    folder, commit = hub_folder("owner/name", revision, ["data/*.parquet"])
    assert (folder / "data" / "test.parquet").read_bytes() == b"hello"
    assert commit == "{COMMIT}"
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's interface as a client asks that has everything already."""

    def do_GET(self) -> None:
        self._reply()

    def do_HEAD(self) -> None:
        self._reply()

    def log_message(self, *arguments: object) -> None:
        """Nothing on the terminal."""

    def _reply(self) -> None:
        name = "data/test.parquet"
        if "/tree/" in self.path:
            content: object = [{"type": "file", "oid": "b1", "size": 5, "path": name}]
        else:
            content = {"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": name}]}
        body = json.dumps(content).encode()
        self.send_response(200)
        for key, value in (("ETag", '"b1"'), ("X-Repo-Commit", COMMIT), ("Content-Length", str(len(body)))):
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def endpoint() -> Iterator[str]:
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()


@pytest.fixture
def cache() -> Iterator[Path]:
    """The Hub client's layout, without the right to write for anybody, where another user can read it."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        repository = Path(place) / "hub" / "datasets--owner--name"
        (folder := repository / "snapshots" / COMMIT / "data").mkdir(parents=True)
        for name, content in (("refs/main", COMMIT), ("blobs/b1", "hello")):
            (repository / name).parent.mkdir()
            (repository / name).write_text(content)
        (folder / "test.parquet").symlink_to("../../../blobs/b1")
        folders = [path for path in Path(place).rglob("*") if path.is_dir()]
        for path in folders:
            path.chmod(0o555)
        yield Path(place) / "hub"
        for path in folders:
            path.chmod(0o755)


def as_nobody() -> list[str]:
    """The superuser may write anywhere: then the command of another user."""
    if os.geteuid() != 0:
        return []
    change = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    trial = [*change, sys.executable, "-c", "import semclip_eval"]
    environment = {"PYTHONPATH": str(ROOT)}
    if shutil.which("setpriv") is None or subprocess.run(trial, cwd="/", env=environment, check=False).returncode:
        pytest.skip("no other user can run this checkout")
    return change


@pytest.mark.parametrize("offline", ["1", "0"])
def test_many_read_a_cache_that_nobody_may_write(cache: Path, endpoint: str, offline: str) -> None:
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in cache.rglob("*"))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_HUB_CACHE": str(cache), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": offline, "HOME": "/nonexistent",
        "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    command = [*as_nobody(), sys.executable, "-c", PROGRAM]
    readers = [subprocess.Popen(command, env=environment, cwd="/", stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for reader in readers:
        _, error = reader.communicate(timeout=120)
        assert reader.returncode == 0, error
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in cache.rglob("*")) == before
