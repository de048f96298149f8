"""`--lora`: checked by the header of its files, before anything is loaded."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

ROLES = ("global_unet", "local_unet")
_LONGEST_HEADER = 100_000_000


def check_lora(paths: Sequence[str], *, pretrained: bool) -> None:
    """Refuse what is no LoRA for a model of ours.

    Args:
        paths: files or folders.
        pretrained: whether pretrained models make the film.

    Raises:
        ValueError: one line with argument, rule, value and way out.
    """
    if not paths:
        return
    if pretrained:
        raise ValueError("`--lora` is for our own model; a pretrained one takes none here.")
    if find_spec("peft") is None:
        raise ValueError("`--lora` needs peft: pip install 'nuwaxl[lora]'.")
    for path in paths:
        source = Path(path)
        files = [source] if source.is_file() else sorted(source.glob("*.safetensors"))
        if not files:
            raise ValueError(
                f"`--lora` must be a .safetensors file or a folder that holds some, got {path!r}."
            )
        for file in files:
            _check_header(file)


def _check_header(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            names = json.loads(opened.read(min(length, _LONGEST_HEADER)))
    except (OSError, ValueError):
        raise ValueError(f"`--lora`: {str(file)!r} is no safetensors file.") from None
    strange = [n for n in names if n != "__metadata__" and n.partition(".")[0] not in ROLES]
    if strange:
        raise ValueError(
            f"`--lora` must be for {' or '.join(ROLES)}, as `nuwaxl train global|local` writes it; "
            f"{str(file)!r} holds {strange[0]!r}."
        )
