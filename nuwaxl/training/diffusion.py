"""Stages `image`, `global` and `local`: mask temporal diffusion (paper section 3.2, eq. 5).

The image stage learns what the words look like from single frames; the other two start from its
weights and learn what changes over time, with no frame given or with the ends given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from einops import rearrange
from torch import Tensor, nn

from nuwaxl.data.latents import EmbedPrompts, LatentStrips, StripsConfig, encode_strips
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.models.mask_unet3d import MaskUNet3D
from nuwaxl.models.prompt_adapter import PromptAdapter
from nuwaxl.text import text_hidden_states
from nuwaxl.training.growth import grow_unet, read_prompts_in_every_block
from nuwaxl.training.loop import LoopConfig

GIVEN = ("none", "ends", "first", "random")


@dataclass(frozen=True)
class ConditioningConfig:
    """Where the pictures and the words of a stage come from; all folders stay as they are."""

    vae: str = "out/autoencoder/model"
    text_encoder: str = "nuwaxl/weights/toon/text_encoder"
    tokenizer: str = "nuwaxl/weights/toon/tokenizer"
    prompt_adapter: str = "out/prompts/model"
    """Empty: the U-Net attends to the text encoder's hidden states themselves."""


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the U-Net when it is not started from another; see `MaskUNet3D`."""

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
class DiffusionTraining:
    """The stages `image`, `global` and `local`."""

    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    model: UNetConfig = field(default_factory=UNetConfig)
    base: str = ""
    """Folder of a `MaskUNet3D` to start from, also an image one; its sizes replace `model`'s."""
    temporal: bool = True
    """False: the image U-Net, on single frames."""
    strips: dict[str, StripsConfig] = field(default_factory=dict)
    """By any name; encoded once, before the first step, unless their folder is there."""
    num_frames: tuple[tuple[float, int, int], ...] = ((0.7, 16, 16), (0.3, 2, 16))
    """(share, fewest, most) frames of a clip, drawn for each batch."""
    given: dict[str, float] = field(default_factory=dict)
    """Shares of what is given: 'none', the 'ends', the 'first' frame, a 'random' subset; without
    any: none."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    snr_gamma: float = 5.0
    """Min-SNR weighting (Hang et al. 2023) of v-prediction and epsilon; 0: none."""
    actor_weight: float = 1.0
    """Extra weight of latent cells that the actor covers."""
    prompt_dropout: float = 0.1
    """Share of clips that see the empty prompt, for classifier-free guidance."""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        """Refuse shares and frame counts that cannot be drawn."""
        if not self.strips:
            raise ValueError(
                "`strips` must name at least one set of strips to learn from, got none."
            )
        if set(self.given) - set(GIVEN):
            raise ValueError(f"`given` must have keys among {GIVEN}, got {sorted(self.given)}.")
        for share, fewest, most in self.num_frames:
            if share < 0 or not 1 <= fewest <= most:
                raise ValueError(
                    f"`num_frames` must be (share, fewest, most), got {(share, fewest, most)}."
                )


class DiffusionStage:
    """Weighted MSE between the network's prediction and its target, on the frames that are new."""

    def __init__(self, config: DiffusionTraining):
        self.config = config
        _prepare_strips(config)
        self.strips = LatentStrips([strips.folder for strips in config.strips.values()])
        self.empty_prompt = self.strips.empty_prompt
        self.scheduler: Any = config.noise.scheduler()
        self.model = _build(config, self.strips)

    def batch(self, index: int, batch_size: int) -> dict[str, Tensor]:
        """Clips, what is given of them, and where the prompt is dropped."""
        rng = np.random.default_rng((self.config.loop.seed, index))
        num_frames = _draw_frames(rng, self.config.num_frames)
        batch = self.strips.clips(rng, batch_size, num_frames)
        masks = [draw_given(rng, self.config.given, num_frames) for _ in range(batch_size)]
        dropped = torch.from_numpy(rng.random(batch_size) < self.config.prompt_dropout)
        batch["embeds"][dropped] = self.empty_prompt
        # One noise level from each of `batch_size` equal parts: the loss varies less.
        levels = (rng.permutation(batch_size) + rng.random(batch_size)) / batch_size
        steps = (levels * self.config.noise.num_train_timesteps).astype(np.int64)
        return {
            **batch,
            "mask": torch.from_numpy(np.stack(masks)),
            "timesteps": torch.from_numpy(steps),
        }

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
        """Write the U-Net, and the scheduler's settings beside it."""
        self.model.save_pretrained(folder)
        self.scheduler.save_pretrained(folder / "scheduler")


def draw_given(rng: np.random.Generator, shares: dict[str, float], num_frames: int) -> np.ndarray:
    """Which frames of a clip are given: (frames,) float32 of 0 and 1, never all of them."""
    kinds = list(shares) or ["none"]
    weights = np.array([shares.get(kind, 1.0) for kind in kinds])
    kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
    mask = np.zeros(num_frames, np.float32)
    if kind == "ends" and num_frames > 2:
        mask[[0, -1]] = 1
    elif kind in ("first", "ends") and num_frames > 1:
        mask[0] = 1
    elif kind == "random" and num_frames > 1:
        mask[rng.permutation(num_frames)[: rng.integers(1, num_frames)]] = 1
    return mask


def _draw_frames(rng: np.random.Generator, choices: Sequence[tuple[float, int, int]]) -> int:
    shares = np.array([share for share, _, _ in choices])
    _, fewest, most = choices[rng.choice(len(shares), p=shares / shares.sum())]
    return int(rng.integers(fewest, most + 1))


def _build(config: DiffusionTraining, strips: LatentStrips) -> MaskUNet3D:
    """The network to train: from `base`, with new layers that change nothing, or afresh."""
    channels = strips.parts[0]["latents"].shape[2]
    if config.base:
        base = MaskUNet3D.from_pretrained(config.base)
        if base.config["in_channels"] != channels:
            base = grow_unet(base, channels)
        wanted = config.model.num_prompt_tokens
        if wanted is not None and base.config["num_prompt_tokens"] is None:
            base = read_prompts_in_every_block(base, wanted)
        return base if base.config["temporal"] == config.temporal else MaskUNet3D.from_unet2d(base)
    sizes = config.model
    return MaskUNet3D(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(sizes.block_out_channels),
        layers_per_block=sizes.layers_per_block,
        attention_head_dim=sizes.attention_head_dim,
        norm_num_groups=sizes.norm_num_groups,
        cross_attention_dim=sizes.cross_attention_dim,
        multi_scale_injection=sizes.multi_scale_injection,
        symmetric_injection=sizes.symmetric_injection,
        temporal=config.temporal,
        num_prompt_tokens=sizes.num_prompt_tokens,
    )


def _prepare_strips(config: DiffusionTraining) -> None:
    """Encode the strips whose folder is not there yet."""
    missing = [
        strips
        for strips in config.strips.values()
        if not (Path(strips.folder) / "config.json").is_file()
    ]
    if not missing:
        return
    vae = TemporalAutoencoderKL.from_pretrained(config.conditioning.vae).eval()
    embed = _prompt_embedder(config.conditioning)
    for strips in missing:
        encode_strips(strips, vae, embed)


def _prompt_embedder(config: ConditioningConfig) -> EmbedPrompts:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(config.tokenizer)
    encoder = AutoModel.from_pretrained(config.text_encoder, dtype=torch.float32).eval()
    adapter = None
    if config.prompt_adapter:
        adapter = PromptAdapter.from_pretrained(config.prompt_adapter).eval()

    @torch.no_grad()
    def embed(prompts: Sequence[str]) -> Tensor:
        hidden, mask = text_hidden_states(
            prompts, tokenizer, encoder, pad_to_longest=adapter is not None
        )
        return hidden if adapter is None else adapter(hidden, mask)

    return embed
