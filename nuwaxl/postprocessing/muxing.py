"""Sound and subtitles into a film's file; its pictures are copied bit for bit.

Knows containers, sound and cues, not pictures. Everything is read and written as it comes, in
memory that does not grow with the film.
"""

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
from av.subtitles.subtitle import SubtitleSet

from nuwaxl.postprocessing.captions import Cue
from nuwaxl.video.encoders import FORMATS
from nuwaxl.video.output import OutputKind, check_free, output_kind

_SAMPLE_RATE = 48_000
_SOUND_CODECS = {OutputKind.MP4: "aac", OutputKind.MKV: "libopus", OutputKind.WEBM: "libopus"}
_TEXT_CODECS = {OutputKind.MP4: "mov_text", OutputKind.MKV: "subrip"}
_BIT_RATE = 160_000
_TEXT_TIME_BASE = Fraction(1, 1000)
# How texts look where the player asks the file: what FFmpeg writes for a plain SubRip file.
_ASS_HEADER = """[Script Info]
ScriptType: v4.00+
PlayResX: 384
PlayResY: 288

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, \
Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, \
Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def check_sound(path: str | os.PathLike[str]) -> None:
    """Refuse a file that has no sound to give.

    Args:
        path: anything that FFmpeg reads.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is no such file, or it has no sound.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"There is no sound file '{source}'.")
    try:
        with av.open(str(source.absolute())) as container:
            if container.streams.audio and next(container.decode(audio=0), None) is not None:
                return
    except av.FFmpegError as error:
        raise ValueError(f"'{source}' cannot be read as sound: {error.strerror}.") from error
    raise ValueError(f"'{source}' holds no sound: name a file such as .mp3, .wav, .flac or .m4a.")


def check_streams(path: str | os.PathLike[str], *, sound: bool, subtitles: bool) -> None:
    """Refuse a kind of film that cannot hold what is to be added.

    Args:
        path: of the film.
        sound: whether sound is to be added.
        subtitles: whether a subtitle stream is to be added.

    Raises:
        ValueError: it cannot.
    """
    kind = output_kind(path)
    added = ((sound, "sound", _SOUND_CODECS), (subtitles, "subtitles", _TEXT_CODECS))
    for asked, what, able in added:
        if asked and kind not in able:
            endings = ", ".join(sorted(known.value for known in able))
            raise ValueError(f"{what} can be kept in {endings}, got {os.fspath(path)!r}.")


def mux(
    film: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    sound: str | os.PathLike[str] | None = None,
    cues: Sequence[Cue] = (),
    overwrite: bool = False,
) -> None:
    """Write a film anew with a sound track, subtitles or both.

    Sound is repeated or cut to the film's length, in stereo at 48 kHz, as AAC in .mp4 and as Opus
    in .mkv and .webm; without `sound` the film keeps its own. Subtitles are a stream that players
    switch on and off, in .mp4 and .mkv.

    Args:
        film: to be read; its pictures fit the container of `output`.
        output: to be written; may be `film` itself with `overwrite`.
        sound: file with the sound; None: the film's own, if it has any.
        cues: subtitles in order of time.
        overwrite: replace what is there.

    Raises:
        ValueError: a file cannot be read, or `output` cannot hold what is to be added.
        FileExistsError: `output` is there and `overwrite` is off.
    """
    if sound is not None:
        check_sound(sound)
    check_streams(output, sound=sound is not None, subtitles=bool(cues))
    kind, target = output_kind(output), Path(output).absolute()
    check_free(target, kind, overwrite=overwrite)
    hidden = target.with_name(f".nuwaxl-{uuid4().hex}{kind.value}")
    try:
        _write(Path(film), hidden, kind, None if sound is None else Path(sound), cues)
        check_free(target, kind, overwrite=overwrite)
        os.replace(hidden, target)
    finally:
        hidden.unlink(missing_ok=True)


def _write(
    film: Path, target: Path, kind: OutputKind, sound: Path | None, cues: Sequence[Cue]
) -> None:
    options = {"fflags": "+bitexact"}
    if kind is OutputKind.MP4:
        # Not in fragments, as films are written at first: FFmpeg's muxer fails on subtitles in
        # them, and sound needs the edit list that hides what warms its decoder up.
        options["movflags"] = "+faststart"
    try:
        source = av.open(str(film.absolute()))
    except av.FFmpegError as error:
        raise ValueError(f"'{film}' cannot be read as a film: {error.strerror}.") from error
    with source, av.open(str(target), "w", format=FORMATS[kind], options=options) as container:
        if not source.streams.video:
            raise ValueError(f"'{film}' holds no pictures.")
        pictures = source.streams.video[0]
        kept = [pictures, *([] if sound else source.streams.audio[:1])]
        streams = {s.index: container.add_stream_from_template(s, opaque=True) for s in kept}
        added = None if sound is None else _add_sound(container, kind)
        # Encoded before the header is written, which tells how texts look.
        pending_texts = iter(_text_packets(container, kind, cues) if cues else ())
        container.start_encoding()
        pending_sound = iter(()) if sound is None else _sound_packets(sound, added)
        waiting: dict[int, Any] = {}
        end = Fraction(0)
        for packet in source.demux(kept):
            if packet.dts is None:
                continue
            now = packet.dts * packet.time_base
            for which, packets in enumerate((pending_texts, pending_sound)):
                _mux_until(container, packets, now, waiting, which)
            if packet.stream is pictures:
                shown_until: Any = packet.dts if packet.pts is None else packet.pts
                end = max(end, (shown_until + (packet.duration or 0)) * packet.time_base)
            packet.stream = streams[packet.stream.index]
            container.mux(packet)
        for which, packets in enumerate((pending_texts, pending_sound)):
            _mux_until(container, packets, end, waiting, which)


def _mux_until(
    container: Any, packets: Iterator[Any], end: Fraction, waiting: dict[int, Any], which: int
) -> None:
    """Write packets that begin before `end`; the next one waits under `which`."""
    while True:
        packet = waiting.pop(which, None) or next(packets, None)
        if packet is None:
            return
        if packet.pts * packet.time_base >= end:
            waiting[which] = packet
            return
        container.mux(packet)


def _add_sound(container: Any, kind: OutputKind) -> Any:
    stream = container.add_stream(_SOUND_CODECS[kind], rate=_SAMPLE_RATE, layout="stereo")
    stream.codec_context.bit_rate = _BIT_RATE
    stream.codec_context.thread_count = 1
    return stream


def _sound_packets(path: Path, stream: Any) -> Iterator[Any]:
    """The sound again and again, encoded; never ends unless nothing can be read."""
    codec = stream.codec_context
    fifo, written = av.AudioFifo(), 0
    size = codec.frame_size or 1024
    for frame in _endless_sound(path, codec):
        frame.pts = None
        fifo.write(frame)
        while (part := fifo.read(size)) is not None:
            part.pts, part.time_base, part.sample_rate = (
                written,
                Fraction(1, _SAMPLE_RATE),
                _SAMPLE_RATE,
            )
            written += part.samples
            for packet in codec.encode(part):
                packet.stream = stream
                yield packet


def _endless_sound(path: Path, codec: Any) -> Iterator[Any]:
    while True:
        resampler = av.AudioResampler(format=codec.format, layout="stereo", rate=_SAMPLE_RATE)
        heard = 0
        with av.open(str(path.absolute())) as container:
            for frame in container.decode(audio=0):
                frame.pts = None
                for part in resampler.resample(frame):
                    heard += part.samples
                    yield part
            for part in resampler.resample(None):
                heard += part.samples
                yield part
        if not heard:
            raise ValueError(f"'{path}' holds no sound.")


def _text_packets(container: Any, kind: OutputKind, cues: Sequence[Cue]) -> list[Any]:
    """A subtitle stream for `container`, and its packets: one for each scene of the film."""
    stream = container.add_stream(_TEXT_CODECS[kind])
    codec = stream.codec_context
    codec.subtitle_header = _ASS_HEADER.encode()
    codec.time_base = stream.time_base = _TEXT_TIME_BASE
    packets = []
    for number, cue in enumerate(cues):
        start, stop = (round(1000 * time) for time in (cue.start, cue.stop))
        # Braces and backslashes would be taken for styles.
        text = cue.text.translate(str.maketrans({"{": "(", "}": ")", "\\": "/"}))
        packet = codec.encode_subtitle(
            SubtitleSet.create(
                text=f"{number},0,Default,,0,0,0,,{text}".encode(), start=0, end=stop - start
            )
        )
        packet.pts = packet.dts = start
        packet.duration, packet.time_base, packet.stream = stop - start, _TEXT_TIME_BASE, stream
        packets.append(packet)
    return packets
