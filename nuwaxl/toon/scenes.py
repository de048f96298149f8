"""Stories of the toon world: who is where, when and doing what, exactly, at any time.

Knows states and how to sample them, not pixels and not words.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from nuwaxl.toon.assets import DIRECTIONS, FRAME_SIZE, POSES, actors, backgrounds


@dataclass(frozen=True)
class Action:
    """A motion: how fast the world scrolls by and how the actor moves up and down."""

    speed: float
    """Scroll in pixels per second; at most 34, so frames 1.9 s apart share half their view."""
    curve: str
    """'still'; 'hop': upward arcs; 'wave': a sine about the resting height."""
    amplitude: float = 0.0
    """Height of an arc, or of a wave's crest, in pixels."""
    rate: float = 1.0
    """Arcs or waves per second; below 4, so that 8 frames per second can show them."""
    pose_rate: float = 1.0
    """How fast the actor's own loop plays."""


ACTIONS: dict[str, Action] = {
    "walk": Action(speed=12.0, curve="hop", amplitude=1.5, rate=1.5),
    "run": Action(speed=28.0, curve="hop", amplitude=4.0, rate=2.5, pose_rate=1.6),
    "jump": Action(speed=16.0, curve="hop", amplitude=24.0, rate=0.8),
    "wait": Action(speed=0.0, curve="still"),
    "drive": Action(speed=30.0, curve="hop", amplitude=1.0, rate=2.0),
    "fly": Action(speed=24.0, curve="wave", amplitude=3.0, rate=0.7),
    "hover": Action(speed=0.0, curve="wave", amplitude=5.0, rate=0.35),
    "swim": Action(speed=16.0, curve="wave", amplitude=7.0, rate=0.45),
    "sail": Action(speed=14.0, curve="wave", amplitude=2.0, rate=0.5),
}

# Their colours drown in the place: a viewer, and so a probe, cannot be sure of them.
LOW_CONTRAST = frozenset(
    {
        ("dragon", "enchanted forest"),
        ("car", "candy land"),
        ("dancer", "candy land"),
        ("horse", "autumn forest"),
    }
)

# Their loop shows them going somewhere, so it stops when they wait.
_GOING = frozenset(
    {"prowls", "prances", "gallops", "hops", "waddles", "walks", "runs", "rides a bicycle"}
    | {"skis", "turns a cartwheel", "drives", "chugs along", "rumbles along", "surfs", "sails"}
)
_RIDERS = frozenset({"cyclist", "skier"})
_HELD_OUT_SHARE = 0.08


@dataclass(frozen=True)
class FrameState:
    """Everything that decides one frame."""

    scene_index: int
    actor: str
    background: str
    time_of_day: str
    action: str
    direction: str
    camera_offset: float
    """Panorama column at the frame's left edge, in pixels, in [0, width)."""
    actor_x: float
    actor_y: float
    """Centre of the actor's cell, in pixels of the frame."""
    pose_phase: float
    """Where the actor's loop is, in [0, 1)."""

    @property
    def camera_turns(self) -> float:
        """Where around its place the frame's middle is, in [0, 1): panoramas have no end."""
        middle = self.camera_offset + FRAME_SIZE / 2
        return middle / backgrounds()[self.background].width % 1.0

    @property
    def pose(self) -> int:
        """Number of the picture in the actor's loop."""
        return int(self.pose_phase * POSES) % POSES


@dataclass(frozen=True)
class Scene:
    """One actor doing one thing in one place, from `start` for `duration` seconds."""

    actor: str
    background: str
    time_of_day: str
    action: str
    direction: str
    start: float
    duration: float
    camera_offset: float = 0.0
    """Panorama column at the frame's left edge when the scene starts."""
    actor_x: float = FRAME_SIZE / 2
    altitude: float = 0.0
    """Shift of a flying or swimming actor's resting height, in pixels, positive is up."""
    phase: float = 0.0
    """Where the actor's loop and its ups and downs start, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check that the scene can exist."""
        if self.direction not in DIRECTIONS:
            raise ValueError(f"`direction` must be one of {DIRECTIONS}, got {self.direction!r}.")
        if not self.duration > 0:
            raise ValueError(f"`duration` must be above 0 seconds, got {self.duration!r}.")
        times = backgrounds()[self.background].times
        if self.time_of_day not in times:
            raise ValueError(
                f"`time_of_day` of {self.background!r} must be one of {times}, "
                f"got {self.time_of_day!r}."
            )
        if self.action not in (possible := actions(self.actor, self.background)):
            raise ValueError(
                f"`action` of {self.actor!r} at {self.background!r} must be one of {possible}, "
                f"got {self.action!r}."
            )

    @property
    def end(self) -> float:
        """First second after the scene."""
        return self.start + self.duration

    def state_at(self, time: float, *, scene_index: int = 0) -> FrameState:
        """The exact state at `time` seconds of the story."""
        elapsed = time - self.start
        action, facts = ACTIONS[self.action], actors()[self.actor]
        sign = 1.0 if self.direction == "right" else -1.0
        width = backgrounds()[self.background].width
        pose_rate = action.pose_rate
        if self.action == "wait" and facts.native_action in _GOING:
            pose_rate = 0.0
        return FrameState(
            scene_index=scene_index,
            actor=self.actor,
            background=self.background,
            time_of_day=self.time_of_day,
            action=self.action,
            direction=self.direction,
            camera_offset=(self.camera_offset + sign * action.speed * elapsed) % width,
            actor_x=self.actor_x,
            actor_y=resting_y(self.actor, self.background, self.action)
            - self.altitude
            - _lift(action, elapsed, self.phase),
            pose_phase=(self.phase + pose_rate * elapsed / facts.loop_s) % 1.0,
        )


@dataclass(frozen=True)
class Story:
    """Scenes that follow one another without a gap; changes between them are sharp cuts."""

    scenes: tuple[Scene, ...]
    duration: float

    def __post_init__(self) -> None:
        """Check that the scenes fill the story."""
        ends = [0.0, *(scene.end for scene in self.scenes)]
        starts = [*(scene.start for scene in self.scenes), self.duration]
        if not self.scenes or any(abs(a - b) > 1e-6 for a, b in zip(ends, starts, strict=True)):
            raise ValueError(
                f"`scenes` must follow one another from 0 to `duration` = {self.duration} s, "
                f"got starts {starts[:-1]} and ends {ends[1:]}."
            )

    def scene_index_at(self, time: float) -> int:
        """Number of the scene in force; a cut belongs to the scene that it starts.

        Raises:
            ValueError: `time` is outside 0..duration.
        """
        if not 0.0 <= time <= self.duration:
            raise ValueError(f"`time` must be within 0..{self.duration} s, got {time!r}.")
        return bisect_right(self.scenes, time, key=lambda scene: scene.start) - 1

    def scene_at(self, time: float) -> Scene:
        """The scene in force at `time` seconds."""
        return self.scenes[self.scene_index_at(time)]

    def state_at(self, time: float) -> FrameState:
        """The exact state at `time` seconds."""
        index = self.scene_index_at(time)
        return self.scenes[index].state_at(float(time), scene_index=index)


def _lift(action: Action, elapsed: float, phase: float) -> float:
    """How far above its resting height the actor is, in pixels."""
    turns = action.rate * elapsed + phase
    if action.curve == "hop":
        # A ballistic arc that leaves the ground at every whole turn.
        part = turns % 1.0
        return action.amplitude * 4.0 * part * (1.0 - part)
    if action.curve == "wave":
        return action.amplitude * math.sin(2.0 * math.pi * turns)
    return 0.0


def resting_level(actor: str, action: str) -> str:
    """'ground', 'surface' or 'free': what carries the actor while it does that."""
    return "free" if action in ("fly", "hover", "swim") else actors()[actor].level


def resting_y(actor: str, background: str, action: str) -> float:
    """Row of the centre of the actor's cell when nothing lifts it, in pixels."""
    facts, place = actors()[actor], backgrounds()[background]
    level = resting_level(actor, action)
    line = place.ground_y if level == "ground" else place.waterline_y
    if level != "free":
        assert line is not None
        return line - facts.cell_px / 2
    if place.waterline_y is not None and "water" in facts.medium:
        # Swimmers of the open sea: low enough to be in the waves, not in the sky.
        return 80.0
    return 64.0 if place.ground_y is None or "water" in place.mediums else 52.0


@cache
def actions(actor: str, background: str) -> tuple[str, ...]:
    """What an actor can do in a place, by medium; nothing if it cannot be there.

    Raises:
        KeyError: either is not a name of the pack.
    """
    facts, place = actors()[actor], backgrounds()[background]
    shared = set(facts.medium) & set(place.mediums)
    if (actor, background) in LOW_CONTRAST:
        return ()
    if facts.level == "surface":
        return ("sail", "wait") if place.waterline_y is not None else ()
    if facts.level == "free":
        if "water" in shared:
            return ("swim", "hover") if place.waterline_y is None else ("swim",)
        return ("fly", "hover") if shared & {"air", "space"} else ()
    possible: tuple[str, ...] = ()
    if place.ground_y is not None and shared & {"land", "water"}:
        rides = facts.group == "vehicle" or actor in _RIDERS
        possible = ("drive", "wait") if rides else ("walk", "run", "jump", "wait")
    if "air" in shared or (place.ground_y is None and "space" in shared):
        possible += ("fly", "hover")
    return possible


def compatible(actor: str, background: str) -> bool:
    """Whether the actor can be in that place and be seen there."""
    return bool(actions(actor, background))


def is_held_out(actor: str, background: str, time_of_day: str) -> bool:
    """Whether a combination is kept out of training, by a hash that never changes."""
    digest = hashlib.sha256(f"{actor}|{background}|{time_of_day}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < _HELD_OUT_SHARE * 2**32


def combinations(
    actor_names: Collection[str] | None = None,
    background_names: Collection[str] | None = None,
    *,
    held_out: bool | None = None,
) -> tuple[tuple[str, str, str], ...]:
    """All (actor, background, time of day) that can exist.

    Args:
        actor_names: only these actors; None for all.
        background_names: only these places; None for all.
        held_out: only those in training (False) or kept out of it (True); None for both.

    Raises:
        ValueError: a name is not in the pack.
    """
    return _combinations(
        _known(actor_names, actors(), "actors"),
        _known(background_names, backgrounds(), "backgrounds"),
        held_out,
    )


def _known(names: Collection[str] | None, pack: dict, argument: str) -> tuple[str, ...]:
    if names is None:
        return tuple(pack)
    if unknown := sorted(set(names) - set(pack)):
        raise ValueError(f"`{argument}` must be names of the pack, {unknown} are not.")
    return tuple(name for name in pack if name in names)


@cache
def _combinations(
    actor_names: tuple[str, ...], background_names: tuple[str, ...], held_out: bool | None
) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (actor, background, time_of_day)
        for actor in actor_names
        for background in background_names
        if compatible(actor, background)
        for time_of_day in backgrounds()[background].times
        if held_out is None or is_held_out(actor, background, time_of_day) == held_out
    )
