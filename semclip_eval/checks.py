"""Checks of config values that many components make, and the first line of another library's error."""

from __future__ import annotations

from collections.abc import Iterable

from semclip_eval.errors import ConfigError


def whole_number(key: str, value: object, least: int, most: int | None = None, or_null: str = "") -> None:
    """ConfigError naming `key=value` where the value is not a whole number of at least `least`, at most `most`.

    or_null: what null means (`no bound`), where it is allowed.
    """
    if or_null and value is None:
        return
    also = f", or null ({or_null})" if or_null else ""
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{key}={value}: must be a whole number {limits}{also}.")
    if most is not None and not least <= value <= most:
        raise ConfigError(f"{key}={value}: must be a whole number {limits}{also}.")
    if value < least:
        raise ConfigError(f"{key}={value}: must be at least {least}{also}.")


def require_member(key: str, value: object, allowed: Iterable[str], also: str = "") -> None:
    """ConfigError naming `key=value` where the value is none of those allowed."""
    names = tuple(allowed)
    if value not in names:
        raise ConfigError(f"{key}={value}: must be one of {', '.join(names)}{also and ' ' + also}")


def first_line(error: Exception) -> str:
    """The first line of an error's message, cut at 200 characters; its type where it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(":. ")
