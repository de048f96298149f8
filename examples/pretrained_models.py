"""A long film by pretrained models: pictures for the keyframes, a video model between them.

Run on a GPU: python examples/pretrained_models.py \
    --global-model stills=stabilityai/stable-diffusion-xl-base-1.0 --local-model wan-vace
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from nuwaxl import BackendPipeline, SamplingConfig, VideoWriter

STORY = [
    "a paper boat floats on a quiet stream through a green forest, morning light",
    "a paper boat floats under a stone bridge, a cat watches from above",
    "a paper boat floats out to sea at sunset",
]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--global-model", required=True)
    parser.add_argument("--local-model", required=True)
    parser.add_argument("--length", default="481")
    parser.add_argument("--size", default=None, help="WIDTHxHEIGHT")
    parser.add_argument("--segment-length", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--offload", default=None, help="model, sequential or group")
    parser.add_argument("--output", default="pretrained.mp4")
    options = parser.parse_args(argv)

    pipeline = BackendPipeline.from_names(
        global_model=options.global_model,
        local_model=options.local_model,
        size=options.size,
        segment_length=options.segment_length,
        device=options.device,
        offload=options.offload,
    )
    sampling = SamplingConfig(**pipeline.choice.sampling_defaults)  # pyright: ignore[reportArgumentType]
    if options.steps is not None:
        sampling = replace(sampling, num_inference_steps=options.steps)
    with (
        pipeline.film(STORY, length=options.length, sampling=sampling) as film,
        VideoWriter(options.output, film.fps, overwrite=True) as writer,
    ):
        for frame in film.frames():
            writer.write(frame)
    print(f"{options.output}: {film.timeline.num_frames} frames, {film.timeline.num_segments} runs")


if __name__ == "__main__":
    main()
