"""Options that several commands share, and how they map to settings."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nuwaxl.backends.catalogue import BACKENDS, OFFLOADS, QUANTIZATIONS
from nuwaxl.denoising.sampling import SCHEDULERS


def whole_number(text: str | int) -> int:
    """Parse an option's value (or take its default), or say what was given."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"must be a whole number, got {text!r}") from None


def number(text: str | float) -> float:
    """Parse an option's value (or take its default), or say what was given."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"must be a number, got {text!r}") from None


Assignments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Any setting by its name, such as sampling.guidance_rescale=0.5.",
        show_default=False,
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        "-p",
        metavar="TEXT",
        help="What the film shows; given several times, the prompts share the film equally.",
        show_default=False,
    ),
]
Story = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A YAML file with scenes.", show_default=False),
]
Length = Annotated[
    str | None,
    typer.Option(
        metavar="LENGTH",
        help="Frames (240) or a time (30s, 2m30s, 1h).",
        show_default="as the story or --depth says",
    ),
]
Depth = Annotated[
    int | None,
    typer.Option(
        parser=whole_number,
        metavar="LEVELS",
        help="Levels of the keyframe tree; without --length, a full tree of so many (3: 3376).",
        show_default="the fewest that reach every frame",
    ),
]
Fps = Annotated[
    float | None,
    typer.Option(parser=number, metavar="NUMBER", help="Frames per second.", show_default="8"),
]
Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A YAML file with settings.", show_default=False),
]

SAMPLING = "How a segment is denoised"
RUNNING = "Where it runs"
FILES = "Files"

Steps = Annotated[
    int | None,
    typer.Option(
        parser=whole_number,
        metavar="N",
        help="Denoising steps per run; time grows with it.",
        show_default="10",
        rich_help_panel=SAMPLING,
    ),
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        parser=number,
        metavar="NUMBER",
        help="How strictly to follow the prompt; 1 turns guidance off and halves the time.",
        show_default="3",
        rich_help_panel=SAMPLING,
    ),
]
LocalSteps = Annotated[
    int | None,
    typer.Option(
        parser=whole_number,
        metavar="N",
        help="Steps of all levels but the global one.",
        show_default="half of --steps",
        rich_help_panel=SAMPLING,
    ),
]
LocalGuidanceScale = Annotated[
    float | None,
    typer.Option(
        parser=number,
        metavar="NUMBER",
        help="Guidance of all levels but the global one, where the prompt stays the same.",
        show_default="as --guidance-scale",
        rich_help_panel=SAMPLING,
    ),
]
NegativePrompt = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="What to stay away from.", rich_help_panel=SAMPLING),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"One of {', '.join(SCHEDULERS)}.",
        show_default="unipc",
        rich_help_panel=SAMPLING,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"A folder saved by save_pretrained, or a pretrained model: {', '.join(BACKENDS)}.",
        show_default="the bundled model",
        rich_help_panel=RUNNING,
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FOLDER",
        help="A LoRA on the model, as `nuwaxl train` writes it; may be given several times.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="cpu, cuda, cuda:1, mps or xpu.",
        show_default="the fastest here",
        rich_help_panel=RUNNING,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="float32, bfloat16 or float16.",
        show_default="what is fast and safe there",
        rich_help_panel=RUNNING,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        parser=whole_number,
        metavar="N",
        help="Runs denoised together: speed, not the film, depends on it.",
        show_default="what fits",
        rich_help_panel=RUNNING,
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="A file .mp4, .mkv, .webm or .gif, or a folder for PNG files.",
        show_default="film.mp4",
        rich_help_panel=FILES,
    ),
]
ContactSheet = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Also write a picture with frames of the whole film.",
        rich_help_panel=FILES,
    ),
]

PRETRAINED = "Pretrained models"

Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER_OR_ID",
        help="Weights of --model: a folder of diffusers, or an id of the hub.",
        show_default="its usual ones",
        rich_help_panel=PRETRAINED,
    ),
]
GlobalModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[=FOLDER_OR_ID]",
        help="Who makes the keyframes, instead of --model.",
        rich_help_panel=PRETRAINED,
    ),
]
LocalModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[=FOLDER_OR_ID]",
        help="Who makes the frames between, instead of --model.",
        rich_help_panel=PRETRAINED,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WIDTHxHEIGHT",
        help="Of the frames.",
        show_default="the local model's own",
        rich_help_panel=PRETRAINED,
    ),
]
SegmentLength = Annotated[
    int | None,
    typer.Option(
        parser=whole_number,
        metavar="FRAMES",
        help="Most frames in a run: fewer need less of the device's memory.",
        show_default="what the model is made for",
        rich_help_panel=PRETRAINED,
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        metavar="BITS",
        help=f"Weights of few bits, by bitsandbytes: {' or '.join(QUANTIZATIONS)}.",
        show_default="as they are",
        rich_help_panel=PRETRAINED,
    ),
]
Offload = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help=f"Keep weights in memory while the device does not need them: {', '.join(OFFLOADS)}.",
        show_default="all on the device",
        rich_help_panel=PRETRAINED,
    ),
]

PROJECT = "Keeping the film"

Project = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Keep all that is made in a folder: going on, edits and previews then need no more "
        "than it. Alone, goes on with the film there.",
        rich_help_panel=PROJECT,
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Where a new project keeps its segments, such as s3://bucket/film.",
        show_default="in the folder",
        rich_help_panel=PROJECT,
    ),
]
MaxLevel = Annotated[
    int | None,
    typer.Option(
        parser=whole_number,
        metavar="LEVEL",
        help="Only the coarse film of the levels down to this one; 0: the keyframes.",
        show_default="all levels",
        rich_help_panel=RUNNING,
    ),
]
Executor = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="local: in this process. ray: on the machines of a Ray cluster.",
        rich_help_panel=RUNNING,
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        parser=whole_number,
        metavar="N",
        help="Copies of the model at work: one for each device, or with ray in N processes.",
        rich_help_panel=RUNNING,
    ),
]

SETTINGS = {
    "length": "length",
    "depth": "depth",
    "fps": "fps",
    "seed": "seed",
    "steps": "sampling.num_inference_steps",
    "guidance_scale": "sampling.guidance_scale",
    "local_steps": "sampling.local_num_inference_steps",
    "local_guidance_scale": "sampling.local_guidance_scale",
    "negative_prompt": "sampling.negative_prompt",
    "scheduler": "sampling.scheduler",
    "model": "model",
    "lora": "lora",
    "checkpoint": "checkpoint",
    "global_model": "global_model",
    "local_model": "local_model",
    "size": "size",
    "segment_length": "segment_length",
    "quantize": "quantize",
    "offload": "offload",
    "device": "device",
    "dtype": "dtype",
    "batch_size": "batch_size",
    "output": "output",
    "contact_sheet": "contact_sheet",
}
"""Option (as a Python name) -> setting of `GenerateConfig` that it overrides."""


def overrides(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that the options given on the command line stand for, nested.

    Args:
        values: option -> value; None where it was not given. Other names are ignored.
    """
    nested: dict[str, Any] = {}
    for option, setting in SETTINGS.items():
        value = values.get(option)
        if value is None:
            continue
        *owners, name = setting.split(".")
        target = nested
        for owner in owners:
            target = target.setdefault(owner, {})
        target[name] = str(value) if isinstance(value, Path) else value
    return nested


def option_names(values: dict[str, Any]) -> dict[str, str]:
    """Setting -> option that set it, for error lines; only options that were given."""
    return {
        setting.rsplit(".", 1)[-1]: "--" + option.replace("_", "-")
        for option, setting in SETTINGS.items()
        if values.get(option) is not None
    }


def check_project(project: Path | None, store: str | None, max_level: int | None) -> None:
    """Refuse what does not go together.

    Raises:
        ValueError: one line with argument, rule, value and way out.
    """
    if store is not None and project is None:
        raise ValueError("`--store` says where a project keeps its segments: add `--project`.")
    if max_level is not None and max_level < 0:
        raise ValueError(f"`--max-level` must be 0 or more, got {max_level}.")
