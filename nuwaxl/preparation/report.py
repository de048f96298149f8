"""What a prepared folder holds and what was left out, as a page of text.

Knows the manifest's lines and failures, not how they came about.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nuwaxl.data.prepared import PreparedVideo
from nuwaxl.preparation.settings import PrepareConfig
from nuwaxl.preparation.workers import Failure
from nuwaxl.tree.storyline import format_time


@dataclass(frozen=True)
class Report:
    """The outcome of a preparation."""

    config: PrepareConfig
    videos: Sequence[PreparedVideo]
    """All that are done, in the manifest's order; those of which nothing is left, too."""
    failures: Sequence[Failure] = ()
    num_new: int = 0
    """Videos that this run did; the others were there."""
    num_bytes: int = 0
    """Size of all shards."""
    num_other_files: int = 0
    """Files in the folder that are no videos by their names."""
    gone: Sequence[str] = field(default_factory=list)
    """Videos that are in the dataset and no longer in the folder."""

    @property
    def kept(self) -> list[PreparedVideo]:
        """Videos of which pictures are in the dataset."""
        return [video for video in self.videos if video.num_frames]

    def __str__(self) -> str:
        """The report as text."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        kept, config = self.kept, self.config
        frames = sum(video.num_frames for video in kept)
        shots = sum(len(video.shots) for video in kept)
        seconds = sum(shot.end - shot.start for video in kept for shot in video.shots)
        total = len(self.videos) + len(self.failures)
        yield f"videos     {len(kept)} of {total} kept ({self.num_new} prepared in this run)"
        yield f"length     {_length(seconds)} in {count(shots, 'shot')}{self._longest()}"
        yield (
            f"pictures   {frames:,} of {config.size}x{config.size} at up to {config.fps:g} per "
            f"second, {self.num_bytes / 1e6:.1f} MB"
        )
        yield from self._captions()
        yield from self._dropped()
        empty = [video for video in self.videos if not video.num_frames]
        yield from _listed("nothing left of", [(v.video, _reasons(v)) for v in empty])
        yield from _listed("left out", [(f.video, f.reason) for f in self.failures])
        notes = [(video.video, "; ".join(video.notes)) for video in kept if video.notes]
        yield from _listed("read, but", notes)
        yield from _listed("no longer in the folder", [(name, "kept") for name in self.gone])
        if self.num_other_files:
            yield f"not looked at: {count(self.num_other_files, 'file')} not named like a video"

    def _longest(self) -> str:
        if not self.kept:
            return ""
        longest = max(self.kept, key=lambda video: video.duration)
        return f"; the longest video is {longest.video}, {_length(longest.duration)}"

    def _captions(self) -> Iterator[str]:
        by = {kind: 0 for kind in ("sidecar", "captioner", "")}
        texts: set[str] = set()
        for video in self.kept:
            by[video.captioned_by] += 1
            texts |= {text for _, text in video.captions}
        yield (
            f"captions   {len(texts - {''})} different; "
            f"{count(by['sidecar'], 'video')} from files, "
            f"{by['captioner']} by the captioner, {by['']} without"
        )
        if by[""]:
            names = [video.video for video in self.kept if not video.captioned_by]
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            yield (
                f"           without: {', '.join(names[:5])}{more}; put NAME.txt, .srt or .json "
                "beside them, or give a captioner"
            )

    def _dropped(self) -> Iterator[str]:
        by_reason: dict[str, list[float]] = defaultdict(list)
        for video in self.videos:
            for shot in video.dropped:
                by_reason[shot["reason"]].append(shot["end"] - shot["start"])
        for reason, lengths in sorted(by_reason.items()):
            yield f"dropped    {count(len(lengths), 'shot')}, {_length(sum(lengths))}: {reason}"


def _reasons(video: PreparedVideo) -> str:
    return "; ".join(sorted({shot["reason"] for shot in video.dropped})) or "no picture"


def _listed(title: str, entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    if entries:
        yield f"{title}:"
        for name, reason in sorted(entries):
            yield f"  {name}: {reason}"


def count(number: int, noun: str) -> str:
    """'1 shot', '2,000 shots'.

    Args:
        number: how many.
        noun: of one.
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _length(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else format_time(round(seconds, 1))
