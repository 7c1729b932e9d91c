"""From a view's pixels to the tower's input, as LLaVA-1.5 does it: pad to a square, resize, normalise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from semclip_eval.errors import QuestionError

if TYPE_CHECKING:
    import torch


def padding_colour(image_mean: Sequence[float]) -> tuple[int, ...]:
    """The processor's mean colour as 0..255 integers, rounded down as LLaVA does: (122, 116, 104) for CLIP."""
    return tuple(int(channel * 255) for channel in image_mean)


def require_rgb(image: Image.Image) -> None:
    """Raise QuestionError for a view that is empty or not RGB.

    Converting is the loader's business, since a palette or alpha channel can be read in more than one way.
    """
    if image.mode != "RGB":
        raise QuestionError(f"a view has mode {image.mode}; views must be RGB (convert where the image is loaded)")
    if image.width == 0 or image.height == 0:
        raise QuestionError(f"a view is empty ({image.width}x{image.height} pixels)")


def pad_to_square(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """An RGB image centred on a square of `colour` whose side is the image's longer one; the image itself if square.

    The image's offset is (long - short) // 2 pixels (llava/mm_utils.py `expand2square`). Without it the processor's
    centre crop would cut off the ends of every wide or tall image. Raises QuestionError as `require_rgb` does.
    """
    require_rgb(image)
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def preprocess(images: Sequence[Image.Image], image_processor: Any) -> torch.Tensor:
    """Views as one float32 tensor (views, 3, height, width) on the CPU, in the order given.

    `image_processor` is a transformers image processor; its centre crop has nothing to cut, since the square was
    resized to the target before. Zero views give zero rows.
    """
    import torch

    if not images:
        return torch.empty(0, 3, 0, 0)
    colour = padding_colour(image_processor.image_mean)
    squares = [pad_to_square(image, colour) for image in images]
    # One by one: stacked uint8 originals of high-resolution views would cost far more memory than the results.
    # Pass input_data_format: transformers infers it wrongly for 3x3 and 1x1 pixels.
    processor_kwargs = {"return_tensors": "pt", "input_data_format": "channels_last"}
    pixels = [image_processor(images=square, **processor_kwargs)["pixel_values"] for square in squares]
    return torch.cat(pixels).to(torch.float32)
