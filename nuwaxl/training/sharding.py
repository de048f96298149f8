"""A network whose weights are divided among the processes (torch's FSDP2).

Knows weights and processes, not what is trained. accelerate's own FSDP silently becomes plain data
parallelism on CPUs, so torch's `fully_shard` is called here: one way for all devices.
"""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def shard(model: nn.Module, device: torch.device) -> nn.Module:
    """The same network with its weights divided evenly; `model` is left without any.

    Every process starts from the first one's weights. While the network works, the whole weights
    of one block at a time are put together on every process. One process alone keeps all of them.

    Args:
        model: whole, the same on every process in all but the values of its weights; its
            parameters end on the meta device. `fill` gives them back.
        device: of this process.
    """
    model.to(device)
    twin = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            empty = nn.Parameter(weight.detach().to("meta"), requires_grad=weight.requires_grad)
            setattr(module, name, empty)
    if not dist.is_initialized():
        return twin
    for tensor in (*twin.parameters(), *twin.buffers()):
        dist.broadcast(tensor.detach(), src=0)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in _blocks(twin):
        fully_shard(block, mesh=mesh)
    fully_shard(twin, mesh=mesh)
    return twin


def fill(model: nn.Module, twin: nn.Module, averaged: Mapping[str, Tensor]) -> None:
    """Give `model` whole weights again, on the CPU; every process must call this.

    Args:
        model: what `shard` emptied.
        twin: what `shard` made of it.
        averaged: parameter name -> this process's part of weights to take instead of the twin's.
    """
    state = {}
    for name, weight in twin.named_parameters():
        part = averaged.get(name)
        taken = weight.detach() if part is None else divided_like(weight, part)
        state[name] = _whole(taken).cpu()
    state |= dict(twin.named_buffers())
    wanted = model.state_dict().keys()
    model.load_state_dict({k: v for k, v in state.items() if k in wanted}, assign=True)


def own_part(weight: Tensor) -> Tensor:
    """What this process holds of a weight: the same memory, all of it where nothing is divided."""
    if not isinstance(weight, DTensor):
        return weight
    part: Tensor = weight.to_local().detach()
    return part.requires_grad_(weight.requires_grad)


def divided_like(weight: Tensor, part: Tensor) -> Tensor:
    """A tensor divided like a weight, of which `part` is this process's."""
    if not isinstance(weight, DTensor):
        return part
    return DTensor.from_local(
        part, weight.device_mesh, weight.placements, shape=weight.shape, stride=weight.stride()
    )


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The parts that are put together one at a time: those that are not to be split further."""
    whole = getattr(model, "_no_split_modules", None) or []
    yield from (module for module in model.modules() if type(module).__name__ in whole)
