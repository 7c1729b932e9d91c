"""From an image file to upright RGB pixels, whatever the file's mode."""

from __future__ import annotations

import io
import warnings
from functools import partial
from pathlib import Path

from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from semclip_eval.benchmarks.access import ANYWHERE, FileAccess
from semclip_eval.benchmarks.decoded import DECODED, bytes_name, file_name
from semclip_eval.errors import QuestionError
from semclip_eval.files import require_regular, shown

MIB = 2**20
# Pillow warns of broken metadata on the terminal, with a path; the pixels are what counts.
warnings.filterwarnings("ignore", module="PIL")
# Pillow's own bound warns with a path on the terminal and is one for all data; ours is checked before decoding.
Image.MAX_IMAGE_PIXELS = None
# Editors write colour profiles and histories of more than Pillow's 1 MiB into sound pictures.
PngImagePlugin.MAX_TEXT_CHUNK = 64 * MIB
PngImagePlugin.MAX_TEXT_MEMORY = 256 * MIB


def read_rgb(path: Path, access: FileAccess = ANYWHERE) -> Image.Image:
    """The whole image, RGB, turned upright by its EXIF orientation.

    Raises QuestionError that names the file where it is missing, outside of the data folder, no image, cut short or
    larger than allowed.
    """
    access.require_inside(path)
    if not path.exists():
        raise QuestionError(f"{shown(path)}: no such image.{_beside(path)}")
    try:
        require_regular(path)
        name = file_name(path)
        return DECODED.get(name and (name, access), partial(_read, path, access))
    except QuestionError as error:
        raise QuestionError(f"{shown(path)}: {error}") from error
    except UnidentifiedImageError as error:
        raise QuestionError(f"{shown(path)}: cannot be read as an image (no known format).") from error
    except Exception as error:  # Pillow's decoders raise whatever the broken bytes made them stumble over
        raise QuestionError(f"{shown(path)}: cannot be read as an image ({_reason(error)}).") from error


def decode_rgb(encoded: bytes, access: FileAccess = ANYWHERE) -> Image.Image:
    """The image in `encoded`; QuestionError, without a place, where it cannot be decoded or is larger than allowed."""
    try:
        return DECODED.get((bytes_name(encoded), access), partial(_read, io.BytesIO(encoded), access))
    except QuestionError:
        raise
    except UnidentifiedImageError as error:  # its own words name an address in memory
        raise QuestionError("cannot be read as an image (no known format)") from error
    except Exception as error:  # Pillow's decoders raise whatever the broken bytes made them stumble over
        raise QuestionError(f"cannot be read as an image ({_reason(error)})") from error


def _read(source: Path | io.BytesIO, access: FileAccess) -> Image.Image:
    with Image.open(source) as image:
        access.require_size(image.size)
        image.load()
        return to_rgb(image)


def _reason(error: Exception) -> str:
    words = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    remedy = ""
    if ("too large" in words and "chunk" in words.lower()) or "MAX_TEXT" in words:
        remedy = "; save the image again without its texts and profile"
    return words[:160].rstrip(".") + remedy


def _beside(path: Path) -> str:
    """What lies there under the same stem, for a file that was expected under another ending."""
    try:
        others = sorted(other.name for other in path.parent.glob(f"{path.stem}.*") if other.suffix != ".json")
    except OSError:
        return ""
    return f" Beside it lies {', '.join(others[:3])}." if others else ""


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright RGB pixels of an opened image.

    Transparent pixels are laid over white, as a viewer shows them. Grey values of 16 bits are scaled to 8 (Pillow's own
    conversion would clip them to white), floating-point ones are taken as [0, 1] or, where they exceed 1, as [0, 255].
    EXIF data that cannot be read say nothing about which way is up.
    """
    try:
        is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        # Without the copy that Pillow would make of an image that stands upright.
        upright = ImageOps.exif_transpose(image) if is_turned else image
    except Exception:  # whatever the broken metadata made the parser stumble over; the pixels are sound
        upright = image
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
