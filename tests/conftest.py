"""What every test may count on: a folder of the session's own for the miniature's data, and interrupts that arrive."""

import os
import signal

import pytest
from hypothesis import settings

# Several workers share the cores: a thread each, set before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is, not whether the program is right.
settings.register_profile("any_machine", deadline=None)
settings.load_profile("any_machine")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
    """The user's cache is left alone."""
    before = os.environ.get("SEMCLIP_EVAL_CACHE")
    # Workers of one session share it: the miniature is drawn once.
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    os.environ["SEMCLIP_EVAL_CACHE"] = str(folder)
    yield
    if before is None:
        del os.environ["SEMCLIP_EVAL_CACHE"]
    else:
        os.environ["SEMCLIP_EVAL_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def _interrupts_arrive():
    """A shell starts its background jobs with interrupts ignored, and every process of theirs inherits that."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
