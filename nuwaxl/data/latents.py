"""Latents of stories, encoded once and kept: strips of frames from which clips are drawn.

Knows latents, times and prompt embeddings, not what is learned from them.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.toon.captions import caption
from nuwaxl.toon.render import render_with_mask
from nuwaxl.toon.sampling import sample_story
from nuwaxl.toon.scenes import Scene, Story

logger = logging.getLogger(__name__)

EmbedPrompts = Callable[[Sequence[str]], Float[Tensor, "prompts tokens dim"]]


@dataclass(frozen=True)
class StripsConfig:
    """What is rendered and encoded. A strip is one story seen at even spacing."""

    folder: str = "out/strips"
    """Where the encoded strips are kept; made when it is not there."""
    num_strips: int = 1000
    strip_length: int = 48
    """Frames in a strip."""
    spacings: tuple[tuple[float, float, float], ...] = ((1.0, 0.125, 0.125),)
    """(share, shortest, longest) seconds between frames; log-uniform within each range."""
    captions_per_scene: int = 4
    """Captions written for each distinct scene; a clip shows one of them."""
    actors: tuple[str, ...] = ()
    """Names of actors; empty: all."""
    backgrounds: tuple[str, ...] = ()
    """Names of backgrounds; empty: all."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse shares and spacings that cannot be drawn from."""
        if min(self.num_strips, self.strip_length, self.captions_per_scene) < 1:
            raise ValueError(
                "`num_strips`, `strip_length` and `captions_per_scene` must be at least 1."
            )
        for share, shortest, longest in self.spacings:
            if share < 0 or not 0 < shortest <= longest:
                raise ValueError(
                    "`spacings` must be (share, shortest, longest) with 0 < shortest <= longest"
                    f" in seconds, got {(share, shortest, longest)}."
                )


def encode_strips(
    config: StripsConfig,
    vae: TemporalAutoencoderKL,
    embed_prompts: EmbedPrompts,
    *,
    batch_size: int = 48,
) -> None:
    """Render, encode and write the strips of `config` to its folder.

    Args:
        config: what to make.
        vae: encodes frame by frame.
        embed_prompts: prompts to (prompts, tokens, dim).
        batch_size: frames encoded at once.
    """
    device = next(vae.parameters()).device
    bank = _CaptionBank(config)
    rows: dict[str, list] = {"latents": [], "actor": [], "times": [], "captions": []}
    for number in range(config.num_strips):
        times, frames, masks, captions = _render_strip(config, number, bank)
        pixels = rearrange(torch.from_numpy(frames), "f h w c -> 1 f c h w").float() / 127.5 - 1
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            parts = [
                vae.encode_latents(part.to(device)) for part in pixels.split(batch_size, dim=1)
            ]
        latents = torch.cat(parts, dim=1)[0]
        cells = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(masks), latents.shape[-1])
        rows["latents"].append(latents.half().cpu())
        rows["actor"].append((cells * 255).to(torch.uint8))
        rows["times"].append(torch.from_numpy(times).float())
        rows["captions"].append(torch.from_numpy(captions))
        if number % 200 == 199:
            logger.info("encoded %d of %d strips", number + 1, config.num_strips)
    parts = [embed_prompts(bank.prompts[i : i + 64]) for i in range(0, len(bank.prompts), 64)]
    tensors = {name: torch.stack(values) for name, values in rows.items()}
    tensors["embeds"] = torch.cat(parts).half().cpu()
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "strips.safetensors")
    (folder / "prompts.json").write_text(json.dumps(bank.prompts))
    # Last, so that a folder with it is whole.
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1))


class _CaptionBank:
    """Captions of every distinct scene met so far; prompt 0 is the empty one."""

    def __init__(self, config: StripsConfig):
        self.config = config
        self.prompts: list[str] = [""]
        self._first: dict[tuple[str, ...], int] = {}

    def indices(self, scene: Scene) -> list[int]:
        """Numbers of the captions of a scene."""
        facts = (scene.actor, scene.background, scene.time_of_day, scene.action, scene.direction)
        if facts not in self._first:
            self._first[facts] = len(self.prompts)
            rng = np.random.default_rng((self.config.seed, 1, len(self.prompts)))
            self.prompts += [caption(scene, rng) for _ in range(self.config.captions_per_scene)]
        first = self._first[facts]
        return list(range(first, first + self.config.captions_per_scene))


def _render_strip(
    config: StripsConfig, number: int, bank: _CaptionBank
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times (s), frames, actor masks and caption numbers of strip `number`."""
    rng = np.random.default_rng((config.seed, 0, number))
    shares = np.array([share for share, _, _ in config.spacings])
    _, shortest, longest = config.spacings[rng.choice(len(shares), p=shares / shares.sum())]
    spacing = float(np.exp(rng.uniform(np.log(shortest), np.log(longest))))
    times = spacing * np.arange(config.strip_length)
    story: Story = sample_story(
        rng,
        max(4.0, float(times[-1]) + 1.0),
        actors=config.actors or None,
        backgrounds=config.backgrounds or None,
    )
    start = rng.uniform(0.0, story.duration - float(times[-1]))
    painted = [render_with_mask(story.state_at(float(start + time))) for time in times]
    captions = np.array(
        [bank.indices(story.scene_at(float(start + time))) for time in times], np.int32
    )
    frames, masks = (np.stack(parts) for parts in zip(*painted, strict=True))
    return times, frames, masks, captions


class LatentStrips:
    """Clips drawn from encoded strips.

    Args:
        folders: one or more folders that `encode_strips` wrote; drawn from by their size.
    """

    def __init__(self, folders: Sequence[str | Path]):
        self.parts = [load_file(Path(folder) / "strips.safetensors") for folder in folders]
        self.ends = np.cumsum([len(part["times"]) for part in self.parts])

    @property
    def empty_prompt(self) -> Float[Tensor, "tokens dim"]:
        """Embedding of the empty prompt, with which guidance works."""
        return self.parts[0]["embeds"][0].float()

    def clips(self, rng: np.random.Generator, num_clips: int, num_frames: int) -> dict[str, Tensor]:
        """Random clips at a random multiple of their strip's spacing.

        Args:
            rng: source of all chance.
            num_clips: clips in the batch.
            num_frames: frames in each; at most the strips' length.

        Returns:
            `latents` (b f c h w); `frame_times` (b f) in seconds from the first frame; `actor`
            (b f h w), how much of each latent cell the actor covers; `embeds` (b f tokens dim).
        """
        drawn = [self._clip(rng, num_frames) for _ in range(num_clips)]
        return {name: torch.stack([clip[name] for clip in drawn]) for name in drawn[0]}

    def _clip(self, rng: np.random.Generator, num_frames: int) -> dict[str, Tensor]:
        number = int(rng.integers(self.ends[-1]))
        which = int(np.searchsorted(self.ends, number, side="right"))
        part, row = self.parts[which], number - int(self.ends[which])
        length = part["times"].shape[1]
        widest = max(1, (length - 1) // max(1, num_frames - 1))
        stride = int(rng.integers(1, widest + 1)) if num_frames > 1 else 1
        start = int(rng.integers(length - stride * (num_frames - 1)))
        frames = torch.arange(num_frames) * stride + start
        times = part["times"][row, frames]
        version = int(rng.integers(part["captions"].shape[-1]))
        return {
            "latents": part["latents"][row, frames].float(),
            "frame_times": times - times[0],
            "actor": part["actor"][row, frames].float() / 255,
            "embeds": part["embeds"][part["captions"][row, frames, version].long()].float(),
        }
