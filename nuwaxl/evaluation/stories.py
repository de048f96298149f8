"""Films of which everything is known: stories, their prompts and the state of every frame.

Knows states and sentences, not pixels and not who makes them.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from nuwaxl.evaluation.probe import class_names
from nuwaxl.toon import (
    ACTIONS,
    FrameState,
    Story,
    actors,
    canonical_caption,
    caption,
    sample_story,
)
from nuwaxl.toon.sampling import SCENE_SECONDS
from nuwaxl.tree.storyline import Storyline


@dataclass(frozen=True)
class KnownFilm:
    """A story seen at even spacing, and the prompts that ask for it."""

    story: Story
    storyline: Storyline
    states: tuple[FrameState, ...]
    """Of every frame."""
    fps: float

    @property
    def num_frames(self) -> int:
        """Frames of the film."""
        return len(self.states)

    @property
    def cuts(self) -> tuple[int, ...]:
        """First frames of all scenes but the first."""
        indices = [state.scene_index for state in self.states]
        return tuple(i for i in range(1, len(indices)) if indices[i] != indices[i - 1])

    @property
    def scenes(self) -> tuple[tuple[int, int], ...]:
        """(first frame, frame after the last) of every scene that has a frame."""
        edges = (0, *self.cuts, self.num_frames)
        return tuple(pairwise(edges))

    @property
    def labels(self) -> dict[str, Int[np.ndarray, " frames"]]:
        """Number of every attribute in `class_names()`, -1 where no viewer could tell."""
        labels = {
            name: np.array([names.index(getattr(state, name)) for state in self.states])
            for name, names in class_names().items()
        }
        shows = np.array([direction_shows(state.actor, state.action) for state in self.states])
        labels["direction"] = np.where(shows, labels["direction"], -1)
        return labels

    @property
    def speeds(self) -> Float[np.ndarray, " frames"]:
        """Speed of the camera at every frame, px/s, to the right positive."""
        signs = [1.0 if state.direction == "right" else -1.0 for state in self.states]
        speeds = [ACTIONS[state.action].speed for state in self.states]
        return np.array(signs) * np.array(speeds)

    @property
    def actor(self) -> Float[np.ndarray, "frames 2"]:
        """Centre of the actor's cell (x, y) in every frame, in pixels."""
        return np.array([(state.actor_x, state.actor_y) for state in self.states], np.float32)

    @property
    def visible_cuts(self) -> tuple[int, ...]:
        """Cuts at which actor, background or time of day changes, so that a picture must."""
        return tuple(
            cut
            for cut in self.cuts
            if any(
                getattr(self.states[cut], name) != getattr(self.states[cut - 1], name)
                for name in ("actor", "background", "time_of_day")
            )
        )

    def pairs_inside(self) -> Bool[np.ndarray, " pairs"]:
        """Of all pairs of neighbouring frames, which lie in one scene."""
        inside = np.ones(max(0, self.num_frames - 1), bool)
        inside[np.array(self.cuts, int) - 1] = False
        return inside


def direction_shows(actor: str, action: str) -> bool:
    """Whether a viewer can tell left from right: not of one who faces him and stays put.

    Args:
        actor: its name.
        action: what it does.
    """
    return not (actors()[actor].front_view and ACTIONS[action].speed == 0)


def known_film(
    story: Story, num_frames: int, fps: float, *, rng: np.random.Generator | None = None
) -> KnownFilm:
    """The first frames of a story, and prompts for its scenes.

    Args:
        story: at least num_frames / fps seconds long.
        num_frames: of the film.
        fps: frames per second.
        rng: draws true sentences at random; None: the plainest one of every scene.
    """
    prompts = [
        canonical_caption(scene) if rng is None else caption(scene, rng) for scene in story.scenes
    ]
    scenes = [
        {"prompt": prompt, "duration": scene.duration}
        for prompt, scene in zip(prompts, story.scenes, strict=True)
    ]
    return KnownFilm(
        story,
        Storyline.parse(scenes, story.duration),
        tuple(story.state_at(frame / fps) for frame in range(num_frames)),
        fps,
    )


def sample_films(
    num_films: int,
    num_frames: int,
    *,
    seed: int,
    fps: float,
    paraphrase: bool = False,
    actor_names: Collection[str] | None = None,
    background_names: Collection[str] | None = None,
    held_out: bool = False,
) -> list[KnownFilm]:
    """Random films of one length, long ones with cuts; the same arguments give the same films.

    Args:
        num_films: how many.
        num_frames: of each.
        seed: source of all chance.
        fps: frames per second.
        paraphrase: prompts in random words instead of the plainest ones.
        actor_names: only these; None for all.
        background_names: only these; None for all.
        held_out: only combinations that no network is trained on.

    Raises:
        ValueError: no combination is left, or a name is unknown.
    """
    films = []
    for number in range(num_films):
        rng = np.random.default_rng((seed, num_frames, number))
        story = None
        # A long film of one scene has no cut to place and nothing to carry from place to place.
        while story is None or (len(story.scenes) == 1 and story.duration > SCENE_SECONDS[1]):
            story = sample_story(
                rng,
                num_frames / fps,
                actors=actor_names,
                backgrounds=background_names,
                held_out=held_out,
            )
        films.append(known_film(story, num_frames, fps, rng=rng if paraphrase else None))
    return films
