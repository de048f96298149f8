"""Which pretrained pipelines can make a film's segments, and what each of them allows.

Knows names, sizes and numbers of frames; loads no network and opens no weights.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path
from typing import Literal

from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.tree.branching import RunLengths
from nuwaxl.tree.timeline import Timeline

Role = Literal["global", "local"]

QUANTIZATIONS = ("4bit", "8bit")
OFFLOADS = ("model", "sequential", "group")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Backend:
    """A kind of pretrained pipeline in the role of a segment model."""

    name: str
    about: str
    roles: tuple[Role, ...]
    pipeline: str | None
    """Class in diffusers; None: any that makes pictures from text, or none at all."""
    checkpoint: str | None
    """Weights on the hub unless the user names others."""
    most: int
    """Frames in one run unless the user says: the length that the model is made for."""
    step: int = 1
    """A run has a multiple of it plus 1 frames."""
    still: bool = False
    """Whether its frames are single pictures."""
    fps: float = 16.0
    """Of the clips that it learned."""
    height: int = 480
    width: int = 832
    size_multiple: int = 16
    """Height and width are multiples of it, in pixels."""
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    packages: tuple[str, ...] = ()
    """That it needs beside diffusers and transformers."""
    max_prompt_tokens: int = 512


BACKENDS: Mapping[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "wan-vace",
            "Wan 2.1 VACE: any of a run's frames may be given",
            ("global", "local"),
            "WanVACEPipeline",
            "Wan-AI/Wan2.1-VACE-1.3B-diffusers",
            most=81,
            step=4,
            packages=("ftfy",),
        ),
        Backend(
            "wan-flf",
            "Wan image-to-video: between a first and a last frame",
            ("local",),
            "WanImageToVideoPipeline",
            "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers",
            most=81,
            step=4,
            height=720,
            width=1280,
            packages=("ftfy",),
        ),
        Backend(
            "ltx",
            "LTX-Video: conditions on single frames",
            ("global", "local"),
            "LTXConditionPipeline",
            "Lightricks/LTX-Video-0.9.5",
            most=121,
            step=8,
            fps=25.0,
            height=512,
            width=704,
            size_multiple=32,
            num_inference_steps=40,
            guidance_scale=3.0,
            max_prompt_tokens=256,
        ),
        Backend(
            "stills",
            "one picture for each keyframe, by any text-to-image pipeline",
            ("global",),
            None,
            None,
            most=129,
            still=True,
            num_inference_steps=30,
        ),
        Backend(
            "pictures",
            "one picture of yours for each keyframe, from a folder, in order of their names",
            ("global",),
            None,
            None,
            most=129,
            still=True,
        ),
    )
}


@dataclass(frozen=True)
class RoleChoice:
    """A backend and the weights to load into it."""

    backend: Backend
    checkpoint: str
    """A folder, an id of the hub such as 'org/name', or 'org/name@revision'."""

    def __str__(self) -> str:
        return f"{self.backend.name}={self.checkpoint}"


@dataclass(frozen=True)
class BackendChoice:
    """Which pretrained models make a film, and at which size.

    Raises:
        ValueError: sizes or numbers of frames that they cannot have.
    """

    global_role: RoleChoice
    local_role: RoleChoice
    segment_length: int
    """Most frames in a run of a video model."""
    height: int
    width: int
    quantize: str | None = None

    def __post_init__(self) -> None:
        if self.quantize is not None and self.quantize not in QUANTIZATIONS:
            raise ValueError(
                f"`quantize` must be one of {', '.join(QUANTIZATIONS)}, got {self.quantize!r}."
            )
        multiple = lcm(*(role.backend.size_multiple for role in self.roles))
        if self.height < 1 or self.width < 1 or self.height % multiple or self.width % multiple:
            way_out = f"{_near(self.width, multiple)}x{_near(self.height, multiple)}"
            raise ValueError(
                f"`size` must be multiples of {multiple} pixels for {self.names}, such as "
                f"{way_out}, got {self.width}x{self.height}."
            )
        for role in self.roles:
            _ = self._lengths(role.backend) if not role.backend.still else None

    @property
    def roles(self) -> tuple[RoleChoice, RoleChoice]:
        """Global, then local."""
        return self.global_role, self.local_role

    @property
    def names(self) -> str:
        """For people: 'wan-vace', or 'stills and wan-flf'."""
        return " and ".join(dict.fromkeys(role.backend.name for role in self.roles))

    @property
    def fps(self) -> float:
        """Of the clips that the local model learned: neighbouring frames are its work."""
        return self.local_role.backend.fps

    @property
    def sampling_defaults(self) -> dict[str, float]:
        """What the models' authors use, for level 0."""
        backend = self.global_role.backend
        return {
            "num_inference_steps": backend.num_inference_steps,
            "guidance_scale": backend.guidance_scale,
        }

    def with_local_defaults(self, sampling: SamplingConfig) -> SamplingConfig:
        """The settings with those below level 0 filled in, where the user left them open.

        A number that the user gave for level 0 holds for all levels.

        Args:
            sampling: as the user said.
        """
        changes: dict[str, float] = {}
        for name, default in self.sampling_defaults.items():
            if getattr(sampling, f"local_{name}") is None:
                said = getattr(sampling, name)
                own = getattr(self.local_role.backend, name)
                changes[f"local_{name}"] = own if said == default else said
        return replace(sampling, **changes)

    def timeline(
        self, num_frames: int, depth: int | None = None, pinned: tuple[int, ...] = ()
    ) -> Timeline:
        """The film's plan, in runs that the models can make.

        Raises:
            ValueError: there is none, or the user's pictures do not end with the film.
        """
        global_lengths, local_lengths = (self._lengths(role.backend) for role in self.roles)
        timeline = Timeline.in_lengths(
            num_frames, global_lengths, local_lengths, depth=depth, pinned=pinned
        )
        is_pictures = self.global_role.backend.name == "pictures"
        if is_pictures and timeline.num_planned != num_frames:
            raise ValueError(
                f"`length` must let the {global_lengths.most} pictures lie evenly from the first "
                f"frame to the last, with runs of {local_lengths.step} k + 1 frames between: the "
                f"next such length is {timeline.num_planned} frames, got {num_frames}."
            )
        return timeline

    def full_frames(self, depth: int) -> int:
        """Frames of the largest film of so many levels."""
        global_lengths, local_lengths = (self._lengths(role.backend) for role in self.roles)
        return global_lengths.gaps[-1] * local_lengths.gaps[-1] ** (depth - 1) + 1

    def _lengths(self, backend: Backend) -> RunLengths:
        """Numbers of frames that a run of the backend may have here."""
        if backend.name == "pictures":
            count = len(picture_files(self.global_role.checkpoint))
            return RunLengths(count, count - 1, still=True)
        if backend.still:
            return RunLengths(backend.most, still=True)
        return RunLengths(self.segment_length, backend.step)


def choose_backends(
    *,
    model: str | None,
    checkpoint: str | None,
    global_model: str | None,
    local_model: str | None,
    size: str | None,
    segment_length: int | None,
    quantize: str | None,
) -> BackendChoice | None:
    """What the user chose of the pretrained models; None: a checkpoint of ours.

    Args:
        model: a backend's name for both roles; anything else is a checkpoint of ours.
        checkpoint: weights for `model`.
        global_model: 'NAME' or 'NAME=CHECKPOINT' for level 0.
        local_model: the same for the levels below.
        size: 'WIDTHxHEIGHT'; None: the local model's own.
        segment_length: most frames in a run; None: what the models are made for.
        quantize: of the weights.

    Raises:
        ValueError: one line with argument, rule, value and way out.
    """
    name = model.partition("=")[0] if model is not None else None
    if name not in BACKENDS and global_model is None and local_model is None:
        _refuse_settings_of_backends(checkpoint, size, segment_length, quantize)
        return None
    if model is not None and name not in BACKENDS:
        raise ValueError(
            f"`model` must be a pretrained model beside `global_model` or `local_model`, one of "
            f"{', '.join(BACKENDS)}, got {model!r}."
        )
    if checkpoint is not None:
        if model is None or "=" in model:
            raise ValueError(
                "`checkpoint` names the weights of `model`; for one role write "
                "`--global-model NAME=CHECKPOINT`."
            )
        model = f"{model}={checkpoint}"
    roles: dict[str, RoleChoice] = {}
    for role, said in (("global", global_model), ("local", local_model)):
        text = said if said is not None else model
        if text is None:
            raise ValueError(
                f"`{role}_model` is missing: `model` serves both roles, `global_model` and "
                f"`local_model` one each; {role} ones are {_serving(role)}."
            )
        roles[role] = _parse_role(text, role, "model" if said is None else f"{role}_model")
    local, level0 = roles["local"].backend, roles["global"].backend
    # A length that both can have, when they are made for different ones.
    step = lcm(local.step, 1 if level0.still else level0.step)
    own = (local.most - 1) // step * step + 1
    width, height = _parse_size(size) if size is not None else (local.width, local.height)
    return BackendChoice(
        roles["global"],
        roles["local"],
        segment_length=own if segment_length is None else segment_length,
        height=height,
        width=width,
        quantize=quantize,
    )


def picture_files(folder: str) -> list[Path]:
    """The pictures of a folder, in order of their names.

    Raises:
        ValueError: it is no folder, or holds fewer than two pictures.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(
            f"`global_model` pictures=FOLDER must name a folder of pictures, got {folder!r}."
        )
    found = sorted(each for each in path.iterdir() if each.suffix.lower() in PICTURE_SUFFIXES)
    if len(found) < 2:
        raise ValueError(
            f"`global_model` pictures=FOLDER must name a folder with 2 pictures or more "
            f"({', '.join(PICTURE_SUFFIXES)}), got {len(found)} in {folder!r}."
        )
    return found


def _parse_role(text: str, role: str, option: str) -> RoleChoice:
    name, _, checkpoint = text.partition("=")
    if name not in BACKENDS:
        raise ValueError(f"`{option}` must be one of {_serving(role)}, got {name!r}.")
    backend = BACKENDS[name]
    if role not in backend.roles:
        other = "local" if role == "global" else "global"
        raise ValueError(
            f"`{option}` {name} cannot make the {role} runs: add `--{role}-model`, one of "
            f"{_serving(role)}, beside `--{other}-model {name}`."
        )
    checkpoint = checkpoint or backend.checkpoint or ""
    if not checkpoint:
        raise ValueError(
            f"`{option}` {name} has no weights of its own: write {name}=FOLDER"
            + (" or an id such as stills=stabilityai/sdxl-turbo." if name == "stills" else ".")
        )
    return RoleChoice(backend, checkpoint)


def _serving(role: str) -> str:
    return ", ".join(name for name, backend in BACKENDS.items() if role in backend.roles)


def _parse_size(size: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", size)
    if found is None:
        raise ValueError(f"`size` must be WIDTHxHEIGHT such as 832x480, got {size!r}.")
    return int(found[1]), int(found[2])


def _near(size: int, multiple: int) -> int:
    return max(1, round(size / multiple)) * multiple


def _refuse_settings_of_backends(
    checkpoint: str | None, size: str | None, segment_length: int | None, quantize: str | None
) -> None:
    settings = {
        "checkpoint": checkpoint,
        "size": size,
        "segment_length": segment_length,
        "quantize": quantize,
    }
    for name, value in settings.items():
        if value is not None:
            raise ValueError(
                f"`{name}` is for pretrained models, with `--model` {', '.join(BACKENDS)}; a "
                f"checkpoint of `nuwaxl train` has its own, got {value!r}."
            )
