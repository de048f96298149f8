"""A batch of segments from noise to latents: the sampling loop.

Knows jobs, networks and noise levels; not how a film is cut into segments, and no pixels.
"""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nuwaxl.denoising.camera import CAMERA_RULE, camera_positions
from nuwaxl.denoising.sampling import RoleSettings, SamplingConfig
from nuwaxl.denoising.text import PromptEncoder
from nuwaxl.models.backbones import Backbone
from nuwaxl.tensors.devices import autocast, fast_dtype
from nuwaxl.tensors.fingerprint import fingerprint, module_fingerprint
from nuwaxl.tree.coarse_to_fine import SegmentJob

SCHEDULERS: Mapping[str, Any] = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "lcm": LCMScheduler,
    "unipc": UniPCMultistepScheduler,
}
"""The names of `SamplingConfig.scheduler`."""

StepCallback = Callable[[int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]
"""Called after every step with (step, timestep, {"latents": ...}); may return changed latents."""

_EFFORT = "guided where the prompt changes"
"""How settings follow from a job, in the key of what it makes; see `SegmentDenoiser.settings`."""


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """A scheduler that samples what was trained with the noise levels of `config`.

    Two settings follow from what is sampled and are made so whatever `config` says: latents have
    no range, so nothing is clipped; and with zero terminal SNR the first step must be the last
    timestep, because sampling starts from pure noise (Lin et al. 2023, section 3.3).

    Args:
        name: a key of `SCHEDULERS`.
        config: of the scheduler that the networks were trained with.

    Raises:
        ValueError: the name is unknown, or the networks predict noise under zero terminal SNR,
            where the noise says nothing about the picture.
    """
    if name not in SCHEDULERS:
        raise ValueError(
            f"`scheduler` must be one of {', '.join(sorted(SCHEDULERS))}, got {name!r}."
        )
    zero_snr = bool(config.get("rescale_betas_zero_snr", False))
    if zero_snr and config.get("prediction_type", "epsilon") == "epsilon":
        raise ValueError(
            "The scheduler's config must not join `prediction_type` 'epsilon' and"
            " `rescale_betas_zero_snr`: train with 'v_prediction' or without zero terminal SNR."
        )
    changes = {"timestep_spacing": "trailing"} if zero_snr else {}
    scheduler = SCHEDULERS[name].from_config(config, **changes)
    if "clip_sample" in scheduler.config:
        scheduler.register_to_config(clip_sample=False)
    return scheduler


def frame_generator(seed: int, level: int, frame: int) -> torch.Generator:
    """The source of all random numbers of one frame, whatever else is made and where.

    On the CPU on every machine, so that each device samples the same film. Torch's CPU generator
    takes 32 bits of its seed, so among 100,000 frames about one pair shares its noise by chance.

    Args:
        seed: of the film.
        level: at which the frame is new; a frame made again at another level looks different.
        frame: its number.
    """
    digest = hashlib.blake2b(f"{seed} {level} {frame}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big"))


def rescale_guidance(
    guided: Float[Tensor, "batch frames channels height width"],
    conditional: Float[Tensor, "batch frames channels height width"],
    guidance_rescale: float,
) -> Float[Tensor, "batch frames channels height width"]:
    """Give the guided prediction the contrast of the conditional one, frame by frame.

        rescaled = guided * std(conditional) / std(guided)
        result   = phi * rescaled + (1 - phi) * guided

    (Lin et al. 2023, eqs. 15-16.)

    Args:
        guided: the prediction after guidance.
        conditional: the prediction with the prompt alone.
        guidance_rescale: phi, 0 (as it was) to 1.
    """
    axes = (-3, -2, -1)
    contrast = conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
    return guided * (guidance_rescale * contrast + (1 - guidance_rescale))


class SegmentDenoiser:
    """Makes segments with our two networks: a `SegmentModel`.

    Args:
        global_unet: makes the keyframes (level 0).
        local_unet: makes the frames between two known ones (deeper levels).
        scheduler: the one that the networks were trained with; only its config is used.
        sampling: steps, guidance and the name of the scheduler to sample with.
        prompt_encoder: prompts to embeddings.
        latent_shape: (channels, height, width) of one frame's latents.
        scenery: a `SceneryModel`, whose sketches networks that are `sketched` are shown; None:
            there are none.
        device: where the networks run.
        dtype: precision of the products; None: what is fast and safe on `device`.
        on_step: called after every step of every batch.

    Attributes:
        fingerprint: hash of the weights and the noise levels; not of the sampling settings, the
            device or the precision.
    """

    def __init__(
        self,
        global_unet: nn.Module,
        local_unet: nn.Module,
        scheduler: Any,
        sampling: SamplingConfig,
        prompt_encoder: PromptEncoder,
        *,
        latent_shape: tuple[int, int, int],
        scenery: nn.Module | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        on_step: StepCallback | None = None,
    ):
        self.global_unet = global_unet
        self.local_unet = local_unet
        self.scheduler = make_scheduler(sampling.scheduler, scheduler.config)
        self.sampling = sampling
        self.prompt_encoder = prompt_encoder
        self.latent_shape = latent_shape
        self.scenery = scenery
        self.device = torch.device(device)
        self.dtype = dtype or fast_dtype(device)
        self.on_step = on_step
        for level in (0, 1):  # A number of steps that the scheduler cannot do is refused now.
            copy.deepcopy(self.scheduler).set_timesteps(
                sampling.for_level(level).num_inference_steps
            )
        networks = (global_unet, local_unet, *prompt_encoder.modules)
        noise_levels = {
            key: value for key, value in scheduler.config.items() if not key.startswith("_")
        }
        parts = [[module_fingerprint(network) for network in networks], noise_levels, _EFFORT]
        if scenery is not None:
            parts += [module_fingerprint(scenery), CAMERA_RULE]
        self.fingerprint = fingerprint(parts)

    def replica(self, device: torch.device | str) -> "SegmentDenoiser":
        """The same model on a device of its own; on the same device the weights are shared.

        Args:
            device: where the replica's networks run.
        """
        twin = copy.copy(self)
        twin.device = torch.device(device)
        if twin.device != self.device:
            twin.global_unet = copy.deepcopy(self.global_unet).to(device)
            twin.local_unet = copy.deepcopy(self.local_unet).to(device)
            if self.scenery is not None:
                twin.scenery = copy.deepcopy(self.scenery).to(device)
        return twin

    def settings(self, job: SegmentJob) -> RoleSettings:
        """Steps and guidance of a segment: its level's, or as much of the keyframes' as it needs.

        A deeper segment in which a scene begins that none of its given frames shows has to invent
        a picture from words, as level 0 does, and is given the same effort. One whose prompt
        changes between given frames that show both scenes is guided as level 0 is: what it is
        given says how either looks, the words alone say at which frame the film cuts. Both follow
        from the job's own prompts, so a segment's key needs to know nothing else.

        Args:
            job: the segment.
        """
        own, keyframes = self.sampling.for_level(job.segment.level), self.sampling.for_level(0)
        if job.segment.level == 0 or job.change == "begins":
            return keyframes
        if job.change == "cut":
            return own._replace(
                guidance_scale=max(own.guidance_scale, keyframes.guidance_scale),
                guidance_stop=keyframes.guidance_stop,
            )
        return own

    def generate(
        self,
        jobs: Sequence[SegmentJob],
        given_latents: Float[Tensor, "batch frames channels height width"],
    ) -> Float[Tensor, "batch frames channels height width"]:
        """Run the segments; the given frames come back as they are.

        Args:
            jobs: segments of one role (all level 0 or all deeper) and one number of frames.
            given_latents: their given frames, unit scale; anything where a frame is new.

        Returns:
            fp32 latents on the CPU.
        """
        latents = given_latents.to("cpu", torch.float32, copy=True)
        rows_by_settings: dict[RoleSettings, list[int]] = {}
        for row, job in enumerate(jobs):
            if not all(job.segment.given):
                rows_by_settings.setdefault(self.settings(job), []).append(row)
        for settings, rows in rows_by_settings.items():
            latents[rows] = self._sample(
                [jobs[row] for row in rows], given_latents[rows], settings
            ).cpu()
        return latents

    @torch.no_grad()
    def _sample(
        self,
        jobs: Sequence[SegmentJob],
        given_latents: Float[Tensor, "batch frames channels height width"],
        settings: RoleSettings,
    ) -> Float[Tensor, "batch frames channels height width"]:
        """Noise to latents: the sampling loop, the same for keyframes and the frames between."""
        network = self.global_unet if jobs[0].segment.level == 0 else self.local_unet
        # Schedulers keep state, so every batch has one of its own.
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(settings.num_inference_steps, device=self.device)
        generators = [
            frame_generator(job.seed, job.segment.level, frame)
            for job in jobs
            for frame in job.segment.frames
        ]
        given_latents = given_latents.to(self.device, torch.float32)
        mask = torch.tensor([job.segment.given for job in jobs], device=self.device)
        given = rearrange(mask, "b f -> b f 1 1 1")
        conditions = self._conditions(
            jobs, torch.where(given, given_latents, 0.0), mask.float(), settings
        )
        unguided = {name: rows[: len(jobs)] for name, rows in conditions.items()}
        if isinstance(network, Backbone):
            for told in (conditions, unguided):
                told["cache"] = {}  # what follows from the conditions is computed once

        latents = draw_noise(generators, given_latents.shape, self.device)
        latents = latents * scheduler.init_noise_sigma
        # Open over all steps, so that weights are cast once and not at every step.
        with autocast(self.device, self.dtype):
            for step, timestep in enumerate(scheduler.timesteps):
                # Given frames enter the network clean, at the scale at which it was trained.
                sample = scheduler.scale_model_input(latents, timestep)
                sample = torch.where(given, given_latents, sample)
                told = conditions if step < settings.guided_steps else unguided
                model_output = self._predict(network, sample, timestep, told, settings)
                with autocast(self.device, torch.float32):
                    latents = scheduler_step(scheduler, model_output, timestep, latents, generators)
                    if self.on_step is not None:
                        changed = self.on_step(step, timestep, {"latents": latents}) or {}
                        latents = changed.get("latents", latents)
        return torch.where(given, given_latents, latents)

    def _conditions(
        self,
        jobs: Sequence[SegmentJob],
        given_latents: Float[Tensor, "batch frames channels height width"],
        conditioning_mask: Float[Tensor, "batch frames"],
        settings: RoleSettings,
    ) -> dict[str, Any]:
        """All that the network is told beside the noisy latents, the same at every step.

        Under guidance it is told twice: with each frame's prompt, then with the negative one.
        """
        halves = 2 if settings.guided_steps else 1
        prompts = [prompt for job in jobs for prompt in job.prompts]
        prompts += [self.sampling.negative_prompt] * len(prompts) * (halves - 1)
        embeds = self.prompt_encoder(prompts).to(self.device)
        # Since the segment's start: fp32 seconds would lose a frame's length in a film of days.
        times = [[time - job.times[0] for time in job.times] for job in jobs]
        embeds = rearrange(embeds, "(b f) n d -> b f n d", f=len(times[0]))
        sketches = self._sketches(jobs, given_latents, embeds[: len(jobs)])
        # In training, a clip without its prompt had no sketch either.
        if sketches is not None and halves > 1:
            sketches = torch.cat([sketches, torch.zeros_like(sketches)])
        shown = {} if sketches is None else {"sketches": sketches}
        return shown | {
            "encoder_hidden_states": embeds,
            "frame_times": torch.tensor(times, device=self.device).repeat(halves, 1),
            "given_latents": given_latents.repeat(halves, 1, 1, 1, 1),
            "conditioning_mask": conditioning_mask.repeat(halves, 1),
        }

    def _sketches(
        self,
        jobs: Sequence[SegmentJob],
        given_latents: Float[Tensor, "batch frames channels height width"],
        embeds: Float[Tensor, "batch frames tokens dim"],
    ) -> Float[Tensor, "batch frames channels height width"] | None:
        """What the frames show on average, from where the camera is at each of them."""
        if self.scenery is None:
            return None
        model: Any = self.scenery
        prompts = embeds.flatten(2).flatten(0, 1).to(model.dtype)
        speeds = model.speed(prompts).view(len(jobs), -1).tolist()
        seen = model.positions(given_latents.flatten(0, 1).to(model.dtype), prompts)
        positions = [
            camera_positions(job, *told)
            for job, *told in zip(jobs, speeds, seen.view(len(jobs), -1).tolist(), strict=True)
        ]
        camera = torch.tensor(positions, device=self.device).flatten()
        sketches = model.sketch(prompts, camera, given_latents.shape[-2:])
        return sketches.view(given_latents.shape).to(given_latents.dtype)

    def _predict(
        self,
        network: nn.Module,
        sample: Float[Tensor, "batch frames channels height width"],
        timestep: Tensor,
        conditions: Mapping[str, Any],
        settings: RoleSettings,
    ) -> Float[Tensor, "batch frames channels height width"]:
        """The network's prediction under classifier-free guidance, both halves in one call."""
        halves = len(conditions["frame_times"]) // len(sample)
        model_output = network(sample.repeat(halves, 1, 1, 1, 1), timestep, **conditions)
        model_output = model_output.sample.float()
        if halves == 1:
            return model_output
        conditional, unconditional = model_output.chunk(2)
        guided = unconditional + settings.guidance_scale * (conditional - unconditional)
        if self.sampling.guidance_rescale == 0:
            return guided
        return rescale_guidance(guided, conditional, self.sampling.guidance_rescale)


def draw_noise(
    generators: list[torch.Generator], shape: Sequence[int], device: torch.device
) -> Float[Tensor, "batch frames channels height width"]:
    """Unit noise, each frame from its own generator.

    Args:
        generators: one per frame, batch by batch.
        shape: (batch, frames, channels, height, width).
        device: where the noise goes; it is drawn where the generators are.
    """
    batch, num_frames, *frame_shape = shape
    noise = randn_tensor((batch * num_frames, *frame_shape), generators, device, torch.float32)
    return rearrange(noise, "(b f) c h w -> b f c h w", b=batch)


def scheduler_step(
    scheduler: Any,
    model_output: Float[Tensor, "batch frames channels height width"],
    timestep: Tensor,
    latents: Float[Tensor, "batch frames channels height width"],
    generators: list[torch.Generator],
) -> Float[Tensor, "batch frames channels height width"]:
    """One step of any diffusers scheduler, frames as its batch, in fp32.

    Args:
        scheduler: with its timesteps set.
        model_output: the prediction at `timestep`.
        timestep: where the latents are.
        latents: noisy latents at `timestep`.
        generators: one per frame, for schedulers that add noise.
    """
    # UniPC is the one without random numbers whose `step` takes no generator.
    noise_source = (
        {} if isinstance(scheduler, UniPCMultistepScheduler) else {"generator": generators}
    )
    moved = scheduler.step(
        rearrange(model_output, "b f c h w -> (b f) c h w"),
        timestep,
        rearrange(latents, "b f c h w -> (b f) c h w"),
        **noise_source,
        return_dict=False,
    )[0]
    return rearrange(moved, "(b f) c h w -> b f c h w", b=latents.shape[0])
