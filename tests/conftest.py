"""The miniature's data go into a folder of the test session's own, not into the user's cache."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
    before = os.environ.get("SEMCLIP_EVAL_CACHE")
    os.environ["SEMCLIP_EVAL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["SEMCLIP_EVAL_CACHE"]
    else:
        os.environ["SEMCLIP_EVAL_CACHE"] = before
