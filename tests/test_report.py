"""`semclip-eval report` on real runs of small components: its numbers, its escaping, its bytes."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from PIL import Image
from scipy.stats import binomtest

from semclip_eval.cli import main
from semclip_eval.errors import ConfigError
from semclip_eval.paths import config_folder
from semclip_eval.report.comparisons import comparisons
from semclip_eval.report.gallery import _chosen
from semclip_eval.report.pictures import picture
from semclip_eval.report.runs import CONTROL_MARK, read_results
from semclip_eval.report.table import escape_latex, escape_markdown
from semclip_eval.report.verb import report
from semclip_eval.run import execute
from semclip_eval.scoring.metrics import Metric
from semclip_eval.types import Question
from tests.fakes import FULL_CROP, ORACLE, SEMCLIP, DrawnBenchmark, config

ROOT = Path(__file__).resolve().parent.parent
CENTER = {
    "_target_": "semclip_eval.selectors.center_crop.CenterCrop",
    "name": "center_crop",
    "description": "the middle (control)",
}
HOSTILE = '<script>alert("1")</script> & $\\input{x}$ _a_ | 50% #1 ~^{}[2cm] `b` *c*\n]]></style> \x00\x1b'


class HostileBenchmark(DrawnBenchmark):
    """Questions, options and categories that are markup in every format of the report."""

    def _question(self, index: int) -> Question:
        question = super()._question(index)
        changes = {
            "id": f"{question.id}<b>&",
            "text": HOSTILE,
            "category": f"{question.category} {HOSTILE}",
            "options": ("one", HOSTILE, "<img src=http://example.org/x.png>", "four"),
        }
        return Question(**{**question.__dict__, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Accuracy runs of five selectors and of a variant, 30 questions each, one of them without an image."""
    folder = tmp_path_factory.mktemp("finished")
    common = {"benchmark__count": 30, "benchmark__broken": ["q7"], "run__max_error_rate": 0.1}
    for selector in (config(folder)["selector"], FULL_CROP, SEMCLIP, CENTER, ORACLE):
        execute(config(folder, selector=selector, **common))
    execute(config(folder, selector={**SEMCLIP, "top_k": 2}, **common))
    return folder


@cache
def unchanged(folder: Path, gallery: int) -> dict[str, bytes]:
    """The report's files of a folder that no test changes."""
    return report(folder, gallery)[0]


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "results"))


def one_file(files: dict[str, bytes], ending: str) -> str:
    (name,) = [name for name in files if name.endswith(ending)]
    return files[name].decode()


def records(files: dict[str, bytes], ending: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(one_file(files, ending))))


def samples(results: Path, run_id: str) -> list[dict[str, Any]]:
    (path,) = results.glob(f"*/*/*/*/{run_id}/samples.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rewrite(path: Path, number: int, **keys: Any) -> None:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines[number].update(keys)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def expected(results: Path, row: dict[str, str], reference: list[dict[str, Any]]) -> dict[str, float | None]:
    """The numbers of a row from its samples alone, by other means than the program's."""
    lines = samples(results, row["run_id"])
    scored = [line for line in lines if line["status"] != "error"]
    right = sum(line["score"] for line in scored)
    interval = binomtest(int(right), len(scored)).proportion_ci(method="wilson")
    before = {line["question_id"]: line["score"] for line in reference}
    pairs = [(before[line["question_id"]], line["score"]) for line in scored]
    better, worse = sum(b < a for b, a in pairs), sum(b > a for b, a in pairs)
    covered = [line["target_coverage"] >= 0.5 for line in scored if line["target_coverage"] is not None]
    return {
        "n": len(lines),
        "n_scored": len(scored),
        "n_error": len(lines) - len(scored),
        "accuracy": right / len(scored),
        "accuracy_ci_low": interval.low,
        "accuracy_ci_high": interval.high,
        "difference": fmean(after - b for b, after in pairs),
        "mcnemar_p": binomtest(better, better + worse).pvalue if better + worse else 1.0,
        "n_better": better,
        "n_worse": worse,
        "hit_rate": fmean(covered) if covered else None,
        "views_mean": fmean(len(line["views"]) for line in scored),
        "visual_tokens_mean": fmean(line["visual_tokens"] for line in scored),
    }


def test_the_csv_says_what_the_samples_say(finished: Path) -> None:
    rows = records(unchanged(finished, 0), ".main.csv")
    assert [(row["selector"], row["differs_in"]) for row in rows] == [
        ("no_crop", ""),
        ("full_crop", ""),
        ("semclip", "top_k=1"),
        ("semclip", "top_k=2"),
        ("center_crop", ""),
        ("oracle", ""),
    ]
    reference = samples(finished, rows[0]["run_id"])
    for row in rows:
        numbers = expected(finished, row, reference)
        if row["selector"] == "no_crop":
            for key in ("difference", "mcnemar_p", "n_better", "n_worse", "comparison_note"):
                assert row[key] == ""
                numbers.pop(key, None)
        for key, value in numbers.items():
            found = float(row[key]) if row[key] else None
            assert found == (None if value is None else pytest.approx(value, rel=1e-5, abs=1e-6)), (
                row["selector"],
                key,
            )
        assert float(row["chance_accuracy"]) == 0.25
        if row["difference"]:
            pairs = numbers["n_better"] or 0, numbers["n_worse"] or 0
            spread = math.sqrt((sum(pairs) / 29 - float(row["difference"]) ** 2) / 29)
            width = float(row["difference_ci_high"]) - float(row["difference_ci_low"])
            assert width == pytest.approx(2 * 1.96 * spread, rel=0.2)
    tokens = {row["selector"] + row["differs_in"]: row["visual_tokens_ratio_to_full_crop"] for row in rows}
    assert {key: float(value) for key, value in tokens.items()} == pytest.approx(
        # Ten tokens a view; full_crop has the overview and the four crops of a 2 x 2 grid.
        {
            "no_crop": 0.2,
            "full_crop": 1.0,
            "semcliptop_k=1": 0.4,
            "semcliptop_k=2": 0.6,
            "center_crop": 0.4,
            "oracle": 0.4,
        }
    )


def test_markdown_latex_and_html_show_the_same_numbers(finished: Path) -> None:
    files = unchanged(finished, 0)
    rows = records(files, ".main.csv")
    markdown = [line for line in one_file(files, ".main.md").splitlines() if line.startswith("| ")][2:]
    latex = re.findall(r"^(?!selector)(.+ & .+) \\\\$", one_file(files, ".main.tex"), flags=re.M)
    html = Page.of(one_file(files, "report.html")).text
    assert len(markdown) == len(latex) == len(rows)
    for row, in_markdown, in_latex in zip(rows, markdown, latex, strict=True):
        low, high = (f"{100 * float(row[key]):.1f}" for key in ("accuracy_ci_low", "accuracy_ci_high"))
        accuracy = f"{100 * float(row['accuracy']):.1f} ({low} to {high})"
        assert accuracy in in_markdown
        assert accuracy in in_latex
        assert f"{100 * float(row['accuracy']):.1f}{low} to {high}" in html
        if row["difference"]:
            points = f"{100 * float(row['difference']):+.1f}"
            points = "0.0" if float(points) == 0 else points.replace("-", "−")
            assert f"| {points} (" in in_markdown
            assert f"& {points.replace('−', '$-$')} (" in in_latex
            assert f"| {float(row['mcnemar_p']):.3f} |" in in_markdown
            assert f"& {float(row['mcnemar_p']):.3f} &" in in_latex
    assert "chance 25.0 %" in one_file(files, ".main.md")
    assert "Chance level: 25.0 %." in html


def test_categories(finished: Path) -> None:
    rows = records(unchanged(finished, 0), ".categories.csv")
    assert len(rows) == 6 * 2
    for row in rows:
        lines = [line for line in samples(finished, row["run_id"]) if line["category"] == row["category"]]
        scores = [line["score"] for line in lines if line["status"] != "error"]
        assert (int(row["n"]), int(row["n_scored"])) == (15, len(scores))
        assert float(row["accuracy"]) == pytest.approx(fmean(scores), rel=1e-5)


def test_oracles_and_errors_are_marked(finished: Path) -> None:
    files = unchanged(finished, 0)
    note = "sees the annotated boxes: an upper bound, not a method"
    for ending, row, written in (
        (".md", r"\| oracle \((\w)\) \|", "({})"),
        (".tex", r"oracle\$\^{(\w)}\$ &", "^{{{}}}"),
    ):
        text = one_file(files, f".main{ending}")
        letter = re.findall(row, text)[0]
        assert text.count(written.format(letter)) == 2  # in its row and at the note, in no other row
        assert re.search(rf"\({letter}\) {note}|\$\^{{{letter}}}\$ {note}", text)
    assert {row["selector"] for row in records(files, ".main.csv") if row["uses_truth"] == "true"} == {"oracle"}
    assert {row["n_error"] for row in records(files, ".main.csv")} == {"1"}


def test_the_configs_say_which_selectors_are_controls() -> None:
    descriptions = {path.stem: path.read_text(encoding="utf-8") for path in (config_folder() / "selector").glob("*")}
    controls = {name for name, text in descriptions.items() if CONTROL_MARK in text}
    assert {"random_crop", "center_crop"} <= controls
    assert not controls & {"no_crop", "full_crop", "semclip", "oracle"}


def test_variants_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    def semclip(top_k: int, **changes: Any) -> None:
        execute(config(tmp_path, selector={**SEMCLIP, "top_k": top_k}, benchmark__count=4, **changes))

    grid3 = {"_target_": "semclip_eval.crops.Grid", "name": "grid3x3", "rows": 3, "columns": 3}
    semclip(10, crops={**grid3, "name": "grid5x5", "rows": 5, "columns": 5})
    semclip(2, crops=grid3)
    semclip(1, crops=grid3)
    semclip(1, crops={**grid3, "overlap": 0.5})
    (comparison,) = comparisons(read_results(tmp_path)[0])
    assert [labelled.differs for labelled in comparison.runs] == [
        "top_k=1, crops grid3x3",
        "top_k=1, crops grid3x3, crops.overlap=0.5",
        "top_k=2, crops grid3x3",
        "top_k=10, crops grid5x5",
    ]
    rows = records(report(tmp_path, 0)[0], ".main.csv")
    assert {row["comparison_note"] for row in rows} == {"there is no no_crop run to pair with"}
    assert {row["visual_tokens_ratio_to_full_crop"] for row in rows} == {""}


def test_runs_of_other_weights_stand_apart(results: Path) -> None:
    (summary,) = results.glob("*/*/*/full_crop/*/summary.csv")
    text = summary.read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    rows[0]["model_revision"] = "2"
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    summary.write_text(buffer.getvalue())
    files, _ = report(results, 0)
    tables = [name for name in files if name.endswith(".main.csv")]
    assert [len(files[name].splitlines()) - 1 for name in sorted(tables)] == [1, 5]


def test_other_questions_are_not_compared(results: Path) -> None:
    (path,) = results.glob("*/*/*/center_crop/*/samples.jsonl")
    rewrite(path, 3, question="Quite another one?")
    files, _ = report(results, 0)
    row = next(row for row in records(files, ".main.csv") if row["selector"] == "center_crop")
    assert row["difference"] == row["mcnemar_p"] == ""
    assert "1 questions differ" in row["comparison_note"]
    assert str(results) not in "".join(text.decode("utf-8", "replace") for text in files.values())
    assert "1 questions differ between no_crop" in Page.of(one_file(files, "report.html")).text


def test_latency_columns_only_where_it_was_measured(finished: Path, results: Path) -> None:
    accuracy_only = unchanged(finished, 0)
    assert "_ms_" not in one_file(accuracy_only, ".main.csv").splitlines()[0]
    assert "E2E" not in one_file(accuracy_only, ".main.md")
    assert not [name for name in accuracy_only if "latency" in name]
    for selector in (config(results)["selector"], SEMCLIP):
        execute(config(results, selector=selector, benchmark__count=30, run__mode="latency", run__limit=6))
    files, _ = report(results, 0)
    assert {name.rpartition(".")[0] for name in files if name.endswith((".latency.png", ".latency.csv"))}
    latency = records(files, "latency-seed0-n6.main.csv")
    assert [row["selector"] for row in latency] == ["no_crop", "semclip"]  # and none of the accuracy runs
    for row in latency:
        times = sorted(line["latency_ms"]["e2e"] for line in samples(results, row["run_id"]))
        assert float(row["e2e_ms_p50"]) == pytest.approx((times[2] + times[3]) / 2, rel=1e-4)
    assert "tpot_ms_p50" not in latency[0]  # likelihood generates nothing
    assert one_file(files, "accuracy-seed0-n30.main.csv") == one_file(accuracy_only, ".main.csv")


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "benchmark": {"_target_": "tests.test_report.HostileBenchmark", "name": "d<i>&_%$", "count": 6},
        "model__name": "m\\evil{}<x>",
    }
    for selector in (config(tmp_path)["selector"], SEMCLIP):
        execute(config(tmp_path, selector=selector, **changes))
    for path in tmp_path.glob("*/*/*/*/*/samples.jsonl"):
        rewrite(path, 0, answer=HOSTILE)
        rewrite(path, 1, status="error", score=None, error={"type": "E<x>", "message": HOSTILE})
    files, _ = report(tmp_path)
    html = one_file(files, "report.html")
    page = Page.of(html)
    assert page.tags.count("script") == 2  # the questions as data, and the page's own
    assert "img" in page.tags  # the plots
    assert all(source.startswith(("data:image/", "data:text/csv", "#")) for source in page.loads)
    assert '<script>alert("1")</script>' in page.text
    assert not re.search("[<>&]", page.scripts[0])
    (section,) = json.loads(page.scripts[0])["sections"]
    assert section["questions"][1]["id"] == "q1<b>&"
    assert section["questions"][0]["text"].startswith('<script>alert("1")</script> & ')
    assert "\x00" not in html
    assert "\x1b" not in html
    for name, content in files.items():
        if name.endswith(".tex"):
            assert_harmless_latex(content.decode())
        if name.endswith(".md"):
            assert "<" not in content.decode()
            table = [line for line in content.decode().splitlines() if line.startswith("|")]
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1


def assert_harmless_latex(text: str) -> None:
    """Every command is one that we write, braces balance, and no cell begins with what a row's end would take."""
    commands = set(re.findall(r"\\([A-Za-z]+)", re.sub(r"^%.*", "", text)))
    assert commands <= set(
        "begin end centering caption toprule midrule bottomrule par footnotesize times cdot psi dagger".split()
        + "textbackslash textasciitilde textasciicircum textless textgreater textbar textquotedbl".split()
        + "textquotesingle textasciigrave".split()
    )
    bare = re.sub(r"\\[{}$%&#_\\]", "", text)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"\\\\\s*[\[*]", text)


def test_escapes() -> None:
    assert escape_latex("a_b & 5% $x$ #1 {y} ~^\\z <|>\n[2] 1*−2–3-4") == (
        "a\\_b \\& 5\\% \\$x\\$ \\#1 \\{y\\} \\textasciitilde{}\\textasciicircum{}\\textbackslash{}z "
        "\\textless{}\\textbar{}\\textgreater{} {[}2{]} 1{*}$-$2--3{-}4"
    )
    assert escape_markdown("no_crop _x_ a|b <i> *c* [d](e) `f` \\ & 1\n2") == (
        "no_crop \\_x\\_ a\\|b &lt;i&gt; \\*c\\* \\[d\\](e) \\`f\\` \\\\ &amp; 1 2"
    )


class Page(HTMLParser):
    """Reads a page: its tags in order, its visible text, what it would load; fails where tags do not balance."""

    VOID = frozenset(("meta", "br", "img", "input"))

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.loads: list[str] = []
        self.headers: list[dict[str, str | None]] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.ids: list[str] = []

    @classmethod
    def of(cls, html: str) -> Page:
        page = cls()
        page.feed(html)
        page.close()
        assert page.open == []
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        attributes = dict(attrs)
        assert not [key for key in attributes if key.startswith("on")]
        self.loads += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "data", "action")]
        self.ids += [value or "" for key, value in attrs if key == "id"]
        if tag == "th":
            self.headers.append(attributes)
        if tag == "script":
            assert set(attributes) <= {"type", "id"}
            self.scripts.append("")
        if tag == "img":
            self.images.append(attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self.open[-1:] != ["style"]:
            self.text += data
        else:
            assert "url(" not in data
            assert "@import" not in data


def test_the_page_is_well_formed_and_loads_nothing(finished: Path) -> None:
    html = one_file(unchanged(finished, 8), "report.html")
    page = Page.of(html)
    assert len(page.ids) == len(set(page.ids))
    assert page.loads
    assert all(source.startswith(("data:image/", "data:text/csv", "#")) for source in page.loads)
    assert all(header.get("scope") in ("row", "col") for header in page.headers)
    assert len(page.images) == 2
    for image in page.images:
        assert "semclip (top_k=1)" in (image["alt"] or "")
        svg = base64.b64decode((image["src"] or "").partition(",")[2]).decode()
        assert not re.findall(r"""(?:href|src)=["'](?!#)""", svg)
        assert "<dc:date>" not in svg
    assert "Miniature" not in page.text  # the profile of these runs is another one


def test_miniature_results_say_so_everywhere(tmp_path: Path) -> None:
    for selector in (config(tmp_path)["selector"], SEMCLIP):
        execute(config(tmp_path, profile={"name": "mini"}, selector=selector, benchmark__count=4))
    files, _ = report(tmp_path, 0)
    text = Page.of(one_file(files, "report.html")).text
    assert "Miniature results." in text
    assert "say nothing about LLaVA or V*" in text
    for ending in (".main.md", ".main.tex", ".categories.md", ".categories.tex"):
        assert "generated scenes and small trained models" in one_file(files, ending)
    assert {row["profile"] for row in records(files, ".main.csv")} == {"mini"}


def test_the_gallery_shows_discordant_questions_with_their_boxes(finished: Path) -> None:
    html = one_file(unchanged(finished, 8), "report.html")
    rows = records(unchanged(finished, 0), ".main.csv")
    scores = {
        row["selector"]: {line["question_id"]: line["score"] for line in samples(finished, row["run_id"])}
        for row in rows
        if row["differs_in"] != "top_k=2"
    }
    won = {key for key, score in scores["semclip"].items() if score == 1 and scores["no_crop"][key] == 0}
    lost = {key for key, score in scores["semclip"].items() if score == 0 and scores["no_crop"][key] == 1}
    shown = re.findall(r"question <bdi>(q\d+)</bdi>", html)
    assert len(shown) == len(set(shown)) == 8
    assert won
    assert lost
    assert len(won & set(shown)) + len(lost & set(shown)) == min(8, len(won) + len(lost))
    assert f"{len(won & set(shown))} of {len(won)} questions" in html
    # The target box of every question is (0, 0, 10, 10) of an image of 60 x 40, the crops are its quarters.
    assert html.count('viewBox="0 0 60 40"') == 8
    assert html.count('<rect class="line target" x="0" y="0" width="10" height="10"/>') == 8
    assert len(re.findall(r'<rect class="line crop" x="(?:0|30)" y="(?:0|20)" width="30" height="20"/>', html)) == 8
    assert len(html) < 3_000_000


def test_which_questions_are_shown_is_settled_by_counts() -> None:
    def sizes(*counts: int, room: int) -> list[int]:
        outcomes = [(str(number), [f"{number}-{i}" for i in range(size)]) for number, size in enumerate(counts)]
        return [len(chosen) for _, _, chosen in _chosen(outcomes, room)]

    assert sizes(20, 20, 9, 9, room=12) == [6, 6]
    assert sizes(20, 2, 9, 9, room=12) == [10, 2]
    assert sizes(1, 20, 9, 9, room=12) == [1, 11]
    assert sizes(2, 3, 4, 9, room=12) == [2, 3, 4, 3]
    assert sizes(0, 0, 1, 2, room=12) == [1, 2]


def test_a_picture_keeps_to_its_budget_and_its_labels_inside() -> None:
    noise = Image.effect_noise((2000, 1200), 90).convert("RGB")
    views = [{"kind": "overview", "box": [0, 0, 2000, 1200], "psi": None}]
    views += [{"kind": "crop", "box": [0, 0, 1000, 600], "psi": 0.25}]
    drawn = picture(noise, views, [[0, 0, 30, 30], [1980, 1180, 2000, 1200]], 60_000)
    assert len(drawn.jpeg) <= 60_000
    image = Image.open(io.BytesIO(base64.b64decode(drawn.jpeg)))
    assert image.width / image.height == pytest.approx(2000 / 1200, rel=0.01)
    assert [mark.label for mark in drawn.marks] == ["crop ψ 0.250", "target", "target"]
    for mark in drawn.marks:
        assert 0 <= mark.place[0] < 2000
        assert 0 < mark.place[1] <= 1200


def test_without_the_data_the_gallery_is_left_out(results: Path) -> None:
    for path in results.glob("*/*/*/*/*/config.yaml"):
        content = yaml.safe_load(path.read_text())
        content["benchmark"]["revision"] = "2"
        path.write_text(yaml.safe_dump(content))
    html = one_file(report(results)[0], "report.html")
    assert "No images here: <bdi>the data are at revision 2 now, the runs used 1</bdi>" in html
    assert "/9j/" not in html  # how every JPEG begins in base64


def test_the_same_results_give_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    files = unchanged(finished, 8)
    elsewhere = shutil.copytree(finished, tmp_path / "elsewhere")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "semclip_eval", "report", "elsewhere", "--output", "here", "--gallery", "8"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "here/report.html"
    written = {path.relative_to(tmp_path / "here").as_posix(): path for path in (tmp_path / "here").rglob("*.*")}
    assert set(written) == set(files)
    for name, path in written.items():
        assert path.read_bytes() == files[name], name
    assert elsewhere.exists()


def test_nothing_to_report_says_what_makes_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    complaint = " ".join(capsys.readouterr().err.split())
    assert "holds no finished run" in complaint
    assert f"semclip-eval profile=mini experiment=selectors run.limit=60 run.output_dir={tmp_path}" in complaint
    with pytest.raises(ConfigError, match="no such folder"):
        report(tmp_path / "nowhere")
    execute(config(tmp_path / "inner", benchmark__count=2))
    with pytest.raises(ConfigError, match=r"Did you mean .*inner\?"):
        report(tmp_path)


def test_unfinished_and_broken_runs_are_left_out_and_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (half,) = results.glob("*/*/*/center_crop/*")
    (half / "summary.csv").unlink()
    lines = (half / "samples.jsonl").read_text().splitlines(keepends=True)
    (half / "samples.jsonl").write_text("".join(lines[:4]) + lines[4][:30])
    (broken,) = results.glob("*/*/*/full_crop/*")
    (broken / "config.yaml").write_text("[")
    assert main(["report", str(results)]) == 0
    said = capsys.readouterr()
    # The report lies in the results folder, and is no run of it.
    assert len(read_results(results)[0]) == 4
    files = {path.name: path.read_bytes() for path in (results / "report").rglob("*.*")}
    assert [row["selector"] for row in records(files, ".main.csv")] == ["no_crop", "semclip", "semclip", "oracle"]
    text = Page.of(one_file(files, "report.html")).text
    for told in (said.err, text):
        assert f"{half.relative_to(results)}: unfinished, 4 questions so far" in " ".join(told.split())
        assert f"{broken.relative_to(results)}: " in " ".join(told.split())
    assert str(results) not in text


def test_wrong_arguments(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(results), "--gallery", "-1"]) == 2
    assert "--gallery -1" in capsys.readouterr().err
    (results / "taken").write_text("a file")
    assert main(["report", str(results), "--output", str(results / "taken"), "--gallery", "0"]) == 2
    assert "--output" in capsys.readouterr().err


class GroupedMetric(Metric):
    """Three questions are one score; beside it a fraction and a count."""

    further_names = ("plain_accuracy", "points")

    def units(self, records: Any) -> list[tuple[float, str]]:
        groups: dict[str, list[float]] = {}
        for record in records:
            groups.setdefault(record["cluster"], []).append(record["score"])
        return [(max(scores), cluster) for cluster, scores in groups.items()]

    def further(self, records: Any) -> dict[str, float | None]:
        right = sum(record["score"] for record in records)
        return {"plain_accuracy": right / len(records), "points": 100 * right}


class GroupedBenchmark(DrawnBenchmark):
    """Questions by subject, three of which are one score."""

    breakdowns = ("subject",)
    metric = GroupedMetric()

    def _question(self, index: int) -> Question:
        question = super()._question(index)
        tags = {"subject": ("art", "physics")[index // 3 % 2]}
        return Question(**{**question.__dict__, "cluster": f"group {index // 3}", "category": "one", "tags": tags})


def test_a_benchmarks_own_measures_and_breakdowns_have_tables(tmp_path: Path) -> None:
    benchmark = {"_target_": "tests.test_report.GroupedBenchmark", "name": "grouped", "count": 30}
    for selector in (config(tmp_path)["selector"], SEMCLIP):
        execute(config(tmp_path, selector=selector, benchmark=benchmark))
    files, left_out = report(tmp_path, 2)
    assert not left_out
    assert not [name for name in files if ".categories." in name], "one category is no breakdown"
    main = {row["selector"]: row for row in records(files, ".main.csv")}
    measures = records(files, ".measures.csv")
    by_subject = records(files, ".by_subject.csv")
    assert [(row["selector"], row["category"]) for row in by_subject] == [
        (selector, subject) for selector in ("no_crop", "semclip") for subject in ("art", "physics")
    ]
    html = " ".join(Page.of(one_file(files, "report.html")).text.split())
    for selector, row in main.items():
        lines = samples(tmp_path, row["run_id"])
        scores = [line["score"] for line in lines]
        groups = [max(scores[start : start + 3]) for start in range(0, 30, 3)]
        assert float(row["accuracy"]) == pytest.approx(sum(groups) / 10)
        art = [score for score, line in zip(scores, lines, strict=True) if line["tags"]["subject"] == "art"]
        found = {(one["breakdown"], one["category"]): one for one in measures if one["selector"] == selector}
        assert float(found["all", "all"]["plain_accuracy"]) == pytest.approx(fmean(scores), rel=1e-5)
        assert float(found["subject", "art"]["points"]) == pytest.approx(100 * sum(art))
        # Percent for a fraction, the number itself for what is none.
        assert f"{selector} {100 * fmean(scores):.1f} {100 * sum(scores):.1f}" in html
    assert "By subject" in html
    before, after = (
        [line["score"] for line in samples(tmp_path, main[name]["run_id"])] for name in ("no_crop", "semclip")
    )
    groups = [(max(before[i : i + 3]), max(after[i : i + 3])) for i in range(0, 30, 3)]
    assert float(main["semclip"]["difference"]) == pytest.approx(fmean(b - a for a, b in groups), abs=1e-6)
    assert int(main["semclip"]["n_better"]) == sum(b > a for a, b in groups)
    assert main["semclip"]["n_paired"] == "10"


class PartialBenchmark(DrawnBenchmark):
    """Scores between 0 and 1."""

    def score(self, question: Question, answer: Any) -> Any:
        whole = super().score(question, answer)
        return type(whole)(0.3 + 0.6 * whole.value, choice=whole.choice)


def test_partial_credit_has_no_p_and_says_why(tmp_path: Path) -> None:
    benchmark = {"_target_": "tests.test_report.PartialBenchmark", "name": "partial", "count": 30}
    for selector in (config(tmp_path)["selector"], SEMCLIP):
        execute(config(tmp_path, selector=selector, benchmark=benchmark))
    files, _ = report(tmp_path, 2)
    row = next(row for row in records(files, ".main.csv") if row["selector"] == "semclip")
    assert row["difference"] != ""
    assert row["mcnemar_p"] == ""
    assert "scores are not all 0 or 1" in row["comparison_note"]
    assert "scores are not all 0 or 1" in one_file(files, ".main.md")
    assert ", p " not in Page.of(one_file(files, "report.html")).text.partition("How to read")[0]


def test_questions_that_share_an_image_make_p_doubtful(tmp_path: Path) -> None:
    class_path = "tests.test_report.SharedImages"
    for selector in (config(tmp_path)["selector"], SEMCLIP):
        benchmark = {"_target_": class_path, "name": "shared", "count": 30}
        execute(config(tmp_path, selector=selector, benchmark=benchmark))
    files, _ = report(tmp_path, 2)
    row = next(row for row in records(files, ".main.csv") if row["selector"] == "semclip")
    assert row["mcnemar_p"] != ""
    assert "several questions share an image" in row["comparison_note"]


class SharedImages(DrawnBenchmark):
    """Two questions an image."""

    def _question(self, index: int) -> Question:
        return Question(**{**super()._question(index).__dict__, "cluster": f"image {index // 2}"})


def test_the_page_loads_nothing_and_runs_its_own_script_only(finished: Path) -> None:
    html = one_file(unchanged(finished, 0), "report.html")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    data, own = Page.of(html).scripts
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert set(json.loads(data)) == {"sections", "boxes", "pictures"}
    assert not re.search(r"<[^>]*\son\w+=", html.replace(own, ""))
    assert not re.search(r'(?:src|href)="(?!data:|#)', html.replace(own, ""))
    # Nothing in the script could fetch, run a text or make markup of one; its only address is SVG's name.
    assert not re.search(
        r"\b(fetch|eval|import|Function)\s*\(|XMLHttpRequest|WebSocket|(inner|outer|Adjacent)HTML", own
    )
    assert set(re.findall(r"https?://[^\s\"']+", own)) == {"http://www.w3.org/2000/svg"}


def test_a_run_of_an_earlier_version_lacks_columns_and_is_shown(tmp_path: Path) -> None:
    folder = execute(config(tmp_path))
    execute(config(tmp_path, selector=SEMCLIP))
    for name, late in (
        ("summary.csv", ("forwards_mean", "psi_training", "started_at")),
        ("categories.csv", ("n_units",)),
    ):
        lines = (folder / name).read_text().splitlines()
        kept = [index for index, column in enumerate(lines[0].split(",")) if column not in late]
        rows = list(csv.reader(lines))
        with (folder / name).open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([[row[index] for index in kept] for row in rows])
    files, left_out = report(tmp_path, 2)
    assert not left_out
    assert {row["selector"] for row in records(files, ".main.csv")} == {"no_crop", "semclip"}


def test_a_row_that_cannot_be_placed_is_left_out_by_name(tmp_path: Path) -> None:
    folder = execute(config(tmp_path))
    execute(config(tmp_path, selector=SEMCLIP))
    lines = (folder / "summary.csv").read_text().splitlines()
    lines[0] = lines[0].replace("selector", "chooser", 1)
    (folder / "summary.csv").write_text("\n".join(lines) + "\n")
    _, left_out = report(tmp_path, 2)
    assert [("selector" in each.why, each.folder.split("/")[-2]) for each in left_out] == [(True, "no_crop")]


def test_how_a_run_was_carried_out_sets_no_two_runs_apart(tmp_path: Path) -> None:
    """Another number of workers or threads, a tracker: the same answers, one table, and nothing said of it."""
    execute(config(tmp_path))
    folder = execute(config(tmp_path, selector=SEMCLIP))
    written = yaml.safe_load((folder / "config.yaml").read_text())
    written["run"] |= {
        "workers": 4,
        "executor": "ray",
        "num_workers": 7,
        "track": ["tensorboard"],
        "max_error_rate": 0.5,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(written))
    files, left_out = report(tmp_path, 2)
    assert not left_out
    rows = {row["selector"]: row for row in records(files, ".main.csv")}
    assert set(rows) == {"no_crop", "semclip"}
    assert rows["semclip"]["difference"]  # paired with no_crop
    assert not rows["semclip"].get("comparison_note")
