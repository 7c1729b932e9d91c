"""What a benchmark is to the rest of the program: its questions, how each is put, and how an answer is scored.

A new benchmark is one file with a subclass and one YAML in `configs/benchmark/`; the keys of the YAML are the keyword
arguments of the class.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Self

from semclip_eval.errors import ConfigError
from semclip_eval.scoring.metrics import Metric
from semclip_eval.types import Answer, Prompt, Question, Score


class Benchmark(ABC):
    """The questions of one data set under one protocol.

    name, split: as the results show them. protocol: how a question is put and scored, one of `protocols`. parser: the
    rule that reads an answer, one of `parsers`: `strict` is this project's, `official` the benchmark's own where that
    differs. metric: what the scores come to (`scoring.metrics`). dataset_revision: a Hub commit or `local:` and a hash
    of the content. notices: what the user should read before the run (fewer questions than published, for instance).
    has_boxes: whether the questions carry `target_boxes`. breakdowns: names of question tags that get rows of their own
    in `categories.csv` beside those by category. keeps_clusters_together: whether a limit takes whole clusters only
    (the rotations of one question). `dataset_revision` and `notices` are known once `questions` has been called.
    """

    name: str
    split: str = "test"
    protocol: str
    protocols: tuple[str, ...]
    parser: str = "strict"
    parsers: tuple[str, ...] = ("strict",)
    metric: Metric = Metric()
    dataset_revision: str = ""
    notices: list[str]
    has_boxes: bool = False
    breakdowns: tuple[str, ...] = ()
    keeps_clusters_together: bool = False

    def __new__(cls, *arguments: Any, **keywords: Any) -> Self:
        # Here and not in __init__, so that a subclass need not call that.
        benchmark = super().__new__(cls)
        benchmark.notices = []
        return benchmark

    @abstractmethod
    def questions(self) -> list[Question]:
        """All questions in the official order, images still on disk.

        Raises DataError where a file is missing or malformed. What is wrong with one image alone is a QuestionError
        from that question's `load_image`.
        """

    @abstractmethod
    def prompt(self, question: Question) -> Prompt:
        """What the VLM is asked after the image placeholders, to the byte."""

    @abstractmethod
    def score(self, question: Question, answer: Answer) -> Score:
        """The answer's value. Raises QuestionError where the answer is not of this protocol's kind."""

    @property
    def described_protocol(self) -> str:
        """What the column `protocol` says: the protocol, and the parser where it is not the strict one."""
        return self.protocol if self.parser == "strict" else f"{self.protocol}/{self.parser}"

    def chance(self, question: Question) -> float | None:
        """The expected score of guessing: one in the number of options; None where there are no options."""
        return 1 / len(question.options) if question.options else None


def check_protocol(benchmark: Benchmark) -> None:
    """ConfigError where `benchmark.protocol` or `benchmark.parser` is none of the class's."""
    for key, value, known in (
        ("protocol", benchmark.protocol, benchmark.protocols),
        ("parser", benchmark.parser, benchmark.parsers),
    ):
        if value not in known:
            raise ConfigError(f"benchmark.{key}={value}: must be {' or '.join(known)} for benchmark={benchmark.name}.")


def stratified_limit(
    questions: Sequence[Question], limit: int, seed: int, whole_clusters: bool = False
) -> list[Question]:
    """A sample of `limit` questions in which every category has its share, in the order of `questions`.

    Within a category the seed decides which; the shares are those of Webster's (Sainte-Laguë) apportionment, so a
    larger limit keeps every question of a smaller one. All questions where the limit is larger than their number.
    With `whole_clusters` the questions of a cluster come all or not at all: as many clusters as the limit has room for,
    and at least one.
    Raises ConfigError for a limit below 1.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigError(f"run.limit={limit}: must be a whole number of at least 1 (run.limit=null asks all).")
    clusters: dict[str, list[int]] = defaultdict(list)
    for position, question in enumerate(questions):
        clusters[question.cluster if whole_clusters else str(position)].append(position)
    members: dict[str, list[str]] = defaultdict(list)
    for name, positions in clusters.items():
        members[questions[positions[0]].category].append(name)
    quotients: list[tuple[float, int, str]] = []
    for category, names in members.items():
        # A text as seed gives the same shuffle in every process and leaves the categories independent of each other.
        random.Random(f"{seed}:{category}").shuffle(names)
        quotients += [((rank + 0.5) / len(names), clusters[name][0], name) for rank, name in enumerate(names)]
    chosen: list[int] = []
    for _, _, name in sorted(quotients):
        if chosen and len(chosen) + len(clusters[name]) > limit:
            break
        chosen += clusters[name]
    return [questions[position] for position in sorted(chosen)]
