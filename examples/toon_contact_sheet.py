"""Draw a story of the toon world as one picture: two frames a second, each with its caption.

python examples/toon_contact_sheet.py --output sheet.png --seed 7
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from nuwaxl.toon import FRAME_SIZE, Story, canonical_caption, render_frames, sample_story

MARGIN = 4
LABEL = 14


def contact_sheet(story: Story, *, seconds_apart: float, columns: int) -> Image.Image:
    """Frames of `story` in rows of `columns`; a caption stands where a scene begins."""
    times = np.arange(0.0, story.duration, seconds_apart)
    rows = -(-len(times) // columns)
    step_x, step_y = FRAME_SIZE + MARGIN, FRAME_SIZE + MARGIN + LABEL
    sheet = Image.new("RGB", (columns * step_x + MARGIN, rows * step_y + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    shown = -1
    for number, (time, frame) in enumerate(zip(times, render_frames(story, times), strict=True)):
        x = MARGIN + number % columns * step_x
        y = MARGIN + number // columns * step_y
        sheet.paste(Image.fromarray(frame), (x, y + LABEL))
        index = story.scene_index_at(float(time))
        if index != shown or number % columns == 0:
            # White behind the text: the caption of a short scene ends where the next begins.
            draw.rectangle((x, y, sheet.width, y + LABEL - 1), fill="white")
            draw.text((x, y), f"{time:.1f} s  {canonical_caption(story.scenes[index])}", "black")
            shown = index
    return sheet


def main() -> None:
    """Read the arguments, write the picture."""
    parser = argparse.ArgumentParser(description="Draw a story of the toon world as one picture.")
    parser.add_argument("--output", type=Path, default=Path("toon_contact_sheet.png"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the story")
    parser.add_argument("--held-out", action="store_true", help="only what training never sees")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    story = sample_story(rng, args.seconds, held_out=args.held_out)
    contact_sheet(story, seconds_apart=0.5, columns=10).save(args.output)
    print(args.output)


if __name__ == "__main__":
    main()
