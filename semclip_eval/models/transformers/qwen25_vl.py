"""Qwen2.5-VL: views at their own resolution, visual tokens with row and column positions.

A view of height h and width w becomes about h*w / 28^2 visual tokens; the image processor first resizes it so that its
area lies between `min_pixels` and `max_pixels` (transformers, models/qwen2_vl, `smart_resize`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image

from semclip_eval.checks import whole_number
from semclip_eval.errors import ConfigError, ModelError
from semclip_eval.lazy import library
from semclip_eval.measure import flops
from semclip_eval.models.base import ModelInputs
from semclip_eval.models.grounding import QWEN25_VL
from semclip_eval.models.insight import TokenBoxes
from semclip_eval.models.transformers.dynamic_vlm import DynamicResolutionVLM
from semclip_eval.models.transformers.layout import grid, token_boxes
from semclip_eval.models.transformers.transformers_vlm import TransformersConfig, Views
from semclip_eval.models.transformers.views import require_rgb

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")


@dataclass
class Qwen25VLConfig(TransformersConfig):
    """Keys of Qwen2.5-VL.

    min_pixels, max_pixels: bounds of a view's area; None takes the checkpoint's own (3136 and 12845056 as published: 4
    to 16384 visual tokens a view).
    """

    conversation: str = "qwen25_vl"
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, value in (("min_pixels", self.min_pixels), ("max_pixels", self.max_pixels)):
            whole_number(f"model.{key}", value, 1, or_null="as published")


class Qwen25VL(DynamicResolutionVLM):
    """Qwen2.5-VL."""

    Config = Qwen25VLConfig
    settings: Qwen25VLConfig

    model_type = "qwen2_5_vl"
    conversations = ("qwen25_vl",)
    smaller_views = ", a smaller model.max_pixels"
    capabilities = DynamicResolutionVLM.capabilities | {"boxes"}
    grounding = QWEN25_VL
    # preprocessor_config.json of Qwen/Qwen2.5-VL-*-Instruct; mean and deviation are CLIP's, the processor's default.
    published: ClassVar[Mapping[str, Any]] = {"size": {"shortest_edge": 56 * 56, "longest_edge": 12_845_056}}

    def _dummy_image_processor(self, config: Any) -> Any:
        from transformers import Qwen2VLImageProcessorPil

        vision = config.vision_config
        return Qwen2VLImageProcessorPil(
            patch_size=vision.patch_size,
            merge_size=vision.spatial_merge_size,
            temporal_patch_size=vision.temporal_patch_size,
            **self.published,
        )

    def _read_layout(self) -> None:
        processor, vision = self.image_processor, self.model.config.vision_config
        for key, told in (("patch_size", vision.patch_size), ("merge_size", vision.spatial_merge_size)):
            if getattr(processor, key) != told:
                raise ModelError(
                    f"{self.name}: the image processor's {key} is {getattr(processor, key)}, the vision tower's "
                    f"{told}; the files do not fit together"
                )
        least = self.settings.min_pixels or processor.size["shortest_edge"]
        most = self.settings.max_pixels or processor.size["longest_edge"]
        side = vision.patch_size * vision.spatial_merge_size
        if most < max(least, side**2):
            raise ConfigError(
                f"model.max_pixels={most}: must be at least model.min_pixels={least} and {side**2}, the area of one "
                "visual token"
            )
        self.size = {"shortest_edge": least, "longest_edge": most}
        self.least_view_tokens = max(1, least // side**2)

    def _views(self, images: Sequence[Image.Image]) -> Views:
        for image in images:
            require_rgb(image)
        # One by one: stacked originals of high-resolution views would cost far more memory than the results.
        # Pass input_data_format: transformers infers it wrongly for 3x3 and 1x1 pixels.
        processor_kwargs = {"return_tensors": "pt", "input_data_format": "channels_last", "size": self.size}
        processed = [self.image_processor(images=[image], **processor_kwargs) for image in images]
        grids = torch.cat([view["image_grid_thw"] for view in processed])
        merged = self.image_processor.merge_size**2
        return Views(
            pixel_values=torch.cat([view["pixel_values"] for view in processed]).to(torch.float32),
            tokens=tuple(int(grid.prod()) // merged for grid in grids),
            extras={"image_grid_thw": grids},
        )

    def _pixels(self, prepared: ModelInputs, begin: int, end: int) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        grids = prepared.extras["image_grid_thw"]
        patches = grids.prod(dim=1)
        first, count = int(patches[:begin].sum()), int(patches[begin:end].sum())
        return prepared.pixel_values[first : first + count], {"image_grid_thw": grids[begin:end]}

    def _vision_flops(self, prepared: ModelInputs) -> int | None:
        return flops.window_encoder(self.model.config.vision_config, prepared.extras["image_grid_thw"].tolist())

    def _image_features(self, pixel_values: torch.Tensor, extras: Mapping[str, torch.Tensor]) -> torch.Tensor:
        outputs = self.model.model.get_image_features(pixel_values, extras["image_grid_thw"])
        return torch.cat(list(outputs.pooler_output))

    def _token_boxes(self, width: int, height: int, views: int) -> TokenBoxes:
        across, down = self._resized(width, height)
        cells = grid(int(down) // self._token_side, int(across) // self._token_side, (0, 0, width, height))
        return token_boxes([cells], width, height)

    def box_frame(self, width: int, height: int) -> tuple[float, float]:
        """Boxes are in pixels of what the image processor makes of the image."""
        return self._resized(width, height)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) that the image processor gives an image of that size."""
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        least, most = self.size["shortest_edge"], self.size["longest_edge"]
        down, across = smart_resize(height, width, self._token_side, least, most)
        return across, down

    @property
    def _token_side(self) -> int:
        return int(self.image_processor.patch_size * self.image_processor.merge_size)

    def _prompt_positions(self, prepared: ModelInputs) -> torch.Tensor:
        """(3, length): time, row and column. Text counts on in all three; a view's rows and columns start at the same
        number, and the text after it goes on behind the larger of them (arXiv 2409.12191, section 2.1).
        """
        grids = prepared.extras["image_grid_thw"] if prepared.visual_tokens else torch.empty(0, 3, dtype=torch.long)
        merge = self.image_processor.merge_size
        is_visual = [token == self.image_id for token in prepared.input_ids]
        stretches, start, begin = [], 0, 0
        for _, height, width in grids.tolist():
            rows, columns = height // merge, width // merge
            first = is_visual.index(True, begin)
            stretches.append((start + torch.arange(first - begin)).expand(3, -1))
            start += first - begin
            row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            stretches.append(start + torch.stack([torch.zeros_like(row), row, column]).flatten(1))
            start += max(rows, columns)
            begin = first + rows * columns
        stretches.append((start + torch.arange(len(is_visual) - begin)).expand(3, -1))
        return torch.cat(stretches, dim=1)
