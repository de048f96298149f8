"""One run of a pretrained pipeline: what it is told, in the pipeline's own terms.

Knows prompts, pictures and settings; not which pipeline reads them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from nuwaxl.denoising.sampling import RoleSettings
from nuwaxl.tree.coarse_to_fine import SegmentJob


@dataclass(frozen=True)
class PixelRun:
    """A job and its given frames as pictures."""

    job: SegmentJob
    given: tuple[PIL.Image.Image | None, ...]
    """One for each of the job's frames; None for a new one."""
    settings: RoleSettings
    negative_prompt: str
    guidance_rescale: float
    fps: float
    height: int
    width: int

    @property
    def num_frames(self) -> int:
        """Of the run, given ones included."""
        return len(self.given)

    def generator(self, frames: Sequence[int] | None = None) -> torch.Generator:
        """The source of the run's random numbers: the same whatever else is made, and where.

        These pipelines draw the noise of a run's frames together, in a latent space that joins
        neighbours, so it follows from seed, level and all frames of the run, not of each alone.

        Args:
            frames: which part of the run; None: the whole.
        """
        frames = self.job.segment.frames if frames is None else frames
        text = f"{self.job.seed} {self.job.segment.level} {' '.join(map(str, frames))}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big"))

    def prompt(self, positions: Sequence[int] | None = None) -> str:
        """What the new frames show, as one text.

        Args:
            positions: only of these frames of the run; None: of all.
        """
        positions = range(self.num_frames) if positions is None else positions
        new = [self.job.prompts[at] for at in positions if self.given[at] is None]
        return join_prompts(new or [self.job.prompts[at] for at in positions])


def join_prompts(prompts: Sequence[str]) -> str:
    """One text for a run in which scenes change: these models read one for all of its frames.

    Each scene is said once each time that it begins: 'A. Then: B. Then: A.'

    Args:
        prompts: of neighbouring frames, in their order.
    """
    scenes = [prompt for at, prompt in enumerate(prompts) if at == 0 or prompt != prompts[at - 1]]
    if len(scenes) == 1:
        return scenes[0]
    return " Then: ".join(f"{scene.strip().rstrip('.')}." for scene in scenes)


def to_image(pixels: UInt8[Tensor, "3 height width"]) -> PIL.Image.Image:
    """A frame as the pipelines take it.

    Args:
        pixels: 8-bit RGB.
    """
    return PIL.Image.fromarray(rearrange(pixels, "c h w -> h w c").contiguous().numpy())


def to_pixels(frames: np.ndarray) -> UInt8[Tensor, "frames 3 height width"]:
    """Frames as the pipelines give them, in 8 bits.

    Args:
        frames: (frames, height, width, 3) in [0, 1].
    """
    values = np.nan_to_num(frames)  # a cast of NaN differs between machines
    eight_bit = (values.clip(0, 1) * 255).round().astype(np.uint8)
    return torch.from_numpy(rearrange(eight_bit, "f h w c -> f c h w").copy())
