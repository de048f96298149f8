"""A small disk that can be filled, without privileges where the system allows it."""

import ctypes
import os
from pathlib import Path

_NEW_USER, _NEW_MOUNTS, _PRIVATE = 0x10000000, 0x00020000, 0x44000


def mount_small_disk(folder: Path, num_bytes: int) -> None:
    """A disk in `folder` that this process alone sees, and that ends with it.

    Raises:
        OSError: this system does not let us.
    """
    if not hasattr(os, "getuid"):
        raise OSError("not a Unix")
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()

    def call(result: int) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    try:
        unshare, mount = libc.unshare, libc.mount
    except AttributeError as error:
        raise OSError("not Linux") from error
    call(unshare(_NEW_MOUNTS if user == 0 else _NEW_USER | _NEW_MOUNTS))
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    call(mount(b"none", b"/", None, _PRIVATE, None))
    call(mount(b"tmpfs", bytes(folder), b"tmpfs", 0, f"size={num_bytes}".encode()))


def fill(disk: Path, leaving: int) -> Path:
    """A file that leaves so many bytes free."""
    state = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(state.f_bavail * state.f_frsize - leaving))
    return ballast
