"""One process at a time in one folder.

Knows processes and a file, not what the folder holds.
"""

import os
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import IO

LOCK = "lock"
"""The file's name in the folder; it stays there, and says nothing unless a process holds it."""


class FolderInUseError(RuntimeError):
    """Another process works in the folder."""


class FolderLock:
    """Holds a folder while in use as a context manager.

    The operating system ties the lock to the process, so that of a process that died is free, and
    two that take it over at the same moment do not both get it.

    Args:
        folder: must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[str] | None = None

    def __enter__(self) -> "FolderLock":
        """Take the folder.

        Raises:
            FolderInUseError: another process has it.
        """
        file = (self.folder / LOCK).open("a+", encoding="utf-8")
        try:
            _lock(file)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise FolderInUseError(
                f"{self.folder} is in use by {holder}; wait for it to end, or stop it."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        self._file = file
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._file is not None
        self._file.truncate(0)
        self._file.close()  # which lets go
        self._file = None


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        # Far behind the text, which others are to read: Windows locks bytes against reading.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
