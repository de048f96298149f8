"""A film of any length in memory that does not grow: each frame is written as it is finished.

python examples/stream_to_file.py --length 10m --output long.mp4
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from nuwaxl import LongVideoPipeline, SamplingConfig, VideoWriter

# Several prompts share the film equally.
PROMPTS = [
    "a horse runs through the meadow by day",
    "a penguin walks across the snowy hills at sunset",
    "a rocket flies through space",
]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A film of any length, written as it is made.")
    parser.add_argument("--prompt", action="append", help="may be given several times")
    parser.add_argument("--length", default="1m", help="frames (480) or a time (1m, 2h)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps per run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="folder of a checkpoint; else the bundled one")
    parser.add_argument("--output", type=Path, default=Path("stream.mp4"))
    args = parser.parse_args(argv)

    pipeline = LongVideoPipeline.from_pretrained(args.model)
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline.stream(
        args.prompt or PROMPTS,
        length=args.length,
        sampling=SamplingConfig(num_inference_steps=args.steps),
        seed=args.seed,
    )
    started = time.monotonic()
    # Stopped by Ctrl-C, the beginning stays as NAME.partial.mp4 and plays.
    with VideoWriter(
        args.output, pipeline.config["fps"], overwrite=True, keep_partial=True
    ) as writer:
        for frame in frames:
            writer.write(frame)
            if writer.num_frames in (1, 10, 100) or writer.num_frames % 1000 == 0:
                print(f"frame {writer.num_frames} after {time.monotonic() - started:.1f} s")
    print(f"{args.output}: {writer.num_frames} frames")


if __name__ == "__main__":
    main()
