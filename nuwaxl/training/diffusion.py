"""Stages `image`, `global` and `local`: mask temporal diffusion (paper section 3.2, eq. 5).

The image stage learns what the words look like from single frames; the other two start from its
weights and learn what changes over time, with no frame given or with the ends given.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from einops import rearrange
from torch import Tensor, nn

from nuwaxl.config import ConfigError
from nuwaxl.models.backbones import Backbone, load_backbone, with_time
from nuwaxl.models.frame_estimator import FrameEstimator
from nuwaxl.models.mask_transformer3d import MaskTransformer3D
from nuwaxl.models.mask_unet3d import MaskUNet3D
from nuwaxl.models.scenery import SceneryModel
from nuwaxl.parts.lora import RoleLoraMixin, add_lora, lora_layers
from nuwaxl.training.clips import Clips, ClipsTraining, reading
from nuwaxl.training.growth import (
    grow_network,
    read_prompts_in_every_block,
    widen_unet,
    with_estimator,
    with_sketches,
)


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the U-Net when it is not started from another; see `MaskUNet3D`.

    What it says of prompts holds for the transformer too.
    """

    block_out_channels: tuple[int, ...] = (64, 128, 192)
    layers_per_block: int = 1
    attention_head_dim: int = 32
    norm_num_groups: int = 32
    cross_attention_dim: int = 256
    num_prompt_tokens: int | None = None
    """The prompt adapter's, so that the prompt also joins the noise level's embedding."""
    multi_scale_injection: bool = True
    symmetric_injection: bool = True


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the transformer when it is not started from another; see `MaskTransformer3D`.

    As they stand, a forward pass takes as many operations as the U-Net's as it stands: 3.94 and
    3.97 GFLOP for 16 frames of latents of 32 x 8 x 8 and five prompt tokens of 256 (counted in
    `tests/test_mask_transformer3d.py`). docs/models.md says what other shapes cost.
    """

    patch_size: int = 2
    num_layers: int = 6
    num_attention_heads: int = 4
    attention_head_dim: int = 64
    mlp_ratio: float = 3.5


@dataclass(frozen=True)
class LoraTraining:
    """Fine-tuning of `base` by a LoRA: all its weights stay, small factors beside them learn."""

    rank: int = 0
    """Of every change; 0: no LoRA, all weights learn."""
    targets: tuple[str, ...] = (
        *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
        *("conv1", "conv2", "time_emb_proj", "prompt_proj"),
        *("to_qkv", "to_kv", "out_proj", "ff_in", "ff_out"),
    )
    """Ends of the names of the layers that are changed, of either backbone."""
    output: str = ""
    """Folder of the LoRA file; empty: `model/` of the stage. Both roles may share one."""
    role: str = ""
    """Whose network it is for, 'global_unet' or 'local_unet'; empty: as the stage says."""

    def __post_init__(self) -> None:
        """Refuse what cannot be learned."""
        if self.rank < 0:
            raise ValueError(f"`lora.rank` must be 0 (none) or more, got {self.rank}.")
        if self.rank and not self.targets:
            raise ValueError("`lora.targets` must name at least one layer, got none.")


@dataclass(frozen=True)
class NoiseConfig:
    """The forward process, as diffusers' schedulers name it."""

    num_train_timesteps: int = 1000
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = (
        "squaredcos_cap_v2"
    )
    beta_start: float = 0.0001
    beta_end: float = 0.02
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    rescale_betas_zero_snr: bool = True
    """Zero terminal SNR: the first step of sampling starts from pure noise; flat skies need it."""

    def scheduler(self) -> DDPMScheduler:
        """The scheduler that is trained with, and whose settings a pipeline keeps."""
        return DDPMScheduler(
            num_train_timesteps=self.num_train_timesteps,
            beta_schedule=self.beta_schedule,
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            prediction_type=self.prediction_type,
            rescale_betas_zero_snr=self.rescale_betas_zero_snr,
            timestep_spacing="trailing",
            clip_sample=False,
        )


@dataclass(frozen=True)
class DiffusionTraining(ClipsTraining):
    """The stages `image`, `global` and `local`."""

    backbone: Literal["unet", "transformer"] = "unet"
    """Of a network that is not started from another."""
    model: UNetConfig = field(default_factory=UNetConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    base: str = ""
    """Folder of a network to start from, also an image one: its class and its sizes replace
    `backbone`, `model` and `transformer`."""
    widen: tuple[int, ...] | None = None
    """Widths that a U-Net `base` of others gets: multiples of its own, where it does not attend."""
    temporal: bool = True
    """False: the image network, on single frames."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    snr_gamma: float = 5.0
    """Min-SNR weighting (Hang et al. 2023) of v-prediction and epsilon; 0: none."""
    estimator: str = ""
    """Folder of a `FrameEstimator` that the network gets and keeps as it is, as the stage
    `estimator` wrote it; empty: what `base` has."""
    scenery: str = ""
    """Folder of a `SceneryModel`, as the stage `scenery` wrote it: the network learns from its
    sketches of frames whose camera is known. Empty: that beside `base` in a checkpoint, where
    `base` is shown sketches; else none."""
    lora: LoraTraining = field(default_factory=LoraTraining)


class DiffusionStage:
    """Weighted MSE between the network's prediction and its target, on the frames that are new."""

    def __init__(self, config: DiffusionTraining):
        self.config = config
        self.clips = Clips(config)
        self.scheduler: Any = config.noise.scheduler()
        self.model = _build(config, self.clips)
        self.scenery = _scenery(config, self.model)
        if config.lora.rank:
            try:
                add_lora(self.model, config.lora.rank, tuple(config.lora.targets))
            except ValueError as error:
                raise ConfigError(f"`lora`: {error}") from None

    def batch(self, index: int, batch_size: int) -> dict[str, Tensor]:
        """Clips, what is given of them, and where the prompt is dropped."""
        rng = np.random.default_rng((self.config.loop.seed, index))
        batch = self.clips.draw(rng, batch_size)
        # One noise level from each of `batch_size` equal parts: the loss varies less.
        levels = (rng.permutation(batch_size) + rng.random(batch_size)) / batch_size
        steps = (levels * self.config.noise.num_train_timesteps).astype(np.int64)
        return {**batch, "timesteps": torch.from_numpy(steps)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Noise the new frames, predict, compare (paper eq. 5, on the new frames)."""
        latents, mask, timesteps = batch["latents"], batch["mask"], batch["timesteps"]
        noise = torch.randn_like(latents)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        is_given = rearrange(mask, "b f -> b f 1 1 1")
        prediction = model(
            torch.where(is_given > 0, latents, noisy),
            timesteps,
            batch["embeds"],
            frame_times=batch["frame_times"],
            given_latents=latents * is_given,
            conditioning_mask=mask,
            sketches=self._sketches(batch),
            return_dict=False,
        )[0]
        target = noise
        if self.config.noise.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, timesteps)
        error = (prediction.float() - target).square()
        cells = (1 - is_given) * (1 + self.config.actor_weight * batch["actor"].unsqueeze(2))
        per_clip = (error * cells).sum(dim=(1, 2, 3, 4)) / cells.expand_as(error).sum(
            dim=(1, 2, 3, 4)
        )
        weight = self._weight(timesteps)
        plain = (error * (1 - is_given)).sum() / (1 - is_given).expand_as(error).sum()
        return (per_clip * weight).mean(), {"mse": plain.detach()}

    @torch.no_grad()
    def _sketches(self, batch: dict[str, Tensor]) -> Tensor | None:
        """Of the frames whose camera is known, each as its prompt and its camera tell."""
        if self.scenery is None:
            return None
        latents, prompts = batch["latents"], batch["embeds"].flatten(2).flatten(0, 1)
        height, width = latents.shape[-2:]
        nn.Module.to(self.scenery, latents.device)
        sketches = self.scenery.sketch(prompts, batch["camera"].flatten(), (height, width))
        return sketches.view(latents.shape)

    def _weight(self, timesteps: Tensor) -> Tensor:
        """Min-SNR weights. Of v, whose plain MSE weighs clean latents by SNR + 1, that sum is cut.

        So a step of zero SNR keeps its full weight, as zero terminal SNR needs.
        """
        if not self.config.snr_gamma:
            return torch.ones_like(timesteps, dtype=torch.float32)
        snr = compute_snr(self.scheduler, timesteps)
        if self.config.noise.prediction_type == "v_prediction":
            return (snr + 1).clamp(max=self.config.snr_gamma) / (snr + 1)
        return snr.clamp(max=self.config.snr_gamma) / snr.clamp(min=1e-8)

    def save(self, folder: Path) -> None:
        """Write the network, and the scheduler's settings beside it; or the LoRA alone."""
        if self.config.lora.rank:
            learned = {f"{self.config.lora.role}_lora_layers": lora_layers(self.model)}
            RoleLoraMixin.save_lora_weights(self.config.lora.output or folder, **learned)
            return
        self.model.save_pretrained(folder)
        self.scheduler.save_pretrained(folder / "scheduler")


def _scenery(config: DiffusionTraining, network: Backbone) -> SceneryModel | None:
    """Whose sketches the network is shown; it stays as it is."""
    folder = config.scenery
    if not folder and network.config["sketched"]:
        folder = str(Path(config.base).parent / "scenery")
    if not folder:
        return None
    with reading("scenery", folder):
        return SceneryModel.from_pretrained(folder).requires_grad_(False)


def _build(config: DiffusionTraining, clips: Clips) -> Backbone:
    """The network to train; an estimator in it stays as it is."""
    network = _without_estimator(config, clips.latent_channels)
    if config.estimator:
        with reading("estimator", config.estimator):
            network = with_estimator(network, FrameEstimator.from_pretrained(config.estimator))
    if config.scenery and not network.config["sketched"]:
        network = with_sketches(network)
    if network.config["estimator"] is not None:
        network.frame_estimator.requires_grad_(False)
    return network


def _without_estimator(config: DiffusionTraining, channels: int) -> Backbone:
    """From `base`, with new layers that change nothing, or afresh."""
    if config.base:
        with reading("base", config.base):
            base = load_backbone(config.base)
        if base.config["in_channels"] != channels:
            base = grow_network(base, channels)
        wanted = config.model.num_prompt_tokens
        if wanted is not None and base.config["num_prompt_tokens"] is None:
            base = read_prompts_in_every_block(base, wanted)
        if config.widen is not None:
            base = _widened(base, config.widen)
        return base if base.config["temporal"] == config.temporal else with_time(base)
    network, sizes = chosen_network(config)
    return network(in_channels=channels, out_channels=channels, temporal=config.temporal, **sizes)


def _widened(base: Backbone, widths: Sequence[int]) -> Backbone:
    """The U-Net at the widths that were asked for; as it is where it has them.

    Raises:
        ConfigError: it is no U-Net, or cannot get them.
    """
    if not isinstance(base, MaskUNet3D):
        raise ConfigError(f"`widen` is for a MaskUNet3D, and `base` is a {type(base).__name__}.")
    if list(base.config["block_out_channels"]) == list(widths):
        return base
    try:
        return widen_unet(base, widths)
    except ValueError as error:
        raise ConfigError(f"`widen`: {error}") from None


def chosen_network(config: DiffusionTraining) -> tuple[type[Backbone], dict[str, Any]]:
    """The class of a network that is not started from another, and its sizes.

    Args:
        config: `backbone`, `model` and `transformer` count.
    """
    model = asdict(config.model)
    if config.backbone == "unet":
        return MaskUNet3D, model | {"block_out_channels": tuple(model["block_out_channels"])}
    prompts = {name: model[name] for name in ("cross_attention_dim", "num_prompt_tokens")}
    return MaskTransformer3D, asdict(config.transformer) | prompts
