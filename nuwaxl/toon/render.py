"""Frames of the toon world from exact states.

Knows how to paint one state, not what comes before or after it.
"""

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32, UInt8

from nuwaxl.toon.assets import FRAME_SIZE, panorama, sprites
from nuwaxl.toon.scenes import FrameState, Story

Frame = UInt8[np.ndarray, "128 128 3"]
Mask = Float32[np.ndarray, "128 128"]


def render(state: FrameState) -> Frame:
    """The picture of a state, RGB."""
    frame = _paint_background(state)
    _paint_actor(state, frame)
    return frame


def render_with_mask(state: FrameState) -> tuple[Frame, Mask]:
    """The picture of a state and how much of each pixel is the actor's, 0 to 1."""
    frame, mask = _paint_background(state), np.zeros((FRAME_SIZE, FRAME_SIZE), np.float32)
    _paint_actor(state, frame, mask)
    return frame, mask


def actor_mask(state: FrameState) -> Mask:
    """How much of each pixel is the actor's, 0 to 1."""
    mask = np.zeros((FRAME_SIZE, FRAME_SIZE), np.float32)
    _paint_actor(state, None, mask)
    return mask


def render_frames(story: Story, times: Iterable[float]) -> UInt8[np.ndarray, "frames 128 128 3"]:
    """The pictures of a story at some times, in seconds.

    Raises:
        ValueError: a time is outside the story.
    """
    return np.stack([render(story.state_at(float(time))) for time in times])


def render_frames_with_masks(
    story: Story, times: Iterable[float]
) -> tuple[UInt8[np.ndarray, "frames 128 128 3"], Float32[np.ndarray, "frames 128 128"]]:
    """The pictures of a story at some times, in seconds, and the masks of its actors.

    Raises:
        ValueError: a time is outside the story.
    """
    painted = [render_with_mask(story.state_at(float(time))) for time in times]
    return np.stack([frame for frame, _ in painted]), np.stack([mask for _, mask in painted])


def _paint_background(state: FrameState) -> Frame:
    """The window of the panorama at `camera_offset`, mixed linearly between two columns."""
    strip = panorama(state.background, state.time_of_day)
    column = math.floor(state.camera_offset)
    # Integers in 1/256 pixel: three passes over 48 KiB, no float copies.
    right = round((state.camera_offset - column) * 256)
    window = strip[:, column : column + FRAME_SIZE + 1]
    if right == 0:
        return window[:, :-1].copy()
    mixed = window[:, :-1] * np.uint16(256 - right)
    mixed += window[:, 1:] * np.uint16(right)
    mixed >>= 8
    return mixed.astype(np.uint8)


def _paint_actor(state: FrameState, frame: Frame | None, mask: Mask | None = None) -> None:
    """Lay the actor over `frame` and write its coverage to `mask`; what lies outside is cut."""
    loop = sprites(state.actor, state.time_of_day, state.direction)
    sprite = loop[state.pose]
    side = sprite.shape[1]
    left = round(state.actor_x - side / 2)
    upper = state.actor_y - side / 2
    top = math.floor(upper)
    down = round((upper - top) * 256)
    # Row `top` of the frame takes sprite row 1 (row 0 is empty), less what has slipped down.
    cell = sprite[1:] * np.uint16(256 - down)
    cell += sprite[:-1] * np.uint16(down)
    cell >>= 8
    rows = slice(max(top, 0), max(min(top + side + 1, FRAME_SIZE), 0))
    columns = slice(max(left, 0), max(min(left + side, FRAME_SIZE), 0))
    cell = cell[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    alpha = cell[..., 3:]
    if mask is not None:
        mask[rows, columns] = alpha[..., 0] * np.float32(1 / 255)
    if frame is not None:
        seen = frame[rows, columns] * (256 - alpha - (alpha >> 7))
        seen >>= 8
        seen += cell[..., :3]
        frame[rows, columns] = seen
