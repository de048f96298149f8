"""A pipeline from a pretrained image model: Stable Diffusion 1.x and 2.x.

Knows folders, ids of the hub and sizes; the networks' own modules know how images become clips.
At the start the pipeline's networks make of every frame exactly what the image model makes of it.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.models.mask_unet3d import MaskUNet3D
from nuwaxl.models.stable_diffusion import image_settings
from nuwaxl.parts.sizes import PREDICTION_TYPES, ModelParts
from nuwaxl.pipelines.long_video import LongVideoPipeline

# Of Stable Diffusion 1.x and 2.x alike, where a U-Net stands alone.
_NOISE_LEVELS: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ImageModel:
    """Where the parts of an image model are, and what is made of them.

    Every source is a folder or an id of the hub: a whole pipeline, or the part alone.
    """

    unet2d: str
    vae: str | None = None
    """None: beside the U-Net."""
    text_encoder: str | None = None
    """None: beside the U-Net."""
    tokenizer: str | None = None
    """None: beside or in the text encoder."""
    prediction_type: str | None = None
    """One of `PREDICTION_TYPES`; None: as the scheduler beside the U-Net says."""
    height: int | None = None
    """Of a frame, in pixels; None: what the U-Net was trained for."""
    width: int | None = None
    fps: float = 8.0
    segment_length: int = 16
    dtype: torch.dtype = torch.float32
    """Of the weights."""


@dataclass(frozen=True)
class Source:
    """A part of a model: in a folder or on the hub, perhaps in a subfolder of its own."""

    location: str
    subfolder: str = ""

    @property
    def is_beside_others(self) -> bool:
        """Whether it is a part of a whole pipeline."""
        return self.subfolder != ""

    def has(self, name: str) -> bool:
        """Whether it holds a file."""
        return _file(self.location, f"{self.subfolder}/{name}".lstrip("/")) is not None


@dataclass(frozen=True)
class Sources:
    """All parts, found."""

    unet2d: Source
    vae: Source
    text_encoder: Source
    tokenizer: Source
    scheduler: Source | None


def find_sources(model: ImageModel) -> Sources:
    """Where every part is; of the hub, only small files are fetched.

    Raises:
        ValueError: a part is not there.
    """
    unet2d = _find("unet2d", model.unet2d, "unet")
    _config("unet2d", UNet2DConditionModel, unet2d)  # of another kind, it names no other parts
    beside = unet2d.location if unet2d.is_beside_others else None
    vae = _find("vae", model.vae or beside, "vae")
    text_encoder = _find("text_encoder", model.text_encoder or beside, "text_encoder")
    return Sources(
        unet2d=unet2d,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=_find_tokenizer(model.tokenizer, text_encoder),
        scheduler=_beside(unet2d, "scheduler", "scheduler_config.json"),
    )


def check_parts(model: ImageModel, sources: Sources) -> ModelParts:
    """The sizes of the pipeline to be made; no weights are read.

    Raises:
        ValueError: a part is of another kind, or two do not fit each other.
    """
    with torch.device("meta"):
        unet2d: Any = UNet2DConditionModel.from_config(
            _config("unet2d", UNet2DConditionModel, sources.unet2d)
        )
        image_vae: Any = AutoencoderKL.from_config(_config("vae", AutoencoderKL, sources.vae))
    vae = {name: image_vae.config[name] for name in ("latent_channels", "block_out_channels")}
    own_size = unet2d.config["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    return ModelParts(
        height=model.height or own_size,
        width=model.width or own_size,
        segment_length=model.segment_length,
        global_unet={"_class_name": "MaskUNet3D", **image_settings(unet2d)},
        vae=vae,
        text_encoder={"hidden_size": _text_config(sources.text_encoder).hidden_size},
    )


def start_pipeline(model: ImageModel) -> LongVideoPipeline:
    """Make the pipeline, its weights those of the image model.

    Both roles hold the same network, which saving writes twice.

    Raises:
        ValueError: a part is missing, of another kind, or does not fit.
    """
    from transformers import AutoTokenizer

    sources = find_sources(model)
    parts = check_parts(model, sources)
    scheduler = _scheduler(model, sources, parts)
    text_class = _text_class(_text_config(sources.text_encoder))
    dtype = model.dtype
    unet2d = UNet2DConditionModel.from_pretrained(**_where(sources.unet2d), torch_dtype=dtype)
    image_vae = AutoencoderKL.from_pretrained(**_where(sources.vae), torch_dtype=dtype)
    network = MaskUNet3D.from_unet2d(unet2d)
    return LongVideoPipeline(
        tokenizer=AutoTokenizer.from_pretrained(**_where(sources.tokenizer)),
        text_encoder=text_class.from_pretrained(**_where(sources.text_encoder), dtype=dtype),
        vae=TemporalAutoencoderKL.from_image_vae(image_vae),
        global_unet=network,
        local_unet=network,
        scheduler=scheduler,
        height=parts.height,
        width=parts.width,
        fps=model.fps,
        segment_length=parts.segment_length,
    )


def save_whole(pipeline: LongVideoPipeline, folder: Path) -> None:
    """Write a pipeline's folder, whole or not at all.

    Args:
        pipeline: to write.
        folder: replaced if it is there.
    """
    hidden = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        pipeline.save_pretrained(hidden)
        shutil.rmtree(folder, ignore_errors=True)
        hidden.rename(folder)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _find(option: str, said: str | None, name: str) -> Source:
    """The part `name` in what the user said, which is a whole pipeline or the part alone."""
    if said is None:
        raise ValueError(
            f"`{option}` must be named, as a folder or an id of the hub: `unet2d` names a U-Net "
            f"alone, with no {name} beside it."
        )
    for subfolder in (name, ""):
        if _file(said, f"{subfolder}/config.json".lstrip("/")) is not None:
            return Source(said, subfolder)
    raise ValueError(
        f"`{option}` must hold {name}/config.json (a whole pipeline) or config.json (the part "
        f"alone), and {said!r} holds neither."
    )


def _find_tokenizer(said: str | None, text_encoder: Source) -> Source:
    file = "tokenizer_config.json"
    if said is None:
        places = [_beside(text_encoder, "tokenizer", file), Source(text_encoder.location)]
    else:
        places = [Source(said, "tokenizer"), Source(said)]
    for place in places:
        if place is not None and place.has(file):
            return place
    where = said or text_encoder.location
    raise ValueError(f"`tokenizer` must be a folder or an id with {file}, none found at {where!r}.")


def _beside(part: Source, name: str, file: str) -> Source | None:
    other = Source(part.location, name)
    return other if part.is_beside_others and other.has(file) else None


def _file(location: str, name: str) -> Path | None:
    """A small file of a folder or of the hub; None: it has none of that name.

    Raises:
        ValueError: there is neither such a folder nor such an id.
    """
    if Path(location).is_dir():
        path = Path(location, name)
        return path if path.is_file() else None
    if not _HUB_ID.fullmatch(location) or Path(location).exists():
        raise ValueError(f"no folder {location!r}, and no id of the hub such as org/name.")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(location, name))
    except EntryNotFoundError as error:
        if not isinstance(error, LocalEntryNotFoundError):
            return None
        reason = error
    except Exception as error:  # not there, not allowed, no network: one line for all
        reason = error
    text = " ".join(str(reason).split())[:120]
    raise ValueError(
        f"{location!r} is neither a folder nor to be had from the hub "
        f"({type(reason).__name__}: {text})."
    ) from reason


def _where(source: Source) -> dict[str, Any]:
    """Arguments of a `from_pretrained`."""
    place: dict[str, Any] = {"pretrained_model_name_or_path": source.location}
    return place | ({"subfolder": source.subfolder} if source.subfolder else {})


def _config(option: str, wanted: Any, source: Source) -> dict[str, Any]:
    config = dict(wanted.load_config(**_where(source)))
    if config.get("_class_name") != wanted.__name__:
        raise ValueError(
            f"`{option}` must be a {wanted.__name__}, and {source.location!r} holds a "
            f"{config.get('_class_name')}."
        )
    return config


def _text_config(source: Source) -> Any:
    from transformers import AutoConfig, CLIPTextConfig

    config = AutoConfig.from_pretrained(**_where(source))
    if hasattr(config, "text_config"):  # a whole CLIP: its text half is meant
        return CLIPTextConfig.from_pretrained(**_where(source))
    return config


def _text_class(config: Any) -> Any:
    from transformers import AutoModel, CLIPTextModel

    return CLIPTextModel if config.model_type.startswith("clip") else AutoModel


def _scheduler(model: ImageModel, sources: Sources, parts: ModelParts) -> DDIMScheduler:
    """Noise levels as the image model was trained with, under a sampler that is ours too.

    Raises:
        ValueError: nothing says what the U-Net predicts.
    """
    config = dict(_NOISE_LEVELS)
    if sources.scheduler is not None:
        found: Any = DDIMScheduler.load_config(**_where(sources.scheduler))
        config = {name: value for name, value in found.items() if not name.startswith("_")}
    elif model.prediction_type is None and parts.global_unet["use_linear_projection"]:
        raise ValueError(
            f"`prediction_type` must be named, one of {', '.join(PREDICTION_TYPES)}: no scheduler "
            "stands beside this U-Net of Stable Diffusion 2, which comes in both kinds."
        )
    if model.prediction_type is not None:
        config["prediction_type"] = model.prediction_type
    # Latents have no range to be clipped to.
    return DDIMScheduler.from_config(config, clip_sample=False)  # pyright: ignore[reportReturnType]
