"""Pretrained pipelines as one segment model, whose latents are pixels.

Knows jobs and which role makes them; loads its weights when the first run asks for them.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nuwaxl.backends.catalogue import BackendChoice, RoleChoice, picture_files
from nuwaxl.backends.checkpoints import find_checkpoint
from nuwaxl.backends.loading import LoadSettings, load_pipeline
from nuwaxl.backends.runs import PixelRun, to_image
from nuwaxl.backends.stills import paint_stills, show_pictures
from nuwaxl.backends.video import RUNS
from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.pictures.reading import picture_hash, read_picture
from nuwaxl.tensors.fingerprint import fingerprint
from nuwaxl.tensors.unit_scale import to_eight_bit, to_unit_scale
from nuwaxl.tree.coarse_to_fine import SegmentJob

_FORMAT = 1
"""Raised when the same weights would be told something else, so that films are made anew."""


class BackendModel:
    """A `SegmentModel` of one pretrained pipeline for level 0 and one for the levels below.

    Args:
        choice: which, and at which size.
        sampling: steps, guidance and negative prompt.
        load: device, precision and how to save memory.
        fps: frames per second of the film.

    Attributes:
        fingerprint: hash of the weights that the choice names (see `Checkpoint.fingerprint`), of
            their quantisation, and of what the pipelines are told beside a job.
        max_batch_size: 1: these pipelines make one clip at a time.
    """

    max_batch_size = 1

    def __init__(
        self, choice: BackendChoice, sampling: SamplingConfig, load: LoadSettings, *, fps: float
    ) -> None:
        self.choice = choice
        self.sampling = sampling
        self.load = load
        self.fps = fps
        self.latent_shape = (3, choice.height, choice.width)
        self.checkpoints = [
            find_checkpoint(role) if role.backend.name != "pictures" else None
            for role in choice.roles
        ]
        self.fingerprint = fingerprint(
            [_FORMAT, choice.quantize, [self._role_parts(at) for at in range(2)]]
        )
        self._pipelines: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """Where the pipelines run."""
        return self.load.torch_device

    def replica(self, device: torch.device | str) -> "BackendModel":
        """The same model with weights of its own, as pipelines keep state while they run.

        Args:
            device: where the replica runs.
        """
        twin = copy.copy(self)
        twin.load = replace(self.load, device=str(device))
        twin._pipelines = {}
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Without the weights: another process loads its own."""
        return self.__dict__ | {"_pipelines": {}}

    def generate(
        self,
        jobs: Sequence[SegmentJob],
        given_latents: Float[Tensor, "batch frames channels height width"],
    ) -> Float[Tensor, "batch frames channels height width"]:
        """Run the segments one after another; given frames come back as they are.

        Args:
            jobs: segments of one role and one number of frames.
            given_latents: their given frames, pixels at unit scale; anything where one is new.

        Returns:
            8-bit pixels at unit scale, fp32 on the CPU.
        """
        latents = given_latents.to("cpu", torch.float32, copy=True)
        for row, job in enumerate(jobs):
            is_given = torch.tensor(job.segment.given)
            if not is_given.all():
                made = to_unit_scale(self._make(job, to_eight_bit(latents[row])))
                latents[row, ~is_given] = made[~is_given]
        return latents

    @torch.no_grad()
    def _make(
        self, job: SegmentJob, given: UInt8[Tensor, "frames 3 height width"]
    ) -> UInt8[Tensor, "frames 3 height width"]:
        """All frames of a job, by the pipeline of its role."""
        at = min(job.segment.level, 1)
        role = self.choice.roles[at]
        run = PixelRun(
            job,
            tuple(
                to_image(pixels) if is_given else None
                for pixels, is_given in zip(given, job.segment.given, strict=True)
            ),
            self.sampling.for_level(job.segment.level),
            self.sampling.negative_prompt,
            self.sampling.guidance_rescale,
            self.fps,
            self.choice.height,
            self.choice.width,
        )
        if role.backend.name == "pictures":
            return show_pictures(role.checkpoint, run)
        pipeline = self._pipeline(at)
        make = RUNS.get(role.backend.name, paint_stills)
        return make(pipeline, run)

    def _pipeline(self, at: int) -> Any:
        """The role's pipeline, loaded when it is first needed; two roles may share one."""
        role: RoleChoice = self.choice.roles[at]
        if str(role) not in self._pipelines:
            checkpoint = self.checkpoints[at]
            assert checkpoint is not None, "own pictures need no pipeline"
            self._pipelines[str(role)] = load_pipeline(
                role.backend, checkpoint, self.load, self.choice.quantize
            )
        return self._pipelines[str(role)]

    def _role_parts(self, at: int) -> list[Any]:
        role, checkpoint = self.choice.roles[at], self.checkpoints[at]
        if checkpoint is not None:
            return [role.backend.name, checkpoint.fingerprint]
        height, width = self.choice.height, self.choice.width
        return [
            role.backend.name,
            [
                picture_hash(read_picture(path, height=height, width=width))
                for path in picture_files(role.checkpoint)
            ],
        ]
