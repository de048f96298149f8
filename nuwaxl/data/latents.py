"""Latents of stories and videos, encoded once and kept: strips from which clips are drawn.

Knows latents, times and prompt embeddings, not what is learned from them.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from nuwaxl.data.strips import StripsConfig, strip_source
from nuwaxl.models.autoencoder import TemporalAutoencoderKL

logger = logging.getLogger(__name__)

EmbedPrompts = Callable[[Sequence[str]], Float[Tensor, "prompts tokens dim"]]


def encode_strips(
    config: StripsConfig,
    vae: TemporalAutoencoderKL,
    embed_prompts: EmbedPrompts,
    *,
    batch_size: int = 48,
) -> None:
    """Show, encode and write the strips of `config` to its folder.

    Args:
        config: what to make.
        vae: encodes frame by frame.
        embed_prompts: prompts to (prompts, tokens, dim).
        batch_size: frames encoded at once.

    Raises:
        ValueError: the dataset of `config` is none, or has no such strips.
    """
    device = next(vae.parameters()).device
    source = strip_source(config)
    rows: dict[str, list] = {"latents": [], "actor": [], "camera": [], "times": [], "captions": []}
    for number in range(config.num_strips):
        strip = source.strip(number)
        frames = torch.from_numpy(strip.frames)
        pixels = rearrange(frames, "f h w c -> 1 f c h w").float() / 127.5 - 1
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            parts = [
                vae.encode_latents(part.to(device)) for part in pixels.split(batch_size, dim=1)
            ]
        latents = torch.cat(parts, dim=1)[0]
        cells = torch.zeros(len(latents), *latents.shape[-2:])  # no actor: every cell weighs one
        if strip.actor is not None:
            actor = torch.from_numpy(strip.actor)
            cells = torch.nn.functional.adaptive_avg_pool2d(actor, latents.shape[-1])
        rows["latents"].append(latents.half().cpu())
        rows["actor"].append((cells * 255).to(torch.uint8))
        unknown = np.full(len(strip.times), np.nan, np.float32)
        rows["camera"].append(torch.from_numpy(unknown if strip.camera is None else strip.camera))
        rows["times"].append(torch.from_numpy(strip.times).float())
        rows["captions"].append(torch.tensor(strip.captions, dtype=torch.int32))
        if number % 200 == 199:
            logger.info("encoded %d of %d strips", number + 1, config.num_strips)
    parts = [embed_prompts(source.prompts[i : i + 64]) for i in range(0, len(source.prompts), 64)]
    tensors = {name: torch.stack(values) for name, values in rows.items()}
    tensors["embeds"] = torch.cat(parts).half().cpu()
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "strips.safetensors")
    (folder / "prompts.json").write_text(json.dumps(source.prompts))
    # Last, so that a folder with it is whole.
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1))


class LatentStrips:
    """Clips drawn from encoded strips.

    Args:
        folders: one or more folders that `encode_strips` wrote; drawn from by their size.
    """

    def __init__(self, folders: Sequence[str | Path]):
        self.parts = [load_file(Path(folder) / "strips.safetensors") for folder in folders]
        for part in self.parts:  # Strips that were encoded before they told it.
            part.setdefault("camera", torch.full_like(part["times"], torch.nan))
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
            (b f h w), how much of each latent cell the actor covers; `camera` (b f) in turns, NaN
            where it is not known; `embeds` (b f tokens dim).
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
            "camera": part["camera"][row, frames],
            "embeds": part["embeds"][part["captions"][row, frames, version].long()].float(),
        }
