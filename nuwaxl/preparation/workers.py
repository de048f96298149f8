"""Scanning many videos in processes of their own, none of which can take the others down.

Knows tasks and processes, not what is in a video.
"""

import errno
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from nuwaxl.preparation.scan import TEMPORARY, ScanTask, scan_video
from nuwaxl.preparation.settings import PrepareConfig

logger = logging.getLogger(__name__)

Work = Callable[[ScanTask, PrepareConfig], None]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Failure:
    """A video that was left out, and why."""

    video: str
    reason: str
    disk_is_full: bool = False
    """Nothing is wrong with the video: the same command takes it once there is room."""


def scan_all(
    tasks: Sequence[ScanTask],
    config: PrepareConfig,
    *,
    workers: int = 1,
    work: Work = scan_video,
) -> Iterator[tuple[ScanTask, Failure | None]]:
    """Scan videos and say of each, as it is finished, whether it failed.

    Args:
        tasks: the videos.
        config: how.
        workers: processes; 1: this one.
        work: what is done with a task.
    """
    if workers == 1 or len(tasks) == 1:
        for task in tasks:
            yield task, attempt(task, config, work)
        return
    crashed = yield from _in_pool(tasks, config, workers, work)
    # One of those that were begun has taken the pool down; alone, it takes down nothing else.
    begun = [task for task in crashed if task.target.with_suffix(TEMPORARY).exists()]
    for task in begun:
        if (yield from _in_pool([task], config, 1, work)):
            yield task, Failure(task.video, "reading it ends the process (a crash, or no memory)")
    rest = [task for task in crashed if task not in begun]
    if not begun:
        for task in rest:
            yield task, Failure(task.video, "the processes that read it end at their start")
    elif rest:
        yield from scan_all(rest, config, workers=workers, work=work)


def attempt(task: ScanTask, config: PrepareConfig, work: Work = scan_video) -> Failure | None:
    """Scan one video; what goes wrong becomes one line.

    Args:
        task: the video.
        config: how.
        work: what is done with it.
    """
    try:
        work(task, config)
        return None
    except Exception as error:  # Whatever a file does to its reader, the others go on.
        return failure_of(task.video, error, known_as=f"'{task.path}'")


def failure_of(video: str, error: Exception, *, known_as: str = "") -> Failure:
    """An error as the line of a report.

    Args:
        video: of which it is told.
        error: what happened.
        known_as: how the error calls the video, which the line needs not repeat.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return Failure(video, f"no room to write ({(error.strerror or '').lower()})", True)
    if isinstance(error, OSError) and error.strerror:
        return Failure(video, error.strerror.lower())
    if not isinstance(error, OSError | ValueError):
        logger.warning("%s failed in an unforeseen way", video, exc_info=error)
        return Failure(video, " ".join(f"{type(error).__name__}: {error}".split()))
    reason = str(error).replace(known_as, "it") if known_as else str(error)
    return Failure(video, " ".join(reason.split()).rstrip(".").removeprefix("it "))


def _in_pool(
    tasks: Sequence[ScanTask], config: PrepareConfig, workers: int, work: Work
) -> Iterator[tuple[ScanTask, Failure | None]]:
    """As `scan_all`; returns the tasks that were lost when a process died."""
    crashed: list[ScanTask] = []
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # A fork would copy the threads of libraries.
    with ProcessPoolExecutor(
        min(workers, len(tasks)), mp_context=context, initializer=_live_with_parent
    ) as pool:
        futures = {pool.submit(attempt, task, config, work): task for task in tasks}
        try:
            for future in as_completed(futures):
                try:
                    yield futures[future], future.result()
                except BrokenProcessPool:
                    crashed.append(futures[future])
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise
    return crashed


def _live_with_parent() -> None:
    """End with the process that started this one, also when that is killed.

    Else an orphan would go on writing into a folder that the next run has taken over.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent decides.
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
