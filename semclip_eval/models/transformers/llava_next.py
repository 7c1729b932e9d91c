"""LLaVA-NeXT (LLaVA-1.6) with Vicuna: every view is cut into tiles of 336 pixels and shown whole besides ("anyres")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from semclip_eval.checks import whole_number
from semclip_eval.errors import ModelError
from semclip_eval.lazy import library
from semclip_eval.measure import flops
from semclip_eval.models.base import ModelInputs
from semclip_eval.models.insight import TokenBoxes
from semclip_eval.models.transformers.anyres import best_canvas, canvas_boxes, canvas_tiles, canvas_tokens
from semclip_eval.models.transformers.class_attention import class_token_attention, layer_input
from semclip_eval.models.transformers.dynamic_vlm import DynamicResolutionVLM
from semclip_eval.models.transformers.layout import grid, placeless, token_boxes
from semclip_eval.models.transformers.transformers_vlm import TransformersConfig, Views
from semclip_eval.models.transformers.views import require_rgb

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")


@dataclass
class LlavaNextConfig(TransformersConfig):
    """Keys of LLaVA-NeXT.

    max_tiles: only canvases of at most so many tiles; None takes all that the checkpoint lists (four tiles at most,
    576 to 2928 visual tokens a view, of which few fit into Vicuna's context of 4096).
    """

    max_tiles: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # The smallest canvas has two tiles.
        whole_number("model.max_tiles", self.max_tiles, 2, or_null="every canvas of the checkpoint")


class LlavaNext(DynamicResolutionVLM):
    """LLaVA-NeXT."""

    Config = LlavaNextConfig
    settings: LlavaNextConfig

    model_type = "llava_next"
    conversations = ("vicuna_v1",)
    capabilities = DynamicResolutionVLM.capabilities | {"class_attention"}
    smaller_views = ", a smaller model.max_tiles"

    def _dummy_image_processor(self, config: Any) -> Any:
        from transformers import LlavaNextImageProcessorPil

        side = config.vision_config.image_size
        return LlavaNextImageProcessorPil(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_grid_pinpoints=config.image_grid_pinpoints,
        )

    def _read_layout(self) -> None:
        config, vision = self.model.config, self.model.config.vision_config
        self.tile = int(vision.image_size)
        self.patches = self.tile // int(vision.patch_size)
        side = self.image_processor.crop_size["height"]
        if side != self.tile:
            raise ModelError(
                f"{self.name}: the image processor makes tiles of {side} pixels, the vision tower takes {self.tile}; "
                "the files do not fit together"
            )
        self.canvases = [list(canvas) for canvas in config.image_grid_pinpoints]
        if self.settings.max_tiles is not None:
            self.canvases = [
                canvas for canvas in self.canvases if canvas[0] * canvas[1] <= self.settings.max_tiles * self.tile**2
            ]
            config.image_grid_pinpoints = self.canvases  # the model finds a view's canvas again from its size
        first = 0 if config.vision_feature_select_strategy == "default" else 1
        self.whole_tokens = self.patches**2 + first
        self.least_view_tokens = self.whole_tokens

    def _views(self, images: Sequence[Image.Image]) -> Views:
        for image in images:
            require_rgb(image)
        processed = self.image_processor(
            images=list(images),
            return_tensors="pt",
            input_data_format="channels_last",
            image_grid_pinpoints=self.canvases,
        )
        return Views(
            pixel_values=processed["pixel_values"].to(torch.float32),
            tokens=tuple(self._view_tokens(image.height, image.width) for image in images),
            extras={"image_sizes": processed["image_sizes"]},
        )

    def _token_boxes(self, width: int, height: int, views: int) -> TokenBoxes:
        # The whole view is stretched to one tile, then it is shown once more on its canvas.
        whole = grid(self.patches, self.patches, (0, 0, width, height))
        first = placeless(self.whole_tokens - len(whole))
        canvas = best_canvas(height, width, self.canvases)
        cells = canvas_boxes(height, width, canvas, self.tile, self.patches)
        return token_boxes([first, whole, cells], width, height, [True, True, False])

    def _view_tokens(self, height: int, width: int) -> int:
        canvas = best_canvas(height, width, self.canvases)
        return self.whole_tokens + canvas_tokens(height, width, canvas, self.tile, self.patches)

    def _pixels(self, prepared: ModelInputs, begin: int, end: int) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        sizes = prepared.extras["image_sizes"][begin:end]
        # Beyond a view's own tiles lies padding up to the tiles of the question's largest view.
        tiles = max(canvas_tiles(height, width, self.canvases, self.tile) for height, width in sizes.tolist())
        return prepared.pixel_values[begin:end, :tiles], {"image_sizes": sizes}

    def _vision_flops(self, prepared: ModelInputs) -> int:
        sizes = prepared.extras["image_sizes"]
        tiles = [canvas_tiles(height, width, self.canvases, self.tile) for height, width in sizes.tolist()]
        return flops.tile_encoder(self.model.config, sum(tiles), self.whole_tokens)

    def _image_features(self, pixel_values: torch.Tensor, extras: Mapping[str, torch.Tensor]) -> torch.Tensor:
        outputs = self.model.model.get_image_features(pixel_values, extras["image_sizes"])
        return torch.cat(list(outputs.pooler_output))

    def _class_attention(
        self, pixel_values: torch.Tensor, extras: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights lie as the features do: packed by the model itself, a newline token has none."""
        tower = self.model.model.vision_tower
        layer = getattr(tower, "vision_model", tower).encoder.layers[-2]
        with layer_input(layer) as states:
            features = self._image_features(pixel_values, extras)
        weights = class_token_attention(layer, states[0])[..., None]
        strategy = self.model.config.vision_feature_select_strategy
        if strategy == "default":
            weights = weights[:, 1:]
        sizes = extras["image_sizes"]
        tiles = [canvas_tiles(height, width, self.canvases, self.tile) for height, width in sizes.tolist()]
        packed, _ = self.model.model.pack_image_features(
            list(weights.split(tiles)), sizes, strategy, weights.new_zeros(1)
        )
        return features, torch.cat(list(packed))[:, 0]
