import pytest
import torch

from nuwaxl.stores.store import FrameMissingError, MemoryStore, SegmentStore


def latents(value: float, num_frames: int = 3) -> torch.Tensor:
    return torch.full((num_frames, 2, 4, 4), float(value))


def test_memory_store_is_a_segment_store():
    assert isinstance(MemoryStore(), SegmentStore)


def test_what_is_put_is_got_until_it_is_discarded():
    store = MemoryStore()
    store.put("a", latents(1))
    assert "a" in store
    assert torch.equal(store.get("a"), latents(1))
    store.discard("a")
    store.discard("a")
    assert "a" not in store
    assert len(store) == 0


def test_a_missing_segment_is_a_key_error_with_a_readable_line():
    with pytest.raises(FrameMissingError) as caught:
        MemoryStore().get("abc")
    assert isinstance(caught.value, KeyError)
    assert str(caught.value) == "Segment abc is not in the store: it has not run or was released."


def test_a_key_is_written_once():
    store = MemoryStore()
    store.put("a", latents(1))
    store.put("a", latents(2))
    assert torch.equal(store.get("a"), latents(1))
    assert store.num_bytes == latents(1).nbytes


def test_bytes_held_follow_what_is_held():
    store = MemoryStore()
    store.put("a", latents(1, num_frames=3))
    store.put("b", latents(1, num_frames=5))
    assert store.num_bytes == 8 * 2 * 4 * 4 * 4
    store.discard("a")
    assert store.num_bytes == 5 * 2 * 4 * 4 * 4
    store.clear()
    assert store.num_bytes == len(store) == 0


@pytest.mark.parametrize("keep_released", [False, True])
def test_release_forgets_unless_told_to_keep(keep_released):
    store = MemoryStore(keep_released=keep_released)
    store.put("a", latents(1))
    store.release("a")
    assert ("a" in store) is keep_released
