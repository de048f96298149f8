"""From a folder of videos to a dataset: scan, leave out, caption, pack, report.

Knows the folders and what is done already; a video is done whole or not at all, so a run that was
killed goes on where it was, and what one video lacks costs the others nothing.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nuwaxl.data.prepared import PreparedVideo
from nuwaxl.preparation.duplicates import ShotPrint, find_duplicates, shot_hash
from nuwaxl.preparation.report import Report, count
from nuwaxl.preparation.scan import TEMPORARY, Scan, ScanTask, read_scan, write_whole
from nuwaxl.preparation.settings import PrepareConfig
from nuwaxl.preparation.shards import Caption, pack_video
from nuwaxl.preparation.sidecars import find_sidecar, read_sidecar
from nuwaxl.preparation.workers import Failure, failure_of, scan_all
from nuwaxl.stores.folder_lock import LOCK, FolderLock
from nuwaxl.tree.storyline import Storyline

VIDEO_SUFFIXES = frozenset({
    ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m1v", ".m2ts", ".m2v",
    ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv",
    ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
})  # fmt: skip
_STATIC = "near-static"


@dataclass(frozen=True)
class Found:
    """What lies in a folder."""

    videos: dict[str, Path]
    """By their path in the folder, in order."""
    failures: tuple[Failure, ...]
    """Folders that cannot be looked into."""
    num_other_files: int


def find_videos(folder: Path, *, leave_out: Path | None = None) -> Found:
    """All videos of a folder and its subfolders, by their names; hidden ones are passed over.

    Args:
        folder: where to look.
        leave_out: a folder that is not entered.

    Raises:
        ValueError: the folder is none, or holds no video.
    """
    if not folder.is_dir():
        raise ValueError(f"FOLDER must be a folder with videos, got '{folder}'.")
    videos: dict[str, Path] = {}
    failures: list[Failure] = []
    others = 0

    def refused(error: OSError) -> None:
        name = Path(error.filename).relative_to(folder).as_posix()
        failures.append(Failure(f"{name}/", (error.strerror or "cannot be read").lower()))

    entered = {folder.resolve(), leave_out.resolve() if leave_out else None}
    for root, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        below = {name: (Path(root) / name).resolve() for name in sorted(folders)}
        # A link may lead back up: every folder is entered once.
        folders[:] = [
            name for name, real in below.items() if not name.startswith(".") and real not in entered
        ]
        entered |= {below[name] for name in folders}
        for name in sorted(names):
            path = Path(root) / name
            if name.startswith(".") or path.suffix.lower() not in VIDEO_SUFFIXES:
                others += path.suffix.lower() not in (".json", ".srt", ".txt")
            else:
                videos[path.relative_to(folder).as_posix()] = path
    if not videos and not failures:
        raise ValueError(
            f"FOLDER must hold videos (.mp4, .mkv, .webm, .mov and so on), got none in '{folder}'."
        )
    return Found(videos, tuple(failures), others)


def prepare(
    folder: Path,
    output: Path,
    config: PrepareConfig,
    *,
    workers: int = 1,
    caption: Caption | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Report:
    """Prepare every video of a folder that is not prepared yet.

    Args:
        folder: of the videos, which stay as they are.
        output: of the dataset; made, or gone on with.
        config: what it is to hold.
        workers: processes that read videos.
        caption: pictures to captions, for videos that bring none; made from `config.captioner`.
        on_line: told what was just done.

    Raises:
        ValueError: the folder holds no video, or the output something else.
        FolderInUseError: another process prepares the same dataset.
        OSError: the dataset cannot be written; what is done stays done.
    """
    found = find_videos(folder, leave_out=output)
    check_output(folder, output, config)
    (output / "shards").mkdir(parents=True, exist_ok=True)
    (output / "scans").mkdir(exist_ok=True)
    with FolderLock(output):
        for part in (*output.glob("*/*" + TEMPORARY), *output.glob("*" + TEMPORARY)):
            part.unlink()
        write_whole(output / "dataset.json", json.dumps(asdict(config), indent=1).encode())
        run = _Run(output, config, caption, on_line or (lambda line: None))
        failures = [*found.failures, *run.scan(found.videos, workers), *run.pack(found.videos)]
        return run.finish(found, failures)


def check_output(folder: Path, output: Path, config: PrepareConfig) -> None:
    """Refuse an output that holds something else, or a dataset with other settings.

    Args:
        folder: of the videos.
        output: of the dataset.
        config: what it is to hold.

    Raises:
        ValueError: one line with the way out.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"`output` must be a folder, got the file '{output}'.")
    if output.resolve() == folder.resolve():
        raise ValueError(f"`output` must not be the folder of the videos, got '{output}'.")
    settings = output / "dataset.json"
    if not settings.is_file():
        started = {"shards", "scans", LOCK, f"dataset.json{TEMPORARY}"}
        if output.is_dir() and {path.name for path in output.iterdir()} - started:
            raise ValueError(
                f"`output` must be a new folder or a dataset, got '{output}', which holds other "
                "files: name another."
            )
        return
    try:
        before = json.loads(settings.read_text(encoding="utf-8"))
    except ValueError:
        before = {}
    for name, value in asdict(config).items():
        if before.get(name) != value:
            raise ValueError(
                f"`{name}` must stay as it was when '{output}' was begun ({before.get(name)!r}), "
                f"got {value!r}: take that, or name another `output`."
            )


class _Run:
    """One call of `prepare`, in its locked folder."""

    def __init__(
        self,
        output: Path,
        config: PrepareConfig,
        caption: Caption | None,
        say: Callable[[str], None],
    ) -> None:
        self.output, self.config, self.caption, self.say = output, config, caption, say
        self.done = {video.video: video for video in self._rows()}
        self.num_new = 0

    def _rows(self) -> Iterator[PreparedVideo]:
        for path in sorted((self.output / "shards").glob("*.json")):
            yield PreparedVideo.from_row(json.loads(path.read_text(encoding="utf-8")))

    def scan(self, videos: dict[str, Path], workers: int) -> Iterator[Failure]:
        """Read the videos that are neither packed nor read already."""
        self._forget_changed(videos)
        tasks: list[ScanTask] = []
        for name, path in videos.items():
            if name not in self.done and self._scan_of(name, path) is None:
                sidecar = find_sidecar(path) if self.config.sidecars else None
                target = self._target(name)
                needs_caption = bool(self.config.captioner) and sidecar is None
                tasks.append(ScanTask(name, path, target.name, target, needs_caption))
        num_read = len(videos) - len(tasks)
        if num_read:
            self.say(f"{num_read} of {len(videos)} videos are read already")
        for number, (task, failure) in enumerate(
            scan_all(tasks, self.config, workers=workers), start=1
        ):
            place = f"[{number}/{len(tasks)}] {task.video}: "
            if failure is not None:
                self.say(f"{place}left out: {failure.reason}")
                yield failure
            else:
                scan = read_scan(task.target)
                shots = len(scan.shot_starts)
                self.say(f"{place}{count(len(scan.times), 'picture')}, {count(shots, 'shot')}")

    def _forget_changed(self, videos: dict[str, Path]) -> None:
        """Take out files that are others than they were, and what was left out because of them."""
        changed = {
            name
            for name, video in self.done.items()
            if name in videos and not _same_file(video.source, videos[name])
        }
        reasons = {_also_in(name) for name in changed}
        for name, video in list(self.done.items()):
            if name in changed or reasons & {shot["reason"] for shot in video.dropped}:
                del self.done[name]

    def pack(self, videos: dict[str, Path]) -> Iterator[Failure]:
        """Leave out what is static or known, caption the rest and write the shards."""
        scans = {
            name: scan
            for name, path in videos.items()
            if name not in self.done and (scan := self._scan_of(name, path)) is not None
        }
        left_out = self._left_out(scans)
        for name, scan in scans.items():
            told, notes = self._told(videos[name], scan)
            try:
                self.done[name] = pack_video(
                    scan, self._target(name), self.output / "shards", self.config,
                    left_out=left_out[name], told=told, caption=self.caption, notes=notes,
                )  # fmt: skip
            except (OSError, ValueError, RuntimeError) as error:
                failure = failure_of(name, error)
                self.say(f"{name}: left out: {failure.reason}")
                yield failure
                continue
            self.num_new += 1
            self._target(name).unlink(missing_ok=True)
            self._target(name).with_suffix(".json").unlink(missing_ok=True)
            self.say(f"{name}: {count(self.done[name].num_frames, 'picture')} packed")

    def finish(self, found: Found, failures: Sequence[Failure]) -> Report:
        """Write the manifest and the report."""
        rows = [self.done[name] for name in sorted(self.done)]
        kept = [video for video in rows if video.num_frames]
        lines = [json.dumps(asdict(video)) + "\n" for video in kept]
        write_whole(self.output / "manifest.jsonl", "".join(lines).encode())
        shards = self.output / "shards"
        report = Report(
            config=self.config,
            videos=rows,
            failures=sorted(failures, key=lambda failure: failure.video),
            num_new=self.num_new,
            num_bytes=sum((shards / f"{v.key}.tar").stat().st_size for v in kept),
            num_other_files=found.num_other_files,
            gone=[video.video for video in kept if video.video not in found.videos],
        )
        write_whole(self.output / "report.txt", str(report).encode())
        return report

    def _target(self, name: str) -> Path:
        """File of a scan; its name is the video's key: no dots, which end a key in WebDataset."""
        short = re.sub(r"[^a-z0-9]+", "-", Path(name).stem.lower()).strip("-")[:40] or "video"
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        return self.output / "scans" / f"{short}-{digest}"

    def _scan_of(self, name: str, path: Path) -> Scan | None:
        try:
            scan = read_scan(self._target(name))
        except (OSError, ValueError):
            return None
        return scan if _same_file(scan.source, path) else None

    def _told(self, path: Path, scan: Scan) -> tuple[Storyline | None, list[str]]:
        """Captions from the file beside a video, or a note on why there are none."""
        sidecar = find_sidecar(path) if self.config.sidecars else None
        if sidecar is None:
            return None, []
        try:
            return read_sidecar(sidecar, scan.duration), []
        except (OSError, ValueError) as error:
            reason = failure_of(scan.video, error).reason
            self.say(f"{scan.video}: its captions cannot be used: {reason}")
            return None, [f"captions not used: {reason}"]

    def _left_out(self, scans: dict[str, Scan]) -> dict[str, dict[int, str]]:
        """For each video the shots that are left out, and why."""
        left_out: dict[str, dict[int, str]] = {name: {} for name in scans}
        prints: list[ShotPrint] = []
        places: dict[tuple[str, float], int] = {}
        for name, scan in scans.items():
            ends = [*scan.shot_starts[1:], scan.duration]
            for number, (start, end) in enumerate(zip(scan.shot_starts, ends, strict=True)):
                frames = scan.frames_of(number)
                still = scan.motions[number] < self.config.min_motion
                if still and len(frames) > 1:
                    left_out[name][number] = _STATIC
                elif frames and self.config.dedupe:
                    own = shot_hash(scan.hashes[frames.start : frames.stop])
                    prints.append(ShotPrint(name, start, end - start, own))
                    places[name, start] = number
        known = [
            ShotPrint(video.video, shot.start, shot.end - shot.start, shot.hash)
            for video in self.done.values()
            for shot in video.shots
        ]
        for (name, start), first in find_duplicates(known, prints).items():
            left_out[name][places[name, start]] = _also_in(first)
        return left_out


def _also_in(name: str) -> str:
    return f"also in {name}"


def _same_file(source: object, path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    assert isinstance(source, dict)
    return (source.get("bytes"), source.get("modified")) == (status.st_size, status.st_mtime_ns)
