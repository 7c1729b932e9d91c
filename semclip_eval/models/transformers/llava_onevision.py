"""LLaVA-OneVision: a single view in up to 36 tiles of 384 pixels, several views as one tile each.

That is how the model was trained (arXiv 2408.03326, section 3): a lone image is cut into tiles ("anyres_max_9": their
features are interpolated down to nine tiles), each of several images is padded to a square and encoded once. So adding
a crop takes the overview's resolution away; `model.tiles=every_view` keeps it, as transformers does for a flat list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from semclip_eval.checks import require_member
from semclip_eval.errors import ModelError
from semclip_eval.lazy import library
from semclip_eval.measure import flops
from semclip_eval.models.base import ModelInputs
from semclip_eval.models.insight import TokenBoxes
from semclip_eval.models.transformers.anyres import best_canvas, canvas_boxes, canvas_tiles, canvas_tokens
from semclip_eval.models.transformers.dynamic_vlm import DynamicResolutionVLM
from semclip_eval.models.transformers.layout import grid, padded_square, placeless, token_boxes
from semclip_eval.models.transformers.transformers_vlm import TransformersConfig, Views
from semclip_eval.models.transformers.views import require_rgb

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")

TILES = ("single_view", "every_view")


@dataclass
class LlavaOnevisionConfig(TransformersConfig):
    """Keys of LLaVA-OneVision.

    tiles: 'single_view' (as trained: only where the question has one view) or 'every_view'.
    """

    conversation: str = "llava_onevision"
    tiles: str = "single_view"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_member("model.tiles", self.tiles, TILES)


class LlavaOnevision(DynamicResolutionVLM):
    """LLaVA-OneVision."""

    Config = LlavaOnevisionConfig
    settings: LlavaOnevisionConfig

    model_type = "llava_onevision"
    conversations = ("llava_onevision", "qwen_1_5")

    def _dummy_image_processor(self, config: Any) -> Any:
        from transformers import LlavaOnevisionImageProcessorPil

        side, half = config.vision_config.image_size, [0.5, 0.5, 0.5]
        return LlavaOnevisionImageProcessorPil(
            size={"height": side, "width": side},
            image_grid_pinpoints=config.image_grid_pinpoints,
            image_mean=half,
            image_std=half,
        )

    def _read_layout(self) -> None:
        config, vision = self.model.config, self.model.config.vision_config
        self.tile = int(vision.image_size)
        self.patches = self.tile // int(vision.patch_size)
        self.canvases = [list(canvas) for canvas in config.image_grid_pinpoints]
        most = str(config.vision_aspect_ratio).removeprefix("anyres_max_")
        if not most.isdecimal():
            raise ModelError(
                f"{self.name}: config.json has vision_aspect_ratio '{config.vision_aspect_ratio}'; only anyres_max_N, "
                "as published, is supported"
            )
        self.most_tiles = int(most)
        side = self.image_processor.size["height"]
        if side != self.tile:
            raise ModelError(
                f"{self.name}: the image processor makes tiles of {side} pixels, the vision tower takes {self.tile}; "
                "the files do not fit together"
            )
        self.least_view_tokens = self.patches**2

    def _is_tiled(self, views: int) -> bool:
        return views == 1 or self.settings.tiles == "every_view"

    def _views(self, images: Sequence[Image.Image]) -> Views:
        for image in images:
            require_rgb(image)
        tiled = self._is_tiled(len(images))
        # A nested list is one question with several images; in a flat list each is a question of its own.
        processed = self.image_processor(
            images=list(images) if tiled else [list(images)],
            return_tensors="pt",
            input_data_format="channels_last",
            image_grid_pinpoints=self.canvases,
        )
        tokens = [self._tiled_tokens(image.height, image.width) if tiled else self.patches**2 + 1 for image in images]
        return Views(
            pixel_values=processed["pixel_values"].to(torch.float32),
            tokens=tuple(tokens),
            extras={
                "image_sizes": processed["image_sizes"],
                "batch_num_images": torch.tensor([1] * len(images) if tiled else [len(images)]),
            },
        )

    def _token_boxes(self, width: int, height: int, views: int) -> TokenBoxes:
        if not self._is_tiled(views):
            # One tile of the padded square, and a newline.
            cells = grid(self.patches, self.patches, padded_square(width, height))
            return token_boxes([cells, placeless(1)], width, height)
        whole = grid(self.patches, self.patches, (0, 0, width, height))
        canvas = best_canvas(height, width, self.canvases)
        cells = canvas_boxes(height, width, canvas, self.tile, self.patches, self.most_tiles)
        return token_boxes([whole, cells], width, height, [True, False])

    def _tiled_tokens(self, height: int, width: int) -> int:
        canvas = best_canvas(height, width, self.canvases)
        return self.patches**2 + canvas_tokens(height, width, canvas, self.tile, self.patches, self.most_tiles)

    def _pixels(self, prepared: ModelInputs, begin: int, end: int) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        sizes, grouped = prepared.extras["image_sizes"][begin:end], prepared.extras["batch_num_images"]
        if len(grouped) == len(prepared.view_tokens):
            tiles = max(canvas_tiles(height, width, self.canvases, self.tile) for height, width in sizes.tolist())
            grouped = grouped[begin:end]
        else:
            # By this number, any but 1, the model takes one tile of each image, also of one that is alone here.
            grouped = torch.tensor([max(2, end - begin)])
            tiles = 1
        return prepared.pixel_values[begin:end, :tiles], {"image_sizes": sizes, "batch_num_images": grouped}

    def _vision_flops(self, prepared: ModelInputs) -> int:
        sizes = prepared.extras["image_sizes"]
        if len(prepared.extras["batch_num_images"]) != len(prepared.view_tokens):
            return flops.tile_encoder(self.model.config, len(prepared.view_tokens), self.patches**2)
        tiles = [canvas_tiles(height, width, self.canvases, self.tile) for height, width in sizes.tolist()]
        return flops.tile_encoder(self.model.config, sum(tiles), self.patches**2)

    def _image_features(self, pixel_values: torch.Tensor, extras: Mapping[str, torch.Tensor]) -> torch.Tensor:
        outputs = self.model.model.get_image_features(
            pixel_values, extras["image_sizes"], batch_num_images=extras["batch_num_images"]
        )
        return torch.cat(list(outputs.pooler_output))
