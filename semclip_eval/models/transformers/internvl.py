"""InternVL3 in the HF format: a view in up to 12 tiles of 448 pixels and one of the whole, 256 tokens each."""

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
from semclip_eval.models.grounding import INTERNVL
from semclip_eval.models.insight import TokenBoxes
from semclip_eval.models.transformers.dynamic_vlm import DynamicResolutionVLM
from semclip_eval.models.transformers.layout import grid, token_boxes
from semclip_eval.models.transformers.transformers_vlm import TransformersConfig, Views
from semclip_eval.models.transformers.views import require_rgb

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")

# preprocessor_config.json of OpenGVLab/InternVL3-8B-hf: ImageNet's mean and deviation.
IMAGE_MEAN = [0.485, 0.456, 0.406]
IMAGE_STD = [0.229, 0.224, 0.225]
PUBLISHED_MAX_PATCHES = 12


@dataclass
class InternVLConfig(TransformersConfig):
    """Keys of InternVL.

    max_patches: tiles that a view is cut into at most, each view for itself (the original code shares its bound among
    the images of a question); None takes the checkpoint's own (12 as published: 256 to 3328 visual tokens a view).
    """

    conversation: str = "internvl3"
    max_patches: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("model.max_patches", self.max_patches, 1, or_null="the checkpoint's own")


class InternVL(DynamicResolutionVLM):
    """InternVL in transformers' own format."""

    Config = InternVLConfig
    settings: InternVLConfig

    model_type = "internvl"
    conversations = ("internvl3",)
    smaller_views = ", a smaller model.max_patches"
    capabilities = DynamicResolutionVLM.capabilities | {"boxes"}
    grounding = INTERNVL

    def _dummy_image_processor(self, config: Any) -> Any:
        from transformers import GotOcr2ImageProcessorPil

        height, width = config.vision_config.image_size
        return GotOcr2ImageProcessorPil(
            size={"height": height, "width": width},
            image_mean=IMAGE_MEAN,
            image_std=IMAGE_STD,
            max_patches=PUBLISHED_MAX_PATCHES,
        )

    def _read_layout(self) -> None:
        config, vision = self.model.config, self.model.config.vision_config
        side = [self.image_processor.size["height"], self.image_processor.size["width"]]
        if side != list(vision.image_size):
            raise ModelError(
                f"{self.name}: the image processor makes tiles of {side} pixels, the vision tower takes "
                f"{list(vision.image_size)}; the files do not fit together"
            )
        self.most_patches = self.settings.max_patches or self.image_processor.max_patches
        patches = [side // patch for side, patch in zip(vision.image_size, vision.patch_size, strict=True)]
        self.tile_grid = (int(patches[0] * config.downsample_ratio), int(patches[1] * config.downsample_ratio))
        self.tile_tokens = self.tile_grid[0] * self.tile_grid[1]
        self.least_view_tokens = self.tile_tokens

    def _views(self, images: Sequence[Image.Image]) -> Views:
        for image in images:
            require_rgb(image)
        # InternVLProcessor cuts into tiles although the published image processor, asked alone, does not.
        processed = self.image_processor(
            images=list(images),
            return_tensors="pt",
            input_data_format="channels_last",
            crop_to_patches=True,
            max_patches=self.most_patches,
        )
        return Views(
            pixel_values=processed["pixel_values"].to(torch.float32),
            tokens=tuple(self.tile_tokens * int(tiles) for tiles in processed["num_patches"]),
        )

    def _token_boxes(self, width: int, height: int, views: int) -> TokenBoxes:
        from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

        size = self.image_processor.size
        least = self.image_processor.min_patches
        tile = (size["height"], size["width"])
        columns, rows = get_optimal_tiled_canvas((height, width), tile, least, self.most_patches)
        tiles = [
            grid(*self.tile_grid, (width * column / columns, height * row / rows,
                                   width * (column + 1) / columns, height * (row + 1) / rows))
            for row in range(rows)
            for column in range(columns)
        ]  # fmt: skip
        thumbnail = [grid(*self.tile_grid, (0, 0, width, height))] if rows * columns > 1 else []
        small = [False] * len(tiles) + [True] * len(thumbnail)
        return token_boxes([*tiles, *thumbnail], width, height, small)

    def _view_ids(self, tokens: int) -> list[int]:
        return [self.special_ids["<img>"], *super()._view_ids(tokens), self.special_ids["</img>"]]

    def _pixels(self, prepared: ModelInputs, begin: int, end: int) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        tiles = [tokens // self.tile_tokens for tokens in prepared.view_tokens]
        first, count = sum(tiles[:begin]), sum(tiles[begin:end])
        return prepared.pixel_values[first : first + count], {}

    def _vision_flops(self, prepared: ModelInputs) -> int:
        return flops.tile_encoder(self.model.config, len(prepared.pixel_values), self.tile_tokens)

    def _image_features(self, pixel_values: torch.Tensor, extras: Mapping[str, torch.Tensor]) -> torch.Tensor:
        features: torch.Tensor = self.model.model.get_image_features(pixel_values).pooler_output
        return features.flatten(0, 1)
