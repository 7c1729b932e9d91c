"""A selector around another one: `selector.inner=NAME`, its keys `selector.inner.KEY`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from semclip_eval.components import build
from semclip_eval.errors import ConfigError
from semclip_eval.selectors.base import PruneInput, SelectionInput, Selector
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Drops, Kept, Selection


def inner_selector(inner: Any) -> Selector:
    """The selector that the key `inner` describes: a config section, or a selector itself."""
    selector = build("selector.inner", inner) if isinstance(inner, Mapping) else inner
    if not isinstance(selector, Selector):
        raise ConfigError(f"selector.inner={inner}: must be a selector; choose one with selector.inner=NAME.")
    return selector


class Wrapper(Selector):
    """Passes everything on to `inner`; a subclass overrides what it changes and names in `own_needs` what that needs.

    What the inner selector sees of the truth, the wrapper sees.
    """

    inner: Any
    own_needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Those of both."""
        return self.own_needs.union(self.inner.needs)

    @property
    def uses_truth(self) -> bool:  # type: ignore[override]
        """Whether the inner selector does."""
        return bool(self.inner.uses_truth)

    @property
    def drops(self) -> Drops | None:  # type: ignore[override]
        """What the language model drops behind the inner selector."""
        return self.inner.drops  # type: ignore[no-any-return]

    def check_candidates(self, candidates: int) -> None:
        """That of the inner selector."""
        self.inner.check_candidates(candidates)

    def most_views(self, candidates: int) -> int:
        return int(self.inner.most_views(candidates))

    def psi_work(self, item: SelectionInput, selection: Selection) -> tuple[int, int] | None:
        """That of the inner selector, where the wrapper itself asks no ψ."""
        work: tuple[int, int] | None = self.inner.psi_work(item, selection)
        return work if "psi" in self.inner.needs else None

    def psi_maps(self, item: SelectionInput, selection: Selection) -> int:
        """That of the inner selector."""
        return int(self.inner.psi_maps(item, selection))

    def most_kept(self, visual_tokens: int) -> int:
        return int(self.inner.most_kept(visual_tokens))

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        return list(self.inner.select(inputs, tools))

    def prune(self, inputs: Sequence[PruneInput], tools: Tools) -> list[Kept | None]:
        return list(self.inner.prune(inputs, tools))
