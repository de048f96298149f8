"""Finished latents, addressed by the key of the segment that made them.

Knows keys and tensors, not frame numbers, prompts or models.
"""

import threading
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nuwaxl.tensors.unit_scale import to_eight_bit, to_unit_scale


class FrameMissingError(KeyError):
    """Latents were asked for that no finished segment holds."""

    def __str__(self) -> str:
        """The message as it was written; `KeyError` would show its `repr`."""
        return str(self.args[0]) if self.args else ""


@runtime_checkable
class SegmentStore(Protocol):
    """Where finished segments are kept; a key is written once and never changes its meaning."""

    def __contains__(self, key: str) -> bool:
        """Whether the segment is finished and can be read."""
        ...

    def get(self, key: str) -> Shaped[Tensor, "frames channels height width"]:
        """The segment's latents; not to be changed in place.

        Raises:
            FrameMissingError: the store does not hold this key.
        """
        ...

    def put(self, key: str, latents: Shaped[Tensor, "frames channels height width"]) -> None:
        """Keep a finished segment; a key that is already there stays as it is."""
        ...

    def discard(self, key: str) -> None:
        """Forget the segment; nothing happens when it is not there."""
        ...

    def release(self, key: str) -> None:
        """Hear that the film being made needs this segment no more.

        A store that lives in memory discards it, a store that outlives the process keeps it.
        """
        ...


class MemoryStore:
    """Segments in this process's memory; safe to use from several threads.

    Args:
        keep_released: keep what a finished part of the film needs no more. Off, a film of any
            length is streamed in constant memory; on, the whole film stays and memory grows with
            its length.
    """

    def __init__(self, *, keep_released: bool = False) -> None:
        self.keep_released = keep_released
        self._latents: dict[str, Tensor] = {}
        self._num_bytes = 0
        self._lock = threading.Lock()

    def __contains__(self, key: str) -> bool:
        """Whether the segment is finished and can be read."""
        return key in self._latents

    def __len__(self) -> int:
        """Number of segments held."""
        return len(self._latents)

    @property
    def num_bytes(self) -> int:
        """Bytes of latents held."""
        return self._num_bytes

    def get(self, key: str) -> Shaped[Tensor, "frames channels height width"]:
        """The segment's latents themselves, not a copy; not to be changed in place.

        Raises:
            FrameMissingError: the store does not hold this key.
        """
        try:
            return self._latents[key]
        except KeyError:
            raise FrameMissingError(
                f"Segment {key[:12]} is not in the store: it has not run or was released."
            ) from None

    def put(self, key: str, latents: Shaped[Tensor, "frames channels height width"]) -> None:
        """Keep a finished segment; a key that is already there stays as it is."""
        with self._lock:
            if key not in self._latents:
                self._latents[key] = latents
                self._num_bytes += latents.nbytes

    def discard(self, key: str) -> None:
        """Forget the segment; nothing happens when it is not there."""
        with self._lock:
            latents = self._latents.pop(key, None)
            if latents is not None:
                self._num_bytes -= latents.nbytes

    def release(self, key: str) -> None:
        """Discard the segment, unless the store was made to keep what is released."""
        if not self.keep_released:
            self.discard(key)

    def clear(self) -> None:
        """Forget every segment."""
        with self._lock:
            self._latents.clear()
            self._num_bytes = 0


class EightBitStore:
    """Keeps latents that are 8-bit pixels at unit scale as these 8 bits: a quarter of the space.

    Args:
        store: where they are kept.
    """

    def __init__(self, store: SegmentStore) -> None:
        self.store = store

    def __contains__(self, key: str) -> bool:
        """Whether the segment is finished and can be read."""
        return key in self.store

    def get(self, key: str) -> Float[Tensor, "frames channels height width"]:
        """The segment's latents, in fp32.

        Raises:
            FrameMissingError: the store does not hold this key.
        """
        return to_unit_scale(self.store.get(key))

    def put(self, key: str, latents: Float[Tensor, "frames channels height width"]) -> None:
        """Keep a finished segment; a key that is already there stays as it is.

        Raises:
            ValueError: the latents are not 8-bit pixels, so that they would come back changed.
        """
        pixels = to_eight_bit(latents)
        if not torch.equal(to_unit_scale(pixels), latents.float()):
            raise ValueError("`latents` must be 8-bit pixels at unit scale to be kept as such.")
        self.store.put(key, pixels)

    def discard(self, key: str) -> None:
        """Forget the segment; nothing happens when it is not there."""
        self.store.discard(key)

    def release(self, key: str) -> None:
        """Hear that the film being made needs this segment no more."""
        self.store.release(key)
