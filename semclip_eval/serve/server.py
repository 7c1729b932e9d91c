"""The port, and the web server on it until Ctrl-C."""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any

from semclip_eval.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def open_socket(host: str, port: int) -> socket.socket:
    """Listens on the port, 0 for any free one; ConfigError where it is taken or there is no such address."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: must be between 0 and 65535 (0: any free one).")
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        if listener is not None:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"--port {port}: already in use on {host}; give another one, or --port 0 for any free one."
        elif error.errno == errno.EACCES:
            message = f"--port {port}: may not be opened by this user; give one above 1023, or --port 0."
        else:
            message = f"--host {host}: cannot be listened on ({error.strerror or error})."
        raise ConfigError(message) from error
    return listener


def address_of(listener: socket.socket) -> str:
    """The URL to open in a browser."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(app: Any, listener: socket.socket) -> None:
    """Answer until Ctrl-C (KeyboardInterrupt) or SIGTERM, which are raised when the server is down."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # The stream of every open page is cut, which would be logged with a traceback each.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    # Open pages hold a stream that never ends by itself.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    Server(config).run(sockets=[listener])
