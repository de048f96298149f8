"""Pictures from outside that a film is to show: read, brought to its size, known by their content.

Knows pixels, not latents or frame numbers.
"""

import hashlib
from os import PathLike

import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import UInt8

Picture = PIL.Image.Image | np.ndarray | str | PathLike[str]


def read_picture(
    picture: Picture, *, height: int, width: int
) -> UInt8[np.ndarray, "height width 3"]:
    """8-bit RGB of the wanted size: cut to its shape around the centre, then resized.

    Args:
        picture: a PIL image, a file's path, or an array (height, width, 3) of uint8 or of floats
            in [0, 1].
        height: in pixels.
        width: in pixels.

    Raises:
        ValueError: the file cannot be read as a picture, or the array is no picture.
    """
    if isinstance(picture, np.ndarray):
        image = PIL.Image.fromarray(_eight_bit(picture))
    elif isinstance(picture, PIL.Image.Image):
        image = picture
    else:
        try:
            image = PIL.Image.open(picture)
            image.load()
        except (OSError, PIL.UnidentifiedImageError) as error:
            raise ValueError(
                f"`images` must be pictures or their paths; {str(picture)!r}: {error}."
            ) from None
    image = PIL.ImageOps.exif_transpose(image).convert("RGB")
    if image.size != (width, height):
        image = PIL.ImageOps.fit(image, (width, height), PIL.Image.Resampling.LANCZOS)
    return np.asarray(image)


def picture_hash(picture: UInt8[np.ndarray, "height width 3"]) -> str:
    """The picture's identity: the hash of its pixels."""
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest()


def _eight_bit(array: np.ndarray) -> UInt8[np.ndarray, "height width 3"]:
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"`images` must be arrays of shape (height, width, 3), got {array.shape}.")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating) or array.min() < 0 or array.max() > 1:
        raise ValueError(
            f"`images` must be arrays of uint8 or of floats in [0, 1], got {array.dtype} from"
            f" {array.min()} to {array.max()}."
        )
    return (array * 255).round().astype(np.uint8)
