"""Clips of encoded strips, and what is given of them: what the stages of films learn from.

Knows latents, prompts' embeddings and masks, not noise and not networks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from nuwaxl.config import ConfigError
from nuwaxl.data.latents import EmbedPrompts, LatentStrips, StripsConfig, encode_strips
from nuwaxl.denoising.text import text_hidden_states
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.models.prompt_adapter import PromptAdapter
from nuwaxl.training.loop import LoopConfig
from nuwaxl.training.prepared import check_picture_size, is_encoded

GIVEN = ("none", "ends", "first", "random")


@dataclass(frozen=True)
class ConditioningConfig:
    """Where the pictures and the words of a stage come from; all folders stay as they are."""

    vae: str = "out/autoencoder/model"
    text_encoder: str = "nuwaxl/weights/toon/text_encoder"
    tokenizer: str = "nuwaxl/weights/toon/tokenizer"
    prompt_adapter: str = "out/prompts/model"
    """Empty: the network attends to the text encoder's hidden states themselves."""


@dataclass(frozen=True)
class ClipsTraining:
    """What every stage that learns from clips is told."""

    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    strips: dict[str, StripsConfig] = field(default_factory=dict)
    """By any name; encoded once, before the first step, unless their folder is there."""
    num_frames: tuple[tuple[float, int, int], ...] = ((0.7, 16, 16), (0.3, 2, 16))
    """(share, fewest, most) frames of a clip, drawn for each batch."""
    given: dict[str, float] = field(default_factory=dict)
    """Shares of what is given: 'none', the 'ends', the 'first' frame, a 'random' subset; without
    any: none."""
    actor_weight: float = 1.0
    """Extra weight of latent cells that the actor covers."""
    prompt_dropout: float = 0.1
    """Share of clips that see the empty prompt, for classifier-free guidance."""
    camera_dropout: float = 0.1
    """Share of clips, beside those, that are not told where the camera is."""
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


class Clips:
    """Random clips of a stage's strips, which are encoded when they are not there.

    Args:
        config: of the stage.
    """

    def __init__(self, config: ClipsTraining):
        self.config = config
        prepare_strips(config)
        self.strips = LatentStrips([strips.folder for strips in config.strips.values()])
        self.empty_prompt = self.strips.empty_prompt

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.strips.parts[0]["latents"].shape[2]

    @property
    def prompt_shape(self) -> tuple[int, int]:
        """Tokens of a prompt and their width."""
        tokens, width = self.empty_prompt.shape
        return tokens, width

    def draw(self, rng: np.random.Generator, num_clips: int) -> dict[str, Tensor]:
        """Clips as `LatentStrips.clips` gives them, some without prompt, and `mask`: (b f).

        Args:
            rng: source of all chance.
            num_clips: clips in the batch.
        """
        num_frames = _draw_frames(rng, self.config.num_frames)
        batch = self.strips.clips(rng, num_clips, num_frames)
        masks = [draw_given(rng, self.config.given, num_frames) for _ in range(num_clips)]
        dropped = torch.from_numpy(rng.random(num_clips) < self.config.prompt_dropout)
        batch["embeds"][dropped] = self.empty_prompt
        lost = torch.from_numpy(rng.random(num_clips) < self.config.camera_dropout)
        batch["camera"][dropped | lost] = torch.nan
        return {**batch, "mask": torch.from_numpy(np.stack(masks))}


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


@contextmanager
def reading(setting: str, folder: str) -> Iterator[None]:
    """Name the setting whose folder cannot be read.

    Raises:
        ConfigError: instead of what reading it raised.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"`{setting}` must be a folder such as `nuwaxl train` writes, got {folder!r}: {reason}"
        ) from error


def prepare_strips(config: ClipsTraining) -> None:
    """Encode the strips whose folder is not there yet.

    Args:
        config: names them, and what encodes them.

    Raises:
        ConfigError: what encodes them cannot be read.
    """
    missing = [strips for strips in config.strips.values() if not is_encoded(strips)]
    if not missing:
        return
    with reading("conditioning.vae", config.conditioning.vae):
        vae = TemporalAutoencoderKL.from_pretrained(config.conditioning.vae).eval()
    for strips in missing:
        check_picture_size(strips.dataset, vae)
    embed = _prompt_embedder(config.conditioning)
    for strips in missing:
        encode_strips(strips, vae, embed)


def _prompt_embedder(config: ConditioningConfig) -> EmbedPrompts:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(config.tokenizer)
    encoder = AutoModel.from_pretrained(config.text_encoder, dtype=torch.float32).eval()
    adapter = None
    if config.prompt_adapter:
        with reading("conditioning.prompt_adapter", config.prompt_adapter):
            adapter = PromptAdapter.from_pretrained(config.prompt_adapter).eval()

    @torch.no_grad()
    def embed(prompts: Sequence[str]) -> Tensor:
        hidden, mask = text_hidden_states(
            prompts, tokenizer, encoder, pad_to_longest=adapter is not None
        )
        return hidden if adapter is None else adapter(hidden, mask)

    return embed
