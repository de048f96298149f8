"""A film end to end: frames per second, where the time goes, runs and FLOPs per frame.

python -m benchmarks.films --frames 226
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe
from nuwaxl.pipeline import LongVideoPipeline
from nuwaxl.sampling import SamplingConfig
from nuwaxl.video import VideoWriter

PROMPTS = ["a dog runs across the beach at sunset", "a dog walks through the city at night"]


class Clock:
    """Seconds spent inside wrapped calls, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, timed as `name`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - start
                self.calls[name] += 1

        return timed


def flops_per_frame(pipeline: LongVideoPipeline, sampling: SamplingConfig) -> dict[str, float]:
    """GFLOP of one frame in each part, by counting one full segment."""
    length = pipeline.config["segment_length"]
    channels, height, width = pipeline.latent_shape(
        pipeline.config["height"], pipeline.config["width"]
    )
    latents = torch.randn(1, length, channels, height, width)
    dim = pipeline.local_unet.config.cross_attention_dim
    adapter = pipeline.prompt_adapter
    tokens = adapter.config["num_tokens"] if adapter is not None else 77
    embeds = torch.randn(1, length, tokens, dim)
    times = torch.arange(length)[None] / 8.0
    counts = {}
    for level, unet in enumerate((pipeline.global_unet, pipeline.local_unet)):
        settings = sampling.for_level(level)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            unet(latents, torch.tensor([1]), embeds, frame_times=times)
        passes = settings.num_inference_steps * (1 if settings.guidance_scale == 1 else 2)
        counts["keyframes" if level == 0 else "between"] = (
            counter.get_total_flops() * passes / length / 1e9
        )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        pipeline.vae.decode_latents(latents)
    counts["decoder"] = counter.get_total_flops() / length / 1e9
    return counts


def measure(pipeline: LongVideoPipeline, num_frames: int, sampling: SamplingConfig) -> dict:
    """Make one film to a file and say where the time went."""
    clock = Clock()
    for name, module in (
        ("U-Nets", pipeline.global_unet),
        ("U-Nets", pipeline.local_unet),
        ("text", pipeline.text_encoder),
    ):
        module.forward = clock.wrap(name, module.forward)
    pipeline.vae.decode_latents = clock.wrap("decoder", pipeline.vae.decode_latents)
    start = time.perf_counter()
    film = pipeline.film(PROMPTS, num_frames, sampling=sampling)
    with (
        tempfile.TemporaryDirectory() as folder,
        film,
        VideoWriter(Path(folder) / "film.mp4", film.fps) as writer,
    ):
        write = clock.wrap("writing", writer.write)
        for picture in film.frames():
            write(picture)
    total = time.perf_counter() - start
    for module in (pipeline.global_unet, pipeline.local_unet, pipeline.text_encoder):
        del module.forward
    del pipeline.vae.decode_latents
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e6 if sys.platform != "darwin" else 1e9
    )
    return {
        "frames": num_frames,
        "runs": film.timeline.num_segments,
        "frames_evaluated": film.timeline.frames_evaluated,
        "seconds": round(total, 2),
        "frames_per_second": round(num_frames / total, 2),
        "shares": {name: round(value / total, 3) for name, value in clock.seconds.items()},
        "peak_gigabytes": round(peak, 2),
    }


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 226])
    parser.add_argument("--model", default=None, help="folder of a checkpoint; default: bundled")
    parser.add_argument("--output", default=None, help="JSON file")
    options = parser.parse_args(arguments)
    pipeline = LongVideoPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    sampling = SamplingConfig()
    measure(pipeline, 17, sampling)  # warm-up: first calls choose kernels
    result = {
        "machine": describe(),
        "sampling": sampling.fingerprint(),
        "gflop_per_frame": flops_per_frame(pipeline, sampling),
        "films": [measure(pipeline, frames, sampling) for frames in options.frames],
    }
    print(json.dumps(result, indent=1))
    if options.output:
        Path(options.output).write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
