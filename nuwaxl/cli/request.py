"""From arguments to a film that can be made: all checked, nothing loaded."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from nuwaxl.backends.catalogue import BACKENDS, BackendChoice, choose_backends
from nuwaxl.config import GenerateConfig, StoryFile, load_config, nearest, read_story
from nuwaxl.tree.storyline import Storyline, parse_length
from nuwaxl.tree.timeline import Timeline

SEGMENT_LENGTH = 16
"""Frames per run of the bundled model, and of the paper."""
MAX_UNCONFIRMED_FRAMES = 100_000
"""Longer films need --yes: about 3.5 hours of film at 8 frames per second, a day of computing."""
BUNDLED = ("weights", "toon")
"""Where the package keeps its own checkpoint."""
SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class FilmRequest:
    """What is to be made, and how."""

    config: GenerateConfig
    timeline: Timeline
    storyline: Storyline | None
    """None only where no prompt was asked for."""
    backends: BackendChoice | None = None
    """The pretrained models that make it; None: a checkpoint of ours."""

    @property
    def is_bundled(self) -> bool:
        """Whether the package's own model makes it."""
        return self.config.model is None and self.backends is None

    @property
    def segment_length(self) -> int:
        """Most frames in a run, as the user or the model says."""
        return self.backends.segment_length if self.backends else self.timeline.segment_length

    @property
    def num_frames(self) -> int:
        """Frames of the whole film."""
        return self.timeline.num_frames

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.num_frames / self.config.fps


def resolve_request(
    *,
    prompts: Sequence[str] | None,
    story: Path | None,
    config_file: Path | None,
    assignments: Sequence[str] | None,
    overrides: Mapping[str, Any],
    needs_prompt: bool = True,
    segment_length: int | None = None,
) -> FilmRequest:
    """Check all that was said about length, settings and story.

    Settings win in this order: options, `key=value`, the settings file, the story file, defaults.

    Args:
        prompts: texts that share the film equally.
        story: a YAML file, instead of `prompts`.
        config_file: YAML with settings.
        assignments: `key=value`.
        overrides: settings from options, nested.
        needs_prompt: False where only sizes matter.
        segment_length: frames per run; None: as the model says.

    Raises:
        ValueError: one line with argument, rule, value and way out.
    """
    _check_one_source(prompts, story, needs_prompt)
    told = read_story(story) if story is not None else None

    def read(defaults: Mapping[str, Any]) -> GenerateConfig:
        stated = _settings_of(told)
        sampling = {**defaults.get("sampling", {}), **stated.get("sampling", {})}
        defaults = {**defaults, **stated, "sampling": sampling}
        return load_config(
            GenerateConfig, config_file, assignments or (), defaults=defaults, overrides=overrides
        )

    config = read({})
    backends = backends_of(config, segment_length)
    if backends is not None:
        defaults = {"fps": backends.fps, "sampling": backends.sampling_defaults}
        return _request_of_backends(read(defaults), backends, told, prompts)
    facts = read_model_facts(config.model)
    if "fps" in facts:
        config = read({"fps": facts["fps"]})
    if segment_length is None:
        segment_length = int(facts.get("segment_length", SEGMENT_LENGTH))
    most = segment_length
    scenes = told.scenes if told else list(prompts or ())

    def full_frames(depth: int) -> int:
        return Timeline.full(depth, most).num_frames

    num_frames = _num_frames(config, told, full_frames)
    timeline = Timeline(num_frames, segment_length=most, depth=config.depth)
    storyline = _storyline(scenes, told, num_frames / config.fps)
    return FilmRequest(config, timeline, storyline)


def _request_of_backends(
    config: GenerateConfig,
    backends: BackendChoice,
    told: StoryFile | None,
    prompts: Sequence[str] | None,
) -> FilmRequest:
    """The film that pretrained models are to make."""
    if config.lora:
        raise ValueError(
            f"`lora` is for checkpoints of ours, and {backends.names} were asked for: leave it out."
        )
    config = replace(config, sampling=backends.with_local_defaults(config.sampling))
    num_frames = _num_frames(config, told, backends.full_frames)
    timeline = backends.timeline(num_frames, config.depth)
    scenes = told.scenes if told else list(prompts or ())
    storyline = _storyline(scenes, told, num_frames / config.fps)
    return FilmRequest(config, timeline, storyline, backends)


def backends_of(config: GenerateConfig, segment_length: int | None = None) -> BackendChoice | None:
    """The pretrained models that the settings name; None: a checkpoint of ours.

    Args:
        config: all settings.
        segment_length: instead of the settings'.

    Raises:
        ValueError: one line with argument, rule, value and way out.
    """
    choice = choose_backends(
        model=config.model,
        checkpoint=config.checkpoint,
        global_model=config.global_model,
        local_model=config.local_model,
        size=config.size,
        segment_length=config.segment_length,
        quantize=config.quantize,
    )
    if choice is None or segment_length is None:
        return choice
    return replace(choice, segment_length=segment_length)


def check_size(request: FilmRequest, *, confirmed: bool) -> None:
    """Refuse a film so long that it is more likely a slip, unless it was confirmed.

    Raises:
        ValueError: more than `MAX_UNCONFIRMED_FRAMES` frames and not confirmed.
    """
    if request.num_frames > MAX_UNCONFIRMED_FRAMES and not confirmed:
        raise ValueError(
            f"`--length` comes to {request.num_frames:,} frames "
            f"({request.duration / 3600:,.1f} hours, {request.timeline.num_segments:,} runs); "
            "if that is meant, add --yes."
        )


def read_model_facts(model: str | None) -> dict[str, Any]:
    """What a checkpoint's `model_index.json` says: fps, segment_length, its parts.

    Args:
        model: a folder; None: the bundled checkpoint, which may be missing as long as nothing is
            to be made with it.

    Raises:
        ValueError: the folder holds no pipeline of this project.
    """
    if model is None:
        index = files("nuwaxl").joinpath(*BUNDLED, "model_index.json")
        return json.loads(index.read_text()) if index.is_file() else {}
    rule = f"`--model` must be a folder saved by `save_pretrained`, and {model!r}"
    way_out = "; leave it out for the bundled model."
    folder = Path(model)
    if not folder.is_dir():
        meant = nearest(model, list(BACKENDS)).rstrip(".")
        raise ValueError(f"{rule} is no folder{meant}{way_out}")
    try:
        facts = json.loads((folder / "model_index.json").read_text())
    except (OSError, ValueError):
        raise ValueError(f"{rule} holds no readable model_index.json{way_out}") from None
    if not isinstance(facts, dict) or facts.get("_class_name") != "LongVideoPipeline":
        raise ValueError(f"{rule} holds no LongVideoPipeline{way_out}")
    return facts


def check_bundled(model: str | None, backends: BackendChoice | None) -> None:
    """Refuse to go on without a model.

    Raises:
        ValueError: no model was named, and this installation holds none.
    """
    if model is None and backends is None and not read_model_facts(None):
        raise ValueError("this installation holds no bundled model; name one with `--model`.")


def check_sheet(path: Path, *, overwrite: bool) -> None:
    """Refuse a contact sheet that could not be written.

    Raises:
        ValueError: unknown ending, missing folder, or a file that is there already.
    """
    if path.suffix.lower() not in SHEET_SUFFIXES:
        raise ValueError(
            f"`--contact-sheet` must end in {', '.join(SHEET_SUFFIXES)}, got {str(path)!r}."
        )
    if not path.parent.is_dir():
        raise ValueError(
            f"`--contact-sheet`: the folder {str(path.parent)!r} does not exist; make it first."
        )
    if path.exists() and not overwrite:
        raise ValueError(
            f"`--contact-sheet`: {str(path)!r} exists; add --overwrite or choose another name."
        )


def _check_one_source(prompts: Sequence[str] | None, story: Path | None, needed: bool) -> None:
    if prompts and story is not None:
        raise ValueError("give either `--prompt` or `--story`, not both.")
    if needed and not prompts and story is None:
        raise ValueError("say what the film shows: `--prompt TEXT` or `--story FILE`.")
    for prompt in prompts or ():
        if not prompt.strip():
            raise ValueError(
                f"`--prompt` must be text that is not empty, got {prompt!r}; for example "
                "--prompt 'a dog runs across the beach at sunset'."
            )


def _settings_of(told: StoryFile | None) -> dict[str, Any]:
    """The story file's settings, by the places where `GenerateConfig` has them."""
    settings = dict(told.settings) if told else {}
    if "negative_prompt" in settings:
        settings["sampling"] = {"negative_prompt": settings.pop("negative_prompt")}
    return settings


def _num_frames(
    config: GenerateConfig, told: StoryFile | None, full_frames: Callable[[int], int]
) -> int:
    if config.length is not None:
        return parse_length(config.length, config.fps)
    seconds = _told_seconds(told) if told else None
    if seconds is not None:
        return parse_length(f"{seconds}s", config.fps)
    if config.depth is not None:
        return full_frames(config.depth)
    raise ValueError(
        "say how long the film is: `--length` (240, 30s, 2m30s) or `--depth` (3: 3,376 frames)"
        + (", or durations in the story." if told else ".")
    )


def _told_seconds(told: StoryFile) -> float | None:
    """The story's own length, if it tells where it ends."""
    try:
        return Storyline.duration_of(told.scenes)
    except ValueError as error:
        raise ValueError(f"{told.path}: {error}") from None


def _storyline(scenes: Any, told: StoryFile | None, duration: float) -> Storyline | None:
    if not scenes:
        return None
    try:
        return Storyline.parse(scenes, duration)
    except ValueError as error:
        where = f"{told.path}: " if told else ""
        raise ValueError(f"{where}{error}") from None
