"""The parts of which a film is made, and how a checkpoint holds them.

Knows networks, files, devices and precisions; not what a film shows.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines import pipeline_loading_utils
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from nuwaxl.denoising.denoiser import SCHEDULERS, SegmentDenoiser
from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.denoising.text import PromptEncoder
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.parts.lora import RoleLoraMixin
from nuwaxl.pictures.codecs import VaeCodec
from nuwaxl.tensors.devices import fast_dtype
from nuwaxl.tensors.fingerprint import module_fingerprint, remember_files

# So that diffusers writes our classes as ["nuwaxl", "MaskUNet3D"], whatever module they live in,
# and loads them again by itself.
pipeline_loading_utils.LOADABLE_CLASSES.setdefault(
    "nuwaxl", {"ModelMixin": ["save_pretrained", "from_pretrained"]}
)

BUNDLED = Path(__file__).parent.parent / "weights" / "toon"
"""The checkpoint that comes with the package."""

PipelineT = TypeVar("PipelineT", bound="LongVideoComponents")
StepEndCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]
"""(pipeline, step, timestep, {"latents": ...}) -> changed latents or nothing, as in diffusers."""


class LongVideoComponents(RoleLoraMixin, DiffusionPipeline):
    """What `LongVideoPipeline` holds, loads, saves, moves and casts.

    Args:
        tokenizer: of the text encoder.
        text_encoder: a transformers model with hidden states (BERT or CLIP kind).
        vae: frames to latents and back.
        global_unet: makes the keyframes.
        local_unet: makes the frames between two known ones.
        scheduler: noise levels of the training; its class samples unless a call names another.
        prompt_adapter: maps the text encoder's hidden states to what the networks attend to;
            None: the hidden states themselves.
        scenery: sketches of frames, for networks that are shown them; None: there are none.
        height: of a frame, in pixels, as trained.
        width: of a frame, in pixels, as trained.
        fps: frames per second unless a call says otherwise.
        segment_length: most frames in one diffusion run (L).

    Attributes:
        compute_dtype: precision of the products while a film is made; None takes what is fast and
            safe on the device (bf16 where the hardware has it). Networks cast to half precision
            compute in that.
    """

    model_cpu_offload_seq = "text_encoder->prompt_adapter->global_unet->local_unet->vae"
    # Small, and called by other names than `forward`, which offloading waits for.
    _exclude_from_cpu_offload = ["scenery"]  # noqa: RUF012 (as diffusers declares it)
    _optional_components = ["prompt_adapter", "scenery"]  # noqa: RUF012 (as diffusers declares it)

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        vae: TemporalAutoencoderKL,
        global_unet: Any,
        local_unet: Any,
        scheduler: Any,
        prompt_adapter: Any = None,
        scenery: Any = None,
        height: int = 128,
        width: int = 128,
        fps: float = 8.0,
        segment_length: int = 16,
    ):
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            prompt_adapter=prompt_adapter,
            scenery=scenery,
            vae=vae,
            global_unet=global_unet,
            local_unet=local_unet,
            scheduler=scheduler,
        )
        self.register_to_config(height=height, width=width, fps=fps, segment_length=segment_length)
        self.compute_dtype: torch.dtype | None = None

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls: type[PipelineT],
        pretrained_model_name_or_path: str | Path | None = None,
        *,
        dtype: torch.dtype | None = None,
        variant: str | None = None,
        device_map: str | None = None,
        **components: Any,
    ) -> PipelineT:
        """Load the bundled checkpoint, or a folder that `save_pretrained` wrote.

        Args:
            pretrained_model_name_or_path: the folder; None: the bundled checkpoint.
            dtype: of the weights in memory and of the products; None: fp32 weights, and products
                in what is fast and safe on the device.
            variant: of the weight files, such as 'fp16'.
            device_map: as in diffusers, such as 'cuda'.
            components: parts to use instead of the folder's, by their names.

        Raises:
            ValueError: the folder is no checkpoint of this pipeline.
            TypeError: a component's name is unknown.
        """
        folder = Path(pretrained_model_name_or_path or BUNDLED)
        if not (folder / "model_index.json").is_file():
            what = (
                "The bundled checkpoint" if pretrained_model_name_or_path is None else "This folder"
            )
            raise ValueError(
                f"{what} has no model_index.json, so it holds no pipeline: {str(folder)!r}; name a"
                " folder that `save_pretrained` wrote."
            )
        known = set(cls._get_signature_keys(cls)[0])
        if unknown := sorted(set(components) - known):
            raise TypeError(f"Unknown components {unknown}; this pipeline has {sorted(known)}.")
        # Mapped files lie elsewhere in memory, which on a CPU changes sums in the last bit.
        pipeline = super().from_pretrained(
            str(folder),
            dtype=dtype or torch.float32,
            variant=variant,
            device_map=device_map,
            local_files_only=True,
            disable_mmap=True,
            **components,
        )
        pipeline.compute_dtype = dtype
        pipeline._remember_files(folder, variant, set(components))
        return pipeline

    def _remember_files(self, folder: Path, variant: str | None, replaced: set[str]) -> None:
        """Take fingerprints from the files, not from what loading made of them.

        A part may be rounded to another dtype, and transformers makes up layers (BERT's pooler)
        that the checkpoint leaves out.
        """
        for name, component in self.components.items():
            if isinstance(component, nn.Module) and name not in replaced:
                remember_files(component, folder / name, variant)

    def to(self: PipelineT, *args: Any, **kwargs: Any) -> PipelineT:
        """Move or cast the networks, as in diffusers; the pipeline stays the same model."""
        if any(isinstance(argument, torch.dtype) for argument in (*args, *kwargs.values())):
            # Before values are rounded: a fingerprint is of the weights as they were loaded.
            for component in self.components.values():
                if isinstance(component, nn.Module):
                    module_fingerprint(component)
        return super().to(*args, **kwargs)

    def denoiser(
        self,
        sampling: SamplingConfig,
        *,
        latent_shape: tuple[int, int, int] | None = None,
        callback_on_step_end: StepEndCallback | None = None,
    ) -> SegmentDenoiser:
        """The segment model that these networks are, for an executor of one's own.

        Args:
            sampling: steps, guidance and scheduler.
            latent_shape: (channels, height, width) of a frame's latents; None: as trained.
            callback_on_step_end: as in diffusers.
        """

        def on_step(step: int, timestep: Tensor, values: dict[str, Tensor]) -> dict | None:
            assert callback_on_step_end is not None
            return callback_on_step_end(self, step, timestep, values)

        device = self._execution_device
        return SegmentDenoiser(
            self.global_unet,
            self.local_unet,
            self.scheduler,
            sampling,
            PromptEncoder(self.tokenizer, self.text_encoder, self.prompt_adapter, device=device),
            latent_shape=latent_shape
            or self.latent_shape(self.config["height"], self.config["width"]),
            scenery=self.scenery,
            device=device,
            dtype=self._compute_dtype(device),
            on_step=on_step if callback_on_step_end is not None else None,
        )

    @property
    def fingerprint(self) -> str:
        """The hash that stands for these networks in every segment's key."""
        return self.denoiser(SamplingConfig(scheduler=self.scheduler_name())).fingerprint

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of a frame's latents, if a picture can have this size."""
        scale = self.vae.spatial_scale
        cells = math.lcm(
            *(_latent_multiple(unet.config) for unet in (self.global_unet, self.local_unet))
        )
        for name, size in (("height", height), ("width", width)):
            if size < 1 or size % (scale * cells):
                raise ValueError(
                    f"`{name}` must be a multiple of {scale * cells} pixels for this checkpoint,"
                    f" got {size}."
                )
        return self.vae.config.latent_channels, height // scale, width // scale

    def encode_picture(
        self, picture: UInt8[np.ndarray, "height width 3"]
    ) -> Float[Tensor, "channels latent_height latent_width"]:
        """Latents of one picture, in fp32."""
        return self.codec().encode(picture)

    def codec(self) -> VaeCodec:
        """Pictures to this pipeline's latents and back."""
        device = self._execution_device
        return VaeCodec(self.vae, device=device, dtype=self._compute_dtype(device))

    def _compute_dtype(self, device: torch.device) -> torch.dtype:
        """The precision of the products."""
        return self._weights_dtype() or self.compute_dtype or fast_dtype(device)

    def _weights_dtype(self) -> torch.dtype | None:
        """The networks' own precision, when the user has chosen less than fp32."""
        dtype = self.global_unet.dtype
        return None if dtype == torch.float32 else dtype

    def scheduler_name(self) -> str:
        """Under which name `SamplingConfig` knows the class of the pipeline's scheduler."""
        for name, scheduler_class in SCHEDULERS.items():
            if type(self.scheduler) is scheduler_class:
                return name
        raise ValueError(
            f"`scheduler` must be named, one of {', '.join(SCHEDULERS)}, because the pipeline's own"
            f" is a {type(self.scheduler).__name__}."
        )


def _latent_multiple(config: Mapping[str, Any]) -> int:
    """What the sides of latents must be a multiple of, for a network with these settings."""
    halvings = len(config.get("block_out_channels", (0,))) - 1
    return config.get("patch_size", 1) * 2**halvings
