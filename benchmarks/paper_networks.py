"""The networks of the paper's tables and of both backbones: trainings in which one thing differs.

Knows stages, starts and budgets; not what is measured.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.evaluation.settings import EvaluationConfig
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.models.backbones import load_backbone
from nuwaxl.models.mask_unet3d import MaskUNet3D
from nuwaxl.parts.components import BUNDLED
from nuwaxl.pipelines.long_video import LongVideoPipeline
from nuwaxl.training.main import train

CONFIGS = Path(__file__).parent.parent / "configs" / "train"

RATES = {"images": 310.0, "clips": 12.0, "frames": 46.0}
"""Measured on one core with bf16 instructions: single latents and clips of 16 frames a second with
the bundled U-Net (clips with Muon), pictures a second with the bundled autoencoder."""

FRAMES_PER_STEP = 128
"""Of a clip stage's batch, whatever its clips' length: 16 clips of 8 frames, 4 of 32."""

IMAGES_PER_STEP, PICTURES_PER_STEP = 64, 16

ACTORS = ("dog", "cat", "rabbit", "penguin", "car", "robot", "snowman", "ghost")
BACKGROUNDS = ("meadow", "beach", "city", "snowy hills", "desert")
"""A small part of the world, so that a small budget shows differences."""

_NO_SKETCHES = ("scenery=''",)
"""The paper knows none."""
VAES = ("image", "random", "identity")
"""Of table 2a: no temporal layers, or such that start at random or as the identity."""

INJECTIONS: dict[str, dict[str, bool]] = {
    "full": {},
    "no symmetric injection": {"symmetric_injection": False},
    "no multi-scale injection": {"multi_scale_injection": False},
}
"""Of table 2b."""


@dataclass(frozen=True)
class Budget:
    """How much every network learns from: the same for all that are compared."""

    minutes_per_row: float = 6.0
    """Of one core at `RATES`, for each network; the steps follow from it."""
    num_strips: int = 300
    """Stories encoded for each of the two kinds of strips."""
    smoke: bool = False
    """Networks of a few thousand weights and one step each: does the machinery run?"""

    @property
    def image_steps(self) -> int:
        """Of the image U-Net that all clip stages start from."""
        return self._steps(RATES["images"] / IMAGES_PER_STEP)

    @property
    def clip_steps(self) -> int:
        """Of every global or local U-Net."""
        return self._steps(RATES["clips"] * 16 / FRAMES_PER_STEP)

    @property
    def vae_steps(self) -> int:
        """Of every autoencoder."""
        return self._steps(RATES["frames"] / PICTURES_PER_STEP)

    def _steps(self, per_second: float) -> int:
        return 1 if self.smoke else max(1, round(60 * self.minutes_per_row * per_second))


class Workshop:
    """Trains what a table asks for, once; a run that was stopped goes on where it was.

    Args:
        folder: keeps starts, strips and trained networks.
        budget: of every network.
    """

    def __init__(self, folder: Path, budget: Budget) -> None:
        self.folder = folder
        self.budget = budget
        self._bundled: LongVideoPipeline | None = None
        self._pipelines: dict[tuple[str, int], LongVideoPipeline] = {}

    def from_nothing(self, backbone: str, stage: str) -> Path:
        """A network whose weights were random before the image stage.

        Args:
            backbone: of `networks.BACKBONES`, at the sizes that training takes by itself.
            stage: 'image', or the role that a network learns after it.
        """
        image = stage == "image"
        per_step = IMAGES_PER_STEP if image else FRAMES_PER_STEP // 16
        return self._train(
            stage,
            f"{backbone} {stage}",
            f"{stage}.yaml",
            [
                f"backbone={backbone}" if image else f"base={self.from_nothing(backbone, 'image')}",
                *(self._smallest() if image and self.budget.smoke else ()),
                # Muon's steps take half as long again, and teach a transformer slower at first.
                "loop.optimizer=adamw",
                f"loop.batch_size={1 if self.budget.smoke else per_step}",
                f"loop.max_steps={self.budget.image_steps if image else self.budget.clip_steps}",
                *(() if image else _NO_SKETCHES),
                *self._strips("dense" if stage == "local" else "wide"),
            ],
        )

    def vae(self, variant: str) -> Path:
        """A decoder that has learned on, its latents being the bundled ones.

        Args:
            variant: of `VAES`.
        """
        temporal = variant != "image"
        start = self.folder / "starts" / f"vae_{variant}"
        if not (start / "config.json").is_file():
            torch.manual_seed(0)
            bundled = TemporalAutoencoderKL.from_pretrained(BUNDLED / "vae", dtype=torch.float32)
            old = dict(bundled.config)
            config: dict[str, Any] = {k: v for k, v in old.items() if not k.startswith("_")}
            config["temporal_decoder"] = temporal
            vae = TemporalAutoencoderKL(**config)
            vae.load_state_dict(bundled.state_dict(), strict=False)
            if variant == "random":
                _forget(vae.decoder_temporal)
            vae.save_pretrained(start)
        return self._train(
            "autoencoder",
            f"vae {variant}",
            "decoder.yaml",
            [
                f"base={start}",
                f"model.temporal_decoder={str(temporal).lower()}",
                f"data.frames_per_clip={4 if self.budget.smoke else 8}",
                f"data.actors={_names(ACTORS)}",
                f"data.backgrounds={_names(BACKGROUNDS)}",
                f"loop.batch_size={1 if self.budget.smoke else PICTURES_PER_STEP // 8}",
                f"loop.max_steps={self.budget.vae_steps}",
            ],
        )

    def unet(self, role: str, *, injection: str = "full", length: int = 16) -> Path:
        """A U-Net that has learned its role from the common image U-Net.

        Args:
            role: 'global' or 'local'.
            injection: of `INJECTIONS`.
            length: most frames in a run.
        """
        start = self.folder / "starts" / injection.replace(" ", "_")
        if not (start / "config.json").is_file():
            image = MaskUNet3D.from_pretrained(self._image_unet())
            MaskUNet3D.from_unet2d(image, **INJECTIONS[injection]).save_pretrained(start)
        fewest = 5 if role == "global" else 3
        return self._train(
            role,
            f"{role} {injection} {length}",
            f"{role}.yaml",
            [
                f"base={start}",
                f"num_frames=[[0.7,{length},{length}],[0.3,{fewest},{length}]]",
                f"loop.batch_size={1 if self.budget.smoke else FRAMES_PER_STEP // length}",
                f"loop.max_steps={self.budget.clip_steps}",
                *_NO_SKETCHES,
                *self._strips("wide" if role == "global" else "dense"),
            ],
        )

    def pipeline(self, *, injection: str = "full", length: int = 16) -> LongVideoPipeline:
        """The bundled pipeline with networks trained here.

        Args:
            injection: of its local U-Net, which alone is told of given frames in every run.
            length: most frames in a run.
        """
        key = injection, length
        if key not in self._pipelines:
            self._pipelines[key] = self.assembled(
                self.unet("global", length=length),
                self.unet("local", injection=injection, length=length),
                length=length,
            )
        return self._pipelines[key]

    def assembled(
        self, global_unet: Path, local_unet: Path, *, length: int = 16
    ) -> LongVideoPipeline:
        """The bundled pipeline with other networks.

        Args:
            global_unet: its folder.
            local_unet: its folder.
            length: most frames in a run.
        """
        if self._bundled is None:
            self._bundled = LongVideoPipeline.from_pretrained()
        parts = dict(self._bundled.components)
        parts |= {
            "scenery": None,
            "global_unet": load_backbone(global_unet),
            "local_unet": load_backbone(local_unet),
        }
        sizes = {name: self._bundled.config[name] for name in ("height", "width", "fps")}
        pipeline = LongVideoPipeline(**parts, **sizes, segment_length=length)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _image_unet(self) -> Path:
        """Spatial layers alone, from the bundled keyframes' network, trained on single frames."""
        start = self.folder / "starts" / "image"
        if not (start / "config.json").is_file():
            torch.manual_seed(0)
            bundled = MaskUNet3D.from_pretrained(BUNDLED / "global_unet", dtype=torch.float32)
            config = {k: v for k, v in dict(bundled.config).items() if not k.startswith("_")}
            config |= {"temporal": False, "sketched": False}
            if self.budget.smoke:
                config["block_out_channels"] = (32, 32)
            image = MaskUNet3D(**config)
            if not self.budget.smoke:
                weights = bundled.state_dict()
                image.load_state_dict({name: weights[name] for name in image.state_dict()})
            image.save_pretrained(start)
        return self._train(
            "image",
            "image",
            "image.yaml",
            [
                f"base={start}",
                f"loop.batch_size={2 if self.budget.smoke else IMAGES_PER_STEP}",
                f"loop.max_steps={self.budget.image_steps}",
                *self._strips("wide"),
            ],
        )

    def _smallest(self) -> list[str]:
        """Sizes of networks of a few thousand weights."""
        return [
            "model.block_out_channels=[32,32]",
            "transformer.num_layers=1",
            "transformer.num_attention_heads=1",
            "transformer.attention_head_dim=32",
        ]

    def _strips(self, name: str) -> list[str]:
        """Settings of the encoded stories, which all stages share."""
        return [
            f"strips.{name}.folder={self.folder / 'strips' / name}",
            f"strips.{name}.num_strips={2 if self.budget.smoke else self.budget.num_strips}",
            f"strips.{name}.actors={_names(ACTORS)}",
            f"strips.{name}.backgrounds={_names(BACKGROUNDS)}",
            *(
                f"conditioning.{part}={BUNDLED / part}"
                for part in ("vae", "text_encoder", "tokenizer", "prompt_adapter")
            ),
        ]

    def _train(self, stage: str, name: str, config: str, settings: Sequence[str]) -> Path:
        folder = self.folder / "networks" / name.replace(" ", "_")
        done = folder / "done.json"
        if not done.is_file():
            print(f"training {name}", flush=True)
            steps = train(stage, CONFIGS / config, [*settings, f"loop.output_dir={folder}"])
            done.write_text(json.dumps({"steps": steps, "settings": list(settings)}, indent=1))
        return folder / "model"


def small_world(
    budget: Budget, work: Path, probe: str, stories: int, **changes: Any
) -> EvaluationConfig:
    """Films of the actors and places that the networks here are trained on.

    Args:
        budget: of the networks; a smoke test looks at one story, with one step and no probe.
        work: folder in which a smoke test finds no probe.
        probe: folder of the probe.
        stories: films of every row and length.
        changes: other settings of `EvaluationConfig`.
    """
    settings: dict[str, Any] = {"actors": ACTORS, "backgrounds": BACKGROUNDS} | changes
    if not budget.smoke:
        return EvaluationConfig(probe=probe, stories=stories, **settings)
    settings |= {
        "features": ("probe",),
        "sampling": SamplingConfig(num_inference_steps=1, guidance_scale=1.0),
    }
    return EvaluationConfig(probe=str(work / "no_probe"), stories=1, **settings)


def claim_folder(folder: Path, settings: Mapping[str, object]) -> None:
    """Make a folder one of these settings.

    Args:
        folder: new, or used before.
        settings: by which what it keeps may be compared.

    Raises:
        ValueError: it keeps what was made under others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark, content = folder / "settings.json", json.dumps(settings, indent=1)
    if mark.is_file() and mark.read_text() != content:
        raise ValueError(
            f"`--work` must be a folder of one budget, got {str(folder)!r}, which was made with"
            f" {json.loads(mark.read_text())}: give those settings again, or another folder."
        )
    mark.write_text(content)


def _names(names: Sequence[str]) -> str:
    return f"[{', '.join(names)}]"


def _forget(layers: nn.Module | None) -> None:
    """Give layers the weights that torch draws for such layers, instead of the identity."""
    assert layers is not None
    for layer in layers.modules():
        reset: Any = getattr(layer, "reset_parameters", None)
        if reset is not None:
            reset()
