"""Scenes with durations: look at the keyframes first, then make the film they belong to.

python examples/storyline.py --seconds-per-scene 4
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nuwaxl import (
    LongVideoPipeline,
    MemoryStore,
    SamplingConfig,
    Storyline,
    contact_sheet,
    write_video,
)

PROMPTS = [
    "a robot walks to the right in the city by day",
    "the robot walks to the right on the beach at sunset",
    "the robot walks to the right through the city at night",
]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Scenes to a film, keyframes first.")
    parser.add_argument("--seconds-per-scene", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=20, help="denoising steps per run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="folder of a checkpoint; else the bundled one")
    parser.add_argument("--output", type=Path, default=Path("storyline.mp4"))
    args = parser.parse_args(argv)

    pipeline = LongVideoPipeline.from_pretrained(args.model)
    fps = pipeline.config["fps"]
    scenes = [{"prompt": prompt, "duration": args.seconds_per_scene} for prompt in PROMPTS]
    storyline = Storyline.parse(scenes, len(PROMPTS) * args.seconds_per_scene)
    film = pipeline.film(
        storyline,
        num_frames=max(1, round(len(PROMPTS) * args.seconds_per_scene * fps)),
        sampling=SamplingConfig(num_inference_steps=args.steps),
        seed=args.seed,
        # Keeps what the preview has made, so that the film goes on from it.
        store=MemoryStore(keep_released=True),
    )
    with film:
        numbers = film.timeline.keyframes
        keyframes = list(film.frames(max_level=0))
        labels = [f"{n / fps:.1f}s {storyline.prompt_at(n / fps)}" for n in numbers]
        preview = args.output.with_suffix(".png")
        contact_sheet(keyframes, columns=4, labels=labels).save(preview)
        print(f"{preview}: {len(keyframes)} keyframes after one run")

        write_video(film.frames(), args.output, fps, overwrite=True)
    print(
        f"{args.output}: {film.timeline.num_frames} frames from {film.timeline.num_segments} runs"
    )


if __name__ == "__main__":
    main()
