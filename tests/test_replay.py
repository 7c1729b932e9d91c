"""Answers made elsewhere: the same scores as the run that they come from, and a refusal for every fault of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from semclip_eval import cli, session
from semclip_eval.errors import ConfigError, DataError
from semclip_eval.plan import make_plan
from semclip_eval.report.verb import report
from semclip_eval.results.summary import read_rows
from semclip_eval.run import execute
from semclip_eval.types import Answer, Question, Score
from tests import fakes
from tests.fakes import SEMCLIP, ComputedVLM, DrawnBenchmark, config

REPLAY = {"_target_": "semclip_eval.answers.replay.Replay", "name": "replay"}


class WordBenchmark(DrawnBenchmark):
    """Asks for the option's word under `letter`; refuses to open an image, and counts nothing as unparsed."""

    def _question(self, index: int) -> Question:
        def refuse() -> Any:
            raise AssertionError("a replay opened an image")

        question = super()._question(index)
        return Question(**{**question.__dict__, "load_image": refuse})

    def score(self, question: Question, answer: Answer) -> Score:
        if answer.text is None:
            return super().score(question, answer)
        if answer.text not in question.options:
            return Score(0.0, "unparsed", reason="no option")
        choice = question.options.index(answer.text)
        return Score(float(choice == question.truth), choice=choice)


@pytest.fixture(autouse=True)
def _nothing_loaded():
    session._loaded.clear()
    yield
    session._loaded.clear()


def write(path: Path, lines: list[Any]) -> Path:
    """A file of answers; a text is a line as it stands."""
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def words(count: int = 4, **changes: Any) -> list[dict[str, Any]]:
    """The right word for every question of a `WordBenchmark`."""
    options = ("one", "two", "three", "four")
    return [{"question_id": f"q{index}", "answer": options[index % 4], **changes} for index in range(count)]


def letter(tmp_path: Path, path: Path, count: int = 4, **changes: Any) -> dict[str, Any]:
    """The config of a replay under a protocol that reads answers."""
    benchmark = {"_target_": "tests.test_replay.WordBenchmark", "name": "drawn", "count": count, "protocol": "letter"}
    return config(tmp_path / "out", benchmark=benchmark, model={**REPLAY, "path": str(path)}, **changes)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_a_runs_own_samples_replay_to_the_same_scores_without_an_image_or_a_model(tmp_path, monkeypatch):
    ran = execute(config(tmp_path, selector=SEMCLIP, benchmark__count=30))
    loads = ComputedVLM.loads

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a replay chose views")

    monkeypatch.setattr("semclip_eval.selectors.semclip.SemClip.select", refuse)
    monkeypatch.setattr("semclip_eval.crops.Grid.candidates", refuse)
    monkeypatch.setattr(fakes.TextReader, "score", refuse)
    monkeypatch.setattr("PIL.Image.new", refuse)
    model = {**REPLAY, "path": str(ran / "samples.jsonl")}
    replayed = execute(config(tmp_path, selector=SEMCLIP, model=model, benchmark__count=30))
    assert ComputedVLM.loads == loads
    for key in ("question_id", "score", "choice", "status", "option_losses", "truth", "chance"):
        assert [record[key] for record in records(replayed)] == [record[key] for record in records(ran)]
    (before,), (after,) = read_rows(ran / "summary.csv"), read_rows(replayed / "summary.csv")
    for column in ("accuracy", "accuracy_ci_low", "accuracy_ci_high", "chance_accuracy", "n", "n_scored", "metric"):
        assert after[column] == before[column]


def test_what_is_not_known_of_the_answers_is_empty(tmp_path, capsys):
    folder = execute(letter(tmp_path, write(tmp_path / "answers.jsonl", words()), selector=SEMCLIP))
    (row,) = read_rows(folder / "summary.csv")
    empty = (
        "crops psi uses_truth hit_rate views_mean visual_tokens_mean text_tokens_mean new_tokens_mean questions_per_s "
        "device dtype attn batch_size peak_memory_mib e2e_ms_p50 psi_revision"
    ).split()
    assert {column: row[column] for column in empty} == dict.fromkeys(empty, "")
    assert (row["model"], row["selector"], row["accuracy"], row["n_scored"]) == ("replay", "external", "1", "4")
    for record in records(folder):
        unknown = ("views", "visual_tokens", "text_tokens", "new_tokens", "cost", "target_coverage")
        assert {record[key] for key in unknown} == {None}
    captured = capsys.readouterr()
    assert "the results say selector=external" in " ".join(captured.err.split())
    assert "answers made elsewhere" in captured.out
    assert cli.main(["show", str(folder), "--question", "q1"]) == 0
    assert "tokens unknown" in capsys.readouterr().out


def test_a_label_says_how_the_views_were_chosen_elsewhere(tmp_path):
    path = write(tmp_path / "answers.jsonl", words())
    folder = execute(letter(tmp_path, path, model__selector_name="zoom_eye", model__name="gpt"))
    assert folder.relative_to(tmp_path / "out").parts[:4] == ("test", "drawn", "gpt", "external_zoom_eye")
    assert read_rows(folder / "summary.csv")[0]["selector"] == "external_zoom_eye"
    for name in ("../x", "a b", "", ".hidden"):
        with pytest.raises(ConfigError, match=r"model\.selector_name="):
            execute(letter(tmp_path, path, model__selector_name=name))


def test_the_files_content_names_the_run_and_nothing_else_of_this_machine_does(tmp_path):
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    # More than two MiB, and different in the middle only.
    filler = words(1200, note="x" * 2000)
    write(one, filler)
    write(same, filler)
    filler[600]["answer"] = "five"
    write(other, filler)

    def identity(path: Path, **changes: Any) -> str:
        return make_plan(letter(tmp_path, path, count=1200, **changes)).run_id

    assert identity(one) == identity(same)
    assert identity(one) != identity(other)
    assert identity(one) == identity(one, run__batch_size=4, run__dtype="float16", selector=SEMCLIP)


def test_an_empty_or_foreign_answer_is_unparsed_not_an_error(tmp_path):
    lines = words()
    lines[1]["answer"], lines[2]["answer"] = "", "twelve"
    (row,) = read_rows(execute(letter(tmp_path, write(tmp_path / "a", lines))) / "summary.csv")
    assert (row["n_unparsed"], row["n_error"], row["accuracy"]) == ("2", "0", "0.5")


def test_ids_may_be_numbers_and_lines_may_end_in_either_way(tmp_path, monkeypatch):
    original = WordBenchmark._question

    def numbered(self: WordBenchmark, index: int) -> Question:
        return Question(**{**original(self, index).__dict__, "id": str(index)})

    monkeypatch.setattr(WordBenchmark, "_question", numbered)
    lines = [json.dumps({**line, "question_id": index}) for index, line in enumerate(words())]
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode())
    assert read_rows(execute(letter(tmp_path, path)) / "summary.csv")[0]["accuracy"] == "1"


def test_with_a_limit_only_the_asked_questions_need_answers(tmp_path, capsys):
    asked = [question.id for question in make_plan(config(tmp_path, benchmark__count=40, run__limit=6)).questions]
    lines = [line for line in words(40) if line["question_id"] in asked]
    path = write(tmp_path / "answers.jsonl", [*lines, {"question_id": "stranger", "answer": "one"}])
    folder = execute(letter(tmp_path, path, count=40, run__limit=6))
    assert [record["question_id"] for record in records(folder)] == asked
    assert "line 7: the benchmark has no question 'stranger'" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ConfigError, match=r"no answer for 34 of 40 questions"):
        execute(letter(tmp_path, path, count=40))


def test_a_record_that_ended_in_an_error_stays_one_and_is_named(tmp_path, capsys):
    ran = execute(config(tmp_path, benchmark__broken=["q3"], run__max_error_rate=0.5))
    capsys.readouterr()
    model = {**REPLAY, "path": str(ran / "samples.jsonl")}
    replayed = execute(config(tmp_path, model=model, run__max_error_rate=0.5))
    assert "question 'q3' (line 4: QuestionError: q3.png: no image)" in " ".join(capsys.readouterr().err.split())
    record = records(replayed)[3]
    assert (record["status"], record["score"]) == ("error", None)
    assert "q3.png: no image" in record["error"]["message"]
    (before,), (after,) = read_rows(ran / "summary.csv"), read_rows(replayed / "summary.csv")
    for column in ("accuracy", "n_error", "n_scored", "n_unparsed"):
        assert after[column] == before[column]


def test_a_runs_samples_are_refused_where_the_question_is_put_in_other_words(tmp_path):
    ran = execute(config(tmp_path))
    lines = records(ran)
    lines[2]["options"] = ["four", "three", "two", "one"]
    path = write(tmp_path / "shuffled.jsonl", lines)
    with pytest.raises(ConfigError, match=r"line 3: question 'q2' was put in other words or with other options"):
        execute(config(tmp_path, model={**REPLAY, "path": str(path)}))


DOUBLED = r"line 3: question_id 'q0' is already in line 1"


@pytest.mark.parametrize(
    ("lines", "error", "said"),
    [
        ([*words()[:2], *words()[3:]], ConfigError, r"has no answer for 1 of 4 questions, the first is .*'q2'"),
        ([], ConfigError, r"has no answer for 4 of 4 questions, .*the file is empty"),
        ([*words()[:2], words()[0], *words()[2:]], DataError, DOUBLED),
        ([*words(), {"question_id": "q9", "answer": "x"}], ConfigError, r"line 5: the benchmark has no question 'q9'"),
        ([words()[0], "{nonsense"], DataError, r"line 2: not JSON"),
        (['{"question_id": "q0", "ans'], DataError, r"line 1: not JSON"),
        (["[" * 100_000], DataError, r"line 1: not JSON"),
        (["[1, 2]"], DataError, r"line 1: must be one JSON object, not a list"),
        ([{"answer": "one"}], DataError, r"line 1: the key `question_id` is missing"),
        ([{"question_id": True, "answer": "one"}], DataError, r"line 1: question_id True must be a text"),
        ([{"question_id": "q0", "answer": 3}], DataError, r"line 1: answer 3 must be a text"),
        ([{"question_id": "q0", "answer": ["a"]}], DataError, r"line 1: answer \[\"a\"\] must be a text"),
        ([{"question_id": "q0", "answer": None}, *words()[1:]], ConfigError, r"line 1: question 'q0' has no `answer`"),
        ([{"question_id": "q0"}, *words()[1:]], ConfigError, r"line 1: question 'q0' has no `answer`"),
        (
            [{"question_id": "q0", "option_losses": [1, 2, 3, float("nan")]}],
            DataError,
            r"line 1: option_losses must be a list of finite numbers",
        ),
        ([{"question_id": "q0", "option_losses": {"A": 1}}], DataError, r"line 1: option_losses must be a list"),
        ([{"question_id": "q0", "option_losses": [True]}], DataError, r"line 1: option_losses must be a list"),
    ],
)
def test_a_fault_of_the_file_is_refused_before_the_run(tmp_path, lines, error, said):
    path = write(tmp_path / "answers.jsonl", lines)
    with pytest.raises(error, match=said) as caught:
        execute(letter(tmp_path, path))
    assert "answers.jsonl" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_likelihood_needs_the_losses_of_every_option(tmp_path):
    def run(lines: list[Any]) -> Path:
        path = write(tmp_path / "answers.jsonl", lines)
        return execute(config(tmp_path, benchmark__count=2, model={**REPLAY, "path": str(path)}))

    losses = [{"question_id": f"q{index}", "option_losses": [2, 1.5, 3, 0.5]} for index in range(2)]
    with pytest.raises(ConfigError, match=r"line 1: question 'q0' has no `option_losses`, and .*protocol=likelihood"):
        run(words(2))
    with pytest.raises(ConfigError, match=r"line 2: question 'q1' has 3 `option_losses` for 4 options"):
        run([losses[0], {"question_id": "q1", "option_losses": [1, 2, 3]}])
    chosen = [record["choice"] for record in records(run(losses))]
    assert chosen == [3, 3]


def test_what_cannot_be_a_file_of_answers_is_named(tmp_path):
    ran = execute(config(tmp_path))
    for path, said in [
        (None, r"model\.path is not set"),
        (str(tmp_path / "none.jsonl"), r"none\.jsonl: there is no such file"),
        (str(ran), r"is a folder; did you mean .*samples\.jsonl"),
        (str(tmp_path), r"is a folder; name the file"),
    ]:
        with pytest.raises(ConfigError, match=said):
            execute(config(tmp_path, model={**REPLAY, "path": path}))


def test_there_is_nothing_to_time(tmp_path):
    path = write(tmp_path / "answers.jsonl", words())
    with pytest.raises(ConfigError, match=r"run\.mode=latency: model=replay looks answers up"):
        execute(letter(tmp_path, path, run__mode="latency"))


def test_the_report_pairs_answers_of_one_model_from_several_files(tmp_path):
    """Two files of one model: labels make rows of one table, with the difference to the one without crops."""
    right, half = words(8), words(8)
    for line in half[:4]:
        line["answer"] = "none"
    for name, lines in (("no_crop", half), ("mine", right)):
        path = write(tmp_path / name, lines)
        execute(letter(tmp_path, path, count=8, model__name="theirs", model__selector_name=name))
    files, left_out = report(tmp_path / "out", gallery=2)
    assert not left_out
    (table,) = [text.decode() for name, text in files.items() if name.endswith("main.csv")]
    rows = {line["selector"]: line for line in _csv(table)}
    assert rows["external_mine"]["difference"] == "0.5"
    assert (rows["external_mine"]["n_better"], rows["external_mine"]["n_worse"]) == ("4", "0")
    assert rows["external_mine"]["visual_tokens_mean"] == ""


def _csv(text: str) -> list[dict[str, str]]:
    import csv
    import io

    return list(csv.DictReader(io.StringIO(text)))


def test_from_the_command_line_in_a_sweep_each_benchmark_has_its_file(tmp_path, capsys):
    """The letter run of the miniature's V*, replayed with a path that names the benchmark."""
    common = ["profile=mini", "run.limit=8", f"run.output_dir={tmp_path / 'out'}"]
    assert cli.main(["selector=no_crop", "benchmark.protocol=letter", *common]) == 0
    (samples,) = (tmp_path / "out").glob("*/*/*/*/*/samples.jsonl")
    kept = [{key: record[key] for key in ("question_id", "answer")} for record in records(samples.parent)]
    write(tmp_path / "vstar.jsonl", kept)
    replay = ["-m", "benchmark=vstar", "model=replay", f"model.path={tmp_path}/${{benchmark.name}}.jsonl"]
    capsys.readouterr()
    assert cli.main([*replay, "benchmark.protocol=letter,likelihood", *common]) == 1
    captured = capsys.readouterr()
    assert "1 of 2 jobs failed" in captured.err
    assert "has no `option_losses`" in captured.err
    rows = {row["model"]: row for row in read_rows(tmp_path / "out" / "runs.csv")}
    assert rows["replay"]["accuracy"] == rows["mini_llava"]["accuracy"]
