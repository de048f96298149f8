"""LoRA files for the two networks of a pipeline, as diffusers keeps them.

Knows files, adapters and the hashes of weights; not what was learned. A file's entries begin with
the role whose network they change: `global_unet.` or `local_unet.`; one file may hold both.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.utils import is_peft_available
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nuwaxl.tensors.fingerprint import remember_hash, tensors_hash, weights_hash

ROLES = ("global_unet", "local_unet")


class RoleLoraMixin(LoraBaseMixin):
    """`load_lora_weights` and its relatives for a pipeline with a network in each of `ROLES`.

    Scales, `set_adapters`, `fuse_lora` and the rest are diffusers' own.
    """

    _lora_loadable_modules = list(ROLES)  # noqa: RUF012 (as diffusers declares it)

    def load_lora_weights(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike[str] | Mapping[str, Tensor],
        *,
        adapter_name: str | None = None,
    ) -> None:
        """Add a LoRA to the networks that it is for; those loaded before stay at work.

        Its values enter the networks' fingerprints as the file has them, so a film's keys tell
        LoRAs apart on every device and in every precision.

        Args:
            pretrained_model_name_or_path_or_dict: a folder of LoRA files, one file, or tensors.
            adapter_name: for `set_adapters`; None: made from the values.

        Raises:
            ValueError: there is none, or it fits neither network.
        """
        tensors = self.lora_state_dict(pretrained_model_name_or_path_or_dict)
        name = adapter_name or f"lora_{tensors_hash(tensors)[:12]}"
        _check_peft()
        for role in ROLES:
            own = {key: value for key, value in tensors.items() if key.startswith(f"{role}.")}
            if not own:
                continue
            network = getattr(self, role)
            before = weights_hash(network)
            self.__dict__.setdefault("_hashes_without_lora", {}).setdefault(role, before)
            try:
                network.load_lora_adapter(own, prefix=role, adapter_name=name)
            except (RuntimeError, ValueError, LookupError) as error:
                raise ValueError(
                    f"The LoRA does not fit this pipeline's `{role}`: {str(error).splitlines()[0]}"
                ) from error
            network.set_adapters(list(network.peft_config))
            remember_hash(network, before, tensors_hash(own))

    def unload_lora_weights(self) -> None:
        """Remove all LoRAs; the networks are known again by what they were before."""
        was_fused = bool(self.num_fused_loras)
        super().unload_lora_weights()
        for role, before in self.__dict__.pop("_hashes_without_lora", {}).items():
            if not was_fused:
                remember_hash(getattr(self, role), before)

    @classmethod
    def lora_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_model_name_or_path_or_dict: str | os.PathLike[str] | Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The tensors of a LoRA by name.

        Args:
            pretrained_model_name_or_path_or_dict: as `load_lora_weights` takes it.

        Raises:
            ValueError: there is none, or an entry is for no role.
        """
        source = pretrained_model_name_or_path_or_dict
        if isinstance(source, Mapping):
            tensors = dict(source)
        else:
            tensors = {}
            for file in lora_files(source):
                try:
                    tensors |= load_file(file)
                except SafetensorError as error:
                    raise ValueError(f"'{file}' is no LoRA file: {error}.") from error
        strange = [name for name in tensors if name.partition(".")[0] not in ROLES]
        if strange or not tensors:
            what = f"got {strange[0]!r}" if strange else "got nothing"
            raise ValueError(f"A LoRA's entries must begin with {' or '.join(ROLES)}, {what}.")
        return tensors

    @classmethod
    def save_lora_weights(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        save_directory: str | os.PathLike[str],
        *,
        global_unet_lora_layers: Mapping[str, Tensor] | None = None,
        local_unet_lora_layers: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write one file for each role, next to what is in the folder.

        Args:
            save_directory: made when it is not there.
            global_unet_lora_layers: what `peft.get_peft_model_state_dict` gives.
            local_unet_lora_layers: the same of the other network.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        layers = dict(zip(ROLES, (global_unet_lora_layers, local_unet_lora_layers), strict=True))
        for role, tensors in layers.items():
            if tensors:
                named = {f"{role}.{name}": value for name, value in tensors.items()}
                contiguous = {k: v.detach().cpu().contiguous() for k, v in named.items()}
                save_file(contiguous, folder / f"{role}_lora.safetensors", {"format": "pt"})


def lora_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files of a LoRA.

    Args:
        path: a .safetensors file, or a folder that holds some.

    Raises:
        ValueError: there is none.
    """
    source = Path(path)
    files = [source] if source.is_file() else sorted(source.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"A LoRA must be a .safetensors file or a folder that holds some, got '{source}'."
        )
    return files


def add_lora(network: Any, rank: int, targets: tuple[str, ...]) -> None:
    """Freeze a network and give it a LoRA to be learned, which changes nothing at first.

    Args:
        network: a diffusers model.
        rank: of the two factors of every change.
        targets: names of layers, or ends of names.

    Raises:
        ValueError: no layer has such a name, or peft is not installed.
    """
    _check_peft()
    from peft import LoraConfig

    network.requires_grad_(False)
    # alpha = rank: a scale of 1, so files need no note beside the weights.
    network.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)))


def lora_layers(network: nn.Module) -> dict[str, Tensor]:
    """The learned factors of a network that `add_lora` prepared."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(network)


def _check_peft() -> None:
    if not is_peft_available():
        raise ValueError("LoRA needs the package peft: pip install 'nuwaxl[lora]'.")
