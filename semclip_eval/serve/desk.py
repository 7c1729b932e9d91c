"""Takes what a user filled in and gives back the answers as HTML, one selector after another."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from semclip_eval.ask.asking import Asked, Asker, Query, read_box, read_image
from semclip_eval.ask.page import cards, problem
from semclip_eval.console import warn
from semclip_eval.errors import ConfigError, QuestionError, SemclipEvalError

# The choice of no protocol: `ask`'s own rule (likelihood with options, short_answer without).
AUTOMATIC = "automatic"


@dataclass(frozen=True)
class Form:
    """The page's fields as they were filled in.

    image: a file, None where there is none. options: one a line. boxes: `X,Y,WIDTH,HEIGHT` in pixels, several with
    spaces between.
    """

    image: str | None
    question: str
    options: str = ""
    protocol: str = AUTOMATIC
    boxes: str = ""
    selectors: Sequence[str] = ()


class Desk:
    """One model, one question at a time: whoever comes second waits. `close` it at the end."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        # A thread of its own, so that a request whose page was closed half-way cannot meet the next one in the model.
        self._busy = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="asking")

    @property
    def is_busy(self) -> bool:
        """Is a selector being asked?"""
        return self._busy

    def close(self) -> None:
        """Drop what waits, and wait for the answer that is being made."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def answers(self, form: Form) -> Iterator[str]:
        """The cards, again whenever one more selector has answered; one line where the form cannot be asked."""
        try:
            query = query_of(form)
        except (SemclipEvalError, QuestionError) as error:
            yield problem(str(error))
            return
        results: list[Asked] = []
        for place, name in enumerate(form.selectors):
            yield cards(query, results, form.selectors[place:])
            results.append(self._worker.submit(self._answer, name, query).result())
        yield cards(query, results)

    def _answer(self, name: str, query: Query) -> Asked:
        self._busy = True
        try:
            return self._asker.answer(name, query)
        except SemclipEvalError as error:
            return Asked(name, None, str(error))
        except Exception as error:  # the server goes on; the terminal keeps what a report of the fault needs
            warn(traceback.format_exc())
            return Asked(name, None, f"{type(error).__name__}: {error} (the terminal shows where)")
        finally:
            self._busy = False


def query_of(form: Form) -> Query:
    """What the form asks; ConfigError or QuestionError, in the page's words, where something is missing or wrong."""
    from semclip_eval.benchmarks.single import SingleQuestion

    if not form.image:
        raise ConfigError("There is no image: drop one on the field, or paste it.")
    if not form.question.strip():
        raise ConfigError("There is no question: type one.")
    if not form.selectors:
        raise ConfigError("No selector is ticked: choose at least one.")
    boxes = tuple(read_box(text) for text in form.boxes.split())
    options = tuple(line.strip() for line in form.options.splitlines() if line.strip())
    protocol = None if form.protocol == AUTOMATIC else form.protocol
    query = Query(read_image(form.image), form.question.strip(), options, protocol, boxes)
    SingleQuestion(query.image, query.question, options, protocol, boxes)  # raises where they do not fit together
    return query
