"""The art of the toon world: 40 animated actors and 16 panoramas, as arrays.

Knows pictures and their facts (`art/index.json`), not scenes, captions or time.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

ART = Path(__file__).parent / "art"

FRAME_SIZE = 128
"""Height and width of a frame, in pixels."""

POSES = 24
"""Pictures in an actor's loop."""

TIMES_OF_DAY = ("day", "sunset", "night")
DIRECTIONS = ("left", "right")

_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_ACTOR_TINT = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.86, 0.76), "night": (0.74, 0.77, 0.95)}


@dataclass(frozen=True)
class Actor:
    """Who travels: one animated sprite and what is known about it."""

    name: str
    file: str
    synonyms: tuple[str, ...]
    medium: tuple[str, ...]
    """Where it can be: some of land, air, water, space."""
    level: str
    """'ground' and 'surface' stand on a line of the background, 'free' floats anywhere."""
    facing: str
    front_view: bool
    """True when the art looks at the viewer, so that its direction shows in the scroll only."""
    group: str
    native_action: str
    """What the loop itself shows, e.g. 'prowls'."""
    height_px: int
    cell_px: int
    """Side of the square cell, in pixels of the frame."""
    motion: float
    loop_s: float
    box: tuple[float, float, float, float]
    """Left, top, right, bottom of everything drawn in the loop, as fractions of the cell."""


@dataclass(frozen=True)
class Background:
    """Where it happens: one panorama whose columns wrap."""

    name: str
    file: str
    width: int
    synonyms: tuple[str, ...]
    mediums: tuple[str, ...]
    ground_y: int | None
    """Row on which actors stand; None where nothing can stand."""
    waterline_y: int | None
    native_time: str
    times: tuple[str, ...]
    """Times of day that it can show: all three, but outer space knows only night."""


@cache
def _index() -> dict:
    return json.loads((ART / "index.json").read_text(encoding="utf-8"))


@cache
def actors() -> dict[str, Actor]:
    """All actors by name, in the order of the index."""
    loaded = {}
    for entry in _index()["actors"]:
        side = _index()["actor_format"]["cell"][0]
        loaded[entry["name"]] = Actor(
            name=entry["name"],
            file=entry["file"],
            synonyms=tuple(entry["synonyms"]),
            medium=tuple(entry["medium"]),
            level=entry["level"],
            facing=entry["facing"],
            front_view=entry["front_view"],
            group=entry["group"],
            native_action=entry["native_action"],
            height_px=entry["height_px"],
            cell_px=entry["cell_px"],
            motion=entry["motion"],
            loop_s=entry["loop_s"],
            box=tuple(edge / side for edge in entry["box"]),
        )
    return loaded


@cache
def backgrounds() -> dict[str, Background]:
    """All backgrounds by name, in the order of the index."""
    loaded = {}
    for entry in _index()["backgrounds"]:
        loaded[entry["name"]] = Background(
            name=entry["name"],
            file=entry["file"],
            width=entry["width"],
            synonyms=tuple(entry["synonyms"]),
            mediums=tuple(entry["mediums"]),
            ground_y=entry["ground_y"],
            waterline_y=entry["waterline_y"],
            native_time=entry["native_time"],
            times=("night",) if entry["name"] == "space" else TIMES_OF_DAY,
        )
    return loaded


@cache
def sprites(actor: str, time_of_day: str, direction: str) -> UInt8[np.ndarray, "poses rows side 4"]:
    """An actor's loop as premultiplied RGBA, lit for a time of day and facing a direction.

    Rows are `cell_px + 2`: an empty row above and one below, so that a shift by a fraction of a
    pixel mixes two neighbouring rows without a special case at the edge. Columns are `cell_px`.

    Raises:
        KeyError: `actor` is not an actor's name.
    """
    facts = actors()[actor]
    if direction != ("left" if facts.front_view else facts.facing):
        mirrored = sprites(actor, time_of_day, "left" if direction == "right" else "right")
        return mirrored[:, :, ::-1]
    strip = np.asarray(Image.open(ART / facts.file).convert("RGBA"))
    side = strip.shape[0]
    cells = strip.reshape(side, POSES, side, 4).transpose(1, 0, 2, 3)
    loop = np.zeros((POSES, facts.cell_px + 2, facts.cell_px, 4), dtype=np.uint8)
    for pose, cell in enumerate(cells):
        # 'RGBa' is Pillow's premultiplied mode: transparent pixels must not bleed into the edge.
        premultiplied = Image.fromarray(np.ascontiguousarray(cell)).convert("RGBa")
        small = premultiplied.resize((facts.cell_px, facts.cell_px), Image.Resampling.HAMMING)
        loop[pose, 1:-1] = np.frombuffer(small.tobytes(), np.uint8).reshape(
            facts.cell_px, facts.cell_px, 4
        )
    tint = np.array([*_ACTOR_TINT[time_of_day], 1.0], dtype=np.float32)
    return (loop * tint + 0.5).astype(np.uint8)


@cache
def panorama(background: str, time_of_day: str) -> UInt8[np.ndarray, "128 columns 3"]:
    """A background lit for a time of day, `FRAME_SIZE + 1` columns wider than its period.

    Any window of `FRAME_SIZE + 1` columns that starts in 0..width-1 is then one slice.

    Raises:
        KeyError: `background` is not a background's name.
    """
    facts = backgrounds()[background]
    picture = np.asarray(Image.open(ART / facts.file).convert("RGB"), dtype=np.float32) / 255.0
    lit = _light(picture, facts, time_of_day)
    pixels = (lit.clip(0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return np.concatenate([pixels, pixels[:, : FRAME_SIZE + 1]], axis=1)


def _light(
    picture: Float[np.ndarray, "rows columns 3"], facts: Background, time_of_day: str
) -> Float[np.ndarray, "rows columns 3"]:
    """Turn the painter's light into that of `time_of_day`, so that a viewer can tell them apart."""
    if time_of_day == "night" and facts.native_time == "night":
        return picture * np.array([0.70, 0.70, 0.85], np.float32)
    day = _daylight(picture, facts)
    if time_of_day == "day":
        return day
    grey = (day @ _LUMINANCE)[..., None]
    if time_of_day == "sunset":
        # Violet overhead, orange at the horizon, and the ground takes the orange; blue water
        # under orange light would turn to mud, so it takes rose.
        ground = [0.90, 0.36, 0.52] if "water" in facts.mediums else [1.20, 0.66, 0.22]
        stops = np.array([[0.62, 0.20, 0.52], [1.10, 0.42, 0.34], ground], np.float32)
        rows = np.linspace(0.0, 1.0, len(picture))
        glow = np.stack([np.interp(rows, [0.0, 0.45, 0.75], stop) for stop in stops.T], axis=1)
        glow = glow.astype(np.float32)[:, None]
        warm = day * np.array([1.02, 0.60, 0.60], np.float32)
        return 0.55 * warm + 0.45 * glow * (0.25 + 0.85 * grey)
    dark = np.array([0.24, 0.31, 0.62], dtype=np.float32)
    return 0.75 * day * dark + 0.3 * dark * grey**1.5 + np.array([0.0, 0.0, 0.04], np.float32)


def _daylight(
    picture: Float[np.ndarray, "rows columns 3"], facts: Background
) -> Float[np.ndarray, "rows columns 3"]:
    """The panorama at noon; what was painted as night is lifted to it."""
    if facts.native_time != "night":
        return picture
    sky = np.array([0.62, 0.86, 1.0], dtype=np.float32)
    grey = (picture @ _LUMINANCE)[..., None]
    return 0.35 * picture**0.45 + 0.65 * sky * (0.25 + 1.05 * grey**0.45)
