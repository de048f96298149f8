import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nuwaxl.stores.folder_lock import FolderInUseError, FolderLock

HOLD = """
import sys, pathlib
from nuwaxl.stores.folder_lock import FolderLock
with FolderLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_is_free_again_after_use(tmp_path: Path):
    for _ in range(2):
        with FolderLock(tmp_path):
            pass


def test_the_second_process_is_refused_and_told_who_has_it(tmp_path: Path):
    process = hold(tmp_path)
    with pytest.raises(FolderInUseError, match=f"is in use by process {process.pid} on "):
        FolderLock(tmp_path).__enter__()
    process.communicate()
    with FolderLock(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path):
    process = hold(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "lock").read_text().startswith("process ")
    with FolderLock(tmp_path):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()
