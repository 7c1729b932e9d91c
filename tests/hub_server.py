"""A Hub in miniature: the endpoints of repositories and commits as huggingface_hub calls them, files kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_a_token_of_the_test"
OWNER = "me"


class Hub:
    """What the server knows. repositories: by OWNER/NAME `private` and `files` (content by path); asked: every request;
    unknown: those that it has no answer for; refuses: an HTTP status by a part of a path.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.unknown: list[tuple[str, str]] = []
        self.refuses: dict[str, int] = {}
        self.url = ""

    def add(self, name: str, files: dict[str, bytes], private: bool = True) -> None:
        self.repositories[name] = {"private": private, "files": {".gitattributes": b"", **files}}

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = self.repositories[name]["files"]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def answer(self, status: int, document: Any = None, **headers: str) -> None:
            body = b"" if document is None else json.dumps(document).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def any_method(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path))
            is_upload = path.startswith("/objects/")
            if path == "/":
                return self.answer(200)
            refusal = next((status for part, status in hub.refuses.items() if part in path), None)
            if refusal is None and not is_upload and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                refusal = 401
            if refusal is not None:
                return self.answer(refusal, {"error": "not for you"}, X_Error_Message="not for you")
            if is_upload:
                assert hashlib.sha256(content).hexdigest() == path.rpartition("/")[2]
                hub.objects[path.rpartition("/")[2]] = content
                return self.answer(200)
            return self.answer_for(path, content)

        def answer_for(self, path: str, content: bytes) -> None:
            parts = path.strip("/").split("/")
            if path == "/api/whoami-v2":
                return self.answer(200, {"type": "user", "name": OWNER, "orgs": []})
            if path == "/api/validate-yaml":
                return self.answer(200, {"errors": [], "warnings": []})
            if path == "/api/repos/create":
                wanted = json.loads(content)
                assert wanted["type"] == "dataset"
                name = f"{wanted.get('organization') or OWNER}/{wanted['name']}"
                private = wanted.get("visibility") == "private" or wanted.get("private") is True
                hub.add(name, {}, private)
                return self.answer(200, {"url": f"{hub.url}/datasets/{name}"})
            if parts[:2] == ["api", "datasets"]:
                name, rest = "/".join(parts[2:4]), parts[4:]
                if name not in hub.repositories:
                    return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
                known = hub.repositories[name]
                if rest in ([], ["revision", "main"]):
                    siblings = [{"rfilename": each} for each in known["files"]]
                    return self.answer(
                        200, {"id": name, "sha": "0" * 40, "private": known["private"], "siblings": siblings}
                    )
                if rest == ["preupload", "main"]:
                    files = json.loads(content)["files"]
                    modes = {True: "lfs", False: "regular"}
                    told = [
                        {
                            "path": each["path"],
                            "uploadMode": modes[each["path"].endswith(".parquet")],
                            "shouldIgnore": False,
                        }
                        for each in files
                    ]
                    return self.answer(200, {"files": told})
                if rest == ["commit", "main"]:
                    hub.commit(name, [json.loads(line) for line in content.splitlines()])
                    url = f"{hub.url}/datasets/{name}/commit/{'1' * 40}"
                    return self.answer(
                        200, {"commitUrl": url, "commitOid": "1" * 40, "hookOutput": "", "success": True}
                    )
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = json.loads(content)["objects"]
                return self.answer(200, {"transfer": "basic", "objects": [
                    {"oid": each["oid"], "size": each["size"],
                     "actions": {"upload": {"href": f"{hub.url}/objects/{each['oid']}"}}}
                    for each in objects
                ]})  # fmt: skip
            hub.unknown.append((self.command, path))
            return self.answer(404, {"error": "no such endpoint"})

        do_GET = do_HEAD = do_POST = do_PUT = any_method  # noqa: N815 (the base class's names)

    return Handler


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
