"""What the benchmarks that are published as tables share: keywords, the table, LLaVA's instructions."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from semclip_eval.benchmarks.access import MAX_MEGAPIXELS, FileAccess
from semclip_eval.benchmarks.base import Benchmark, check_protocol
from semclip_eval.benchmarks.tables import Published, Table, read_table
from semclip_eval.errors import ConfigError, DataError
from semclip_eval.places import path_text
from semclip_eval.scoring.choice import LETTERS
from semclip_eval.types import Question

# LLaVA-1.5's instructions (haotian-liu/LLaVA, docs/Evaluation.md and the question files that it links).
SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


def lettered(question: str, options: Sequence[str]) -> str:
    """The question and a line `A. text` for each option, without an instruction."""
    return "\n".join([question, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))])


class TableBenchmark(Benchmark):
    """A benchmark whose questions are the rows of a published table.

    hub_id, revision: the dataset repository and its pinned commit (None: the newest). path: a local copy, which needs
    no Hub: a folder in the published layout, `save_to_disk` output, one .parquet, .arrow or .tsv file, or `mini://NAME`.
    follow_links, max_megapixels: what of the files may be opened (`FileAccess`).
    A subclass says which table it is (`published`), what `split` may be (`splits`; empty: anything), and implements
    `_read`, `prompt` and `score`.
    """

    published: Published
    # Published with one id for several questions: they are told apart instead of refused.
    repeats_ids: bool = False
    splits: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        split: str,
        hub_id: str,
        revision: str | None,
        path: str | None,
        protocol: str,
        parser: str = "strict",
        follow_links: bool = False,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        super().__init__()
        self.name, self.split, self.hub_id, self.revision = name, split, hub_id, revision
        self.path = path_text(path)
        self.protocol, self.parser = protocol, parser
        check_protocol(self)
        self.access = FileAccess(None, follow_links, max_megapixels)
        if self.splits and split not in self.splits:
            raise ConfigError(f"benchmark.split={split}: must be {' or '.join(self.splits)} for benchmark={name}.")
        self._origin = ""
        self._questions: list[Question] | None = None

    def questions(self) -> list[Question]:
        """All questions in the order of the table. Raises DataError where two have the same id."""
        if self._questions is None:
            self.dataset_revision, self.notices, self._origin = "", [], ""
            questions = self._read()
            if self.repeats_ids:
                questions = self._told_apart(questions)
            ids = Counter(question.id for question in questions)
            if ids and (most := ids.most_common(1)[0])[1] > 1:
                raise DataError(
                    f"{self._origin}: two questions have the id {most[0]!r}, and results are kept by id.\n"
                    "Remove one of the two rows, or download it again."
                )
            self._questions = questions
        return list(self._questions)

    def _told_apart(self, questions: list[Question]) -> list[Question]:
        """A second question under an id gets `_2` behind it, and so on in file order; the same question twice does not.

        Says so in a notice.
        """
        seen: dict[str, list[Question]] = {}
        apart: list[Question] = []
        for question in questions:
            earlier = seen.setdefault(question.id, [])
            number = len(earlier) + 1
            same = any(replace(other, id="") == replace(question, id="") for other in earlier)
            earlier.append(question)
            apart.append(question if number == 1 or same else replace(question, id=f"{question.id}_{number}"))
        repeated = [name for name, members in seen.items() if len(members) > 1]
        if repeated and len({question.id for question in apart}) == len(apart):
            self.notices.append(
                f"{self.name}: {len(repeated)} ids stand for several questions in the published table; the second of "
                f"{repeated[0]} is {repeated[0]}_2, and so on in the order of the file."
            )
        return apart

    @abstractmethod
    def _read(self) -> list[Question]:
        """The questions of the table (`_table`), images still on disk."""

    def _table(self, published: Published | None = None, part: str = "") -> Table:
        """The class's table, or another one of the same repository; sets `dataset_revision` and `notices`.

        With several local tables the revision is a digest of theirs, in the order in which they were opened.
        """
        table = read_table(
            self.name, published or self.published, self.hub_id, self.revision, self.path, part, self.access
        )
        self.notices += table.notices
        self._origin = self._origin or table.origin
        if self.dataset_revision and self.dataset_revision != table.revision:
            both = f"{self.dataset_revision} {table.revision}"
            self.dataset_revision = f"local:{hashlib.sha256(both.encode()).hexdigest()[:12]}"
        else:
            self.dataset_revision = table.revision
        return table
