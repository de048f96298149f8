"""Image to video: pictures pinned to moments of a film, which is made to run through them.

python examples/image_to_video.py --image start.png --last-image end.png --length 6s

A pinned picture is cut to the film's shape and shown as the autoencoder rebuilds it. Without
--image the toon world draws one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from nuwaxl import LongVideoPipeline, SamplingConfig, write_video
from nuwaxl.toon import Scene, canonical_caption
from nuwaxl.toon.render import render
from nuwaxl.tree.storyline import parse_length

SCENE = Scene("car", "city", "night", "drive", "right", start=0.0, duration=60.0)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A film through given pictures.")
    parser.add_argument("--image", type=Path, help="what the first frame shows")
    parser.add_argument("--last-image", type=Path, help="what the last frame shows")
    parser.add_argument("--prompt", default=canonical_caption(SCENE))
    parser.add_argument("--length", default="4s", help="frames (32) or a time (4s)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps per run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="folder of a checkpoint; else the bundled one")
    parser.add_argument("--output", type=Path, default=Path("image_to_video.mp4"))
    args = parser.parse_args(argv)

    pipeline = LongVideoPipeline.from_pretrained(args.model)
    fps = pipeline.config["fps"]
    num_frames = parse_length(args.length, fps)
    # Frame number -> picture; any number of them, anywhere.
    images: dict[int | str, Image.Image | np.ndarray | Path] = {
        0: args.image or render(SCENE.state_at(0.0))
    }
    if args.last_image:
        images[num_frames - 1] = args.last_image
    frames = pipeline.stream(
        args.prompt,
        num_frames,
        images=images,
        sampling=SamplingConfig(num_inference_steps=args.steps),
        seed=args.seed,
    )
    write_video(frames, args.output, fps, overwrite=True)
    print(f"{args.output}: {num_frames} frames, {len(images)} of them pinned")


if __name__ == "__main__":
    main()
