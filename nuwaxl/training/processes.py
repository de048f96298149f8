"""The processes of one training run: how they find each other, and who goes first.

Knows torchrun's environment and accelerate, not what is trained.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import PartialState

from nuwaxl.config import ConfigError

# The others wait at a barrier while the first process encodes strips, which takes hours for large
# data; gloo gives up after 30 minutes by default and NCCL after 10. A process that dies is noticed
# by torchrun at once, whatever this says.
_PATIENCE = timedelta(hours=24)


def join_processes() -> PartialState:
    """Become one of torchrun's processes, or the only one; done once, later calls change nothing.

    accelerate takes several processes without an accelerator for one unless it is told that they
    compute on the CPU: each would train alone and write the same files.

    Raises:
        ConfigError: torchrun started several processes and they cannot work together.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    on_cpu = started > 1 and not torch.accelerator.is_available()
    if on_cpu:
        # accelerate's classes read it again whenever one of them is made without arguments.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    state = PartialState(cpu=on_cpu, timeout=_PATIENCE) if started > 1 else PartialState()
    if state.num_processes != started:
        raise ConfigError(
            f"{started} processes were started and {state.num_processes} would train together: "
            "start them with `torchrun --nproc-per-node N -m nuwaxl train ...`."
        )
    return state


@contextmanager
def first_process_first() -> Iterator[None]:
    """What stands in the block is done by the first process, then by the others.

    So what the first one writes, such as encoded strips, is found by the rest. Where machines do
    not share their disks, the first process of each machine does it once more.
    """
    state = join_processes()
    with state.main_process_first(), state.local_main_process_first():
        yield
