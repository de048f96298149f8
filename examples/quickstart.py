"""One prompt to a film and its contact sheet.

python examples/quickstart.py --prompt "a cat walks across the meadow at sunset" --length 8s
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nuwaxl import LongVideoPipeline, contact_sheet, write_video


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="One prompt to a film and its contact sheet.")
    parser.add_argument("--prompt", default="a penguin walks to the left in the snow by day")
    parser.add_argument("--length", default="8s", help="frames (64) or a time (8s, 1m30s)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps per run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="folder of a checkpoint; else the bundled one")
    parser.add_argument("--output", type=Path, default=Path("quickstart.mp4"))
    args = parser.parse_args(argv)

    pipeline = LongVideoPipeline.from_pretrained(args.model)
    # A call holds the whole film in memory; for a long one see stream_to_file.py.
    result = pipeline(
        args.prompt, length=args.length, num_inference_steps=args.steps, seed=args.seed
    )
    pictures = (result.frames[0] * 255).round().astype("uint8")
    write_video(pictures, args.output, pipeline.config["fps"], overwrite=True)
    sheet = contact_sheet(pictures[:: max(1, len(pictures) // 12)], columns=6)
    sheet.save(args.output.with_suffix(".png"))
    print(f"{args.output}: {len(pictures)} frames")


if __name__ == "__main__":
    main()
