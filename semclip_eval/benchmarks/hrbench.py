"""HR-Bench 4K and 8K: 200 questions about very large images, each in four cyclic orders of its options.

Wang et al., arXiv 2408.15556. The two versions ask the same 200 questions; the images of 4K are cut out of those of 8K.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from semclip_eval.benchmarks.access import MAX_MEGAPIXELS
from semclip_eval.benchmarks.table_benchmark import TableBenchmark, lettered
from semclip_eval.benchmarks.tables import Published
from semclip_eval.errors import DataError
from semclip_eval.scoring.choice import option_of_letter, score_choice
from semclip_eval.scoring.metrics import CycleAverage
from semclip_eval.types import Answer, Prompt, Question, Score

# The prompt, to the byte: EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/hrbench/utils.py, `hrbench_doc_to_text` (by the
# authors of HR-Bench; LLaVA has none for it).
#     {question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nAnswer the option letter directly.
INSTRUCTION = "\nAnswer the option letter directly."

# lmms-eval sets none and takes the model's; a letter ends after two.
ANSWER_TOKENS = 128

OPTIONS = ("A", "B", "C", "D")
FILES = {"hrbench_4k": "hr_bench_4k.parquet", "hrbench_8k": "hr_bench_8k.parquet"}
COLUMNS = ("index", "question", "answer", "category", *OPTIONS, "cycle_category")
ROWS = 800


class HRBench(TableBenchmark):
    """HR-Bench; `split` says which version. Categories are `single` (one object) and `cross` (several).

    The four orders of a question are one cluster: a limit takes all or none, an interval resamples them together. The
    accuracy is the mean over rows; where no row failed, that is the official average of the four accuracies by cycle,
    which `cycle_average` in categories.csv always is.
    """

    splits = tuple(FILES)
    protocols = ("letter",)
    breakdowns = ("cycle",)
    metric = CycleAverage()
    keeps_clusters_together = True

    def __init__(
        self,
        name: str = "hrbench4k",
        split: str = "hrbench_4k",
        hub_id: str = "DreamMr/HR-Bench",
        revision: str | None = "83b9013d6293b85dc507e87199ca52517536939c",
        path: str | None = None,
        protocol: str = "letter",
        parser: str = "strict",
        follow_links: bool = False,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        super().__init__(name, split, hub_id, revision, path, protocol, parser, follow_links, max_megapixels)
        self.published = Published(files=(FILES[split],), columns=COLUMNS, rows=ROWS, image="image")

    def prompt(self, question: Question) -> Prompt:
        """The question, lettered options, instruction."""
        return Prompt(lettered(question.text, question.options) + INSTRUCTION, max_new_tokens=ANSWER_TOKENS)

    def score(self, question: Question, answer: Answer) -> Score:
        """1 for the right option in this order, else 0."""
        return score_choice(question, answer)

    def _read(self) -> list[Question]:
        table = self._table()
        rows = list(table.rows())
        options = [tuple(table.text(number, row, letter) for letter in OPTIONS) for number, row in enumerate(rows)]
        truths = [_truth(row, table.place(number)) for number, row in enumerate(rows)]
        # The table does not say which rows are one question. `index` numbers rows, `cycle_category` the orders, and the
        # right option moves on by one with each: the text, the option texts in any order and the right one are what the
        # four rows share.
        keys = [
            (
                table.text(number, row, "category"),
                table.text(number, row, "question").strip(),
                tuple(sorted(options[number])),
                options[number][truths[number]],
            )
            for number, row in enumerate(rows)
        ]
        first = {key: number for number, key in reversed(list(enumerate(keys)))}
        cycles = [table.text(number, row, "cycle_category") for number, row in enumerate(rows)]
        repeated = Counter(zip(keys, cycles, strict=True))
        shared = {key for (key, _), count in repeated.items() if count > 1}
        indices = [table.identity(number, row, "index") for number, row in enumerate(rows)]
        return [
            Question(
                id=indices[number],
                text=key[1],
                category=key[0],
                # Two questions may be alike but for their images; then no row can vouch for another's image.
                image_id=indices[number] if key in shared else indices[first[key]],
                load_image=table.image_loader(number),
                truth=truths[number],
                options=options[number],
                cluster=indices[first[key]],
                tags={"cycle": cycles[number]},
            )
            for number, key in enumerate(keys)
        ]


def _truth(row: Mapping[str, Any], place: str) -> int:
    truth = option_of_letter(row["answer"], len(OPTIONS))
    if truth is None:
        raise DataError(f"{place}: answer {row['answer']!r} is none of the letters A to D.")
    return truth
