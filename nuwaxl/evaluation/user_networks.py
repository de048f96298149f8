"""Inception, I3D, VideoMAE and CLIP, where the user has their weights: FID, FVD and CLIP score.

Knows how each wants its pixels; not what they are compared with.
"""

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from nuwaxl.evaluation.distances import BLOCK
from nuwaxl.evaluation.settings import check_source

Frames = UInt8[np.ndarray, "frames height width 3"]

_BATCH = 16
_I3D_SIZE = 224

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Means and deviations of RGB in [0, 1] where a model's folder names none."""


def pixels_at(
    frames: Frames,
    size: int | tuple[int, int],
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    deviation: tuple[float, ...] = (0.5, 0.5, 0.5),
    *,
    mode: str = "bilinear",
) -> Float[Tensor, "frames 3 new_height new_width"]:
    """Frames as a network was trained to see them; [-1, 1] by default.

    Args:
        frames: 8-bit RGB.
        size: height and width that it takes.
        mean: of each channel in [0, 1].
        deviation: of each channel in [0, 1].
        mode: of the resizing, smoothed where frames become smaller.
    """
    size = (size, size) if isinstance(size, int) else size
    pixels = rearrange(torch.from_numpy(frames), "f h w c -> f c h w").float() / 255
    if pixels.shape[-2:] != size:
        pixels = nn.functional.interpolate(pixels, size, mode=mode, antialias=True).clamp(0, 1)
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]


class InceptionFeatures:
    """The 2,048 features of FID.

    Args:
        network: takes (frames, 3, height, width) in 8 bits and returns features.
        device: where it runs.
    """

    def __init__(self, network: Any, device: torch.device) -> None:
        self.network = network
        self.device = device

    @torch.no_grad()
    def frame_features(self, frames: Frames) -> Float[np.ndarray, "frames dim"]:
        """One vector per frame.

        Args:
            frames: 8-bit RGB of any size: the network resizes as FID's has always done.
        """
        pixels = rearrange(torch.from_numpy(frames), "f h w c -> f c h w").contiguous()
        parts = []
        for batch in pixels.split(_BATCH):
            batch = batch.to(self.device)
            if isinstance(self.network, torch.jit.ScriptModule):
                features = self.network(batch, return_features=True)
            else:
                (features,) = self.network(batch)
            parts.append(features.float().cpu())
        return torch.cat(parts).flatten(1).numpy()


class I3DFeatures:
    """Features of FVD: an I3D as TorchScript, as StyleGAN-V and most after it take it.

    Args:
        network: takes (blocks, 3, frames, 224, 224) in [-1, 1].
        device: where it runs.
    """

    name = "I3D"

    def __init__(self, network: Any, device: torch.device) -> None:
        self.network = network
        self.device = device

    @torch.no_grad()
    def block_features(
        self, blocks: UInt8[np.ndarray, "blocks frames height width 3"]
    ) -> Float[np.ndarray, "blocks dim"]:
        """One vector per block.

        Args:
            blocks: 8-bit RGB.
        """
        pixels = pixels_at(blocks.reshape(-1, *blocks.shape[2:]), _I3D_SIZE)
        pixels = rearrange(pixels, "(b f) c h w -> b c f h w", b=len(blocks)).to(self.device)
        features = self.network(pixels, rescale=False, resize=False, return_features=True)
        return features.float().cpu().flatten(1).numpy()


class VideoMAEFeatures:
    """Features of FVD as Ge et al. 2024 take it, less biased to single frames than I3D's.

    Args:
        network: a `VideoMAEModel`.
        mean: of each channel that it was trained with.
        deviation: of each channel.
    """

    name = "VideoMAE"

    def __init__(self, network: Any, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        self.network = network
        self.mean = mean
        self.deviation = deviation

    @torch.no_grad()
    def block_features(
        self, blocks: UInt8[np.ndarray, "blocks frames height width 3"]
    ) -> Float[np.ndarray, "blocks dim"]:
        """Mean over the last hidden states of each block.

        Args:
            blocks: 8-bit RGB.
        """
        size = self.network.config.image_size
        frames = blocks.reshape(-1, *blocks.shape[2:])
        pixels = pixels_at(frames, size, self.mean, self.deviation)
        pixels = rearrange(pixels, "(b f) c h w -> b f c h w", b=len(blocks))
        states = self.network(pixels.to(self.network.device)).last_hidden_state
        return states.float().mean(dim=1).cpu().numpy()


class ClipAgreement:
    """CLIP score: 100 times the cosine of a frame and its prompt, at least 0 (Hessel et al. 2021).

    Args:
        network: a `CLIPModel`.
        tokenizer: its own.
        mean: of each channel that it was trained with.
        deviation: of each channel.
    """

    def __init__(
        self, network: Any, tokenizer: Any, mean: tuple[float, ...], deviation: tuple[float, ...]
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.mean = mean
        self.deviation = deviation

    @torch.no_grad()
    def agreement(self, frames: Frames, prompts: list[str]) -> Float[np.ndarray, " frames"]:
        """One number per frame and its prompt, from 0 to 100.

        Args:
            frames: 8-bit RGB.
            prompts: of each frame.
        """
        distinct = list(dict.fromkeys(prompts))
        words = self._text_features(distinct)[[distinct.index(prompt) for prompt in prompts]]
        config = self.network.config.vision_config
        parts = []
        for start in range(0, len(frames), _BATCH):
            pixels = pixels_at(
                frames[start : start + _BATCH],
                config.image_size,
                self.mean,
                self.deviation,
                mode="bicubic",
            )
            pooled = self.network.vision_model(pixels.to(self.network.device)).pooler_output
            parts.append(self.network.visual_projection(pooled))
        cosines = nn.functional.cosine_similarity(torch.cat(parts).float(), words.float())
        return 100 * cosines.clamp(min=0).cpu().numpy()

    def _text_features(self, prompts: list[str]) -> Float[Tensor, "prompts dim"]:
        tokens = self.tokenizer(
            prompts,
            padding=True,
            truncation=True,
            max_length=self.network.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.network.device)
        pooled = self.network.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return self.network.text_projection(pooled)


# ---- Loading ----------------------------------------------------------------------------------


def load_inception(path: str, device: torch.device) -> InceptionFeatures:
    """The network of FID.

    Args:
        path: `inception-2015-12-05.pt` (TorchScript) or torch-fidelity's
            `weights-inception-2015-12-05-6726825d.pth`.
        device: where it runs.

    Raises:
        ValueError: it holds something else, or torch-fidelity is missing.
    """
    file = Path(path)
    if _is_torchscript(file):
        return InceptionFeatures(_script(file, device, "inception"), device)
    if any(importlib.util.find_spec(name) is None for name in ("torch_fidelity", "torchvision")):
        raise ValueError(
            f"`inception` must be TorchScript (inception-2015-12-05.pt), got {path!r}; for the"
            " weights of torch-fidelity `pip install torch-fidelity`."
        )
    from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore[reportMissingImports]
        FeatureExtractorInceptionV3,
    )

    try:
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=path
        )
    except Exception as error:
        raise ValueError(
            f"`inception` must hold the weights of FID's Inception, got {path!r}: {error}"
        ) from error
    return InceptionFeatures(network.to(device), device)


def load_video_network(source: str, device: torch.device) -> I3DFeatures | VideoMAEFeatures:
    """The network of FVD.

    Args:
        source: an I3D as TorchScript (i3d_torchscript.pt), or folder or hub id of a VideoMAE.
        device: where it runs.

    Raises:
        ValueError: there is no such thing, or it holds something else.
    """
    file = Path(source)
    if file.is_file():
        if not _is_torchscript(file):
            raise ValueError(
                f"`video_network` must be an I3D as TorchScript (i3d_torchscript.pt), or folder or"
                f" hub id of a VideoMAE, got {source!r}."
            )
        return I3DFeatures(_script(file, device, "video_network"), device)
    config = _config("video_network", source, "videomae")
    if config.num_frames != BLOCK:
        raise ValueError(
            f"`video_network` must take {BLOCK} frames, got {source!r}, which takes"
            f" {config.num_frames}."
        )
    network = _pretrained("video_network", source, "VideoMAEModel")
    return VideoMAEFeatures(network.eval().to(device), *_normalisation(source, _IMAGENET))


def load_clip(source: str, device: torch.device) -> ClipAgreement:
    """The network of CLIP score.

    Args:
        source: folder or hub id of a CLIP with its tokenizer.
        device: where it runs.

    Raises:
        ValueError: there is no such thing, or it holds something else.
    """
    _config("clip", source, "clip")
    network = _pretrained("clip", source, "CLIPModel").eval().to(device)
    tokenizer = _pretrained("clip", source, "AutoTokenizer")
    return ClipAgreement(network, tokenizer, *_normalisation(source, _CLIP))


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name for name in archive.namelist())


def _script(file: Path, device: torch.device, setting: str) -> Any:
    try:
        return torch.jit.load(file, map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(
            f"`{setting}` must be TorchScript that this torch can read, got {str(file)!r}:"
            f" {str(error).splitlines()[0]}"
        ) from error


def _config(setting: str, source: str, kind: str) -> Any:
    """The configuration of a model of transformers, before its weights are read."""
    check_source(setting, source, kind)
    config = _pretrained(setting, source, "AutoConfig")
    if config.model_type != kind:
        raise ValueError(
            f"`{setting}` must hold a {kind} model, got {source!r}, a {config.model_type}."
        )
    return config


def _pretrained(setting: str, source: str, class_name: str) -> Any:
    import transformers

    try:
        return getattr(transformers, class_name).from_pretrained(source)
    except Exception as error:  # of the hub, of JSON, of safetensors: each library has its own
        raise ValueError(
            f"`{setting}` cannot be read from {source!r}: {str(error).splitlines()[0]}"
        ) from error


def _normalisation(
    source: str, otherwise: tuple[tuple[float, ...], tuple[float, ...]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the channels, as the model's folder says."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        said = ImageProcessingMixin.get_image_processor_dict(source)[0]
    except OSError:
        return otherwise
    return (
        tuple(said.get("image_mean") or otherwise[0]),
        tuple(said.get("image_std") or otherwise[1]),
    )
