"""Where to compute and in which precision, when the user does not say.

Knows what the hardware can do, not what is computed.
"""

from contextlib import AbstractContextManager

import torch


def best_device() -> torch.device:
    """The first accelerator that works here, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def fast_dtype(device: torch.device | str) -> torch.dtype:
    """The precision that is fast on `device` and safe for sampling.

    CPUs with bf16 instructions (AVX-512 BF16 or AMX) multiply four times faster in it; on others
    bf16 is emulated and slower than fp32. On Apple's GPUs fp32 is taken: half precision overflows
    there in operations that CUDA's autocast keeps in fp32.

    Args:
        device: where the networks run.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if kind == "cpu":
        # torch before 2.9 does not say what the CPU can do: fp32 is right everywhere.
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
            return torch.bfloat16
    return torch.float32


def autocast(device: torch.device | str, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Compute matrix products and convolutions in `dtype`; in fp32, as their arguments are.

    Args:
        device: where the networks run.
        dtype: the precision of the products.
    """
    if dtype == torch.float32:
        return torch.autocast(torch.device(device).type, enabled=False)
    return torch.autocast(torch.device(device).type, dtype=dtype)


def devices_like(device: torch.device | str, count: int) -> list[torch.device]:
    """Devices for so many replicas of a model: `device`, then the others of its kind.

    On a CPU it is the same one again; of accelerators there must be enough.

    Args:
        device: of the first replica.
        count: how many.

    Raises:
        ValueError: there are not so many.
    """
    first = torch.device(device)
    if first.type == "cpu":
        return [first] * count
    available = torch.get_device_module(first.type).device_count()
    if count > available:
        raise ValueError(
            f"`workers` must be at most {available}, the number of {first.type} devices here, got "
            f"{count}."
        )
    start = first.index or 0
    return [torch.device(first.type, (start + i) % available) for i in range(count)]
