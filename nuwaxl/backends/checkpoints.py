"""What a pretrained checkpoint is, from its small files: kind, flaws, fingerprint.

Knows folders and the hub; loads no weights, and downloads only a checkpoint's configurations.
"""

import hashlib
import inspect
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nuwaxl.backends.catalogue import Backend, BackendChoice, RoleChoice, picture_files
from nuwaxl.tensors.fingerprint import fingerprint

_INDEX = "model_index.json"
_HASHED = {".safetensors", ".bin", ".json", ".txt", ".model"}
"""Files that decide what a checkpoint makes."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_READ_BYTES = 2**22


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a diffusers pipeline, or one on the hub at a commit."""

    source: str
    """The folder, or the hub's id."""
    revision: str | None = None
    """The commit; None: a folder."""

    def read(self, name: str) -> dict[str, Any] | None:
        """One of its JSON files; None: it has none of that name.

        Args:
            name: such as 'transformer/config.json'.
        """
        path = self.file(name)
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))

    def file(self, name: str) -> Path | None:
        """Where one of its small files is, fetched if need be; None: it has none."""
        if self.revision is None:
            path = Path(self.source, name)
            return path if path.is_file() else None
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

        try:
            return Path(hf_hub_download(self.source, name, revision=self.revision))
        except (EntryNotFoundError, HfHubHTTPError, OSError):
            return None

    @property
    def fingerprint(self) -> str:
        """Of a folder, the hash of its weights and settings; of the hub's, id and commit.

        A commit of the hub names its files' content; a folder's files are read whole, at one to two
        gigabytes per second.
        """
        if self.revision is not None:
            return fingerprint([self.source, self.revision])
        files = sorted(
            path
            for path in Path(self.source).rglob("*")
            if path.suffix in _HASHED and not any(part.startswith(".") for part in path.parts[1:])
        )
        root = Path(self.source)
        return fingerprint(
            [
                [str(path.relative_to(root)), _file_hash(path, *_stamp(path))]
                for path in files
                if path.is_file()
            ]
        )


def find_checkpoint(role: RoleChoice) -> Checkpoint:
    """The checkpoint that the user named.

    Raises:
        ValueError: no such folder, and no such id on the hub or in its cache.
    """
    said, name = role.checkpoint, role.backend.name
    if Path(said).is_dir():
        if not Path(said, _INDEX).is_file():
            raise ValueError(
                f"`checkpoint` of {name} must be a folder with a {_INDEX}, as diffusers writes it, "
                f"and {said!r} has none."
            )
        return Checkpoint(said)
    repository, _, revision = said.partition("@")
    if not _HUB_ID.fullmatch(repository) or Path(said).exists() or said.startswith((".", "/")):
        raise ValueError(
            f"`checkpoint` of {name} must be a folder or an id of the hub such as "
            f"{role.backend.checkpoint or 'org/name'}, got {said!r}."
        )
    from huggingface_hub import hf_hub_download

    try:
        index = hf_hub_download(repository, _INDEX, revision=revision or None)
    except Exception as error:  # not there, not allowed, no network: one line for all
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"`checkpoint` of {name}: {said!r} is neither a folder nor to be had from the hub "
            f"({type(error).__name__}: {reason})."
        ) from error
    return Checkpoint(repository, Path(index).parent.name)


def pinned(role: RoleChoice) -> str:
    """The choice as text that names the same weights later and from any folder.

    Args:
        role: whose folder is made absolute, and whose id gets its commit.
    """
    if role.backend.name == "pictures":
        return f"{role.backend.name}={Path(role.checkpoint).resolve()}"
    found = find_checkpoint(role)
    where = Path(found.source).resolve() if found.revision is None else None
    return f"{role.backend.name}={where or f'{found.source}@{found.revision}'}"


def check_choice(choice: BackendChoice) -> None:
    """Refuse what could not make a film, before any weights are fetched or loaded.

    Raises:
        ValueError: a package is missing, or a checkpoint is of another kind or cannot do its part.
    """
    for role in choice.roles:
        backend = role.backend
        for package in backend.packages:
            if find_spec(package) is None:
                raise ValueError(
                    f"`model` {backend.name} needs the package {package}: "
                    "pip install 'nuwaxl[backends]'."
                )
        if backend.name == "pictures":
            picture_files(role.checkpoint)
        else:
            _check_checkpoint(backend, find_checkpoint(role))
    if choice.quantize is not None and find_spec("bitsandbytes") is None:
        raise ValueError(
            f"`quantize` {choice.quantize} needs bitsandbytes: pip install bitsandbytes."
        )


def _check_checkpoint(backend: Backend, checkpoint: Checkpoint) -> None:
    index = checkpoint.read(_INDEX) or {}
    found = index.get("_class_name")
    if backend.pipeline is None:
        _check_text_to_image(found, checkpoint)
        return
    if found != backend.pipeline:
        raise ValueError(
            f"`checkpoint` of {backend.name} must hold a {backend.pipeline}, and "
            f"{checkpoint.source!r} holds a {found}; {backend.checkpoint} is one."
        )
    import diffusers

    if not hasattr(diffusers, backend.pipeline):
        raise ValueError(
            f"`model` {backend.name} needs a diffusers with {backend.pipeline}: "
            "pip install -U diffusers."
        )
    if backend.name == "wan-flf":
        _check_last_frame(index, checkpoint)


def _check_last_frame(index: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Refuse image-to-video weights that would ignore the last frame, or break on it."""
    if index.get("expand_timesteps"):
        raise ValueError(
            f"`checkpoint` of wan-flf must know a last frame, and {checkpoint.source!r} ignores it "
            "(expand_timesteps, as Wan 2.2 TI2V-5B): take Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers "
            "or Wan-AI/Wan2.2-I2V-A14B-Diffusers."
        )
    transformer = checkpoint.read("transformer/config.json") or {}
    if transformer.get("image_dim") is not None and transformer.get("pos_embed_seq_len") is None:
        raise ValueError(
            f"`checkpoint` of wan-flf must know a last frame, and {checkpoint.source!r} reads one "
            "picture only (its transformer has no pos_embed_seq_len): take "
            "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers."
        )


def _check_text_to_image(name: Any, checkpoint: Checkpoint) -> None:
    """Refuse a pipeline that does not make pictures from a prompt alone."""
    import diffusers

    pipeline = getattr(diffusers, name, None) if isinstance(name, str) else None
    if pipeline is None:
        raise ValueError(
            f"`checkpoint` of stills must hold a pipeline of diffusers, and {checkpoint.source!r} "
            f"holds a {name}."
        )
    parameters = inspect.signature(pipeline.__call__).parameters
    wanted = {"prompt", "height", "width", "num_inference_steps", "generator"}
    asks = {"image", "video", "num_frames", "mask_image"} & parameters.keys()
    if not wanted <= parameters.keys() or asks:
        raise ValueError(
            f"`checkpoint` of stills must make pictures from text, and {checkpoint.source!r} "
            f"holds a {name}."
        )


def check_prompts(choice: BackendChoice, prompts: list[str]) -> None:
    """Refuse prompts that the models would cut off unseen.

    Args:
        choice: whose video models read them.
        prompts: each as one run has it.

    Raises:
        ValueError: one is longer than a model reads.
    """
    import transformers

    for role in choice.roles:
        backend = role.backend
        if backend.pipeline is None:
            continue
        checkpoint = find_checkpoint(role)
        name = (checkpoint.read(_INDEX) or {}).get("tokenizer", [None, None])[1]
        tokenizer_class = getattr(transformers, name or "AutoTokenizer", None)
        if tokenizer_class is None:
            continue
        tokenizer = tokenizer_class.from_pretrained(
            checkpoint.source,
            subfolder="tokenizer",
            **({} if checkpoint.revision is None else {"revision": checkpoint.revision}),
        )
        for prompt in prompts:
            length = len(tokenizer(prompt).input_ids)
            if length > backend.max_prompt_tokens:
                raise ValueError(
                    f"`prompt` must be at most {backend.max_prompt_tokens} tokens for a run of "
                    f"{backend.name}, which reads one text for all scenes in it, got {length}: say "
                    "less, or make keyframes by `--global-model` stills, which reads each scene."
                )


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4096)
def _file_hash(path: Path, size: int, modified: int) -> str:
    """Of a file's content; read again only when size or time of change differ."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
