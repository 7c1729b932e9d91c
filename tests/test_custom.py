"""benchmark=custom: every format gives the same questions; every wrong column says which and where."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semclip_eval import cli
from semclip_eval.benchmarks.custom import Custom, _right_option
from semclip_eval.benchmarks.custom_rows import Row
from semclip_eval.errors import ConfigError, DataError, QuestionError
from semclip_eval.results.summary import read_rows
from semclip_eval.types import Answer, Box

COLORS = ["red", "green", "blue"]


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (40 + number, 30), COLORS[number % 3])


def encoded(number: int) -> bytes:
    stream = io.BytesIO()
    picture(number).save(stream, "PNG")
    return stream.getvalue()


def records() -> list[dict[str, Any]]:
    return [
        {"id": f"q{number}", "question": f"Which color, {number}?", "options": COLORS, "answer": COLORS[number],
         "category": "easy" if number else "hard", "boxes": [[1, 2, 10, 5]], "hint": "Look, please."}
        for number in range(3)
    ]  # fmt: skip


def write_jsonl(folder: Path) -> Path:
    for number in range(3):
        picture(number).save(folder / f"{number}.png")
    lines = [json.dumps({**record, "image": f"{number}.png"}) for number, record in enumerate(records())]
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return folder / "data.jsonl"


def write_json(folder: Path) -> Path:
    path = write_jsonl(folder)
    rows = [json.loads(line) for line in path.read_text().splitlines() if line]
    path.unlink()
    (folder / "data.json").write_text(json.dumps(rows))
    return folder / "data.json"


def write_csv(folder: Path) -> Path:
    for number in range(3):
        picture(number).save(folder / f"{number}.png")
    with (folder / "data.csv").open("w", newline="") as stream:
        columns = ["id", "image", "question", "A", "B", "C", "D", "answer", "category", "boxes", "hint"]
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for number, record in enumerate(records()):
            options = dict(zip("ABC", record.pop("options"), strict=True))
            writer.writerow({**record, **options, "image": f"{number}.png", "boxes": "[1, 2, 10, 5]"})
    return folder / "data.csv"


def write_parquet(folder: Path) -> Path:
    rows = [{**record, "image": {"bytes": encoded(n), "path": None}} for n, record in enumerate(records())]
    pd.DataFrame(rows).to_parquet(folder / "data.parquet")
    return folder / "data.parquet"


def write_datasets(folder: Path) -> Path:
    from datasets import Dataset, Features, Sequence, Value
    from datasets import Image as ImageFeature

    rows = [{**record, "image": picture(n)} for n, record in enumerate(records())]
    features = Features({
        "id": Value("string"), "question": Value("string"), "options": Sequence(Value("string")),
        "answer": Value("string"), "category": Value("string"), "boxes": Sequence(Sequence(Value("float64"))),
        "hint": Value("string"), "image": ImageFeature(),
    })  # fmt: skip
    Dataset.from_list(rows, features=features).save_to_disk(folder / "saved")
    return folder / "saved"


def write_tsv(folder: Path) -> Path:
    lines = ["\t".join(["id", "image", "question", "A", "B", "C", "answer", "category", "boxes", "hint"])]
    for number, record in enumerate(records()):
        image = base64.b64encode(encoded(number)).decode()
        values = [record["id"], image, record["question"], *COLORS, "ABC"[number], record["category"], "[1,2,10,5]"]
        lines.append("\t".join([*values, record["hint"]]))
    (folder / "data.tsv").write_text("\n".join(lines) + "\n")
    return folder / "data.tsv"


@pytest.mark.parametrize("write", [write_jsonl, write_json, write_csv, write_parquet, write_datasets, write_tsv])
@pytest.mark.parametrize("as_folder", [False, True])
def test_every_format_gives_the_same_questions(write: Callable[[Path], Path], as_folder: bool, tmp_path: Path) -> None:
    path = write(tmp_path)
    benchmark = Custom(path=str(tmp_path if as_folder else path))
    questions = benchmark.questions()
    assert benchmark.protocol == "letter"
    assert benchmark.has_boxes
    assert benchmark.dataset_revision.startswith("local:")
    for number, question in enumerate(questions):
        assert (question.id, question.text) == (f"q{number}", f"Which color, {number}?")
        assert (question.options, question.truth) == (tuple(COLORS), number)
        assert (question.category, question.hint) == ("easy" if number else "hard", "Look, please.")
        assert question.target_boxes == (Box(1, 2, 11, 7),)
        image = question.load_image()
        assert (image.size, image.getpixel((3, 3))) == (picture(number).size, picture(number).getpixel((3, 3)))
    prompt = benchmark.prompt(questions[1])
    assert prompt.text == (
        "Look, please.\nWhich color, 1?\nA. red\nB. green\nC. blue\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert benchmark.score(questions[1], Answer(text="B")).value == 1


def custom(tmp_path: Path, rows: list[dict[str, Any]], **keys: Any) -> Custom:
    picture(0).save(tmp_path / "0.png")
    lines = [json.dumps({"image": "0.png", "question": "Q?", **row}) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return Custom(path=str(tmp_path / "rows.jsonl"), **keys)


@pytest.mark.parametrize(
    ("rows", "protocol"),
    [
        ([{"answer": "yes"}, {"answer": "No"}], "yes_no"),
        ([{"answer": "yes"}, {"answer": "seven"}], "short_answer"),
        ([{"answers": ["a", "b", "a"]}], "vqa"),
        ([{"answers": ["a", "b"]}], "short_answer"),
        ([{"options": ["a", "b"], "answer": 1}], "letter"),
    ],
)
def test_the_protocol_follows_from_the_columns(rows: list[dict[str, Any]], protocol: str, tmp_path: Path) -> None:
    benchmark = custom(tmp_path, rows)
    benchmark.questions()
    assert benchmark.protocol == benchmark.described_protocol == protocol


def test_open_answers_are_scored_by_any_reference(tmp_path: Path) -> None:
    benchmark = custom(tmp_path, [{"answers": ["two", "2"]}, {"answers": ["four", "5"]}])
    first, second = benchmark.questions()
    assert [benchmark.score(first, Answer(text=text)).value for text in ("2", "Two.", "3")] == [1, 1, 0]
    assert benchmark.score(second, Answer(text="")).status == "unparsed"
    vqa = custom(tmp_path, [{"answers": ["a bus"] * 2 + ["car"] * 8}], protocol="vqa")
    (question,) = vqa.questions()
    assert vqa.metric.name == "vqa_accuracy"
    assert vqa.score(question, Answer(text="bus")).value == pytest.approx(0.6)
    yes = custom(tmp_path, [{"answer": "yes"}])
    (question,) = yes.questions()
    assert [yes.score(question, Answer(text=text)).value for text in ("Yes.", "no")] == [1, 0]


def test_likelihood_scores_the_options_themselves(tmp_path: Path) -> None:
    benchmark = custom(tmp_path, [{"options": ["It is a.", "It is b."], "answer": "B"}], protocol="likelihood")
    (question,) = benchmark.questions()
    prompt = benchmark.prompt(question)
    assert (prompt.text, prompt.continuations) == ("Q?", ("It is a.", "It is b."))
    assert benchmark.score(question, Answer(option_losses=(0.2, 0.1))).value == 1
    assert benchmark.score(question, Answer(option_losses=(0.1, 0.1))).status == "unparsed"


@given(st.lists(st.text(min_size=2, max_size=8).filter(str.strip), min_size=2, max_size=6, unique_by=str.strip),
       st.data())  # fmt: skip
def test_an_answer_is_found_by_text_letter_and_index(options: list[str], data: Any) -> None:
    right = data.draw(st.integers(0, len(options) - 1))
    options = [f"{option}!" for option in options]
    for answer in (options[right], "ABCDEF"[right], "abcdef"[right], right, str(right), float(right)):
        assert _right_option(Row({"answer": answer}, lambda: None, "here"), options) == right


def test_an_answer_that_could_be_two_options_is_refused() -> None:
    for options, answer in ((["B", "A"], "A"), (["1", "0"], "0"), (["5", "0", "1"], "1")):
        with pytest.raises(DataError, match="answer"):
            _right_option(Row({"answer": answer}, lambda: None, "here"), options)
    assert _right_option(Row({"answer": "2"}, lambda: None, "here"), ["2", "3"]) == 0
    assert _right_option(Row({"answer": "A"}, lambda: None, "here"), ["A", "B"]) == 0


def test_vlmevalkit_files_are_read_as_they_are(tmp_path: Path) -> None:
    """Options that end early, and an image given by another row's index."""
    image = base64.b64encode(encoded(1)).decode()
    (tmp_path / "Bench.tsv").write_text(
        "index\timage\tquestion\tA\tB\tC\tD\tanswer\tcategory\n"
        f"1\t{image}\tFirst?\tx\ty\t\t\tB\tone\n"
        "2\t1\tSecond?\tx\ty\tz\t\tC\ttwo\n"
    )
    first, second = Custom(path=str(tmp_path)).questions()
    assert (first.options, first.truth, first.id) == (("x", "y"), 1, "1")
    assert (second.options, second.truth) == (("x", "y", "z"), 2)
    assert second.load_image().getpixel((3, 3)) == first.load_image().getpixel((3, 3)) == (0, 128, 0)
    assert first.cluster == second.cluster


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"options": ["a", "b"], "answer": "c"}], "line 1: answer 'c'"),
        ([{"options": ["a", "b"], "answer": 0}, {"answer": "b"}], "line 2: has no options"),
        ([{"options": ["a"], "answer": "a"}], "options"),
        ([{"options": ["a", "a"], "answer": "a"}], "options"),
        ([{"options": {"x": 1}, "answer": "a"}], "options"),
        ([{"answer": ""}], "answer is empty"),
        ([{"question": " ", "answer": "a"}], "question is empty"),
        ([{"answer": "a", "boxes": [1, 2, 3]}], "boxes"),
        ([{"answer": "a", "boxes": [[1, 2, 0, 3]]}], "boxes"),
        ([{"answer": "a", "id": "x"}, {"answer": "a", "id": "x"}], "two rows have the id 'x'"),
        ([{"answer": "a", "image": "https://example.org/a.png"}], "URL"),
        ([], "has no rows"),
    ],
)
def test_each_wrong_column_is_named_with_its_place(rows: list[dict[str, Any]], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl") as caught:
        custom(tmp_path, rows).questions()
    assert said in str(caught.value)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"benchmark\.path=null"):
        Custom()
    with pytest.raises(ConfigError, match="no such file"):
        Custom(path=str(tmp_path / "none.csv")).questions()
    (tmp_path / "a.xlsx").write_bytes(b"x")
    with pytest.raises(DataError, match=r"a\.xlsx"):
        Custom(path=str(tmp_path / "a.xlsx")).questions()
    (tmp_path / "bad.jsonl").write_text('{"image": "0.png"}\n{broken\n')
    with pytest.raises(DataError, match="line 2"):
        Custom(path=str(tmp_path / "bad.jsonl")).questions()
    (tmp_path / "bare.csv").write_text("picture,question\na.png,Q?\n")
    with pytest.raises(DataError, match="column image missing"):
        Custom(path=str(tmp_path / "bare.csv")).questions()
    with pytest.raises(DataError, match="several tables"):
        Custom(path=str(tmp_path)).questions()


def test_images_outside_of_the_folder_or_broken_are_the_questions_own_errors(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "outside.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "broken.png").write_bytes(b"no image")
    rows = [{"answer": "a", "image": name} for name in ("../outside.png", "broken.png", "none.png", None)]
    for question in custom(tmp_path / "data", rows).questions():
        with pytest.raises(QuestionError):
            question.load_image()


def test_a_changed_file_or_image_is_another_revision(tmp_path: Path) -> None:
    def revision(rows: list[dict[str, Any]]) -> str:
        benchmark = custom(tmp_path, rows)
        benchmark.questions()
        return benchmark.dataset_revision

    first = revision([{"answer": "a"}])
    assert revision([{"answer": "a"}]) == first
    assert revision([{"answer": "b"}]) != first
    revision([{"answer": "a"}])
    Image.new("RGB", (99, 99), "white").save(tmp_path / "0.png")
    benchmark = Custom(path=str(tmp_path / "rows.jsonl"))
    benchmark.questions()
    assert benchmark.dataset_revision != first


def test_the_program_runs_it_and_the_oracle_where_there_are_boxes(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path)
    run = ["-m", "profile=mini", "benchmark=custom", f"benchmark.path={path}", "benchmark.name=mine"]
    assert cli.main([*run, "selector=no_crop,oracle", f"run.output_dir={tmp_path / 'out'}"]) == 0
    rows = read_rows(tmp_path / "out" / "runs.csv")
    assert {(row["benchmark"], row["selector"], row["protocol"], row["n_error"]) for row in rows} == {
        ("mine", "no_crop", "letter", "0"),
        ("mine", "oracle", "letter", "0"),
    }
