"""What a network or a tensor is, as a hash: the same on every device.

Knows tensors and files of tensors, not what they are for.
"""

import hashlib
import inspect
import json
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from safetensors import safe_open
from torch import Tensor, nn

_PROBES_PER_TENSOR = 16


@dataclass(frozen=True)
class _Seen:
    """The hash of a network, and how its weights looked when it was taken."""

    digest: str
    probe: Mapping[str, Tensor] = field(repr=False)


_seen: "weakref.WeakKeyDictionary[nn.Module, _Seen]" = weakref.WeakKeyDictionary()


def fingerprint(parts: object) -> str:
    """The hash of anything that is JSON.

    Args:
        parts: nested lists, mappings, strings and numbers.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def content_hash(latents: Tensor) -> str:
    """Hash of a tensor's shape and float32 values, by which a pinned frame is known."""
    values = latents.detach().to("cpu", torch.float32).contiguous()
    digest = hashlib.sha256(repr(tuple(values.shape)).encode())
    digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def module_fingerprint(module: nn.Module) -> str:
    """The hash of a network's weights (taken as fp32), its settings and its active LoRA scales.

    Weights of one shape can mean several networks, such as one of other attention heads. Settings
    that are as the network's class has them by itself do not count, so that a new one of a later
    version changes nothing.

    Hashing runs at about 2 GB/s and is done once: later calls look at a few values of every
    tensor and hash again only when one of them has changed by more than a change of dtype can
    explain. So moving or casting a network keeps its fingerprint, and a LoRA, a fused LoRA or a
    training step changes it.

    Args:
        module: any network; its weights may be anywhere but on the meta device.
    """
    return fingerprint([weights_hash(module), _settings(module), _lora_scales(module)])


def weights_hash(module: nn.Module) -> str:
    """The hash of a network's weights alone; see `module_fingerprint`.

    Args:
        module: any network.
    """
    seen = _seen.get(module)
    weights = _weights(module)
    if any(weight.is_meta for weight in weights.values()):
        if seen is None:
            raise ValueError(
                f"The weights of {type(module).__name__} are on the meta device, so they cannot be"
                " hashed: read `pipeline.fingerprint` once before sequential offloading."
            )
        return seen.digest
    probe = _probe(weights)
    if seen is None or not _same(seen.probe, probe):
        seen = _Seen(_digest(weights.items()), probe)
    else:
        seen = _Seen(seen.digest, probe)
    _seen[module] = seen
    return seen.digest


def remember_hash(module: nn.Module, *parts: str) -> None:
    """Say what a network is now, whatever rounding did to what was loaded into it.

    Args:
        module: any network.
        parts: hashes of all that it is made of; one alone is taken as it is.
    """
    digest = parts[0] if len(parts) == 1 else fingerprint(list(parts))
    _seen[module] = _Seen(digest, _probe(_weights(module)))


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """The hash of named tensors, taken as fp32.

    Args:
        tensors: on any device.
    """
    return _digest(tensors.items())


def remember_files(module: nn.Module, folder: Path, variant: str | None = None) -> None:
    """Take the hash from the saved weights, whatever the network made of them when it was loaded.

    Args:
        module: the network as loaded.
        folder: where its safetensors files are.
        variant: the one that was loaded, such as 'fp16'.
    """
    suffix = f".{variant}.safetensors" if variant else ".safetensors"
    names = sorted(
        path
        for path in folder.glob("*.safetensors")
        if path.name.endswith(suffix) and path.name.count(".") == suffix.count(".")
    )
    if names:
        _seen[module] = _Seen(_digest(_file_tensors(names)), _probe(_weights(module)))


def _file_tensors(paths: Iterable[Path]) -> Iterable[tuple[str, Tensor]]:
    for path in paths:
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                yield name, file.get_tensor(name)


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """The weights by name, in which peft's wrapping of a layer leaves no trace."""
    return {
        name.replace(".base_layer.", "."): tensor.detach()
        for name, tensor in module.state_dict().items()
    }


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    parts = {}
    for name, tensor in tensors:
        values = tensor.detach().cpu().float().contiguous().reshape(-1)
        parts[name] = [list(tensor.shape), hashlib.sha256(values.numpy().tobytes()).hexdigest()]
    return fingerprint(parts)


def _probe(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A few values of every tensor, evenly spread, in the tensor's own dtype."""
    probe = {}
    for name, tensor in weights.items():
        flat = tensor.reshape(-1)
        probe[name] = flat[:: max(1, flat.numel() // _PROBES_PER_TENSOR)].cpu().clone()
    return probe


def _same(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> bool:
    if before.keys() != now.keys():
        return False
    for name, old in before.items():
        new = now[name]
        if old.shape != new.shape:
            return False
        if old.dtype == new.dtype:
            if not torch.equal(old, new):
                return False
        elif old.is_floating_point() and new.is_floating_point():
            rounding = max(torch.finfo(old.dtype).eps, torch.finfo(new.dtype).eps)
            # fp16 flushes what is below 6e-8 to zero, so tiny weights may differ by that much.
            if not torch.allclose(old.double(), new.double(), rtol=rounding, atol=1e-7):
                return False
    return True


def _settings(module: nn.Module) -> dict[str, Any]:
    """What the network was built with, where diffusers keeps that and it is not the default."""
    if not isinstance(module, ConfigMixin):
        return {}
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(type(module).__init__).parameters.items()
    }
    plain = {name: value for name, value in module.config.items() if not name.startswith("_")}
    return {
        name: value for name, value in plain.items() if _json(value) != _json(defaults.get(name))
    }


def _json(value: object) -> str:
    """Lists and tuples alike, as a saved config has them."""
    return json.dumps(value, sort_keys=True, default=str)


def _lora_scales(module: nn.Module) -> dict[str, Any]:
    """Which LoRA layers act and how strongly: peft keeps that outside the weights."""
    scales = {}
    for layer_name, layer in module.named_modules():
        scaling: Any = getattr(layer, "scaling", None)
        active: Any = getattr(layer, "active_adapters", None)
        if isinstance(scaling, dict) and active is not None:
            active = [] if layer.disable_adapters else [name for name in active if name in scaling]
            if active:
                scales[layer_name] = {adapter: scaling[adapter] for adapter in active}
    return scales
