"""Frames of the toon world with the masks of their actors, or of prepared videos, by number.

Knows pixels and masks, not latents and not what learns from them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from nuwaxl.data.prepared import PreparedDataset
from nuwaxl.toon.render import render_with_mask
from nuwaxl.toon.sampling import sample_story


@dataclass(frozen=True)
class FramesConfig:
    """What is shown, and how densely in time."""

    dataset: str = ""
    """A folder that `nuwaxl prepare` wrote; empty: the toon world."""
    actors: tuple[str, ...] = ()
    """Names of actors; empty: all."""
    backgrounds: tuple[str, ...] = ()
    """Names of backgrounds; empty: all."""
    frames_per_clip: int = 1
    """1 shows single frames, each of a story of its own."""
    spacing: float = 0.125
    """Seconds between the frames of a clip."""

    def __post_init__(self) -> None:
        """Refuse clips of no frames or of no duration."""
        if self.dataset and (self.actors or self.backgrounds):
            raise ValueError(
                "`data.actors` and `data.backgrounds` are of the toon world: leave them out where "
                f"`data.dataset` names a folder, got {self.dataset!r}."
            )
        if self.frames_per_clip < 1:
            raise ValueError(
                f"`data.frames_per_clip` must be at least 1, got {self.frames_per_clip}."
            )
        if self.spacing <= 0:
            raise ValueError(f"`data.spacing` must be above 0 seconds, got {self.spacing}.")


class ToonFrames:
    """Random clips of the training part of the toon world."""

    def __init__(self, config: FramesConfig, *, seed: int = 0):
        self.config = config
        self.seed = seed

    def clips(
        self, index: int, num_clips: int
    ) -> tuple[
        UInt8[np.ndarray, "clips frames height width 3"],
        Float32[np.ndarray, "clips frames height width"],
    ]:
        """Batch number `index`: frames, and how much of each pixel is the actor's (0 to 1).

        Args:
            index: any integer; the same one gives the same batch.
            num_clips: clips in the batch.
        """
        rng = np.random.default_rng((self.seed, index & 0xFFFFFFFF))
        painted = [self._clip(rng) for _ in range(num_clips)]
        return np.stack([frames for frames, _ in painted]), np.stack(
            [masks for _, masks in painted]
        )

    def _clip(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        span = (self.config.frames_per_clip - 1) * self.config.spacing
        duration = max(4.0, span + 1.0)
        story = sample_story(
            rng,
            duration,
            actors=self.config.actors or None,
            backgrounds=self.config.backgrounds or None,
        )
        start = rng.uniform(0.0, duration - span)
        times = start + self.config.spacing * np.arange(self.config.frames_per_clip)
        painted = [render_with_mask(story.state_at(float(time))) for time in times]
        return np.stack([frame for frame, _ in painted]), np.stack([mask for _, mask in painted])


class PreparedFrames:
    """Random clips of prepared videos; no actor is known, so every pixel weighs the same.

    Args:
        config: names the dataset.
        seed: of all chance.

    Raises:
        ValueError: it is no dataset, or no video in it is as long as a clip.
    """

    def __init__(self, config: FramesConfig, *, seed: int = 0):
        self.config = config
        self.seed = seed
        self.dataset = PreparedDataset(config.dataset)
        self._clip(np.random.default_rng(seed))  # refuses what cannot be drawn

    def clips(
        self, index: int, num_clips: int
    ) -> tuple[
        UInt8[np.ndarray, "clips frames height width 3"],
        Float32[np.ndarray, "clips frames height width"],
    ]:
        """Batch number `index`: frames, and zeros where the toon world has its actors.

        Args:
            index: any integer; the same one gives the same batch.
            num_clips: clips in the batch.
        """
        rng = np.random.default_rng((self.seed, index & 0xFFFFFFFF))
        frames = np.stack([self._clip(rng) for _ in range(num_clips)])
        return frames, np.zeros(frames.shape[:-1], np.float32)

    def _clip(self, rng: np.random.Generator) -> np.ndarray:
        video, frames = self.dataset.draw(rng, self.config.frames_per_clip, self.config.spacing)
        return np.stack([self.dataset.picture(video, int(frame)) for frame in frames])


def frames_of(config: FramesConfig, *, seed: int = 0) -> ToonFrames | PreparedFrames:
    """What a config shows.

    Args:
        config: the toon world or a dataset.
        seed: of all chance.

    Raises:
        ValueError: as `PreparedFrames`.
    """
    return (PreparedFrames if config.dataset else ToonFrames)(config, seed=seed)
