"""What every selector is given and must give back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NoReturn

from PIL import Image

from semclip_eval.crops import intersection, whole_image
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Box, Drops, Kept, Prompt, Question, Request, Selection, View

if TYPE_CHECKING:
    from semclip_eval.models.insight import TokenBoxes, ViewTokens


class Undeclared(tuple[Box, ...]):
    """The candidates of a selector that does not name them in its `needs`: to use them is a ConfigError.

    An empty tuple would let it go on and choose from nothing, without a word.
    """

    __slots__ = ()

    def _refuse(self, *_: object) -> NoReturn:
        raise ConfigError("the selector uses `candidates` and does not name them in its `needs`.")

    def __repr__(self) -> str:
        return "Undeclared()"

    __iter__ = __len__ = __getitem__ = __contains__ = __add__ = _refuse


@dataclass(frozen=True)
class SelectionInput:
    """All that a selector may know of one question.

    image: RGB. text: what ψ reads. instruction: the prompt's text as the VLM will get it, without the continuations
    that a likelihood question scores. candidates: the crop scheme's boxes, row by row. target_boxes: None but for a
    selector with `uses_truth`. seed: the run's.
    """

    question_id: str
    image_id: str
    image: Image.Image
    text: str
    candidates: tuple[Box, ...]
    target_boxes: tuple[Box, ...] | None
    seed: int
    instruction: str = ""

    @property
    def offered_candidates(self) -> tuple[Box, ...]:
        """The candidates for a record of the choice: none where the selector did not ask for any."""
        return () if isinstance(self.candidates, Undeclared) else self.candidates

    def request(
        self,
        images: Sequence[Image.Image],
        text: str | None = None,
        words: tuple[str, ...] = (),
        max_new_tokens: int = 16,
    ) -> Request:
        """A request to the VLM that counts for this question.

        text: what is asked; None for the question's own instruction. words: continuations to be weighed.
        """
        prompt = Prompt(self.instruction if text is None else text, words, max_new_tokens)
        return Request(tuple(images), prompt, self.question_id)


@dataclass(frozen=True)
class PruneInput:
    """One question between the vision encoder and the prefill.

    tokens: the encoded visual tokens of each view of the selection. boxes: where they lie.
    """

    item: SelectionInput
    selection: Selection
    tokens: tuple[ViewTokens, ...]
    boxes: tuple[TokenBoxes, ...]


class Selector(ABC):
    """Chooses the views that the VLM is given and, where `needs` hold `prune`, which of their visual tokens it reads.

    `needs` names what the choice depends on beside the image (`tools.NEEDS`): `candidates` (the crop scheme), `psi`,
    `vlm` (its answers), and the VLM's capabilities. What is not named is not handed over, and can be left out of a run
    and of its result row; what a model cannot do is refused before the run. `uses_truth` marks an oracle, the only kind
    that is handed the target boxes or `Tools.judge`. `max_forwards` bounds the VLM forwards of one question; None sets
    no bound. `drops`: what the language model drops on its way, where `needs` hold `drop`. `measure_names` are numbers
    of its own that every selection carries (`Selection.measures`).
    """

    name: str
    measure_names: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_truth: ClassVar[bool] = False
    max_forwards: int | None = None
    drops: Drops | None = None

    def check_candidates(self, candidates: int) -> None:  # noqa: B027 (optional)
        """ConfigError where so many candidate crops (those of a large image) are too few for this selector."""

    def most_views(self, candidates: int) -> int:
        """How many views a question of a large image gets where the crop scheme has so many candidates.

        A run whose views cannot fit the model's context is refused by this number before it starts; the default, the
        overview alone, leaves it to each question.
        """
        return 1

    @abstractmethod
    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        """One selection an input, in the order given, each independent of the other inputs.

        Raises ConfigError where a parameter cannot be met, and QuestionError where one of the inputs cannot be used
        (ask one by one to learn which).
        """

    def psi_work(self, item: SelectionInput, selection: Selection) -> tuple[int, int] | None:
        """How many boxes and texts ψ scored for this selection, for the count of FLOPs; None where it is not said."""
        return None

    def psi_maps(self, item: SelectionInput, selection: Selection) -> int:
        """How many pictures ψ made a map of its patches for, when `prune` chose tokens of this selection."""
        return 0

    def most_kept(self, visual_tokens: int) -> int:
        """How many of so many visual tokens of one question are kept at most; for the check before a run."""
        return visual_tokens

    def prune(self, inputs: Sequence[PruneInput], tools: Tools) -> list[Kept | None]:
        """The visual tokens that the language model reads, for each input; None keeps all.

        Called where `needs` hold `prune`, between the vision encoder and the prefill.
        """
        return [None for _ in inputs]


def selection_input(
    selector: Selector,
    question: Question,
    image: Image.Image,
    text: str,
    candidates: tuple[Box, ...],
    seed: int,
    instruction: str = "",
) -> SelectionInput:
    """What `selector` may know of `question`: the target boxes only where it says that it uses the truth."""
    boxes = question.target_boxes if selector.uses_truth else None
    for box in boxes or ():
        if intersection(box, whole_image(image.width, image.height)) != box:
            raise QuestionError(f"box {tuple(box)} lies outside of the image of {image.width}x{image.height} pixels")
    return SelectionInput(question.id, question.image_id, image, text, candidates, boxes, seed, instruction)


def overview(image: Image.Image) -> View:
    """The whole image as a view."""
    return View("overview", whole_image(image.width, image.height))


def with_overview(image: Image.Image, boxes: Sequence[Box]) -> Selection:
    """The overview, then a crop a box, without ψ."""
    return Selection((overview(image), *(View("crop", box) for box in boxes)))


def check_scheme(key: str, count: int, candidates: int) -> None:
    """ConfigError where the crop scheme has fewer candidates than `key` asks for."""
    if count > candidates:
        raise ConfigError(
            f"{key}={count}: the crop scheme has {candidates} candidates; give at most that, or a finer crops=...."
        )


def check_enough(key: str, count: int, item: SelectionInput) -> None:
    """QuestionError where one image is too small for as many candidates as `key` asks for."""
    if count > len(item.candidates):
        raise QuestionError(
            f"{key}={count}: an image of {item.image.width} x {item.image.height} pixels has only "
            f"{len(item.candidates)} candidate crops."
        )
