"""What happens when: the prompt in force at every moment of a film (paper section 3.3).

Knows seconds and words, not frames of a timeline, files or networks.

Scene changes are sharp: every frame has its own prompt, so a cut falls on the right frame.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

# Sums of durations and frame numbers over fps differ by float rounding; a cut must not move by a
# frame for it. Far below a frame, far above the rounding of a day in seconds.
_TOLERANCE = 1e-6

_NUMBER = r"((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)"
_TIME = re.compile(rf"(?:{_NUMBER}h)?\s*(?:{_NUMBER}m)?\s*(?:{_NUMBER}s)?", re.IGNORECASE)
_SCENE_KEYS = ("prompt", "duration", "start", "end")
_STORY_KEYS = ("scenes", "fps", "negative_prompt", "seed", "length")

Story = str | Sequence[Any] | Mapping[Any, Any]
"""What `Storyline.parse` reads, as it comes from a person or a YAML file: still to be checked."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A prompt from its start until the next scene."""

    start: float
    """Seconds from the start of the film."""
    prompt: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and self.start >= 0):
            raise ValueError(f"A scene's `start` must be 0 s or later, got {self.start}.")
        _check_prompt(self.prompt, "`prompt`")


@dataclass(frozen=True)
class Storyline:
    """The prompt of every moment.

    Neighbouring scenes of the same prompt are one, so two storylines are equal when they say the
    same at every moment. The last scene goes on for ever.

    Args:
        scenes: ascending in time, the first at 0.

    Raises:
        ValueError: no scene, none at 0, or two out of order.
    """

    scenes: tuple[Scene, ...]

    def __post_init__(self) -> None:
        if not self.scenes:
            raise ValueError("A story must have at least one scene, got none.")
        if self.scenes[0].start != 0:
            raise ValueError(
                f"The first scene must start at 0s, got {format_time(self.scenes[0].start)}: "
                "say what the film shows until then."
            )
        for before, after in pairwise(self.scenes):
            if after.start - before.start <= _TOLERANCE:
                raise ValueError(
                    f"Scenes must start one after the other, got {before.prompt!r} at "
                    f"{format_time(before.start)} and {after.prompt!r} at "
                    f"{format_time(after.start)}."
                )
        scenes = [self.scenes[0]]
        scenes += [
            after for before, after in pairwise(self.scenes) if after.prompt != before.prompt
        ]
        object.__setattr__(self, "scenes", tuple(scenes))

    @classmethod
    def parse(cls, value: Story, duration: float) -> "Storyline":
        """Read a story in any of the forms in which people write one.

        Args:
            value: one prompt; prompts that share the film equally; start -> prompt, a start being
                seconds or text such as '1m30s'; or scenes {prompt, duration} or {prompt, start}
                or {prompt, start, end}, one after the other, by themselves or under `scenes`. The
                last scene goes on until the film ends.
            duration: length of the film in seconds.

        Raises:
            ValueError: a prompt that is no text or empty, a time that is none, scenes that overlap
                or leave a gap, or a scene that starts when the film is over.
        """
        if not (math.isfinite(duration) and duration > 0):
            raise ValueError(f"`duration` must be more than 0 seconds, got {duration}.")
        scenes, _ = _read_scenes(value, duration)
        storyline = cls(tuple(scenes))
        last = scenes[-1]
        if last.start >= duration - _TOLERANCE:
            raise ValueError(
                f"The scene {last.prompt!r} starts at {format_time(last.start)}, when the film of "
                f"{format_time(duration)} is over: make the film longer or the scenes shorter."
            )
        return storyline

    @staticmethod
    def duration_of(value: Story) -> float | None:
        """Seconds that a story lasts by its own account; None if it leaves its end open.

        It has an end of its own when its last scene has a `duration` or an `end`.

        Args:
            value: as `parse` takes it.

        Raises:
            ValueError: as `parse`.
        """
        return _read_scenes(value, None)[1]

    def prompt_at(self, time: float) -> str:
        """The prompt in force.

        Args:
            time: seconds from the start of the film, 0 or more.

        Raises:
            ValueError: before the film.
        """
        if not time >= 0:
            raise ValueError(f"`time` must be 0 seconds or later, got {time}.")
        return self.scenes[bisect_right(self._starts, time + _TOLERANCE) - 1].prompt

    def prompts_at(self, times: Iterable[float]) -> tuple[str, ...]:
        """The prompts in force at several moments; see `prompt_at`."""
        return tuple(self.prompt_at(time) for time in times)

    def with_prompt(self, start: float, stop: float, prompt: str) -> "Storyline":
        """The same story with another prompt from `start` until `stop`.

        Args:
            start: seconds from the start of the film.
            stop: seconds, not included; `math.inf` for the rest of the film.
            prompt: what is shown instead.

        Raises:
            ValueError: not 0 <= start < stop, or an empty prompt.
        """
        if not (start >= 0 and start + _TOLERANCE < stop):
            raise ValueError(
                f"`start` and `stop` must satisfy 0 <= start < stop, got {start} and {stop}."
            )
        before = [scene for scene in self.scenes if scene.start < start - _TOLERANCE]
        after = [scene for scene in self.scenes if scene.start > stop + _TOLERANCE]
        if math.isfinite(stop):
            after.insert(0, Scene(stop, self.prompt_at(stop)))
        return Storyline((*before, Scene(start if before else 0.0, prompt), *after))

    @cached_property
    def _starts(self) -> tuple[float, ...]:
        return tuple(scene.start for scene in self.scenes)


# ---- Length and time as text ----------------------------------------------------------------


def parse_length(text: str | int, fps: float) -> int:
    """Frames of a film from the way people say its length.

    Args:
        text: a number of frames ('240', '1e9') or a time ('30s', '2m30s', '1h', '1.5m').
        fps: frames per second; a time is taken to the nearest frame, and to one at least.

    Raises:
        ValueError: neither, or nothing at all.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"`fps` must be above 0, got {fps}.")
    said = str(text).strip()
    # Exact up to any size: a float would round the frames of '12345678901234567'.
    if re.fullmatch(r"[+-]?\d+", said):
        num_frames = int(said)
    elif re.fullmatch(_NUMBER, said, re.IGNORECASE) and float(said).is_integer():
        num_frames = int(float(said))
    else:
        seconds = _match_time(said)
        if seconds is None:
            raise ValueError(
                f"`length` must be a number of frames or a time such as '90s' or '2m30s', "
                f"got {text!r}."
            )
        num_frames = max(1, math.floor(seconds * fps + 0.5)) if seconds > 0 else 0
    if num_frames < 1:
        raise ValueError(f"`length` must be at least one frame, got {text!r}.")
    return num_frames


def parse_time(text: object, *, name: str = "time") -> float:
    """Seconds from a number of them or text: 90, '90', '90s', '2m30s', '1h'.

    Args:
        text: the number or text.
        name: what the error calls it.

    Raises:
        ValueError: not a time of 0 seconds or more.
    """
    seconds: float | None = None
    if isinstance(text, str):
        said = text.strip()
        is_number = re.fullmatch(_NUMBER, said, re.IGNORECASE)
        seconds = float(said) if is_number else _match_time(said)
    elif isinstance(text, int | float) and not isinstance(text, bool):
        seconds = float(text)
    if seconds is None or not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(
            f"`{name}` must be seconds of 0 or more, or a time such as '90s' or '2m30s', "
            f"got {text!r}."
        )
    return seconds


def format_time(seconds: float) -> str:
    """A time as `parse_time` reads it: '2.5s', '1m30s', '2h'.

    Args:
        seconds: 0 or more; rounded to a thousandth.
    """
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    hours, minutes = whole // 3600, whole // 60 % 60
    rest = f"{whole % 60}.{thousandths:03d}".rstrip("0").rstrip(".")
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")
    return text if text and rest == "0" else f"{text}{rest}s"


def _match_time(said: str) -> float | None:
    match = _TIME.fullmatch(said)
    if not match or not any(match.groups()):
        return None
    hours, minutes, seconds = (float(number or 0) for number in match.groups())
    total = hours * 3600 + minutes * 60 + seconds
    return total if math.isfinite(total) else None


# ---- Reading scenes -------------------------------------------------------------------------


def _read_scenes(value: Any, duration: float | None) -> tuple[list[Scene], float | None]:
    """The scenes and, if the story says so, when it ends.

    Args:
        value: as `Storyline.parse` takes it.
        duration: of the film, which prompts without times share; None takes a second for each.
    """
    if isinstance(value, Mapping) and "scenes" in value:
        _check_keys(value, _STORY_KEYS, "A story")
        return _read_scenes(value["scenes"], duration)
    if isinstance(value, str):
        return _share([value], duration), None
    if isinstance(value, Mapping) and value:
        return _read_starts(value), None
    if not isinstance(value, Sequence) or not value:
        raise ValueError(
            "A story must be a prompt, a list of prompts, times with prompts or scenes, "
            f"got {value!r}."
        )
    if all(isinstance(scene, Mapping) for scene in value):
        for number, scene in enumerate(value, 1):
            _check_keys(scene, _SCENE_KEYS, f"Scene {number}")
        if any(len(scene) > 1 for scene in value):
            return _read_chain(value)
        return _share([scene["prompt"] for scene in value], duration), None
    if any(isinstance(scene, Mapping) for scene in value):
        raise ValueError(
            "A story must have either prompts alone or scenes with times, got both; "
            "write every scene as {prompt, duration}."
        )
    return _share(value, duration), None


def _share(prompts: Sequence[Any], duration: float | None) -> list[Scene]:
    """Scenes of equal length."""
    for number, prompt in enumerate(prompts, 1):
        _check_prompt(prompt, "`prompt`" if len(prompts) == 1 else f"`prompt` of scene {number}")
    length = len(prompts) if duration is None else duration
    return [Scene(i * length / len(prompts), prompt) for i, prompt in enumerate(prompts)]


def _read_starts(prompts: Mapping[Any, Any]) -> list[Scene]:
    """Scenes from start -> prompt; two writings of one time are refused by `Storyline`."""
    scenes = []
    for key, prompt in prompts.items():
        start = parse_time(key, name="start")
        _check_prompt(prompt, f"`prompt` at {format_time(start)}")
        scenes.append(Scene(start, prompt))
    return sorted(scenes, key=lambda scene: scene.start)


def _read_chain(scenes: Sequence[Mapping[str, Any]]) -> tuple[list[Scene], float | None]:
    """Scenes with `start`, `duration` or `end`, one after the other."""
    chain: list[Scene] = []
    end: float | None = 0.0  # of the scene before; None: it goes on until the next starts
    for number, scene in enumerate(scenes, 1):
        name = f"of scene {number}"
        _check_prompt(scene["prompt"], f"`prompt` {name}")
        start = _time_of(scene, "start", name)
        if start is None and end is None:
            raise ValueError(
                f"Scene {number} must have a `start`, because scene {number - 1} has neither "
                "`duration` nor `end`."
            )
        start = end if start is None else start
        assert start is not None
        if end is not None and abs(start - end) > _TOLERANCE:
            what = "overlap" if start < end else "leave a gap"
            before = f"scene {number - 1} ends" if number > 1 else "the film starts"
            raise ValueError(
                f"Scenes must not {what}: scene {number} starts at {format_time(start)}, {before} "
                f"at {format_time(end)}."
            )
        chain.append(Scene(start if end is None else end, scene["prompt"]))
        end = _end_of(scene, chain[-1].start, name)
    return chain, end


def _end_of(scene: Mapping[str, Any], start: float, name: str) -> float | None:
    length, end = _time_of(scene, "duration", name), _time_of(scene, "end", name)
    if length is not None and end is not None:
        raise ValueError(f"`duration` and `end` {name} say the same: give one of them.")
    if length is not None:
        end = start + length
    if end is not None and end - start <= _TOLERANCE:
        key = "end" if length is None else "duration"
        rule = f"after its start at {format_time(start)}" if length is None else "more than 0s"
        raise ValueError(f"`{key}` {name} must be {rule}, got {scene[key]!r}.")
    return end


def _time_of(scene: Mapping[str, Any], key: str, name: str) -> float | None:
    if scene.get(key) is None:
        return None
    try:
        return parse_time(scene[key], name=key)
    except ValueError as error:
        raise ValueError(str(error).replace(f"`{key}`", f"`{key}` {name}", 1)) from None


def _check_keys(mapping: Mapping[Any, Any], known: Sequence[str], what: str) -> None:
    unknown = [key for key in mapping if key not in known]
    if unknown:
        raise ValueError(f"{what} may have {', '.join(known)}, got {unknown[0]!r}.")
    if known is _SCENE_KEYS and "prompt" not in mapping:
        raise ValueError(f"{what} must have a `prompt`, got {dict(mapping)}.")


def _check_prompt(prompt: object, name: str) -> None:
    if not isinstance(prompt, str):
        raise ValueError(f"{name} must be text, got {prompt!r}; put it in quotes.")
    if not prompt.strip():
        raise ValueError(f"{name} must say what is shown, got {prompt!r}.")
