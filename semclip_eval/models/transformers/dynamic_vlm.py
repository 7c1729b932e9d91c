"""What the families of dynamic resolution have in common: a view has as many tokens as its size asks for.

The views of a question are encoded together, but for the overview: it passes alone, is kept, and serves the other
questions about its image and, in a sweep, the other selectors.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from semclip_eval.errors import ModelError
from semclip_eval.lazy import library, without_gradients
from semclip_eval.models.base import ModelInputs
from semclip_eval.models.insight import ViewTokens
from semclip_eval.models.transformers.features import ViewFeatures, view_key
from semclip_eval.models.transformers.transformers_vlm import TransformersVLM

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")


class DynamicResolutionVLM(TransformersVLM):
    """A family says how features are made of pixels (`_image_features`) and which pixels a view has (`_pixels`)."""

    @abstractmethod
    def _image_features(self, pixel_values: torch.Tensor, extras: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(visual tokens, width) of some views, in the order of their placeholders; inputs are on the device.

        The width is the language model's hidden size, or what the family's `_typed_view` takes apart.
        """

    def _typed_view(self, features: torch.Tensor, class_attention: torch.Tensor | None) -> ViewTokens:
        """One view's tokens, of its rows of `_image_features`."""
        return ViewTokens(features, class_attention)

    @abstractmethod
    def _pixels(self, prepared: ModelInputs, begin: int, end: int) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """What `_image_features` takes for the views from `begin` to before `end`, on the CPU.

        A view's part does not depend on the other views, in content or in shape.
        """

    def _class_attention(
        self, pixel_values: torch.Tensor, extras: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`_image_features`, and the class token's attention (visual tokens), float32: where a family can tell it."""
        raise self._cannot("class_attention")

    @without_gradients
    def encode(self, batch: Sequence[ModelInputs]) -> list[list[ViewTokens]]:
        """For each question its views' tokens: (visual tokens, hidden size of the language model) each.

        Raises ModelError where the tower returns another number of features than the prompt has placeholders.
        """
        return [self._question_views(prepared) if prepared.view_tokens else [] for prepared in batch]

    def _question_views(self, prepared: ModelInputs) -> list[ViewTokens]:
        views, asks = len(prepared.view_tokens), prepared.class_attention
        parts = [self._overview_features(prepared)] if self.keeps_features else []
        apart = len(parts)
        if views > apart:
            parts.append(self._through_tower(*self._pixels(prepared, apart, views), asks))
            self.features.passes += views - apart
        features = torch.cat([part.selected for part in parts])
        if len(features) != prepared.visual_tokens:
            raise ModelError(
                f"{self.name}: the vision tower returned {len(features)} features for {prepared.visual_tokens} "
                "placeholders; config.json and the image processor's file do not fit together"
            )
        attention = [part.class_attention for part in parts if part.class_attention is not None]
        counts = list(prepared.view_tokens)
        weights = torch.cat(attention).split(counts) if asks else (None,) * views
        return [self._typed_view(view, weight) for view, weight in zip(features.split(counts), weights, strict=True)]

    def _overview_features(self, prepared: ModelInputs) -> ViewFeatures:
        """The first view's features, kept or made alone, so that their bits do not depend on the other views."""
        pixels, extras = self._pixels(prepared, 0, 1)
        key = view_key(pixels, extras)
        kept = self.features.get(key)
        if kept is None or (prepared.class_attention and kept.class_attention is None):
            kept = self._through_tower(pixels, extras, prepared.class_attention)
            self.features.put(key, kept)
        return kept

    def _through_tower(self, pixels: torch.Tensor, extras: Mapping[str, torch.Tensor], asks: bool) -> ViewFeatures:
        pixels = pixels.to(self.device, self.model.dtype)
        extras = {name: tensor.to(self.device) for name, tensor in extras.items()}
        if not asks:
            return ViewFeatures(self._image_features(pixels, extras))
        features, attention = self._class_attention(pixels, extras)
        return ViewFeatures(features, class_attention=attention)
