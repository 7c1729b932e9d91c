"""The product against lmms-eval: the same miniature model and the same questions under its own `llava_hf`, in ratios.

    python scripts/bench_peer.py [--peer PYTHON] [--output FOLDER] [--questions N] [--rounds R]

PYTHON is one that has lmms-eval (`pip install lmms-eval decord 'transformers<5'`: with transformers 5 its llava_hf
refuses to score options), by default this one; where it has not, one line says so and nothing is measured. The
questions are a task of lmms-eval's own kind, over a Parquet file: `loglikelihood` of every option, and `generate_until`
of the published lettered question. Both sides show the overview, which is all that lmms-eval knows, and take turns
(A B A B); CPU seconds of one thread each, medians over the rounds, the first of which only warms up. lmms-eval: the
whole `simple_evaluate`, and the part in its model's own methods. llava_hf asks one question at a time; the product is
asked with its defaults (`run.batch_size=auto`), and one at a time too.

Writes `peer.csv` and `peer_environment.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_common import Parts, enlarged, markdown, write_environment, write_rows

from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.benchmarks.vstar import VStar
from semclip_eval.console import notice, out
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.places import model_folder
from semclip_eval.results.records import Record
from semclip_eval.types import Answer, Question, Request

SAME = 0.01  # nats, of sums over some 60 tokens
PROTOCOLS = {"likelihood": "multiple_choice", "letter": "generate_until"}
TASK = """\
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {table}}}}}
task: {name}
test_split: test
output_type: {kind}
doc_to_visual: !function functions.visual
doc_to_text: prompt
doc_to_choice: options
doc_to_target: truth
process_results: !function functions.score
generation_kwargs: {{max_new_tokens: {new_tokens}, do_sample: false, temperature: 0}}
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
FUNCTIONS = """\
def visual(doc):
    return [doc["image"].convert("RGB")]

def score(doc, results):
    # Only time is compared here: losses of the options, or the text.
    return {"acc": 0.0}
"""
HEADINGS = {
    "protocol": "protocol", "same_answers": "same answers", "same_losses": "same losses", "questions": "of",
    "lmms_ms": "lmms-eval ms", "lmms_model_ms": "its model's part", "product_ms": "product ms",
    "batch1_ms": "batch 1 ms",
    "over_lmms": "over lmms-eval", "batch1_over_lmms": "batch 1", "over_lmms_model": "over its model's part",
    "batch1_over_lmms_model": "batch 1 over that",
}  # fmt: skip


def main() -> int:
    """Measure both protocols, print the table, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=sys.executable, metavar="PYTHON", help="a Python that has lmms-eval")
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="where the table goes")
    parser.add_argument("--questions", type=int, default=24, help="questions of a protocol")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
    chosen = parser.parse_args()
    version = peer_version(chosen.peer)
    if isinstance(version, str):
        notice(f"{chosen.peer} has no lmms-eval (pip install lmms-eval decord 'transformers<5'): {version}")
        return 0
    parts, rows = Parts(), []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = enlarged(folder / "images", 1, chosen.questions)
        benchmarks = {protocol: VStar(path=str(data), protocol=protocol) for protocol in PROTOCOLS}
        for protocol, benchmark in benchmarks.items():
            write_task(folder / "tasks", protocol, benchmark)
        peer = Peer(chosen.peer, folder / "tasks", checkpoint(folder / "model"))
        try:
            for protocol, benchmark in benchmarks.items():
                notice(protocol)
                rows.append({"protocol": protocol} | cell(parts, peer, protocol, benchmark, chosen.rounds))
        finally:
            peer.close()
    write_rows(chosen.output / "peer.csv", rows)
    write_environment(chosen.output / "peer_environment.json", peer=version, questions=chosen.questions,
                      rounds=chosen.rounds)  # fmt: skip
    out.print(markdown(rows, HEADINGS), highlight=False)
    return 0


def peer_version(python: str) -> dict[str, str] | str:
    """Versions of lmms-eval and what it uses; where `llava_hf` cannot be imported, why."""
    program = (
        "import json, lmms_eval.models.simple.llava_hf\nfrom importlib.metadata import version\n"
        "print(json.dumps({name: version(name) for name in ('lmms-eval', 'transformers', 'torch')}))"
    )
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    versions: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return versions


def checkpoint(folder: Path) -> Path:
    """The miniature as transformers 4 reads it: the tower's weights by other names, settings in files of their own."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model_folder("mini://vlm"), folder)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {
        "extra_special_tokens": {}, "model_input_names": ["input_ids", "attention_mask"]}))  # fmt: skip
    settings = json.loads((folder / "processor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(settings.pop("image_processor")))
    (folder / "processor_config.json").write_text(json.dumps(settings))
    weights = load_file(folder / "model.safetensors")
    renamed = {name.replace("vision_tower.", "vision_tower.vision_model."): each for name, each in weights.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    return folder


def write_task(folder: Path, protocol: str, benchmark: Benchmark) -> None:
    """The benchmark's questions as a task that lmms-eval reads: a Parquet file, a YAML and a function."""
    import datasets

    folder.mkdir(exist_ok=True)
    rows, new_tokens = [], 1
    for question in benchmark.questions():
        prompt = benchmark.prompt(question)
        new_tokens = prompt.max_new_tokens
        # The JPEG that the product reads too.
        image = Path(question.load_image.args[0]).read_bytes()  # type: ignore[attr-defined]
        rows.append({"id": question.id, "image": {"bytes": image, "path": None}, "prompt": prompt.text,
                     "options": list(prompt.continuations), "truth": 0 if prompt.continuations else ""})  # fmt: skip
    table = folder / f"{protocol}.parquet"
    datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()).to_parquet(str(table))
    text = TASK.format(table=table, name=protocol, kind=PROTOCOLS[protocol], new_tokens=new_tokens)
    if protocol == "letter":
        text = text.replace("doc_to_choice: options\n", "")
    (folder / f"{protocol}.yaml").write_text(text)
    (folder / "functions.py").write_text(FUNCTIONS)


class Peer:
    """The process that runs lmms-eval (`lmms_eval_side.py`), ready to ask."""

    def __init__(self, python: str, tasks: Path, checkpoint: Path) -> None:
        side = Path(__file__).with_name("lmms_eval_side.py")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tasks / "cache"), "OMP_NUM_THREADS": "1"}
        # The one that llava_hf falls back to has a space more where an answer follows than where one is generated.
        conversation = CONVERSATIONS["vicuna_v1"]
        template = (
            "{% for message in messages %}{% if message['role'] == 'user' %}"
            f"{conversation.before}{{{{ message['content'] }}}}{conversation.after}"
            "{% else %}{{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
        )
        command = [python, str(side), str(tasks), str(checkpoint), template]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._read()

    def ask(self, task: str) -> dict[str, Any]:
        """CPU seconds, and what the model gave."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{task}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._read())
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("lmms-eval's process has ended; what it said stands above.")
        return line


def cell(parts: Parts, peer: Peer, protocol: str, benchmark: Benchmark, rounds: int) -> dict[str, Any]:
    """CPU milliseconds a question of each side, the ratios, and how many answers are the same."""
    questions = benchmark.questions()
    parts.ask(benchmark, "no_crop", 1)
    seconds: dict[str, list[float]] = {name: [] for name in ("lmms", "lmms_model", "product", "batch1")}
    same, same_losses = 0, None
    for number in range(rounds + 1):
        answer = peer.ask(protocol)
        sides = {"lmms": answer["seconds"], "lmms_model": answer["model_seconds"]}
        for name, batch_size in (("product", None), ("batch1", 1)):
            start = time.process_time()
            records = parts.ask(benchmark, "no_crop", batch_size)
            sides[name] = time.process_time() - start
        theirs = choices(benchmark, questions, answer["given"])
        same = sum(record.choice == choice for record, choice in zip(records, theirs, strict=True))
        if protocol == "likelihood":
            same_losses = losses_alike(parts, benchmark, questions, records, answer["given"])
        if number:
            for name, spent in sides.items():
                seconds[name].append(spent / len(questions))
    ms = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    return {
        "questions": len(questions),
        "same_answers": same,
        "same_losses": same_losses,
        **{f"{name}_ms": round(value, 2) for name, value in ms.items()},
        "over_lmms": round(ms["lmms"] / ms["product"], 2),
        "batch1_over_lmms": round(ms["lmms"] / ms["batch1"], 2),
        "over_lmms_model": round(ms["lmms_model"] / ms["product"], 2),
        "batch1_over_lmms_model": round(ms["lmms_model"] / ms["batch1"], 2),
    }


def losses_alike(
    parts: Parts, benchmark: Benchmark, questions: Sequence[Question], records: Sequence[Record], given: Sequence[Any]
) -> int:
    """For how many questions both sides computed the same losses.

    llava_hf counts the prompt's tokens without its view's (one placeholder in place of 49), so its mean is over the
    last 48 tokens of the prompt as well, and its choice may be another. What they add is the same for all options: with
    it taken off, the losses have to agree.
    """
    by_question = results_of(given)
    alike = 0
    for number, (question, record) in enumerate(zip(questions, records, strict=True)):
        prepared = parts.vlm.prepare(Request((question.load_image(),), benchmark.prompt(question), question.id))
        more = prepared.view_tokens[0] - 1
        lengths = [len(ids) for ids in prepared.continuation_ids]
        added = [
            loss * (length + more) - own * length
            for (loss, _), length, own in zip(by_question[number], lengths, record.option_losses or (), strict=True)
        ]
        alike += max(added) - min(added) < SAME
    return alike


def results_of(given: Sequence[Sequence[Any]]) -> dict[int, list[Any]]:
    """What lmms-eval's model gave, by the number of the question."""
    by_question: dict[int, list[Any]] = {}
    for number, result in given:
        by_question.setdefault(number, []).append(result)
    return by_question


def choices(benchmark: Benchmark, questions: Sequence[Question], given: Sequence[Sequence[Any]]) -> list[int | None]:
    """lmms-eval's answers read by the benchmark: a text, or losses of the options in their order."""
    by_question = results_of(given)
    answers = []
    for number, question in enumerate(questions):
        results = by_question[number]
        answer = Answer(text=results[0])
        if not isinstance(results[0], str):
            answer = Answer(option_losses=tuple(float(loss) for loss, _ in results))
        answers.append(benchmark.score(question, answer).choice)
    return answers


if __name__ == "__main__":
    sys.exit(main())
