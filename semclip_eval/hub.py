"""The Hugging Face Hub, asked once and briefly before anything is fetched from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_S = 10.0


def unreachable_because(patience_s: float = PATIENCE_S) -> str | None:
    """Why the Hub cannot be asked, in a few words; None where it answers (whatever it answers)."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=patience_s)
    except Exception as error:  # the client's own types differ between its versions, and each means the same here
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        return f"{constants.ENDPOINT} cannot be reached: {reason.rstrip('.')}"
    return None


@contextmanager
def offline_if_unreachable() -> Iterator[str | None]:
    """Within it a Hub client that cannot reach the Hub looks into its cache and fails at once, without its retries.

    Gives why the Hub cannot be asked, or None.
    """
    from huggingface_hub import constants

    reason = unreachable_because()
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or reason is not None
    try:
        yield reason
    finally:
        constants.HF_HUB_OFFLINE = before
