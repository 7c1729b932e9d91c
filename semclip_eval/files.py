"""Files that somebody else wrote, read so that whatever is in them ends in a clear message.

A FIFO, socket or device is refused rather than waited for; bytes that are no UTF-8, JSON that is none or is nested
without end, and what the operating system refuses are the caller's kind of error, which names the file.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, BinaryIO

from semclip_eval.errors import DataError, SemclipEvalError


def require_regular(path: Path, kind: type[SemclipEvalError] = DataError) -> None:
    """Raise `kind` where there is no such file, or it is something else: reading a FIFO would wait for ever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise kind(f"{shown(path)}: cannot be read ({_words(error)}).") from error
    if not stat.S_ISREG(mode):
        raise kind(f"{shown(path)}: is not a regular file ({_what(mode)}).")


def open_regular(path: Path, kind: type[SemclipEvalError] = DataError) -> BinaryIO:
    """The file, opened for reading bytes."""
    require_regular(path, kind)
    try:
        return path.open("rb")
    except OSError as error:
        raise kind(f"{shown(path)}: cannot be read ({_words(error)}).") from error


def read_text(path: Path, kind: type[SemclipEvalError] = DataError) -> str:
    """The whole file as text; a byte order mark at its start is left out."""
    with open_regular(path, kind) as stream:
        try:
            return stream.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise kind(f"{shown(path)}: is not UTF-8 text (byte {error.start}).") from error
        except OSError as error:
            raise kind(f"{shown(path)}: cannot be read ({_words(error)}).") from error


def parse_json(text: str | bytes, place: str, kind: type[SemclipEvalError] = DataError) -> Any:
    """The JSON value in `text`; `place` names it in the message, with the line of a text that has several."""
    try:
        return json.loads(text)
    except RecursionError:
        raise kind(f"{place}: JSON that is nested too deeply to be read.") from None
    except ValueError as error:  # also bytes that are no UTF-8
        line = getattr(error, "lineno", 1)
        where = f"{place}, line {line}" if line > 1 else place
        raise kind(f"{where}: not JSON ({_words(error)}).") from error


def read_json(path: Path, kind: type[SemclipEvalError] = DataError) -> Any:
    """The JSON value of a whole file."""
    return parse_json(read_text(path, kind), shown(path), kind)


def read_yaml(path: Path, kind: type[SemclipEvalError] = DataError) -> Any:
    """The YAML value of a whole file."""
    import yaml

    try:
        return yaml.safe_load(read_text(path, kind))
    except RecursionError:
        raise kind(f"{shown(path)}: YAML that is nested too deeply to be read.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise kind(f"{shown(path)}: cannot be read as YAML ({_words(error)}).") from error


def shown(path: Path | str) -> str:
    """A path as it can be printed: bytes of a name that are no UTF-8 as escapes."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def _what(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")
