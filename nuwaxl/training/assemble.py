"""Trained stages to one checkpoint that `LongVideoPipeline.from_pretrained` loads.

Knows folders, not how their weights were learned.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler

from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.models.backbones import load_backbone
from nuwaxl.models.mask_unet3d import MaskUNet3D
from nuwaxl.models.prompt_adapter import PromptAdapter
from nuwaxl.models.scenery import SceneryModel
from nuwaxl.pipelines.long_video import LongVideoPipeline


@dataclass(frozen=True)
class AssembleConfig:
    """Folders of the trained parts, and what the checkpoint says of itself."""

    vae: str = "out/autoencoder/model"
    prompt_adapter: str = "out/prompts/model"
    """Empty: the U-Nets attend to the text encoder's hidden states themselves."""
    scenery: str = ""
    """Of networks that are shown sketches; empty: none."""
    global_unet: str = "out/global/model"
    local_unet: str = "out/local/model"
    text_encoder: str = "nuwaxl/weights/toon/text_encoder"
    tokenizer: str = "nuwaxl/weights/toon/tokenizer"
    height: int = 128
    width: int = 128
    fps: float = 8.0
    segment_length: int = 16
    dtype: str = "float16"
    """Of the weights in the files: 'float16', 'bfloat16' or 'float32'."""
    output: str = "out/model"

    def __post_init__(self) -> None:
        """Refuse parts that are not there."""
        if self.dtype not in ("float16", "bfloat16", "float32"):
            raise ValueError(f"`dtype` must be float16, bfloat16 or float32, got {self.dtype!r}.")
        for name in (
            *("vae", "prompt_adapter", "scenery"),
            *("global_unet", "local_unet", "text_encoder"),
        ):
            folder = getattr(self, name)
            if folder and not (Path(folder) / "config.json").is_file():
                raise ValueError(
                    f"`{name}` must be a folder with a config.json, got {folder!r}: train it first."
                )
        if not self.scenery:
            for role in ("global_unet", "local_unet"):
                settings: Any = MaskUNet3D.load_config(getattr(self, role))
                if settings.get("sketched"):
                    raise ValueError(
                        f"`scenery` must be the folder of the model whose sketches `{role}` learned"
                        " from, got none."
                    )
        if not (_scheduler_folder(self.global_unet) / "scheduler_config.json").is_file():
            raise ValueError(
                "`global_unet` must have a scheduler/ in its folder, as training writes it, or"
                f" beside it, as a checkpoint has it, got {self.global_unet!r}."
            )


def _scheduler_folder(network: str) -> Path:
    """The noise levels that a network was trained with: a stage's output, or a checkpoint's."""
    own = Path(network) / "scheduler"
    return own if own.is_dir() else Path(network).parent / "scheduler"


def assemble(config: AssembleConfig) -> LongVideoPipeline:
    """Put the parts together and write them to `config.output`.

    Args:
        config: which parts.

    Returns:
        The pipeline, its weights in the precision that was written.
    """
    from transformers import AutoModel, AutoTokenizer

    dtype = getattr(torch, config.dtype)
    pipeline = LongVideoPipeline(
        tokenizer=AutoTokenizer.from_pretrained(config.tokenizer),
        text_encoder=AutoModel.from_pretrained(config.text_encoder),
        prompt_adapter=PromptAdapter.from_pretrained(config.prompt_adapter)
        if config.prompt_adapter
        else None,
        scenery=SceneryModel.from_pretrained(config.scenery) if config.scenery else None,
        vae=TemporalAutoencoderKL.from_pretrained(config.vae),
        global_unet=load_backbone(config.global_unet),
        local_unet=load_backbone(config.local_unet),
        scheduler=UniPCMultistepScheduler.from_pretrained(_scheduler_folder(config.global_unet)),
        height=config.height,
        width=config.width,
        fps=config.fps,
        segment_length=config.segment_length,
    )
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            setattr(pipeline, name, part.to(dtype))
    pipeline.save_pretrained(config.output)
    return pipeline
