"""The probe: a small network that reads from frames what the toon world shows in them.

Knows frames and the names of attributes, not stories and not what made the frames.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nuwaxl.evaluation.motion import match_curve
from nuwaxl.evaluation.pixels import resized, to_tensor
from nuwaxl.tensors.devices import autocast, fast_dtype
from nuwaxl.toon import ACTIONS, DIRECTIONS, FRAME_SIZE, TIMES_OF_DAY, actors, backgrounds

FPS = 8.0
"""Frames per second of the windows that the probe was trained on."""

WINDOW = 8
"""Consecutive frames from which action and direction are read."""

FEATURE_DIM = 128

_LAGS = ((0, 4), (1, 5), (2, 6), (3, 7), (0, 7))
_CURVE_DIM = 49


def class_names() -> dict[str, tuple[str, ...]]:
    """What each attribute can be, in the order of the probe's outputs."""
    return {
        "actor": tuple(actors()),
        "background": tuple(backgrounds()),
        "time_of_day": TIMES_OF_DAY,
        "action": tuple(ACTIONS),
        "direction": DIRECTIONS,
    }


class FrameProbe(nn.Module):
    """Single frames to features, and from them actor, background, time of day and facing.

    Space-to-depth, six convolutions down to 8x8 cells, then the mean of all cells and of those
    that a learned attention picks. The attention's centre is trained to be the actor's.
    """

    def __init__(self) -> None:
        super().__init__()
        names = class_names()
        widths = ((12, 32, 2), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 160, 1))
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
            )
            for before, after, stride in widths
        )
        self.attention = nn.Conv2d(160, 1, 1)
        self.to_features = nn.Linear(320, FEATURE_DIM)
        self.heads = nn.ModuleDict(
            {
                name: nn.Linear(FEATURE_DIM, len(names[name]))
                for name in ("actor", "background", "time_of_day", "direction")
            }
        )

    def forward(
        self, frames: Float[Tensor, "frames 3 height width"]
    ) -> tuple[Float[Tensor, "frames dim"], dict[str, Tensor], Float[Tensor, "frames 2"]]:
        """Features, logits by attribute, and the actor's centre (x, y) in 0..1 of the frame.

        Args:
            frames: pixels in [-1, 1].
        """
        hidden = nn.functional.pixel_unshuffle(frames, 2)
        for layer in self.layers:
            after = layer(hidden)
            hidden = after + hidden if after.shape == hidden.shape else after
        hidden = hidden.float()
        weights = self.attention(hidden).float().flatten(1).softmax(dim=1)
        rows, columns = hidden.shape[-2:]
        centres = [
            (torch.arange(size, device=hidden.device) + 0.5) / size for size in (columns, rows)
        ]
        grid = torch.stack(torch.meshgrid(*centres, indexing="xy"), dim=-1)
        position = (weights[..., None] * rearrange(grid, "h w xy -> (h w) xy")).sum(dim=1)
        cells = rearrange(hidden, "f c h w -> f (h w) c")
        picked = torch.einsum("f n, f n c -> f c", weights, cells)
        pooled = torch.cat([picked, cells.mean(dim=1)], dim=1)
        features = self.to_features(pooled).float()
        active = features.relu()
        return features, {name: head(active).float() for name, head in self.heads.items()}, position


class WindowProbe(nn.Module):
    """Action and direction of a window from how it scrolls, where its actor is, and who it is."""

    def __init__(self) -> None:
        super().__init__()
        names = class_names()
        num_inputs = len(names["actor"]) + 2 + WINDOW + 2 + len(_LAGS) * _CURVE_DIM
        self.hidden = nn.Sequential(nn.Linear(num_inputs, 128), nn.ReLU(), nn.Dropout(0.1))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(128, len(names[name])) for name in ("action", "direction")}
        )

    def forward(self, inputs: Float[Tensor, "windows inputs"]) -> dict[str, Tensor]:
        """Logits by attribute.

        Args:
            inputs: rows of `window_inputs`.
        """
        hidden = self.hidden(inputs)
        return {name: head(hidden) for name, head in self.heads.items()}


@dataclass(frozen=True)
class Reading:
    """What the probe has read from a clip."""

    features: Float[np.ndarray, "frames dim"]
    """Of each frame, before the heads: where distances are taken."""
    classes: Mapping[str, Int[np.ndarray, " frames"]]
    """Of each attribute, a number into `class_names()` per frame; -1 where it was not read."""
    position: Float[np.ndarray, "frames 2"]
    """Where the actor is, (x, y) in pixels of a 128x128 frame."""


class Probe(nn.Module):
    """Both parts together."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = FrameProbe()
        self.window = WindowProbe()

    @torch.no_grad()
    def read(
        self,
        frames: UInt8[np.ndarray, "frames height width 3"],
        scenes: Sequence[tuple[int, int]] | None = None,
    ) -> Reading:
        """Read a clip at `FPS` frames per second.

        Args:
            frames: of any square size.
            scenes: (first frame, frame after the last) of each part in which one thing is done;
                a window never leaves its part, and parts shorter than a window have no action and
                no direction. None: the whole clip is one part.
        """
        self.eval()
        frames = resized(frames, FRAME_SIZE)
        features, logits, position = self.read_frames(frames)
        classes = {name: values.argmax(dim=1).numpy() for name, values in logits.items()}
        for name in ("action", "direction"):
            classes[name] = np.full(len(frames), -1)
        for first, stop in scenes or [(0, len(frames))]:
            starts = np.arange(first, stop - WINDOW + 1)
            if not len(starts):
                continue
            curves: dict[tuple[int, int], np.ndarray] = {}
            inputs = torch.stack(
                [window_inputs(frames, logits, position, int(start), curves) for start in starts]
            )
            read = {name: values.argmax(dim=1) for name, values in self.window(inputs).items()}
            # Each frame is told by the window around it that stays in its part.
            nearest = (np.arange(first, stop) - WINDOW // 2 - first).clip(0, len(starts) - 1)
            for name, values in read.items():
                classes[name][first:stop] = values.numpy()[nearest]
        return Reading(features.numpy(), classes, position.numpy() * FRAME_SIZE)

    @torch.no_grad()
    def read_frames(
        self, frames: UInt8[np.ndarray, "frames height width 3"], batch_size: int = 64
    ) -> tuple[Float[Tensor, "frames dim"], dict[str, Tensor], Float[Tensor, "frames 2"]]:
        """What `FrameProbe` says of many frames, on the CPU.

        Args:
            frames: 128x128.
            batch_size: frames at once.
        """
        device = next(self.parameters()).device
        parts = []
        for start in range(0, len(frames), batch_size):
            batch = to_tensor(frames[start : start + batch_size]).to(device)
            with autocast(device, fast_dtype(device)):
                parts.append(self.frame(batch))
        features, logits, position = zip(*parts, strict=True)
        joined = {name: torch.cat([part[name] for part in logits]).cpu() for name in logits[0]}
        return torch.cat(features).cpu(), joined, torch.cat(position).cpu()

    def save(self, folder: str | Path, facts: Mapping[str, object] | None = None) -> None:
        """Write weights, class names and whatever is known of the training.

        Args:
            folder: made when it is not there.
            facts: such as the probe's own accuracy.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "probe.safetensors")
        content = {"classes": class_names(), "fps": FPS, "window": WINDOW, **(facts or {})}
        (folder / "probe.json").write_text(json.dumps(content, indent=1), encoding="utf-8")

    @staticmethod
    def facts(folder: str | Path) -> dict[str, object]:
        """What `save` was told, such as the probe's own accuracy.

        Args:
            folder: of the probe.
        """
        return json.loads((Path(folder) / "probe.json").read_text(encoding="utf-8"))

    @classmethod
    def load(cls, folder: str | Path) -> "Probe":
        """Read what `save` wrote.

        Args:
            folder: of the probe.

        Raises:
            ValueError: the folder holds no probe, or one of another world.
        """
        folder = Path(folder)
        if not (folder / "probe.json").is_file():
            raise ValueError(f"`probe` must be a folder that holds a probe, got {str(folder)!r}.")
        content = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
        if {name: tuple(names) for name, names in content["classes"].items()} != class_names():
            raise ValueError(
                f"`probe` must know the names of this toon world, the one in {str(folder)!r} knows"
                " others: train it again."
            )
        probe = cls()
        probe.load_state_dict(load_file(folder / "probe.safetensors"))
        return probe.eval()


def window_inputs(
    frames: UInt8[np.ndarray, "frames 128 128 3"],
    logits: Mapping[str, Tensor],
    position: Float[Tensor, "frames 2"],
    start: int,
    curves: dict[tuple[int, int], np.ndarray] | None = None,
) -> Float[Tensor, " inputs"]:
    """What `WindowProbe` is told of the window that begins at frame `start`.

    Args:
        frames: of the clip.
        logits: of each frame, by attribute.
        position: of the actor in each frame.
        start: first frame of the window.
        curves: by frame numbers, those that neighbouring windows have taken; filled.
    """
    curves = {} if curves is None else curves
    stop = start + WINDOW
    actor = logits["actor"][start:stop].softmax(dim=1).mean(dim=0)
    facing = logits["direction"][start:stop].softmax(dim=1).mean(dim=0)
    centre = position[start:stop].mean(dim=0)
    rise = 10 * (position[start:stop, 1] - centre[1])
    pairs = [(start + before, start + after) for before, after in _LAGS]
    for before, after in pairs:
        if (before, after) not in curves:
            middle = (position[before] + position[after]).numpy() * (FRAME_SIZE / 2)
            curve = match_curve(frames[before], frames[after], middle)
            curves[before, after] = (curve - curve.min()) / max(1e-6, float(np.ptp(curve)))
    scroll = torch.from_numpy(np.concatenate([curves[pair] for pair in pairs])).float()
    return torch.cat([actor, facing, rise, centre, scroll])
