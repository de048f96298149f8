"""A film's folder: its finished segments, what it shows, its settings, its pictures, its history.

Knows files, frames and prompts; loads no network and makes nothing.

    film/
      film.mp4        the film as it is now
      story.yaml      what it shows now, for reading
      project.json    which revision that is
      history/        every revision, whole: 0001.json, 0002.json, ...
      segments/       the finished latents, addressed by key
      segments.tsv    which file holds which frames
      pictures/       pictures that the film is to show
      lock            one process at a time
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuwaxl.projects.state import FilmState, from_json, story_lines, to_json
from nuwaxl.stores.folder_lock import LOCK, FolderLock

if TYPE_CHECKING:
    from nuwaxl.stores.disk import DiskStore
    from nuwaxl.tree.jobs import SegmentJob

FORMAT = 1
"""Of the files in `history`; a later format reads the earlier ones."""

_STATE, _HISTORY, _PICTURES = "project.json", "history", "pictures"
_SEGMENTS, _MANIFEST, _STORY = "segments", "segments.tsv", "story.yaml"
_FILM = "film.mp4"
# What a kill may leave before the first revision is written.
_OURS = {LOCK, _HISTORY, _PICTURES}


class ProjectError(ValueError):
    """The folder is not what it should be, in one line."""


@dataclass(frozen=True)
class Revision:
    """The film as it was after a command."""

    number: int
    parent: int
    """The revision that the command changed; 0 for the first."""
    command: str
    time: str
    """When, in UTC."""
    state: FilmState


class Project:
    """A film's folder, held by this process while in use as a context manager.

    Args:
        folder: of the film; made, when it is new, by the first `commit`.
        segments: where finished segments go, if not into the folder: any address of `DiskStore`.
            A new project remembers it.
        output: where the film goes, if not into the folder; remembered too.

    Raises:
        ProjectError: the folder holds something else.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        segments: str | None = None,
        output: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._given = {"segments": segments, "output": output}
        if self.folder.exists() and self.is_new:
            found = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else ["a"]
            if not _OURS.issuperset(found):
                raise ProjectError(
                    f"{self.folder} holds something that is no film of this program: name another "
                    "folder for the project."
                )
        self._lock = FolderLock(self.folder)

    @property
    def is_new(self) -> bool:
        """Whether no film was begun here."""
        return not (self.folder / _STATE).exists()

    def __enter__(self) -> "Project":
        """Take the folder.

        Raises:
            FolderInUseError: another process works in it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)

    # ---- History --------------------------------------------------------------------------

    @property
    def current(self) -> Revision:
        """The film as it is now.

        Raises:
            ProjectError: there is none, or its files cannot be read.
        """
        if self.is_new:
            raise ProjectError(
                f"{self.folder} holds no film yet: `nuwaxl generate --project {self.folder}` makes "
                "one."
            )
        return self._read(int(_read_json(self.folder / _STATE)["revision"]))

    def history(self) -> list[Revision]:
        """All revisions, the oldest first, those that were undone among them."""
        numbers = sorted(int(path.stem) for path in (self.folder / _HISTORY).glob("*.json"))
        return [self._read(number) for number in numbers]

    def commit(self, state: FilmState, command: str) -> Revision:
        """Make `state` the film as it is now; earlier ones stay in the history.

        Args:
            state: what is to be.
            command: what the user asked for.
        """
        numbers = [revision.number for revision in self.history()]
        parent = 0 if self.is_new else self.current.number
        now = datetime.now(UTC).isoformat(timespec="seconds")
        revision = Revision(max(numbers, default=0) + 1, parent, command, now, state)
        (self.folder / _HISTORY).mkdir(exist_ok=True)
        _write_json(self.folder / _HISTORY / f"{revision.number:04d}.json", _to_json(revision))
        self._make_current(revision)
        return revision

    def undo(self) -> Revision:
        """Go back to what the film was before the last command, and say what that is.

        Raises:
            ProjectError: there is nothing before it.
        """
        parent = self.current.parent
        if parent == 0:
            raise ProjectError(f"{self.folder} is as it was first made: nothing to undo.")
        revision = self._read(parent)
        self._make_current(revision)
        return revision

    def _make_current(self, revision: Revision) -> None:
        places = {name: _absolute(self._place(name)) for name in self._given}
        state = {"format": FORMAT, "revision": revision.number, **places}
        _write_json(self.folder / _STATE, state)
        _write_text(self.folder / _STORY, "".join(story_lines(revision.state)))

    def _read(self, number: int) -> Revision:
        path = self.folder / _HISTORY / f"{number:04d}.json"
        try:
            return _from_json(_read_json(path))
        except (KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ProjectError(f"{path} cannot be read ({reason}).") from error

    # ---- Contents -------------------------------------------------------------------------

    @property
    def segments(self) -> str | None:
        """Address of the finished segments, where that is not the folder."""
        return self._place("segments")

    @property
    def output(self) -> Path:
        """Where the film is written."""
        return Path(self._place("output") or self.folder / _FILM)

    def _place(self, name: str) -> str | None:
        return self._given[name] or (
            None if self.is_new else _read_json(self.folder / _STATE).get(name)
        )

    def store(self) -> "DiskStore":
        """Where the film's segments are kept."""
        from nuwaxl.stores.disk import DiskStore

        store = DiskStore(self.segments or self.folder / _SEGMENTS)
        store.sweep()
        return store

    def add_picture(self, path: str | os.PathLike[str]) -> str:
        """Copy a picture into the folder, named by its content.

        Args:
            path: of the picture's file.
        """
        source = Path(path)
        name = hashlib.sha256(source.read_bytes()).hexdigest()[:16] + source.suffix.lower()
        (self.folder / _PICTURES).mkdir(exist_ok=True)
        shutil.copyfile(source, self.folder / _PICTURES / name)
        return name

    def picture(self, name: str) -> Path:
        """Where a picture is that was added."""
        return self.folder / _PICTURES / name

    def write_manifest(self, jobs: Iterable["SegmentJob"], fps: float) -> None:
        """Write `segments.tsv`: which file holds which frames, for people.

        Args:
            jobs: of the film as it is now.
            fps: frames per second.
        """
        place = (self.segments or _SEGMENTS).rstrip("/")
        hidden = self.folder / ".segments.tsv.part"
        with hidden.open("w", encoding="utf-8") as file:
            file.write("level\tframes\tmade\tstart_s\tend_s\tseed\tedit\tfile\tprompts\n")
            for job in jobs:
                frames = job.segment.frames
                prompts = " | ".join(dict.fromkeys(job.prompts)).replace("\t", " ")
                fields = (
                    job.segment.level,
                    f"{frames[0]}..{frames[-1]}",
                    len(job.segment.new_frames),
                    f"{frames[0] / fps:g}",
                    f"{frames[-1] / fps:g}",
                    job.seed,
                    job.edit,
                    f"{place}/{job.key[:2]}/{job.key}.safetensors",
                    " ".join(prompts.split()),
                )
                file.write("\t".join(map(str, fields)) + "\n")
        hidden.replace(self.folder / _MANIFEST)


# ---- Files ----------------------------------------------------------------------------------


def _to_json(revision: Revision) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "number": revision.number,
        "parent": revision.parent,
        "command": revision.command,
        "time": revision.time,
        **to_json(revision.state),
    }


def _from_json(content: dict[str, Any]) -> Revision:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}, made by a later version")
    number, parent, command, time = (
        content[name] for name in ("number", "parent", "command", "time")
    )
    return Revision(number, parent, command, time, from_json(content))


def _absolute(place: str | None) -> str | None:
    """The place as it is known from every folder; addresses with a protocol are so already."""
    return place if place is None or "://" in place else os.path.abspath(place)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ProjectError(f"{path} cannot be read ({reason}).") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    hidden = path.with_name(f".{path.name}.part")
    hidden.write_text(text, encoding="utf-8")
    hidden.replace(path)
