"""Settings from files and `key=value`, read into frozen dataclasses; story files.

Knows keys, values and line numbers, not what a setting does. The only module that reads YAML.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.parts.sizes import ModelParts

if TYPE_CHECKING:
    import yaml

ConfigT = TypeVar("ConfigT")

DTYPES = ("auto", "float32", "bfloat16", "float16")
STORY_KEYS = ("scenes", "length", "fps", "seed", "negative_prompt")
SCENE_KEYS = ("prompt", "duration", "start", "end")


class ConfigError(ValueError):
    """What a user wrote cannot be: one line that says where, why and what would do."""


@dataclass(frozen=True)
class GenerateConfig:
    """All that a settings file of `nuwaxl generate` may say, beside the story itself."""

    length: str | None = None
    """Frames ('240') or a time ('30s', '2m30s'); None: as `depth` or the story says."""
    depth: int | None = None
    """Levels of the keyframe tree; None: the fewest that reach every frame."""
    fps: float = 8.0
    """Frames per second; the models know it, so motion keeps its speed."""
    seed: int = 0
    """One seed, one film."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How a segment is denoised."""
    model: str | None = None
    """Folder of a checkpoint, or the name of a pretrained model; None: the bundled one."""
    lora: tuple[str, ...] = ()
    """LoRA files, or folders of them, on our own model; each makes another film."""
    checkpoint: str | None = None
    """Weights of a pretrained `model`: a folder or an id of the hub; None: its usual ones."""
    global_model: str | None = None
    """Pretrained model of the keyframes: a name, or 'name=checkpoint'."""
    local_model: str | None = None
    """Pretrained model of the frames between, the same way."""
    size: str | None = None
    """'WIDTHxHEIGHT' of a pretrained model's frames; None: its own."""
    segment_length: int | None = None
    """Most frames in a run of a pretrained model; None: what it is made for."""
    quantize: str | None = None
    """'4bit' or '8bit' weights of a pretrained model; another film."""
    offload: str | None = None
    """'model', 'sequential' or 'group': a pretrained model's weights wait in memory."""
    device: str = "auto"
    """'cpu', 'cuda', 'cuda:1', 'mps', 'xpu'; 'auto' takes the fastest at hand."""
    dtype: str = "auto"
    """'float32', 'bfloat16' or 'float16'; 'auto' takes what is fast and safe on the device."""
    batch_size: int | None = None
    """Segments denoised together; None: the pipeline's choice. Changes speed, not the film."""
    output: str = "film.mp4"
    """Where the film goes: .mp4, .mkv, .webm, .gif, or a folder for PNG files."""
    contact_sheet: str | None = None
    """Also write a picture with frames of the whole film."""
    parts: ModelParts | None = None
    """Sizes of a model for `nuwaxl plan`; what makes a film is in the folder `model`."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(
                f"`fps` must be a number above 0, got {self.fps:g}; 8 is what the bundled model "
                "was trained around."
            )
        for name in ("depth", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(
                    f"`{name}` must be 1 or more, got {value}; leave it out if unsure."
                )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"`seed` must be from 0 to 2**63 - 1, got {self.seed}.")
        if not re.fullmatch(r"auto|(cpu|mps|cuda|xpu)(:\d+)?", self.device):
            raise ValueError(
                "`device` must be auto, cpu, cuda, mps or xpu, with a number where there are "
                f"several (cuda:1), got {self.device!r}."
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {self.dtype!r}.")


@dataclass(frozen=True)
class StoryFile:
    """A story as its file tells it."""

    path: Path
    scenes: Sequence[Any] | Mapping[Any, Any]
    """What `Storyline.parse` takes."""
    settings: Mapping[str, Any]
    """What else the file says, by the names of `GenerateConfig`."""


def load_config(
    schema: type[ConfigT],
    file: str | Path | None = None,
    dotlist: Sequence[str] = (),
    *,
    defaults: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ConfigT:
    """Read a frozen dataclass; later sources win: schema, defaults, file, dotlist, overrides.

    Args:
        schema: the dataclass; nested dataclasses are allowed.
        file: YAML that states what differs from the schema.
        dotlist: `key=value` with dots into nested dataclasses; values are YAML.
        defaults: nested mapping, weaker than the file.
        overrides: nested mapping, stronger than all else; values are taken as they are.

    Raises:
        ConfigError: one line: file not readable, malformed YAML (with its line), unknown key (with
            the nearest known one), a value of the wrong type, or what the schema itself refuses.
    """
    from omegaconf import OmegaConf

    config = OmegaConf.structured(schema)
    sources: list[tuple[str, Any]] = [("the story's settings", defaults or {})]
    if file is not None:
        sources.append((str(file), read_settings(file)))
    sources += [(entry, _parse_entry(entry)) for entry in dotlist]
    sources.append(("the command line", overrides or {}))
    for origin, values in sources:
        config = _merge(schema, config, values, origin)
    try:
        return cast(ConfigT, OmegaConf.to_object(config))
    except ValueError as error:  # a dataclass refused its values
        raise ConfigError(str(error)) from None


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read a settings file as nested dictionaries, without a schema; an empty file is `{}`.

    Raises:
        ConfigError: one line: not readable, malformed YAML (with its line), not a mapping.
    """
    path = Path(path)
    text = _read_text(path, "settings")
    _compose(text, path)
    content = _load(text)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a settings file is `key: value` lines, got {_kind(content)}.")
    return content


def read_story(path: str | Path) -> StoryFile:
    """Read a story file: scenes, and optionally length, fps, seed and negative_prompt.

    The file is a list of prompts, a list of scenes (prompt with duration, or with start and
    perhaps end), a mapping time -> prompt, or a mapping that holds one of these under `scenes`.

    Raises:
        ConfigError: one line with file and line number: not readable, malformed, a key said twice,
            an unknown key (with the nearest known one), a scene without a prompt.
    """
    path = Path(path)
    text = _read_text(path, "story")
    node = _compose(text, path)
    content = _load(text)
    if isinstance(content, dict) and "scenes" in content:
        _check_keys(node, STORY_KEYS, path)
        settings = {key: value for key, value in content.items() if key != "scenes"}
        content = content["scenes"]
        node = next(value for key, value in node.value if key.value == "scenes")
    else:
        settings = {}
    if not isinstance(content, (list, dict)) or not content:
        raise ConfigError(
            f"{path}: a story is a list of scenes, each with a prompt and a duration; got "
            f"{_kind(content)}."
        )
    if isinstance(content, list):
        for scene_node in node.value:
            _check_scene(scene_node, path)
    return StoryFile(path=path, scenes=content, settings=settings)


def nearest(word: str, known: Sequence[str], quote: str = "`") -> str:
    """'; did you mean `x`?' for the known name nearest to `word`, or nothing.

    A name with dots is also found by its last part: `guidance_scale` finds
    `sampling.guidance_scale`.
    """
    by_last_part = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not found:
        last = word.rsplit(".", 1)[-1]
        found = [by_last_part[x] for x in difflib.get_close_matches(last, by_last_part, n=1)]
    return f"; did you mean {quote}{found[0]}{quote}?" if found else "."


def _merge(schema: type, config: Any, values: Any, origin: str) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

    try:
        return OmegaConf.merge(config, OmegaConf.create(values))
    except ConfigKeyError as error:
        key = str(error.full_key)
        raise ConfigError(
            f"unknown setting `{key}` in {origin}{nearest(key, list(_keys(schema)))}"
        ) from None
    except OmegaConfBaseException as error:
        key = f"`{error.full_key}` in {origin}" if error.full_key else origin
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}.") from None


def _keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings, nested ones after their owner."""
    for entry in fields(schema):
        yield prefix + entry.name
        if is_dataclass(entry.type):
            yield from _keys(entry.type, f"{prefix}{entry.name}.")


def _parse_entry(entry: str) -> Any:
    import yaml
    from omegaconf import OmegaConf

    key, equals, _ = entry.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
        raise ConfigError(
            f"expected key=value such as sampling.num_inference_steps=10, got {entry!r}; a text "
            "with spaces needs quotes, and a prompt needs --prompt."
        )
    try:
        return OmegaConf.from_dotlist([entry])
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of {entry!r} is malformed: {_problem(error)}.") from None


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"the {what} file {str(path)!r} is not UTF-8 text.") from None
    except OSError as error:
        reason = (error.strerror or "not readable").lower()
        raise ConfigError(f"cannot read the {what} file {str(path)!r}: {reason}.") from None


def _load(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def _compose(text: str, path: Path) -> Any:
    """Parse into nodes, which know their lines; refuse malformed YAML and a key said twice."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: malformed YAML: {_problem(error)}.") from None
    except ValueError as error:  # such as a date that does not exist
        raise ConfigError(f"{path}: malformed YAML: {error}.") from None
    pending = [root] if root is not None else []
    while pending:
        node = pending.pop()
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if key.value in seen:
                    raise ConfigError(f"{_place(path, key)}: `{key.value}` is said twice.")
                seen.add(key.value)
                pending.append(value)
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value
    return root


def _check_scene(node: "yaml.Node", path: Path) -> None:
    import yaml

    if isinstance(node, yaml.MappingNode):
        _check_keys(node, SCENE_KEYS, path)
        prompt = next((value for key, value in node.value if key.value == "prompt"), None)
        if prompt is None:
            raise ConfigError(f"{_place(path, node)}: this scene has no `prompt`.")
        node = prompt
    if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
        raise ConfigError(f"{_place(path, node)}: a prompt is text that is not empty.")


def _check_keys(node: Any, known: Sequence[str], path: Path) -> None:
    for key, _ in node.value:
        if key.value not in known:
            raise ConfigError(
                f"{_place(path, key)}: unknown key `{key.value}`{nearest(str(key.value), known)} "
                f"Known: {', '.join(known)}."
            )


def _place(path: Path, node: "yaml.Node") -> str:
    return f"{path}, line {node.start_mark.line + 1}"


def _problem(error: Exception) -> str:
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    context = getattr(error, "context", None)
    return f"{problem} ({context})" if context else problem


def _kind(content: object) -> str:
    names = {type(None): "nothing", str: "a text", list: "a list", dict: "a mapping"}
    return "nothing" if content in ([], {}) else names.get(type(content), repr(content))
