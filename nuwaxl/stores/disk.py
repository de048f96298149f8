"""Finished latents on a disk or in a bucket, where they outlive the process.

Knows keys, tensors and files, not frame numbers, prompts or models.
"""

import errno
import hashlib
import json
import logging
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import safetensors.torch
from fsspec.implementations.local import LocalFileSystem
from jaxtyping import Shaped
from torch import Tensor

from nuwaxl.stores.store import FrameMissingError

logger = logging.getLogger(__name__)

MADE = "made.tsv"
"""The list of all that was ever put: time, key, checksum, shape, bytes. For people, and to notice
that a file is gone; what the store holds is what its files are."""

_SUFFIX, _PART = ".safetensors", ".part"
# A batch reads the parents of its segments again and again; 64 kB each at the bundled size.
_MAX_REMEMBERED = 64
# Segments of pixels are a thousand times larger, and are read from the disk's cache instead.
_MAX_REMEMBERED_BYTES = 2**28


class StoreWriteError(OSError):
    """A segment could not be kept; those kept before it are whole."""


class DiskStore:
    """One safetensors file for each segment, named by its key; safe to use from several threads.

    A file appears under its name only when it is whole, and carries a checksum of its content.
    One that is damaged or gone is named in a warning and counts as not there, so that it is made
    again. Several processes may use one store: a key has one meaning, and whoever comes second
    leaves the file as it is.

    Args:
        location: a folder, or any address that fsspec knows, such as 's3://bucket/film' (with the
            package for it installed); made when the first segment is put.

    Raises:
        ValueError: no such kind of address, or the package for it is missing.
    """

    def __init__(self, location: str | os.PathLike[str]) -> None:
        try:
            filesystem, root = fsspec.core.url_to_fs(os.fspath(location))
        except ImportError as error:
            raise ValueError(f"`location` {str(location)!r} cannot be used: {error}.") from error
        self._files: Any = filesystem
        self.root = str(root).rstrip("/")
        self.is_local = isinstance(filesystem, LocalFileSystem)
        self._remembered: OrderedDict[str, Tensor] = OrderedDict()
        self._known_made: set[str] | None = None
        self._lock = threading.Lock()

    def __contains__(self, key: str) -> bool:
        """Whether the segment is finished and its file is sound: the file is read."""
        return self._load(key) is not None

    def get(self, key: str) -> Shaped[Tensor, "frames channels height width"]:
        """The segment's latents; not to be changed in place.

        Raises:
            FrameMissingError: there is no sound file for this key.
        """
        latents = self._load(key)
        if latents is None:
            raise FrameMissingError(
                f"Segment {key[:12]} is not in the store: it has not run, or its file "
                f"{self.path(key)} is gone or damaged."
            )
        return latents

    def put(self, key: str, latents: Shaped[Tensor, "frames channels height width"]) -> None:
        """Keep a finished segment; a sound file that is already there stays as it is.

        Raises:
            StoreWriteError: no space, no permission; nothing is left under the key's name.
        """
        if key in self:
            return
        latents = latents.detach().cpu().contiguous()
        checksum = _checksum(latents)
        # One entry, since safetensors writes several in any order: equal latents, equal files.
        metadata = {"segment": f"key {key} sha256 {checksum}"}
        content = safetensors.torch.save({"latents": latents}, metadata=metadata)
        try:
            self._write(self.path(key), content)
            self._note(key, checksum, latents)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            way_out = "make space" if error.errno in _FULL else "make it writable"
            raise StoreWriteError(
                f"{self.root} cannot keep another segment ({reason}); all that was kept before is "
                f"whole: {way_out} and run the same again"
            ) from error
        self._remember(key, latents)

    def discard(self, key: str) -> None:
        """Remove the segment's file; nothing happens when there is none."""
        known = self._made_keys()
        with self._lock:
            self._remembered.pop(key, None)
            known.discard(key)
        if self._files.exists(self.path(key)):
            self._files.rm_file(self.path(key))

    def release(self, key: str) -> None:
        """Keep the file: the next film may need it."""

    def path(self, key: str) -> str:
        """Where the segment's file is, or would be."""
        return f"{self.root}/{key[:2]}/{key}{_SUFFIX}"

    def keys(self) -> Iterator[str]:
        """The keys of all files, sound or not, in no order."""
        if self._files.exists(self.root):
            for path in self._files.find(self.root):
                if path.endswith(_SUFFIX):
                    yield path.rsplit("/", 1)[-1].removesuffix(_SUFFIX)

    def sweep(self) -> None:
        """Remove what killed processes left half written; only while no other process writes."""
        if self.is_local:
            for path in Path(self.root).glob(f"*/.*{_PART}"):
                path.unlink(missing_ok=True)

    # ---- Files ----------------------------------------------------------------------------

    def _write(self, path: str, content: bytes) -> None:
        """Write a file whole or not at all.

        A bucket does that by itself. On a disk, a power cut may still leave the name on an empty
        file, which the checksum tells; waiting for the disk at every segment buys no more.
        """
        if not self.is_local:
            self._files.pipe_file(path, content)
            return
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        hidden = final.with_name(f".{final.stem}.{os.getpid()}.{threading.get_ident()}{_PART}")
        try:
            hidden.write_bytes(content)
            hidden.replace(final)
        finally:
            hidden.unlink(missing_ok=True)

    def _load(self, key: str) -> Tensor | None:
        with self._lock:
            if key in self._remembered:
                self._remembered.move_to_end(key)
                return self._remembered[key]
        path = self.path(key)
        try:
            content = self._files.cat_file(path)
        except FileNotFoundError:
            if self._was_made(key):
                logger.warning("%s is gone: the segment is made again.", path)
            return None
        try:
            latents = _parse(content, key)
        except Exception as error:  # whatever its readers say of a damaged file
            reason = " ".join(str(error).split())
            logger.warning("%s is damaged (%s): the segment is made again.", path, reason)
            self.discard(key)
            return None
        self._remember(key, latents)
        return latents

    def _remember(self, key: str, latents: Tensor) -> None:
        with self._lock:
            self._remembered[key] = latents
            while len(self._remembered) > 1 and (
                len(self._remembered) > _MAX_REMEMBERED
                or sum(each.nbytes for each in self._remembered.values()) > _MAX_REMEMBERED_BYTES
            ):
                self._remembered.popitem(last=False)

    # ---- The list for people --------------------------------------------------------------

    def _note(self, key: str, checksum: str, latents: Tensor) -> None:
        """Add a line to the list; buckets cannot add to a file and have none."""
        if not self.is_local:
            return
        known = self._made_keys()
        path = Path(self.root, MADE)
        fields = (
            datetime.now(UTC).isoformat(timespec="seconds"),
            key,
            checksum,
            "x".join(map(str, latents.shape)),
            str(latents.nbytes),
        )
        line = "\t".join(fields) + "\n"
        with self._lock, path.open("a+b") as file:
            if file.tell() == 0:
                line = "time\tkey\tsha256\tshape\tbytes\n" + line
            else:
                file.seek(-1, os.SEEK_END)
                # A kill or a full disk may have torn the last line off.
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode())
            known.add(key)

    def _was_made(self, key: str) -> bool:
        """Whether the key's file was there once; it is asked for once."""
        known = self._made_keys()
        with self._lock:
            if key not in known:
                return False
            known.discard(key)
            return True

    def _made_keys(self) -> set[str]:
        with self._lock:
            if self._known_made is None:
                self._known_made = set()
                path = Path(self.root, MADE)
                if self.is_local and path.is_file():
                    with path.open(encoding="utf-8", errors="replace") as lines:
                        # A line torn by a kill has too few fields, and is no loss.
                        rows = (line.rstrip("\n").split("\t") for line in lines)
                        self._known_made.update(row[1] for row in rows if len(row) == 5)
            return self._known_made


_FULL = (errno.ENOSPC, errno.EDQUOT)


def _checksum(latents: Tensor) -> str:
    """SHA-256 of shape, dtype and values."""
    digest = hashlib.sha256(f"{tuple(latents.shape)} {latents.dtype}".encode())
    digest.update(latents.numpy().tobytes())
    return digest.hexdigest()


def _parse(content: bytes, key: str) -> Tensor:
    """The latents of a file, if it is what was written.

    Raises:
        Exception: of any kind, when it is not.
    """
    if len(content) < 8:
        raise ValueError(f"{len(content)} bytes")
    (header_size,) = struct.unpack("<Q", content[:8])
    # safetensors' own reader of bytes does not return the metadata.
    metadata = json.loads(content[8 : 8 + header_size])["__metadata__"]
    latents = safetensors.torch.load(content)["latents"]
    if metadata["segment"] != f"key {key} sha256 {_checksum(latents)}":
        raise ValueError("key or checksum do not fit its content")
    return latents
