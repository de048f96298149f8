"""Pretrained pipelines from their weights to a device.

Knows diffusers' ways to save memory; not what a pipeline is used for.
"""

from dataclasses import dataclass
from typing import Any

import torch

from nuwaxl.backends.catalogue import OFFLOADS, Backend
from nuwaxl.backends.checkpoints import Checkpoint
from nuwaxl.tensors.devices import best_device, fast_dtype

_QUANTIZED = ("transformer", "transformer_2", "text_encoder", "unet")
_FULL_PRECISION = {"vae": torch.float32, "image_encoder": torch.float32}
"""Wan's VAE loses detail in half precision, as its authors run it."""


@dataclass(frozen=True)
class LoadSettings:
    """Where weights go, and how they are held; the film is the same, up to rounding.

    Raises:
        ValueError: an unknown way, or one that does not go with the device.
    """

    device: str = "auto"
    dtype: str = "auto"
    offload: str | None = None

    def __post_init__(self) -> None:
        if self.offload is not None and self.offload not in OFFLOADS:
            raise ValueError(
                f"`offload` must be one of {', '.join(OFFLOADS)}, got {self.offload!r}."
            )
        if self.offload is not None and self.torch_device.type == "cpu":
            raise ValueError(
                f"`offload` {self.offload} keeps weights in memory while an accelerator does not "
                "need them, and this runs on the CPU: leave it out."
            )

    @property
    def torch_device(self) -> torch.device:
        """The device itself; 'auto' is the fastest here."""
        return best_device() if self.device == "auto" else torch.device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision itself; 'auto' is what is fast and safe on the device."""
        if self.dtype != "auto":
            return getattr(torch, self.dtype)
        return fast_dtype(self.torch_device)


def load_pipeline(
    backend: Backend, checkpoint: Checkpoint, settings: LoadSettings, quantize: str | None = None
) -> Any:
    """The pipeline on its device, without a progress bar.

    Args:
        backend: which kind.
        checkpoint: its weights, fetched now if they are on the hub and not in its cache.
        settings: device, precision and how to save memory.
        quantize: weights of few bits: '4bit' or '8bit'.
    """
    import diffusers

    dtypes: dict[str, torch.dtype] = {"default": settings.torch_dtype}
    if backend.name.startswith("wan"):
        dtypes |= _FULL_PRECISION
    options: dict[str, Any] = {"dtype": dtypes}
    if checkpoint.revision is not None:
        options["revision"] = checkpoint.revision
    if quantize is not None:
        options["quantization_config"] = quantization(quantize, settings.torch_dtype)
    pipeline_class = getattr(diffusers, backend.pipeline or "DiffusionPipeline")
    pipeline = pipeline_class.from_pretrained(checkpoint.source, **options)
    pipeline.set_progress_bar_config(disable=True)
    device = settings.torch_device
    if settings.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif settings.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    elif settings.offload == "group":
        pipeline.enable_group_offload(
            onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda"
        )
    else:
        pipeline.to(device)
    return pipeline


def quantization(name: str, dtype: torch.dtype) -> Any:
    """The settings of diffusers for weights of few bits, by bitsandbytes.

    Args:
        name: '4bit' (NF4) or '8bit'.
        dtype: in which 4-bit weights are multiplied.
    """
    from diffusers import PipelineQuantizationConfig

    if name == "4bit":
        kwargs: dict[str, Any] = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": dtype,
        }
    else:
        kwargs = {"load_in_8bit": True}
    return PipelineQuantizationConfig(
        quant_backend=f"bitsandbytes_{name}",
        quant_kwargs=kwargs,
        components_to_quantize=list(_QUANTIZED),
    )
