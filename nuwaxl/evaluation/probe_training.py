"""Training of the probe on real renders, blurred as a decoder might blur them.

Knows scenes and what they look like, not films.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from nuwaxl.evaluation.pixels import soften, to_tensor, to_uint8
from nuwaxl.evaluation.probe import FPS, WINDOW, Probe, class_names, window_inputs
from nuwaxl.evaluation.stories import direction_shows
from nuwaxl.models.autoencoder import TemporalAutoencoderKL
from nuwaxl.tensors.devices import autocast, fast_dtype
from nuwaxl.toon import FRAME_SIZE, Scene, actors, sample_scene
from nuwaxl.toon.render import render

logger = logging.getLogger(__name__)

FRAME_ATTRIBUTES = ("actor", "background", "time_of_day", "direction")

OnRow = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True)
class ProbeConfig:
    """How long the probe learns, and from how much."""

    num_steps: int = 1100
    """Optimizer steps on single frames."""
    batch_size: int = 48
    learning_rate: float = 3e-3
    """Peak of a one-cycle schedule."""
    num_rebuilt: int = 700
    """Frames sent through the autoencoder once and shown again and again, a quarter of a batch."""
    num_windows: int = 1500
    """Windows of frames from which action and direction are learned, after the frames."""
    num_window_steps: int = 2500
    num_test: int = 400
    """Scenes, never trained on, from which the probe's own accuracy is taken."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what nothing can be learned from."""
        for name in ("num_steps", "batch_size", "num_windows", "num_window_steps", "num_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Windows:
    """Windows of frames and what they show."""

    frames: UInt8[np.ndarray, "windows window 128 128 3"]
    labels: Mapping[str, Int[np.ndarray, " windows"]]
    """Numbers into `class_names()`; -1 where a viewer cannot tell."""
    position: Float[np.ndarray, "windows window 2"]
    """Centre of the actor's cell, (x, y) in 0..1 of the frame."""


def draw_windows(
    rng: np.random.Generator, num_windows: int, length: int = WINDOW, *, held_out: bool = False
) -> Windows:
    """Render windows of `length` frames at the probe's frame rate, each of a scene of its own.

    Args:
        rng: source of all chance.
        num_windows: how many.
        length: frames in each.
        held_out: of the combinations that no network is trained on, or of the others.
    """
    names = class_names()
    labels: dict[str, list[int]] = {name: [] for name in names}
    frames, position = [], []
    for _ in range(num_windows):
        scene = sample_scene(rng, 4.0, held_out=held_out)
        start = rng.uniform(0.0, 4.0 - length / FPS)
        states = [scene.state_at(start + frame / FPS) for frame in range(length)]
        frames.append(np.stack([render(state) for state in states]))
        position.append([(state.actor_x, state.actor_y) for state in states])
        for name, number in labels_of(scene, single=length == 1).items():
            labels[name].append(number)
    return Windows(
        np.stack(frames),
        {name: np.array(numbers) for name, numbers in labels.items()},
        np.array(position, np.float32) / FRAME_SIZE,
    )


def labels_of(scene: Scene, *, single: bool = False) -> dict[str, int]:
    """The numbers of a scene's attributes in `class_names()`; -1 for a direction that is hidden.

    Args:
        scene: what is shown.
        single: of a single frame, where a front view hides the direction though it moves.
    """
    numbers = {name: names.index(getattr(scene, name)) for name, names in class_names().items()}
    if not direction_shows(scene.actor, scene.action) or (
        single and actors()[scene.actor].front_view
    ):
        numbers["direction"] = -1
    return numbers


@torch.no_grad()
def rebuild(
    frames: UInt8[np.ndarray, "frames height width 3"],
    vae: TemporalAutoencoderKL,
    batch_size: int = 32,
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Frames through the autoencoder and back, each by itself.

    Args:
        frames: 8-bit RGB.
        vae: encodes and decodes.
        batch_size: frames at once.
    """
    device = next(vae.parameters()).device
    parts = []
    for start in range(0, len(frames), batch_size):
        pixels = rearrange(to_tensor(frames[start : start + batch_size]), "b c h w -> b 1 c h w")
        with autocast(device, fast_dtype(device)):
            decoded = vae.decode_latents(vae.encode_latents(pixels.to(device)))
        parts.append(to_uint8(decoded[:, 0]))
    return np.concatenate(parts)


def train_probe(
    folder: str | Path,
    config: ProbeConfig | None = None,
    *,
    vae: TemporalAutoencoderKL | None = None,
    on_row: OnRow | None = None,
) -> dict[str, dict[str, float]]:
    """Train a probe, measure it and write it: minutes on one core.

    Args:
        folder: where it goes.
        config: how long; None: the defaults.
        vae: whose decoded frames the probe shall read as well as renders; None: renders only.
        on_row: called now and then with the step and the loss.

    Returns:
        The probe's own accuracy by test set and attribute; see `own_accuracy`.
    """
    config = config or ProbeConfig()
    started = time.process_time()
    torch.manual_seed(config.seed)
    rng = np.random.default_rng((config.seed, 0))
    probe = Probe()
    _train_frames(probe, config, rng, vae, on_row)
    _train_windows(probe, config, rng, on_row)
    core_seconds = time.process_time() - started
    accuracy = own_accuracy(probe, config, vae)
    probe.save(folder, {"accuracy": accuracy, "core_seconds": round(core_seconds, 1)})
    return accuracy


def own_accuracy(
    probe: Probe, config: ProbeConfig, vae: TemporalAutoencoderKL | None
) -> dict[str, dict[str, float]]:
    """How often the probe is right about renders of scenes that it has not seen.

    Args:
        probe: a trained one.
        config: how many scenes.
        vae: also rebuilds the first half of them; None: renders only.

    Returns:
        Accuracy by attribute of 'renders', of 'held_out' (combinations of actor, background and
        time that no network is trained on), and of 'decoded' renders.
    """
    sets = {
        "renders": draw_windows(np.random.default_rng((config.seed, 1)), config.num_test),
        "held_out": draw_windows(
            np.random.default_rng((config.seed, 2)), config.num_test, held_out=True
        ),
    }
    if vae is not None:
        few = max(1, config.num_test // 4)
        clean = draw_windows(np.random.default_rng((config.seed, 3)), few)
        decoded = rebuild(clean.frames.reshape(-1, *clean.frames.shape[2:]), vae)
        sets["decoded"] = Windows(decoded.reshape(clean.frames.shape), clean.labels, clean.position)
    return {name: _accuracy(probe, windows) for name, windows in sets.items()}


def _accuracy(probe: Probe, windows: Windows) -> dict[str, float]:
    right: dict[str, list[float]] = {name: [] for name in windows.labels}
    for index, frames in enumerate(windows.frames):
        classes = probe.read(frames).classes
        for name, numbers in windows.labels.items():
            if numbers[index] >= 0:
                right[name].append(float((classes[name] == numbers[index]).mean()))
    return {name: round(float(np.mean(values)), 4) for name, values in right.items() if values}


def _train_frames(
    probe: Probe,
    config: ProbeConfig,
    rng: np.random.Generator,
    vae: TemporalAutoencoderKL | None,
    on_row: OnRow | None,
) -> None:
    """Actor, background, time of day, facing and position from single frames."""
    rebuilt = None
    if vae is not None and config.num_rebuilt:
        rebuilt = draw_windows(rng, config.num_rebuilt, 1)
        rebuilt = Windows(
            rebuild(rebuilt.frames[:, 0], vae)[:, None], rebuilt.labels, rebuilt.position
        )
    optimizer = torch.optim.AdamW(probe.frame.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.num_steps + 1, pct_start=0.15
    )
    probe.train()
    for step in range(config.num_steps):
        batch = _mixed_batch(rng, config.batch_size, rebuilt)
        frames = disturb(to_tensor(batch.frames[:, 0]), rng)
        with autocast("cpu", fast_dtype("cpu")):
            _, logits, position = probe.frame(frames)
        target = torch.from_numpy(batch.position[:, 0])
        loss = 5 * (position - target).abs().mean()
        for name in FRAME_ATTRIBUTES:
            labels = torch.from_numpy(batch.labels[name])
            if (labels >= 0).any():
                loss = loss + nn.functional.cross_entropy(logits[name], labels, ignore_index=-1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_row is not None and (step % 50 == 49 or step == config.num_steps - 1):
            right = (logits["actor"].argmax(1).numpy() == batch.labels["actor"]).mean()
            on_row({"step": step + 1, "loss": float(loss.detach()), "actor": float(right)})


def _mixed_batch(rng: np.random.Generator, batch_size: int, rebuilt: Windows | None) -> Windows:
    """Fresh renders, a quarter of them replaced by rebuilt frames where there are some."""
    num_rebuilt = 0 if rebuilt is None else batch_size // 4
    fresh = draw_windows(rng, batch_size - num_rebuilt, 1)
    if rebuilt is None:
        return fresh
    rows = rng.integers(len(rebuilt.frames), size=num_rebuilt)
    return Windows(
        np.concatenate([fresh.frames, rebuilt.frames[rows]]),
        {
            name: np.concatenate([numbers, rebuilt.labels[name][rows]])
            for name, numbers in fresh.labels.items()
        },
        np.concatenate([fresh.position, rebuilt.position[rows]]),
    )


def disturb(
    frames: Float[Tensor, "frames 3 height width"], rng: np.random.Generator
) -> Float[Tensor, "frames 3 height width"]:
    """Blur half of the frames, and change all colours a little, as a decoder might.

    Args:
        frames: pixels in [-1, 1].
        rng: source of all chance.
    """
    order = torch.from_numpy(rng.permutation(len(frames)))
    gain = torch.from_numpy(rng.uniform(0.93, 1.07, (len(frames), 3, 1, 1))).float()
    shift = torch.from_numpy(rng.normal(0.0, 0.03, (len(frames), 3, 1, 1))).float()
    frames = (frames * gain).add_(shift).clamp_(-1, 1)
    # A sixth each at a half, a third and a fifth of the resolution.
    for factor, rows in zip((2, 3, 5), order[: len(frames) // 2].chunk(3), strict=False):
        frames[rows] = soften(frames[rows], factor)
    return frames


def _train_windows(
    probe: Probe, config: ProbeConfig, rng: np.random.Generator, on_row: OnRow | None
) -> None:
    """Action and direction from windows, on what the finished frame part says of their frames."""
    probe.eval()
    rows: list[Tensor] = []
    labels: dict[str, list[int]] = {"action": [], "direction": []}
    for _ in range(config.num_windows):
        window = draw_windows(rng, 1)
        frames = window.frames[0]
        if rng.random() < 0.5:
            frames = to_uint8(soften(to_tensor(frames), int(rng.integers(2, 5))))
        _, logits, position = probe.read_frames(frames)
        rows.append(window_inputs(frames, logits, position, 0))
        for name, numbers in labels.items():
            numbers.append(int(window.labels[name][0]))
    inputs = torch.stack(rows)
    targets = {name: torch.tensor(numbers) for name, numbers in labels.items()}
    optimizer = torch.optim.AdamW(probe.window.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.num_window_steps + 1
    )
    probe.window.train()
    for step in range(config.num_window_steps):
        picked = torch.from_numpy(rng.integers(len(inputs), size=config.batch_size))
        logits = probe.window(inputs[picked])
        loss = torch.zeros(())
        for name, values in logits.items():
            if (targets[name][picked] >= 0).any():
                loss = loss + nn.functional.cross_entropy(
                    values, targets[name][picked], ignore_index=-1
                )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_row is not None and step % 500 == 499:
            on_row({"window_step": step + 1, "loss": float(loss.detach())})
    probe.eval()
