"""A regression as JUnit XML, which GitHub's, GitLab's and Jenkins's test views read: a test case a number.

The elements and attributes are those of the schema that Jenkins's xUnit plugin publishes (junit-10.xsd); GitLab tells
test cases apart by suite, class name and name, so these name every number once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from semclip_eval.errors import ConfigError
from semclip_eval.files import shown

if TYPE_CHECKING:
    from semclip_eval.results.regression import Finding

NAME = "semclip-eval regress"
# What XML 1.0 cannot hold, escaped or not (section 2.2).
NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(findings: Sequence[Finding]) -> str:
    """The whole file: a suite a run, a test case a number of the baseline, a failure where it moved or is missing."""
    suites: dict[str, list[Finding]] = {}
    for finding in findings:
        suites.setdefault(_class_name(finding), []).append(finding)
    root = ElementTree.Element("testsuites", {"name": NAME, **_counts(findings)})
    for class_name, members in suites.items():
        suite = ElementTree.SubElement(root, "testsuite", {"name": _text(members[0].run), **_counts(members)})
        for finding in members:
            case = ElementTree.SubElement(
                suite, "testcase", classname=class_name, name=_text(f"{finding.quantity} ({finding.category})")
            )
            if not finding.agrees:
                message = _message(finding)
                failure = ElementTree.SubElement(case, "failure", type=_kind(finding), message=message)
                failure.text = f"{class_name}\n{message}"
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def write_junit(path: Path, findings: Sequence[Finding]) -> None:
    """Write the file; ConfigError where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(junit_xml(findings), encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigError(f"--junit {shown(path)}: cannot be written ({error.strerror}); name another file.") from error


def _class_name(finding: Finding) -> str:
    """Everything that tells the run from others, as a dotted name: Jenkins makes packages of it."""
    key = dict(finding.key)
    last = f"seed{key.pop('seed')}_n{key.pop('n')}"
    return _text(".".join([*(cell.replace(".", "_") for cell in key.values() if cell), last]))


def _counts(findings: Sequence[Finding]) -> dict[str, str]:
    failures = sum(not finding.agrees for finding in findings)
    return {"tests": str(len(findings)), "failures": str(failures), "errors": "0", "skipped": "0"}


def _kind(finding: Finding) -> str:
    return "missing" if finding.measured is None else "moved"


def _message(finding: Finding) -> str:
    measured = "missing" if finding.measured is None else f"{finding.measured:.6g}"
    return _text(
        f"{finding.quantity} of {finding.run}, {finding.category}: {measured}, "
        f"expected {finding.expected:.6g} ± {finding.tolerance:g}"
    )


def _text(text: str) -> str:
    return NO_XML.sub("\ufffd", text)
