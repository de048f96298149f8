"""`nuwaxl init`: a model's folder from a pretrained image model."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuwaxl.cli import options
from nuwaxl.cli.errors import user_errors
from nuwaxl.config import DTYPES
from nuwaxl.parts.sizes import PREDICTION_TYPES

if TYPE_CHECKING:
    from nuwaxl.pipelines.long_video import LongVideoPipeline

_SOURCE = "FOLDER_OR_ID"
_OPTIONS = {
    name: "--" + name.replace("_", "-")
    for name in ("unet2d", "vae", "text_encoder", "tokenizer", "prediction_type", "segment_length")
} | {"height": "--size", "width": "--size", "global_unet": "--unet2d"}


def init(
    unet2d: Annotated[
        str,
        typer.Option(
            "--unet2d",
            metavar=_SOURCE,
            help="Stable Diffusion 1.x or 2.x: a whole pipeline, or its U-Net alone.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the model goes.")
    ],
    vae: Annotated[
        str | None,
        typer.Option(metavar=_SOURCE, help="Its VAE.", show_default="beside the U-Net"),
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            metavar=_SOURCE, help="Its text encoder, CLIP.", show_default="beside the U-Net"
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar=_SOURCE, help="Its tokenizer.", show_default="beside the text encoder"
        ),
    ] = None,
    prediction_type: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"What the U-Net predicts: {' or '.join(PREDICTION_TYPES)}.",
            show_default="as the scheduler beside it says",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="Of the frames.", show_default="the U-Net's own"),
    ] = None,
    fps: Annotated[
        float, typer.Option(parser=options.number, metavar="NUMBER", help="Frames per second.")
    ] = 8.0,
    segment_length: Annotated[
        int, typer.Option(parser=options.whole_number, metavar="FRAMES", help="Most in one run.")
    ] = 16,
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help=f"Of the weights: {', '.join(DTYPES[1:])}.")
    ] = "float32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False,
) -> None:
    """Make a model's folder from a pretrained image model."""
    with user_errors():
        width, height = _parse_size(size)
        if prediction_type not in (None, *PREDICTION_TYPES):
            raise ValueError(
                f"`--prediction-type` must be {' or '.join(PREDICTION_TYPES)}, got "
                f"{prediction_type!r}."
            )
        if dtype not in DTYPES[1:]:
            raise ValueError(f"`--dtype` must be one of {', '.join(DTYPES[1:])}, got {dtype!r}.")
        if not 0 < fps < math.inf:
            raise ValueError(f"`--fps` must be a number above 0, got {fps:g}.")
        _check_output(output, overwrite=overwrite)
    import diffusers
    import torch
    import transformers

    from nuwaxl.pipelines.image_models import ImageModel, save_whole, start_pipeline

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    with user_errors(_OPTIONS):
        pipeline = start_pipeline(
            ImageModel(
                unet2d, vae, text_encoder, tokenizer, prediction_type, height, width, fps,
                segment_length, getattr(torch, dtype),
            )
        )  # fmt: skip
    save_whole(pipeline, output)
    typer.echo(f"wrote {output}: {_told(pipeline)}")


def _parse_size(size: str | None) -> tuple[int | None, int | None]:
    if size is None:
        return None, None
    found = re.fullmatch(r"(\d+)x(\d+)", size)
    if found is None:
        raise ValueError(f"`--size` must be WIDTHxHEIGHT such as 128x128, got {size!r}.")
    return int(found[1]), int(found[2])


def _check_output(output: Path, *, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ValueError(f"`--output` must be a folder, and '{output}' is a file.")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not (output / "model_index.json").is_file():
        raise ValueError(
            f"`--output`: '{output}' holds something else than a model; choose another name."
        )
    if not overwrite:
        raise ValueError(f"`--output`: '{output}' exists; add --overwrite or choose another name.")


def _told(pipeline: "LongVideoPipeline") -> str:
    """What was made, for people."""
    config = pipeline.config
    return (
        f"{config['width']}x{config['height']}, runs of {config['segment_length']} frames, "
        f"{pipeline.scheduler.config['prediction_type']}; every frame starts as the image model's"
    )
