"""From an image file to upright RGB pixels, whatever the file's mode."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from semclip_eval.errors import QuestionError


def read_rgb(path: Path) -> Image.Image:
    """The whole image, RGB, turned upright by its EXIF orientation.

    Raises QuestionError that names the file where it is missing, no image, or cut short.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except FileNotFoundError as error:
        raise QuestionError(f"{path}: no such image.") from error
    except Exception as error:  # Pillow's decoders raise whatever the broken bytes made them stumble over
        raise QuestionError(f"{path}: cannot be read as an image ({error}).") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright RGB pixels of an opened image.

    Transparent pixels are laid over white, as a viewer shows them. Grey values of 16 bits are scaled to 8 (Pillow's own
    conversion would clip them to white), floating-point ones are taken as [0, 1] or, where they exceed 1, as [0, 255].
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "RGB" and "transparency" not in upright.info:
        return upright
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        return _grey_to_rgb(upright)
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        colored = upright.convert("RGBA")
        white = Image.new("RGBA", colored.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colored).convert("RGB")
    return upright.convert("RGB")


def _grey_to_rgb(image: Image.Image) -> Image.Image:
    import numpy as np

    values = np.asarray(image).astype(np.float64)
    top = float(values.max(initial=0.0))
    if image.mode == "F":
        values = values * 255 if top <= 1 else values
    elif image.mode != "I" or top > 255:  # mode I holds 8-bit or 16-bit values in 32 bits
        values = values / 257
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
