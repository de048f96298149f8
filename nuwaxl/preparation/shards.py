"""A scanned video to its WebDataset shard, its index and its line of the manifest.

Knows one video and what is to be left out of it, not why.
"""

import io
import json
import math
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from nuwaxl.data.prepared import FRAME_INDEX, PreparedVideo, Shot
from nuwaxl.preparation.duplicates import shot_hash
from nuwaxl.preparation.scan import TEMPORARY, Scan, encode_picture, write_whole
from nuwaxl.preparation.settings import PrepareConfig
from nuwaxl.tree.storyline import Storyline

Caption = Callable[[Sequence[UInt8[np.ndarray, "height width 3"]]], list[str]]


def pack_video(
    scan: Scan,
    pictures: Path,
    shards: Path,
    config: PrepareConfig,
    *,
    left_out: Mapping[int, str],
    told: Storyline | None = None,
    caption: Caption | None = None,
    notes: Sequence[str] = (),
) -> PreparedVideo:
    """Write `KEY.tar`, `KEY.npy` and, last, `KEY.json`, with which the video is done.

    Args:
        scan: what was read of the video.
        pictures: the scan's file of pictures.
        shards: folder of all shards.
        config: size and format of the pictures; how often to caption.
        left_out: number of a shot -> why it is left out.
        told: captions that came with the video.
        caption: makes them, where none came.
        notes: further ones.
    """
    shots: list[Shot] = []
    dropped: list[dict[str, Any]] = []
    kept: list[int] = []
    ends = [*scan.shot_starts[1:], scan.duration]
    for number, (start, end) in enumerate(zip(scan.shot_starts, ends, strict=True)):
        frames = scan.frames_of(number)
        if number in left_out:
            dropped.append({"start": start, "end": end, "reason": left_out[number]})
        elif frames:
            own = shot_hash(scan.hashes[frames.start : frames.stop])
            shots.append(Shot(start, end, len(kept), len(frames), own))
            kept += frames
    times = [scan.times[frame] for frame in kept]
    captions: list[tuple[int, str]] = []
    with pictures.open("rb") as file:

        def picture(frame: int) -> bytes:
            file.seek(scan.offsets[kept[frame]])
            return file.read(scan.sizes[kept[frame]])

        if told is not None:
            captions = _runs([told.prompt_at(time) for time in times])
        elif caption is not None and kept:
            captions = _make_captions(shots, times, picture, caption, config.caption_seconds)
        video = PreparedVideo(
            video=scan.video,
            key=scan.key,
            duration=scan.duration,
            num_frames=len(kept),
            shots=tuple(shots),
            captions=tuple(captions),
            captioned_by="" if not captions else "sidecar" if told is not None else "captioner",
            dropped=tuple(dropped),
            notes=(*scan.notes, *notes),
            source=scan.source,
        )
        # Another version of the video may be there: without this file it does not count.
        (shards / f"{scan.key}.json").unlink(missing_ok=True)
        if kept:
            _write_shard(video, times, picture, shards, config, scan.side)
    write_whole(shards / f"{scan.key}.json", json.dumps(asdict(video)).encode())
    return video


def _write_shard(
    video: PreparedVideo,
    times: Sequence[float],
    picture: Callable[[int], bytes],
    shards: Path,
    config: PrepareConfig,
    side: int,
) -> None:
    index = np.zeros(len(times), FRAME_INDEX)
    shot_numbers = np.repeat(np.arange(len(video.shots)), [s.num_frames for s in video.shots])
    fresh = shards / f"{video.key}.tar{TEMPORARY}"
    try:
        with fresh.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for frame, time in enumerate(times):
                    data = picture(frame)
                    if side != config.size:
                        data = _brought_to_size(data, config)
                    facts = {
                        "video": video.video,
                        "time": round(time, 6),
                        "shot": int(shot_numbers[frame]),
                        "caption": video.caption_at(frame),
                    }
                    name = f"{video.key}/{frame:07d}"
                    # A name this short takes one block of header.
                    index[frame] = (time, file.tell() + tarfile.BLOCKSIZE, len(data))
                    _add(tar, f"{name}.{config.format}", data)
                    _add(tar, f"{name}.json", json.dumps(facts).encode())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(shards / f"{video.key}.tar")
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    buffer = io.BytesIO()
    np.save(buffer, index)
    write_whole(shards / f"{video.key}.npy", buffer.getvalue())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # Neither date nor owner: the same video gives the same bytes.
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _brought_to_size(data: bytes, config: PrepareConfig) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB").resize((config.size, config.size), Image.Resampling.LANCZOS)
    return encode_picture(np.asarray(small), config.format, config.quality)


def _make_captions(
    shots: Sequence[Shot],
    times: Sequence[float],
    picture: Callable[[int], bytes],
    caption: Caption,
    seconds: float,
) -> list[tuple[int, str]]:
    """Captions of the shots: of their middle picture, or of one every so many seconds."""
    shown: list[tuple[int, int]] = []  # (first picture that it is true of, picture captioned)
    for shot in shots:
        frames = range(shot.first, shot.first + shot.num_frames)
        if math.isinf(seconds):
            shown.append((frames[0], frames[len(frames) // 2]))
            continue
        due = times[frames[0]]
        for frame in frames:
            if times[frame] >= due - 1e-6:
                shown.append((frame, frame))
                due = times[frame] + seconds
    captions = [""] * len(times)
    for at in range(0, len(shown), 64):  # so that an hour's pictures are never held at once
        part = shown[at : at + 64]
        texts = caption([_decoded(picture(frame)) for _, frame in part])
        stops = [first for first, _ in shown[at + 1 : at + 65]]
        stops += [len(times)] * (len(part) - len(stops))
        for (first, _), stop, text in zip(part, stops, texts, strict=True):
            captions[first:stop] = [text] * (stop - first)
    return _runs(captions)


def _decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _runs(captions: Sequence[str]) -> list[tuple[int, str]]:
    """Captions of all pictures as (first picture, caption), without repeating one; none if empty.

    An empty one counts, so that a caption does not reach over pictures that have none.
    """
    runs = [
        (frame, text)
        for frame, text in enumerate(captions)
        if frame == 0 or text != captions[frame - 1]
    ]
    return runs if any(text for _, text in runs) else []
