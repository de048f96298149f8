"""Random scenes and stories of the toon world.

Knows what can exist and how often it should be seen, not pixels and not words.
"""

from collections.abc import Collection

import numpy as np

from nuwaxl.toon import assets
from nuwaxl.toon.scenes import Scene, Story, actions, combinations, resting_level

SCENE_SECONDS = (4.0, 12.0)
"""Shortest and longest scene of a story with cuts."""

ONE_SCENE_SHARE = 0.15
"""Stories that are one scene from end to end, as a user's single prompt asks for."""

_MAX_SHIFT = 14
_ALTITUDE = 8.0

# How a scene follows another: what stays (True), what changes (False); the rest is open.
# Mostly the actor stays: a journey.
_TRANSITIONS: tuple[tuple[float, dict[str, bool]], ...] = (
    (0.45, {"actor": True, "background": False}),
    (0.15, {"actor": True, "background": True, "time_of_day": False}),
    (0.15, {"actor": True, "background": True, "time_of_day": True}),
    (0.10, {"actor": False, "background": True, "time_of_day": True}),
    (0.15, {}),
)
_FIELDS = ("actor", "background", "time_of_day")

Combination = tuple[str, str, str]


def sample_scene(
    rng: np.random.Generator,
    duration: float,
    *,
    start: float = 0.0,
    actors: Collection[str] | None = None,
    backgrounds: Collection[str] | None = None,
    held_out: bool = False,
) -> Scene:
    """A random scene of `duration` seconds.

    Args:
        rng: source of all chance.
        duration: seconds.
        start: second of the story at which it starts.
        actors: only these; None for all.
        backgrounds: only these; None for all.
        held_out: False draws what training may see, True only what it never sees.

    Raises:
        ValueError: no combination is left to draw from, or a name is unknown.
    """
    pool = _pool(actors, backgrounds, held_out)
    return _scene(rng, _draw(rng, pool), start, duration)


def sample_story(
    rng: np.random.Generator,
    duration: float,
    *,
    actors: Collection[str] | None = None,
    backgrounds: Collection[str] | None = None,
    held_out: bool = False,
) -> Story:
    """A random story of `duration` seconds: scenes of 4 to 12 s, or now and then a single one.

    Arguments and errors are those of `sample_scene`.
    """
    pool = _pool(actors, backgrounds, held_out)
    lengths = [duration] if rng.random() < ONE_SCENE_SHARE else _lengths(rng, duration)
    scenes: list[Scene] = []
    start = 0.0
    for length in lengths:
        chosen = _follow(rng, pool, scenes[-1]) if scenes else _draw(rng, pool)
        scene = _scene(rng, chosen, start, length)
        while scenes and _same_prompt(scene, scenes[-1]):
            scene = _scene(rng, chosen, start, length)
        scenes.append(scene)
        start += length
    return Story(scenes=tuple(scenes), duration=duration)


def _pool(
    actors: Collection[str] | None, backgrounds: Collection[str] | None, held_out: bool
) -> tuple[Combination, ...]:
    pool = combinations(actors, backgrounds, held_out=held_out)
    if not pool:
        raise ValueError(
            f"`actors` and `backgrounds` leave no combination with held_out={held_out}: "
            "name more of them."
        )
    return pool


def _lengths(rng: np.random.Generator, duration: float) -> list[float]:
    """Cut `duration` into scenes; only a story too short for one has a scene below 4 s."""
    shortest, longest = SCENE_SECONDS
    lengths, rest = [], duration
    while rest > longest or (rest >= 2 * shortest and rng.random() < 0.5):
        lengths.append(float(rng.uniform(shortest, min(longest, rest - shortest))))
        rest -= lengths[-1]
    return [*lengths, rest]


def _draw(rng: np.random.Generator, pool: tuple[Combination, ...]) -> Combination:
    """One combination, so that neither rare actors nor rare places are seldom seen.

    Fish have three places and dogs have eleven: a uniform draw from the pool would show fish four
    times less. An actor first, or a place first, in turn, evens out both.
    """
    key = int(rng.integers(2))
    names = sorted({combination[key] for combination in pool})
    name = names[rng.integers(len(names))]
    kept = [combination for combination in pool if combination[key] == name]
    return kept[rng.integers(len(kept))]


def _follow(rng: np.random.Generator, pool: tuple[Combination, ...], before: Scene) -> Combination:
    """A combination for the next scene: some of the last one stays."""
    chances = [chance for chance, _ in _TRANSITIONS]
    stays = _TRANSITIONS[rng.choice(len(_TRANSITIONS), p=chances)][1]
    kept = tuple(
        combination
        for combination in pool
        if all(
            (combination[_FIELDS.index(field)] == getattr(before, field)) == stay
            for field, stay in stays.items()
        )
    )
    return _draw(rng, kept or pool)


def _same_prompt(a: Scene, b: Scene) -> bool:
    return all(
        getattr(a, field) == getattr(b, field)
        for field in ("actor", "background", "time_of_day", "action", "direction")
    )


def _scene(
    rng: np.random.Generator, combination: Combination, start: float, duration: float
) -> Scene:
    """A scene of a combination with everything else drawn."""
    actor, background, time_of_day = combination
    possible = actions(actor, background)
    action = possible[rng.integers(len(possible))]
    free = resting_level(actor, action) == "free"
    return Scene(
        actor=actor,
        background=background,
        time_of_day=time_of_day,
        action=action,
        direction=assets.DIRECTIONS[rng.integers(2)],
        start=start,
        duration=duration,
        camera_offset=float(rng.uniform(0.0, assets.backgrounds()[background].width)),
        actor_x=assets.FRAME_SIZE / 2 + float(rng.integers(-_MAX_SHIFT, _MAX_SHIFT + 1)),
        altitude=float(rng.uniform(-_ALTITUDE, _ALTITUDE)) if free else 0.0,
        phase=float(rng.random()),
    )
