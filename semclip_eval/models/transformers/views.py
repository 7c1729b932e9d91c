"""From a view's pixels to the tower's input, as LLaVA-1.5 does it: pad to a square, resize, normalise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.pixels import FILTERS, Preprocess, looked_up, same_bits, torch_resized, value_table

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


def preprocess(images: Sequence[Image.Image], image_processor: Any, resize_with: str = "pillow") -> torch.Tensor:
    """Views as one float32 tensor (views, 3, height, width) on the CPU, in the order given.

    resize_with: `pillow` for the processor's own bits, `torch` for `pixels.torch_resized`; ConfigError where the
    processor does more than resize and normalise.

    `image_processor` is a transformers image processor; its centre crop has nothing to cut, since the square was
    resized to the target before. Zero views give zero rows.
    """
    import torch

    if not images:
        return torch.empty(0, 3, 0, 0)
    colour = padding_colour(image_processor.image_mean)
    squares = [pad_to_square(image, colour) for image in images]
    by_table = _square_to_pixels(image_processor, resize_with)
    if by_table is None and resize_with != "pillow":
        raise ConfigError(
            f"model.resize_with={resize_with}: this model's image processor does more than resize and normalise; set "
            "model.resize_with=pillow."
        )
    if by_table is not None:
        return torch.stack([by_table(square) for square in squares])
    # One by one: stacked uint8 originals of high-resolution views would cost far more memory than the results.
    return torch.cat([_processed(square, image_processor)[None] for square in squares])


def _processed(image: Image.Image, image_processor: Any, **settings: Any) -> torch.Tensor:
    """Float32 (3, height, width) by the processor itself."""
    import torch

    # Pass input_data_format: transformers infers it wrongly for 3x3 and 1x1 pixels.
    pixels: torch.Tensor = image_processor(
        images=image, return_tensors="pt", input_data_format="channels_last", **settings
    )["pixel_values"][0]
    return pixels.to(torch.float32)


_made: dict[tuple[str, str], Preprocess | None] = {}


def _square_to_pixels(image_processor: Any, resize_with: str = "pillow") -> Preprocess | None:
    """The processor's work on a square in half the time: Pillow's resize, then a table.

    The processor copies an image of four megapixels several times on the way to the same resize. None where this does
    not give the processor's own bits.
    """
    key = str(image_processor), resize_with  # by its settings, which may be changed in place
    if key not in _made:
        _made[key] = _tried(image_processor, resize_with)
    return _made[key]


def _tried(image_processor: Any, resize_with: str) -> Preprocess | None:
    side = _side(image_processor)
    if side is None or not getattr(image_processor, "do_resize", False):
        return None
    resample = image_processor.resample
    try:
        values = value_table(lambda ramp: _processed(ramp, image_processor, do_resize=False, do_center_crop=False))

        def pixels(square: Image.Image) -> torch.Tensor:
            small = square if square.size == (side, side) else square.resize((side, side), resample)
            return looked_up(values, small)

        def pixels_by_torch(square: Image.Image) -> torch.Tensor:
            if square.size == (side, side):
                return pixels(square)
            return looked_up(values, torch_resized(square, side, resample))

        sizes = [(tried, tried) for tried in (1, 3, 37, side, side + 1, 3 * side)]
        if not same_bits(pixels, lambda square: _processed(square, image_processor), sizes):
            return None
        if resize_with == "pillow":
            return pixels
        return pixels_by_torch if int(resample) in FILTERS else None
    except (TypeError, ValueError, KeyError, AttributeError):  # a processor of another kind goes its own way
        return None


def _side(image_processor: Any) -> int | None:
    """The side of the squares that a processor makes of squares; None where its settings say something else."""
    size = dict(getattr(image_processor, "size", None) or {})
    sides = {value for value in (size.get(name) for name in ("shortest_edge", "height", "width")) if value}
    if getattr(image_processor, "do_center_crop", False):
        crop = dict(getattr(image_processor, "crop_size", None) or {})
        sides |= {crop.get("height"), crop.get("width")}
    return int(sides.pop()) if len(sides) == 1 and None not in sides else None
