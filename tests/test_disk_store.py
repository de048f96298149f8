import errno
import logging
import multiprocessing
import os
import threading
from pathlib import Path

import fsspec
import pytest
import torch
from oracle import LinearModel, film, orchestrate

from nuwaxl.executors.local import LocalExecutor
from nuwaxl.stores.disk import MADE, DiskStore, StoreWriteError
from nuwaxl.stores.store import FrameMissingError, SegmentStore
from nuwaxl.tree.timeline import Timeline

KEY = "ab" + 62 * "0"
SMALL = Timeline(17, 5)  # 1 + 4 segments


def latents(value: float = 1.0) -> torch.Tensor:
    return torch.full((3, 2, 4, 4), float(value))


def make(folder: Path | str, model: LinearModel | None = None) -> dict[int, torch.Tensor]:
    model = model or LinearModel()
    return film(orchestrate(SMALL, LocalExecutor(model), DiskStore(folder), model=model))


def same(left: dict[int, torch.Tensor], right: dict[int, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[f], right[f]) for f in left)


@pytest.mark.parametrize("location", ["{folder}", "file://{folder}", "memory://bucket{folder}"])
def test_what_is_put_outlives_the_store_object(tmp_path: Path, location: str):
    location = location.format(folder=tmp_path / "segments")
    store = DiskStore(location)
    assert isinstance(store, SegmentStore)
    assert KEY not in store
    store.put(KEY, latents())
    store.release(KEY)
    again = DiskStore(location)
    assert KEY in again
    assert torch.equal(again.get(KEY), latents())
    assert list(again.keys()) == [KEY]
    again.discard(KEY)
    again.discard(KEY)
    assert KEY not in DiskStore(location)


def test_a_missing_segment_is_a_readable_line(tmp_path: Path):
    with pytest.raises(FrameMissingError, match="Segment ab0000000000 is not in the store"):
        DiskStore(tmp_path).get(KEY)


def test_a_key_is_written_once(tmp_path: Path):
    for value in (1.0, 2.0):
        DiskStore(tmp_path).put(KEY, latents(value))
    assert torch.equal(DiskStore(tmp_path).get(KEY), latents(1.0))


def test_an_unknown_kind_of_address_is_refused():
    with pytest.raises(ValueError, match="Protocol not known"):
        DiskStore("nowhere://film")


def test_nothing_is_written_before_the_first_segment(tmp_path: Path):
    assert KEY not in DiskStore(tmp_path / "segments")
    assert list(tmp_path.iterdir()) == []


def flip_bit(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in its header": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "cut in its values": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a bit of its values": lambda path: flip_bit(path, -5),
    "a bit of its header": lambda path: flip_bit(path, 30),
    "another file": lambda path: path.write_text("hello, I am not a tensor"),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_missing_file_is_named_and_made_again(tmp_path: Path, damage: str, caplog):
    whole = make(tmp_path)
    path = sorted(tmp_path.glob("*/*.safetensors"))[2]
    before = path.read_bytes()
    DAMAGES[damage](path)
    model = LinearModel()
    with caplog.at_level(logging.WARNING):
        assert same(make(tmp_path, model), whole)
    names = [record.getMessage() for record in caplog.records]
    assert len(names) == 1
    assert str(path) in names[0]
    assert "made again" in names[0]
    assert model.num_runs == 1
    assert path.read_bytes() == before


def test_every_single_bit_of_the_values_counts(tmp_path: Path):
    DiskStore(tmp_path).put(KEY, latents())
    (path,) = tmp_path.glob("*/*.safetensors")
    num_bytes = latents().nbytes
    for at in (-1, -num_bytes, -num_bytes // 2):
        flip_bit(path, at)
        content = path.read_bytes()
        assert KEY not in DiskStore(tmp_path)
        path.write_bytes(content)
        flip_bit(path, at)
    assert KEY in DiskStore(tmp_path)


class SmallDisk(DiskStore):
    """Full after so many files."""

    room = 3

    def _write(self, path: str, content: bytes) -> None:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= 1
        super()._write(path, content)


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path: Path):
    whole = make(tmp_path / "whole")
    model = LinearModel()
    store = SmallDisk(tmp_path / "segments")
    with pytest.raises(StoreWriteError, match=r"No space left on device.*make space and run"):
        film(orchestrate(SMALL, LocalExecutor(model), store, model=model))
    assert len(list(store.keys())) == 3
    model = LinearModel()
    assert same(make(tmp_path / "segments", model), whole)
    assert model.num_runs == SMALL.num_segments - 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_device_that_is_really_full_leaves_nothing_under_the_key(tmp_path: Path):
    store = DiskStore(tmp_path)
    final = Path(store.path(KEY))
    final.parent.mkdir(parents=True)
    # Where the store writes before it renames: every byte then goes to a device without room.
    part = final.with_name(f".{KEY}.{os.getpid()}.{threading.get_ident()}.part")
    part.symlink_to("/dev/full")
    with pytest.raises(StoreWriteError, match=r"No space left on device.*make space and run"):
        store.put(KEY, latents())
    assert list(tmp_path.rglob("*.*")) == []
    assert KEY not in store
    store.put(KEY, latents())
    assert torch.equal(DiskStore(tmp_path).get(KEY), latents())


def test_a_torn_line_of_the_list_costs_no_other_line(tmp_path: Path, caplog):
    DiskStore(tmp_path).put(KEY, latents())
    with (tmp_path / MADE).open("a") as file:
        file.write("2026-01-01T00:00:00+00:00\tcd00")  # what a kill left
    other = "ef" + KEY[2:]
    DiskStore(tmp_path).put(other, latents())
    Path(DiskStore(tmp_path).path(other)).unlink()
    with caplog.at_level(logging.WARNING):
        assert other not in DiskStore(tmp_path)
    assert "is gone" in caplog.text


@pytest.mark.parametrize("damage", ["empty", "cut in its values", "a bit of its values"])
def test_a_damaged_object_of_a_bucket_is_named_and_made_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    bucket = f"memory://{tmp_path.name}/segments"
    files = fsspec.filesystem("memory")
    whole = make(bucket)
    path = DiskStore(bucket).path(sorted(DiskStore(bucket).keys())[2])
    before = files.cat_file(path)
    local = tmp_path / "object"
    local.write_bytes(before)
    DAMAGES[damage](local)
    files.pipe_file(path, local.read_bytes())
    model = LinearModel()
    with caplog.at_level(logging.WARNING):
        assert same(make(bucket, model), whole)
    assert f"{path} is damaged" in caplog.text
    assert model.num_runs == 1
    assert files.cat_file(path) == before


def test_half_written_files_are_swept(tmp_path: Path):
    store = DiskStore(tmp_path)
    store.put(KEY, latents())
    part = tmp_path / "ab" / ".abcdef.123.456.part"
    part.write_bytes(b"half")
    assert list(store.keys()) == [KEY]
    store.sweep()
    assert not part.exists()
    assert KEY in DiskStore(tmp_path)


def test_the_list_can_be_read_by_people(tmp_path: Path):
    DiskStore(tmp_path).put(KEY, latents())
    head, line = (tmp_path / MADE).read_text().splitlines()
    assert head.split("\t") == ["time", "key", "sha256", "shape", "bytes"]
    assert line.split("\t")[1] == KEY
    assert line.split("\t")[3:] == ["3x2x4x4", "384"]


def test_threads_may_share_a_store(tmp_path: Path):
    store = DiskStore(tmp_path)
    keys = [f"{i:064x}" for i in range(40)]

    def work() -> None:
        for i, key in enumerate(keys):
            store.put(key, latents(i))
            assert torch.equal(store.get(key), latents(i))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(store.keys()) == keys


def _put_many(folder: str) -> None:
    store = DiskStore(folder)
    for i in range(30):
        store.put(f"{i:064x}", latents(i))


def test_processes_may_share_a_store(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_put_many, args=(str(tmp_path),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for i in range(30):
        assert torch.equal(DiskStore(tmp_path).get(f"{i:064x}"), latents(i))
