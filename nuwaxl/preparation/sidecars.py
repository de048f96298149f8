"""Captions that lie beside a video: NAME.json, NAME.srt or NAME.txt.

Knows text and times, not pictures.
"""

import json
import re
from pathlib import Path

import av

from nuwaxl.tree.storyline import Scene, Storyline

SUFFIXES = (".json", ".srt", ".txt")
"""The first that is there counts."""


def find_sidecar(video: Path) -> Path | None:
    """The file that holds a video's captions, if there is one.

    Args:
        video: `clips/dog.mp4` has `clips/dog.json` and so on.
    """
    found = (video.with_suffix(suffix) for suffix in SUFFIXES)
    return next((path for path in found if path.is_file()), None)


def read_sidecar(path: Path, duration: float) -> Storyline:
    """What is seen when.

    Args:
        path: .txt: one caption for the whole video. .srt: each holds until the next begins, the
            first one from the start. .json: whatever a story can be (`Storyline.parse`): a text,
            texts that share the video equally, {time: text}, scenes; or {"caption": text}.
        duration: of the video in seconds.

    Raises:
        ValueError: the file is empty, malformed or not UTF-8.
        OSError: it cannot be read.
    """
    try:
        if path.suffix == ".srt":
            return _read_subtitles(path, duration)
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".txt":
            return Storyline.parse(" ".join(text.split()), duration)
        story = json.loads(text)
        if isinstance(story, dict) and set(story) == {"caption"}:
            story = story["caption"]
        if not isinstance(story, str | list | dict):
            raise ValueError(f"a caption is text, got {story!r}.")
        return Storyline.parse(story, duration)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is malformed JSON: {error}.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is not UTF-8 text.") from None
    except ValueError as error:
        raise ValueError(f"{path.name} holds no captions: {error}") from None


def _read_subtitles(path: Path, duration: float) -> Storyline:
    texts: dict[float, str] = {}
    try:
        with av.open(str(path.absolute()), format="srt") as container:
            for packet in container.demux():
                if packet.size and packet.pts is not None and packet.time_base is not None:
                    text = re.sub(r"<[^>]*>|\{\\[^}]*\}", "", bytes(packet).decode("utf-8"))
                    start = float(packet.pts * packet.time_base)
                    texts[start] = " ".join(f"{texts.get(start, '')} {text}".split())
    except av.FFmpegError as error:
        raise ValueError(f"{error.strerror}.") from None
    # Subtitles may go on where the pictures have ended.
    shown = [(start, text) for start, text in sorted(texts.items()) if text and start < duration]
    if not shown:
        raise ValueError("no subtitle begins before the video ends.")
    starts = [0.0, *(start for start, _ in shown[1:])]
    return Storyline(
        tuple(Scene(start, text) for start, (_, text) in zip(starts, shown, strict=True))
    )
