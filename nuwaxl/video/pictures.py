"""Single pictures: a contact sheet of many frames, and pictures from outside brought to size.

Knows Pillow images and uint8 arrays (height, width, 3), not films.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

_GAP = 6
_FONT_SIZE = 12
_BACKGROUND, _INK = (255, 255, 255), (30, 30, 30)


def contact_sheet(
    frames: Iterable[np.ndarray],
    *,
    columns: int,
    labels: Sequence[str] | None = None,
    scale: float = 1,
) -> Image.Image:
    """Frames side by side, row by row, each above its label.

    Args:
        frames: uint8 pictures of shape (height, width, 3), RGB, of one size. Taken one at a time.
        columns: pictures in a row; fewer pictures than that make a narrower sheet.
        labels: one text per picture, wrapped to the picture's width, in Pillow's own font, which
            has the letters of English and shows a box for most others.
        scale: size of a picture on the sheet, 1 = its own.

    Raises:
        ValueError: no frames, frames of several sizes, labels of another number, or `columns`
            or `scale` not positive.
    """
    if columns < 1:
        raise ValueError(f"`columns` must be at least 1, got {columns}.")
    if not 0 < scale <= 64:
        raise ValueError(f"`scale` must be above 0 and at most 64, got {scale}.")
    pictures = _scaled(frames, scale)
    if labels is not None and len(labels) != len(pictures):
        raise ValueError(f"{len(pictures)} frames need as many labels, got {len(labels)}.")
    columns = min(columns, len(pictures))
    width, height = pictures[0].size
    font = ImageFont.load_default(_FONT_SIZE)
    line_height = sum(font.getmetrics()) if isinstance(font, ImageFont.FreeTypeFont) else 12
    texts = [wrap_text(label, width, font) for label in labels or [""] * len(pictures)]
    rows = [range(at, min(at + columns, len(pictures))) for at in range(0, len(pictures), columns)]
    label_heights = [line_height * max(len(texts[at]) for at in row) for row in rows]

    sheet_width = columns * (width + _GAP) + _GAP
    sheet_height = len(rows) * (height + _GAP) + sum(label_heights) + _GAP
    sheet = Image.new("RGB", (sheet_width, sheet_height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for row, label_height in zip(rows, label_heights, strict=True):
        for column, at in enumerate(row):
            left = _GAP + column * (width + _GAP)
            sheet.paste(pictures[at], (left, top))
            for line_index, line in enumerate(texts[at]):
                position = (left, top + height + 1 + line_index * line_height)
                draw.text(position, line, fill=_INK, font=font)
        top += height + label_height + _GAP
    return sheet


def load_image(
    path: str | os.PathLike[str], size: int | tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture file as a frame of a film: upright, filled to the size, the middle kept.

    Args:
        path: any picture that Pillow reads; of an animation the first frame.
        size: (height, width) in pixels, or one number for a square.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is no picture, or the size is not positive.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"There is no picture '{source}'.")
    try:
        with Image.open(source) as image:
            return image_to_array(image, size)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"'{source}' cannot be read as a picture: {error}.") from error


def image_to_array(
    image: Image.Image, size: int | tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture as a frame of a film: turned as its EXIF says, resized, cropped to the middle.

    What is transparent becomes white.

    Args:
        image: of any mode and size.
        size: (height, width) in pixels, or one number for a square.

    Raises:
        ValueError: the size is not positive.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"`size` must be at least 1 in both directions, got {size}.")
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        # Pillow clips 16 bits to 8 instead of scaling them.
        upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255)), layer)
    fitted = ImageOps.fit(upright.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    return np.array(fitted)


def _scaled(frames: Iterable[np.ndarray], scale: float) -> list[Image.Image]:
    pictures: list[Image.Image] = []
    shape: tuple[int, ...] | None = None
    for frame in frames:
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f"Frames must have one shape, got {shape} and {frame.shape}.")
        picture = Image.fromarray(frame)
        if scale != 1:
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        pictures.append(picture)
    if not pictures:
        raise ValueError("A contact sheet needs at least one frame.")
    return pictures


def wrap_text(
    text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces, and inside words longer than a line."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if font.getlength(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            line = ""
            for letter in word:
                if line and font.getlength(line + letter) > width:
                    lines.append(line)
                    line = ""
                line += letter
        lines.append(line)
    return lines
