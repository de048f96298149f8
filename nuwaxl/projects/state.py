"""All that decides a film, and every change to it, as plain values.

Knows frames, seconds and prompts; not files, latents or keys.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.tree.storyline import Scene, Storyline

PRETRAINED = ("global_model", "local_model", "size", "quantize")
"""What only films of pretrained models have."""


@dataclass(frozen=True)
class EditState:
    """One change since the film was first made; see `nuwaxl.tree.jobs.Edit`."""

    start: int
    stop: int
    storyline: Storyline
    seed: int
    num_frames: int | None = None
    """Of the film from now on, where it was made longer."""
    pictures: dict[int, str] = field(default_factory=dict)
    """Frame -> file in `pictures/`."""


@dataclass(frozen=True)
class FilmState:
    """All that decides a film."""

    num_frames: int
    """As first made; edits may make it longer."""
    segment_length: int
    fps: float
    seed: int
    sampling: SamplingConfig
    storyline: Storyline
    """As first made."""
    depth: int | None = None
    model: str | None = None
    """Folder of a checkpoint; None: the bundled one, or pretrained models."""
    lora: tuple[str, ...] = ()
    """LoRA files, or folders of them, on the checkpoint."""
    global_model: str | None = None
    """'name=checkpoint' of the pretrained model that makes keyframes."""
    local_model: str | None = None
    """The same of the frames between."""
    size: str | None = None
    """'WIDTHxHEIGHT', with pretrained models."""
    quantize: str | None = None
    """Of their weights."""
    edits: tuple[EditState, ...] = ()

    @property
    def frames_now(self) -> int:
        """Frames of the film as it is now."""
        return next((e.num_frames for e in reversed(self.edits) if e.num_frames), self.num_frames)

    @property
    def storyline_now(self) -> Storyline:
        """What the film shows now."""
        return self.edits[-1].storyline if self.edits else self.storyline

    def with_prompt(self, start: float, stop: float, prompt: str) -> "FilmState":
        """Show something else from `start` to `stop` (seconds).

        Raises:
            ValueError: the range holds no frame, or shows that already.
        """
        storyline = self.storyline_now.with_prompt(start, stop, prompt)
        if storyline == self.storyline_now:
            raise ValueError(
                f"`--prompt` is what the film shows there already: {prompt!r}; `nuwaxl reroll` "
                "makes the same again with another seed."
            )
        return self._edited(start, stop, storyline, self.seed)

    def rerolled(self, start: float, stop: float, seed: int | None) -> "FilmState":
        """Make the range anew from other noise.

        Args:
            start: in seconds.
            stop: in seconds, not included.
            seed: of the noise; None: one that the film has not had.
        """
        if seed is None:
            seed = 1 + max(self.seed, *(edit.seed for edit in self.edits), 0)
        return self._edited(start, stop, self.storyline_now, seed)

    def with_picture(self, at: float, picture: str, around: float) -> "FilmState":
        """Show a picture at one frame, and make what is near it anew so that it leads there.

        Args:
            at: seconds, taken to the nearest frame.
            picture: name of the file in `pictures/`.
            around: seconds on both sides that may change.
        """
        frame = round(at * self.fps)
        if not 0 <= frame < self.frames_now:
            raise ValueError(
                f"`--at` must lie in the film's {self.frames_now / self.fps:g} s, got {at:g} s."
            )
        reach = round(around * self.fps)
        start, stop = max(0, frame - reach), min(self.frames_now, frame + reach + 1)
        edit = EditState(start, stop, self.storyline_now, self.seed, pictures={frame: picture})
        return replace(self, edits=(*self.edits, edit))

    def extended(self, num_frames: int, prompt: str | None) -> "FilmState":
        """Make the film longer; the frames that it has stay as they are.

        Args:
            num_frames: of the whole film.
            prompt: what the new part shows; None: the last scene goes on.
        """
        old = self.frames_now
        if num_frames <= old:
            raise ValueError(
                f"`--length` must be more than the film has, {old} frames, got {num_frames}."
            )
        storyline = self.storyline_now
        if prompt is not None:
            storyline = storyline.with_prompt(old / self.fps, float("inf"), prompt)
        edit = EditState(old, num_frames, storyline, self.seed, num_frames)
        return replace(self, edits=(*self.edits, edit))

    def frames_between(self, start: float, stop: float) -> tuple[int, int]:
        """First frame, and the frame after the last, whose times lie from `start` to `stop`.

        Raises:
            ValueError: there is none.
        """
        # A cut must not move by a frame for the rounding of seconds * fps.
        first, end = (-int(-(time * self.fps - 1e-6) // 1) for time in (start, min(stop, 1e12)))
        first, end = max(0, first), min(self.frames_now, end)
        if first >= end:
            raise ValueError(
                f"`--at` must hold a frame of the film's {self.frames_now / self.fps:g} s, got "
                f"{start:g} s to {stop:g} s."
            )
        return first, end

    def _edited(self, start: float, stop: float, storyline: Storyline, seed: int) -> "FilmState":
        first, end = self.frames_between(start, stop)
        return replace(self, edits=(*self.edits, EditState(first, end, storyline, seed)))


def to_json(state: FilmState) -> dict[str, Any]:
    """The state as nested dictionaries of what JSON has.

    Args:
        state: any.
    """
    film = {
        "num_frames": state.num_frames,
        "segment_length": state.segment_length,
        "fps": state.fps,
        "seed": state.seed,
        "depth": state.depth,
        "model": state.model,
        **({"lora": list(state.lora)} if state.lora else {}),
        "sampling": asdict(state.sampling),
        "scenes": _scenes(state.storyline),
    }
    pretrained = {name: getattr(state, name) for name in PRETRAINED}
    film |= {name: value for name, value in pretrained.items() if value is not None}
    edits = [
        {
            "start": edit.start,
            "stop": edit.stop,
            "seed": edit.seed,
            "num_frames": edit.num_frames,
            "pictures": {str(frame): name for frame, name in edit.pictures.items()},
            "scenes": _scenes(edit.storyline),
        }
        for edit in state.edits
    ]
    return {"film": film, "edits": edits}


def from_json(content: dict[str, Any]) -> FilmState:
    """What `to_json` wrote.

    Args:
        content: may have other entries.

    Raises:
        KeyError, TypeError, ValueError: it is not.
    """
    film = dict(content["film"])
    film["lora"] = tuple(film.get("lora", ()))
    edits = tuple(
        EditState(
            edit["start"],
            edit["stop"],
            _storyline(edit["scenes"]),
            edit["seed"],
            edit["num_frames"],
            {int(frame): name for frame, name in edit["pictures"].items()},
        )
        for edit in content["edits"]
    )
    storyline, sampling = _storyline(film.pop("scenes")), SamplingConfig(**film.pop("sampling"))
    return FilmState(storyline=storyline, sampling=sampling, edits=edits, **film)


def _scenes(storyline: Storyline) -> list[dict[str, Any]]:
    return [{"start": scene.start, "prompt": scene.prompt} for scene in storyline.scenes]


def _storyline(scenes: list[dict[str, Any]]) -> Storyline:
    return Storyline(tuple(Scene(scene["start"], scene["prompt"]) for scene in scenes))


def story_lines(state: FilmState) -> Iterator[str]:
    """A story file, as `nuwaxl generate --story` reads it; a JSON text is a YAML text."""
    yield "# What the film shows now. For reading: change the film by `nuwaxl edit`.\n"
    yield f"fps: {state.fps:g}\nlength: {json.dumps(str(state.frames_now))}\nseed: {state.seed}\n"
    if state.sampling.negative_prompt:
        yield f"negative_prompt: {json.dumps(state.sampling.negative_prompt)}\n"
    yield "scenes:\n"
    for scene in state.storyline_now.scenes:
        yield f"- {{start: {scene.start!r}, prompt: {json.dumps(scene.prompt)}}}\n"
