"""The LLaVA-1.5 family: CLIP tower, projector, language model; views and question in one prompt.

Everything that differs between members (image size, feature layers, language model, context) is read from the
checkpoint's config.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from semclip_eval.checks import require_member
from semclip_eval.errors import ConfigError, ModelError
from semclip_eval.lazy import library, without_gradients
from semclip_eval.measure import flops
from semclip_eval.models.base import ModelInputs
from semclip_eval.models.insight import TokenBoxes, ViewTokens
from semclip_eval.models.transformers import dummy
from semclip_eval.models.transformers.class_attention import class_token_attention
from semclip_eval.models.transformers.features import ViewFeatures, pixel_keys
from semclip_eval.models.transformers.layout import grid, padded_square, placeless, token_boxes
from semclip_eval.models.transformers.transformers_vlm import TransformersConfig, TransformersVLM, Views
from semclip_eval.models.transformers.views import preprocess
from semclip_eval.pixels import RESIZERS

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")


@dataclass
class Llava15Config(TransformersConfig):
    """The section `model` of LLaVA-1.5: the keys of `TransformersConfig`, and what resizes views.

    resize_with: `pillow`, the published way, or `torch`, several times as fast for large images and about two values in
    a thousand one grey level off.
    """

    resize_with: str = "pillow"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_member("model.resize_with", self.resize_with, RESIZERS)


class Llava15(TransformersVLM):
    """LLaVA-1.5 (or any LlavaForConditionalGeneration); the keys are those of `Llava15Config`.

    `path='mini://vlm'` is the package's own miniature.
    """

    Config = Llava15Config
    settings: Llava15Config
    model_type = "llava"
    conversations = ("vicuna_v1",)
    equal_views = True
    capabilities = TransformersVLM.capabilities | {"class_attention"}
    # Has ψ looked at views in this block? Then their features are at hand.
    _has_embedded = False

    @property
    def resize_with(self) -> str:
        """What resizes views."""
        return self.settings.resize_with

    def _dummy_image_processor(self, config: Any) -> Any:
        return dummy.build_image_processor(config)

    def _read_layout(self) -> None:
        config, vision = self.model.config, self.model.config.vision_config
        layers = config.vision_feature_layer
        self.feature_layers = [layers] if isinstance(layers, int) else list(layers)
        self.drops_first = config.vision_feature_select_strategy == "default"
        # CLIP puts a class token before the patches, SigLIP does not; `encode` checks the tower's real output.
        first = 0 if vision.model_type.startswith("siglip") else 1
        self.side = vision.image_size // vision.patch_size
        self.tokens_per_view = (vision.image_size // vision.patch_size) ** 2 + first - int(self.drops_first)
        self.least_view_tokens = self.tokens_per_view
        blank = preprocess([Image.new("RGB", (2, 2))], self.image_processor, self.resize_with)
        if blank.shape[-2:] != (vision.image_size, vision.image_size):
            raise ModelError(
                f"{self.name}: the image processor makes {blank.shape[-1]}x{blank.shape[-2]} pixels, "
                f"the vision tower takes {vision.image_size}x{vision.image_size}; the files do not fit together"
            )

    def _views(self, images: Sequence[Image.Image]) -> Views:
        return Views(preprocess(images, self.image_processor, self.resize_with), (self.tokens_per_view,) * len(images))

    def begin_block(self, keep: bool) -> None:
        """See `VLM.begin_block`."""
        super().begin_block(keep)
        self._has_embedded = False

    @property
    def vision_tower(self) -> Any:
        """The inner transformer of the CLIP tower, with its embeddings and layers."""
        tower = self.model.model.vision_tower
        return getattr(tower, "vision_model", tower)

    @without_gradients
    def embed_views(
        self, images: Sequence[Image.Image], head: Callable[[torch.Tensor], torch.Tensor], space: str
    ) -> torch.Tensor:
        """Embeddings (images, dimension) that `head` makes of the tower's last hidden states (images, tokens, width).

        `space` names the weights of the head: embeddings of another one that are still kept are not taken for its own.
        The images are encoded together, as views do, and until the next block `encode` finds their features.
        """
        pixels = preprocess(images, self.image_processor, self.resize_with)
        keys = pixel_keys(pixels)
        self._has_embedded = True
        if any(self.features.embedding(key, space) is None for key in keys):
            selected, last, _ = self._tower(pixels.to(self.device, self.model.dtype))
            for key, features, embedding in zip(keys, selected, head(last), strict=True):
                self.features.put(key, ViewFeatures(features.clone(), embedding.clone(), space))
        return torch.stack([found for key in keys if (found := self.features.embedding(key, space)) is not None])

    @without_gradients
    def encode(self, batch: Sequence[ModelInputs]) -> list[list[ViewTokens]]:
        """For each question its views' tokens: (tokens per view, hidden size of the language model) each.

        What the tower has made already (of an overview, or of a crop that ψ looked at) is taken from there; all other
        crops of the batch pass it together. Raises ModelError where it returns another number of features than the
        config announces.
        """
        views = [len(prepared.pixel_values) for prepared in batch]
        if sum(views) == 0:
            return [[] for _ in batch]
        pixels = torch.cat([prepared.pixel_values for prepared in batch if len(prepared.pixel_values)])
        asks = any(prepared.class_attention for prepared in batch)
        overviews = {sum(views[:number]) for number, count in enumerate(views) if count}
        found: dict[int, ViewFeatures] = {}
        for position, view in enumerate(pixels):
            is_kept = self.keeps_features and position in overviews
            if not (is_kept or self._has_embedded):
                continue
            (key,) = pixel_keys(view[None])
            features = self.features.get(key)
            if features is not None and asks and features.class_attention is None:
                features = None
            if features is None and is_kept:
                # Alone, so that its bits do not depend on what else happens to be in the batch.
                (features,) = self._view_features(view[None], asks)
                self.features.put(key, features)
            if features is not None:
                found[position] = features
        others = [position for position in range(len(pixels)) if position not in found]
        if others:
            found |= dict(zip(others, self._view_features(pixels[others], asks), strict=True))
            self.features.passes += len(others)
        ordered = [found[position] for position in range(len(pixels))]
        projected = self._project(torch.stack([features.selected for features in ordered]))
        tokens = [ViewTokens(view, features.class_attention) for view, features in zip(projected, ordered, strict=True)]
        starts = itertools.accumulate(views, initial=0)
        return [tokens[start : start + count] for start, count in zip(starts, views, strict=False)]

    def _view_features(self, pixels: torch.Tensor, asks: bool) -> list[ViewFeatures]:
        selected, _, attention = self._tower(pixels.to(self.device, self.model.dtype), asks)
        return [
            ViewFeatures(view, class_attention=None if attention is None else attention[number])
            for number, view in enumerate(selected)
        ]

    def _vision_flops(self, prepared: ModelInputs) -> int:
        return flops.tile_encoder(self.model.config, len(prepared.pixel_values), self.tokens_per_view)

    def _token_boxes(self, width: int, height: int, views: int) -> TokenBoxes:
        cells = grid(self.side, self.side, padded_square(width, height))
        first = placeless(self.tokens_per_view - self.side**2)
        return token_boxes([first, cells], width, height)

    def _tower(
        self, pixels: torch.Tensor, asks: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What the projector reads (views, tokens per view, width) and the last hidden states, class token included.

        Where asked for, also the class token's attention in the second last layer (views, tokens per view).
        """
        outputs = self.model.model.vision_tower(pixels, output_hidden_states=True)
        chosen = [outputs.hidden_states[layer] for layer in self.feature_layers]
        if self.drops_first:
            chosen = [features[:, 1:] for features in chosen]
        attention = self._class_attention(outputs.hidden_states[-3]) if asks else None
        return torch.cat(chosen, dim=-1), outputs.last_hidden_state, attention

    def _class_attention(self, states: torch.Tensor) -> torch.Tensor:
        """The class token's attention from the second last layer's input: (views, tokens per view).

        A class token that is a visual token itself has its own weight.
        """
        if self.tokens_per_view == self.side**2 and not self.drops_first:
            raise ConfigError(
                f"model={self.name}: its vision tower has no class token, so there is no class_attention."
            )
        attention = class_token_attention(self.vision_tower.encoder.layers[-2], states)
        return attention[:, 1:] if self.drops_first else attention

    def _project(self, selected: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model.model.multi_modal_projector(selected)
        if features.shape[1] != self.tokens_per_view:
            raise ModelError(
                f"{self.name}: the vision tower returned {features.shape[1]} features per view, "
                f"config.json announces {self.tokens_per_view}"
            )
        return features
