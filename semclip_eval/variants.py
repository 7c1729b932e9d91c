"""A sweep over a list of variants instead of a full product of keys: `hydra/sweeper=variants`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins

# The first scan for plugins loads Hydra's own sweeper anew: the class to derive from is the one after it.
Plugins.instance()

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # noqa: E402

SELECTOR = "selector"


class VariantSweeper(BasicSweeper):
    """Hydra's own sweeper, with `variants`: mappings from keys to values, each a small sweep of its own.

    A selector's budget is a key that other selectors do not have, which no product of keys can express. Overrides that
    are typed hold for every variant, and several values of one (`crops=grid2x2,grid3x3`) multiply the list, the typed
    key outside. A typed `selector=a,b` keeps the variants of these selectors; one that the list lacks runs as it is.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        variants: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params)
        self.variants = variants

    def split_arguments(self, overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """The overrides of every job, in batches."""
        typed = [override for override in overrides if override.get_key_element() != SELECTOR]
        chosen = [override for override in overrides if override.get_key_element() == SELECTOR]
        (outside,) = BasicSweeper.split_arguments(typed, None)
        # What is typed stands in a variant's place; variants that are the same then are one.
        keys = {override.get_key_element() for override in typed}
        variants = [[text for text in job if text.partition("=")[0] not in keys] for job in self._variants(chosen)]
        inside = [list(job) for job in dict.fromkeys(map(tuple, variants))]
        jobs = [[*variant, *others] for others in outside for variant in inside]
        return list(self.split_overrides_to_chunks(jobs, max_batch_size))

    def _variants(self, chosen: Sequence[Override]) -> list[list[str]]:
        """The variants, each with one value a key; `chosen`: what was typed of the selector, the last counts."""
        spread = [job for variant in self.variants for job in self._spread(variant)]
        if not chosen:
            return spread
        (jobs,) = BasicSweeper.split_arguments([chosen[-1]], None)
        names = [override for (override,) in jobs]
        return [job for name in names for job in [job for job in spread if name in job] or [[name]]]

    def _spread(self, variant: Mapping[str, Any]) -> list[list[str]]:
        assert self.hydra_context is not None
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from semclip_eval.launch import as_group_choice

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        texts = [as_group_choice(f"{key}={value}") for key, value in variant.items()]
        jobs: list[list[str]]
        (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides(texts), None)
        return jobs


# Hydra takes a sweeper by a name in its own namespace of plugins only; no such package has to exist.
PLUGIN_NAME = "hydra_plugins.semclip_eval.VariantSweeper"


def register() -> None:
    """Let Hydra find the sweeper under `PLUGIN_NAME` (configs/hydra/sweeper/variants.yaml)."""
    Plugins.instance().class_name_to_class[PLUGIN_NAME] = VariantSweeper
