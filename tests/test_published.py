"""Published accuracies: arithmetic on constructed results and on the shipped file, and the page that quotes them."""

from __future__ import annotations

import re
import shlex
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from semclip_eval.compose import compose
from semclip_eval.errors import ConfigError, DataError
from semclip_eval.results.published import Printed, Published, check, markdown, read_published

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "docs" / "published.csv"
PAGE = ROOT / "docs" / "reproducing.md"


def vstar(attribute: str, spatial: str, overall: str) -> Published:
    parts = (Printed("direct_attributes", attribute, 115), Printed("relative_position", spatial, 76))
    return Published("V*", "m", "x", parts, Printed("", overall, 191), "s")


def whole(percent: str, n: int) -> Published:
    return Published("b", "m", "x", (), Printed("", percent, n), "s")


@pytest.mark.parametrize(
    "printed",
    [
        ("72.17", "73.68", "72.77"),  # 83 + 56 = 139
        ("90.4", "96.1", "92.7"),  # 104 + 73 = 177
        ("100", "50.0", "80.10"),  # 115 + 38 = 153
    ],
)
def test_rounded_counts_that_add_up_are_consistent(printed: tuple[str, str, str]) -> None:
    finding = check(vstar(*printed))
    assert (finding.problems, finding.remarks, finding.verdict) == ((), (), "consistent")


def test_parts_that_make_another_whole_are_flagged_with_what_they_make() -> None:
    finding = check(vstar("90.4", "96.1", "91.1"))
    assert finding.problems == ("the parts make 92.67, printed is 91.1",)
    assert finding.recomputed == (Fraction("90.4") * 115 + Fraction("96.1") * 76) / 191


def test_a_number_that_no_count_gives_is_flagged() -> None:
    assert check(whole("88.9", 191)).problems == ("no count of 191 gives 88.9",)  # 169: 88.48, 170: 89.01
    assert check(vstar("83.45", "82.89", "83.25")).problems == ("no count of 115 gives 83.45",)
    assert check(whole("50.1", 8)).problems
    assert check(whole("50.125", 800)).verdict == "consistent"


def test_cut_off_digits_and_means_of_them_are_remarked_not_flagged() -> None:
    # 50 of 115 is 43.478..., 43 of 76 is 56.578..., 93 of 191 is 48.691...
    finding = check(vstar("43.47", "56.57", "48.68"))
    assert finding.problems == ()
    assert len(finding.remarks) == 3
    assert finding.verdict.startswith("consistent (43.47 is cut off")
    # A tie goes up or to even, never down: 59.75 is no 59.7, 59.25 may be 59.2 or 59.3.
    assert check(whole("59.7", 800)).remarks == ("59.7 is cut off, not rounded",)
    assert [check(whole(text, 400)).verdict for text in ("59.2", "59.3")] == ["consistent", "consistent"]


@given(
    st.integers(1, 900).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.integers(0, 3),
    st.sampled_from([ROUND_HALF_UP, ROUND_HALF_EVEN, ROUND_DOWN]),
)
def test_every_count_that_is_rounded_or_cut_passes(count: tuple[int, int], digits: int, how: str) -> None:
    k, n = count
    exact = Decimal(100 * k) / Decimal(n)
    printed = Printed("", str(exact.quantize(Decimal(1).scaleb(-digits), how)), n)
    assert k in printed.counts
    assert printed.rounded or how == ROUND_DOWN


@given(st.integers(1, 300), st.integers(0, 1000))
def test_the_counts_are_those_of_a_plain_search(n: int, tenths: int) -> None:
    printed = Printed("", f"{tenths / 10:.1f}", n)
    naive = [k for k in range(n + 1) if printed.shows(Fraction(100 * k, n))]
    assert list(printed.counts) == naive


@given(st.integers(0, 115), st.integers(0, 76), st.integers(1, 2))
def test_every_measured_triple_is_consistent(first: int, second: int, digits: int) -> None:
    texts = (f"{100 * k / n:.{digits}f}" for k, n in ((first, 115), (second, 76), (first + second, 191)))
    assert not check(vstar(*texts)).problems


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("V*,m,x,a 50.0 of 115; b 50 of 70,50 of 191,s", "parts hold 185"),
        ("V*,m,x,a fifty of 115,50 of 191,s", "fifty"),
        ("V*,m,x,,101 of 191,s", "101"),
        ("V*,m,x,,50 of 0,s", "50 of 0"),
        ("V*,m,x,,50 of 191,", "source"),
        ("V*,m,x,,50 of 191,s,more", "line 2"),
    ],
)
def test_a_line_that_says_something_else_is_named(tmp_path: Path, line: str, named: str) -> None:
    file = tmp_path / "published.csv"
    file.write_text(f"benchmark,model,method,parts,overall,source\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(named)):
        read_published(file)


def test_a_missing_file_and_another_header_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv"):
        read_published(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="header"):
        read_published(tmp_path / "other.csv")


def test_the_page_quotes_the_file_and_what_is_said_of_it() -> None:
    findings = [check(published) for published in read_published(SHIPPED)]
    page = PAGE.read_text(encoding="utf-8")
    assert markdown(findings) in page
    assert (sum(bool(found.problems) for found in findings), len(findings)) == (8, 78)
    assert "Eight of the 78 cannot be as printed." in page
    assert all(found.published.source for found in findings)
    # The three overall numbers that do not follow from their parts.
    wrong = {found.published.overall.percent for found in findings if "the parts make" in found.verdict}
    assert wrong == {"91.1", "51.6", "95.6"}


def commands() -> list[list[str]]:
    lines = re.findall(r"^semclip-eval (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.M)
    return [words for line in dict.fromkeys(lines) if (words := shlex.split(line))[0] != "review"]


def variants() -> list[list[str]]:
    listed = yaml.safe_load((ROOT / "configs/experiment/review.yaml").read_text())["hydra"]["sweeper"]["variants"]
    # One of several values, for the keys that they set.
    return [[f"{key}={str(value).split(',')[-1]}" for key, value in variant.items()] for variant in listed]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_the_page_composes(words: list[str]) -> None:
    assert compose(words, profile="full")["profile"]["name"] == "full"


@pytest.mark.parametrize("profile", ["mini", "full"])
@pytest.mark.parametrize("variant", variants(), ids=" ".join)
def test_every_variant_of_the_experiment_composes(variant: list[str], profile: str) -> None:
    section = compose(variant, profile=profile)["selector"]
    for override in variant[1:]:
        key, _, value = override.partition("=")
        found = section[key.removeprefix("selector.")]
        assert str(found["name"] if isinstance(found, dict) else found) == value
