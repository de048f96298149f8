"""Strips of frames to encode: of the toon world, or of prepared videos.

Knows pixels, times and captions, not latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from nuwaxl.data.prepared import PreparedDataset
from nuwaxl.toon.captions import caption
from nuwaxl.toon.render import render_with_mask
from nuwaxl.toon.sampling import sample_story
from nuwaxl.toon.scenes import Scene, Story


@dataclass(frozen=True)
class StripsConfig:
    """What is shown and encoded. A strip is one story or video seen at even spacing."""

    folder: str = "out/strips"
    """Where the encoded strips are kept; made when it is not there."""
    dataset: str = ""
    """A folder that `nuwaxl prepare` wrote; empty: the toon world."""
    num_strips: int = 1000
    strip_length: int = 48
    """Frames in a strip."""
    spacings: tuple[tuple[float, float, float], ...] = ((1.0, 0.125, 0.125),)
    """(share, shortest, longest) seconds between frames; log-uniform within each range."""
    captions_per_scene: int = 4
    """Captions written for each distinct scene; a clip shows one of them."""
    actors: tuple[str, ...] = ()
    """Names of actors; empty: all."""
    backgrounds: tuple[str, ...] = ()
    """Names of backgrounds; empty: all."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse shares and spacings that cannot be drawn from."""
        if min(self.num_strips, self.strip_length, self.captions_per_scene) < 1:
            raise ValueError(
                "`num_strips`, `strip_length` and `captions_per_scene` must be at least 1."
            )
        if self.dataset and (self.actors or self.backgrounds):
            raise ValueError(
                "`actors` and `backgrounds` are of the toon world: leave them out where `dataset` "
                f"names a folder, got {self.dataset!r}."
            )
        for share, shortest, longest in self.spacings:
            if share < 0 or not 0 < shortest <= longest:
                raise ValueError(
                    "`spacings` must be (share, shortest, longest) with 0 < shortest <= longest"
                    f" in seconds, got {(share, shortest, longest)}."
                )


@dataclass(frozen=True)
class Strip:
    """One story, or one stretch of a video, seen at (nearly) even spacing."""

    times: Float64[np.ndarray, " frames"]
    """Seconds from the first frame."""
    frames: UInt8[np.ndarray, "frames height width 3"]
    actor: Float32[np.ndarray, "frames height width"] | None
    """How much of each pixel is the actor's; None where there is no actor to know of."""
    camera: Float32[np.ndarray, " frames"] | None
    """Where along its place each frame's middle is, in turns; None where it is not known."""
    captions: Sequence[Sequence[int]]
    """For each frame the numbers of captions that are true of it, equally many."""


def strip_source(config: StripsConfig) -> "ToonStrips | PreparedStrips":
    """The source that a config names.

    Args:
        config: of the strips.

    Raises:
        ValueError: the dataset is none, or has no strips of these lengths and spacings.
    """
    return PreparedStrips(config) if config.dataset else ToonStrips(config)


def _draw_spacing(
    rng: np.random.Generator, spacings: Sequence[tuple[float, float, float]]
) -> float:
    shares = np.array([share for share, _, _ in spacings])
    _, shortest, longest = spacings[rng.choice(len(shares), p=shares / shares.sum())]
    return float(np.exp(rng.uniform(np.log(shortest), np.log(longest))))


class ToonStrips:
    """Stories of the toon world; each distinct scene has several captions.

    Args:
        config: which part of the world, and how far apart its frames.

    Attributes:
        prompts: all captions used so far; number 0 is the empty one.
    """

    def __init__(self, config: StripsConfig) -> None:
        self.config = config
        self.prompts: list[str] = [""]
        self._first: dict[tuple[str, ...], int] = {}

    def strip(self, number: int) -> Strip:
        """Render strip `number`.

        Args:
            number: 0 or more.
        """
        config = self.config
        rng = np.random.default_rng((config.seed, 0, number))
        times = _draw_spacing(rng, config.spacings) * np.arange(config.strip_length)
        story: Story = sample_story(
            rng,
            max(4.0, float(times[-1]) + 1.0),
            actors=config.actors or None,
            backgrounds=config.backgrounds or None,
        )
        start = rng.uniform(0.0, story.duration - float(times[-1]))
        moments = [float(start + time) for time in times]
        states = [story.state_at(moment) for moment in moments]
        painted = [render_with_mask(state) for state in states]
        frames, masks = (np.stack(parts) for parts in zip(*painted, strict=True))
        captions = [self._numbers(story.scene_at(moment)) for moment in moments]
        camera = np.array([state.camera_turns for state in states], np.float32)
        return Strip(times, frames, masks, camera, captions)

    def _numbers(self, scene: Scene) -> list[int]:
        """Numbers of the captions of a scene."""
        facts = (scene.actor, scene.background, scene.time_of_day, scene.action, scene.direction)
        count = self.config.captions_per_scene
        if facts not in self._first:
            self._first[facts] = len(self.prompts)
            rng = np.random.default_rng((self.config.seed, 1, len(self.prompts)))
            self.prompts += [caption(scene, rng) for _ in range(count)]
        first = self._first[facts]
        return list(range(first, first + count))


class PreparedStrips:
    """Stretches of prepared videos, every moment as likely as another.

    Spacings wider than the longest video allows are not drawn. Times are the pictures' own.

    Args:
        config: names the dataset and the spacings.

    Attributes:
        prompts: all captions used so far; number 0 is the empty one.

    Raises:
        ValueError: it is no dataset, or no spacing fits it.
    """

    def __init__(self, config: StripsConfig) -> None:
        self.config = config
        self.dataset = PreparedDataset(config.dataset)
        self.prompts: list[str] = [""]
        self._numbers: dict[str, int] = {"": 0}
        steps = max(1, config.strip_length - 1)
        widest, closest = self.dataset.longest / steps, 1 / self.dataset.fps
        for _, shortest, longest in config.spacings:
            if shortest < closest * 0.99:
                raise ValueError(
                    f"`spacings` must begin at {closest:.4g} s or more, as {config.dataset!r} "
                    f"holds {self.dataset.fps:g} pictures per second, got {shortest:g}."
                )
            if shortest > max(widest, closest):
                raise ValueError(
                    f"`spacings` must fit into the longest video of {config.dataset!r} "
                    f"({self.dataset.longest:.1f} s): {config.strip_length} frames {shortest:g} to "
                    f"{longest:g} s apart do not; take a shorter `strip_length` or closer ones."
                )
        self._spacings = [
            (share, shortest, min(longest, max(widest, shortest)))
            for share, shortest, longest in config.spacings
        ]

    def strip(self, number: int) -> Strip:
        """Read strip `number`.

        Args:
            number: 0 or more.
        """
        rng = np.random.default_rng((self.config.seed, 0, number))
        spacing = _draw_spacing(rng, self._spacings)
        video, frames = self.dataset.draw(rng, self.config.strip_length, spacing)
        times = self.dataset.times(video)[frames]
        pictures = np.stack([self.dataset.picture(video, int(frame)) for frame in frames])
        texts = [self.dataset.videos[video].caption_at(int(frame)) for frame in frames]
        return Strip(
            times - times[0], pictures, None, None, [[self._number(text)] for text in texts]
        )

    def _number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self.prompts)
            self.prompts.append(text)
        return self._numbers[text]
