from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path

import pytest

from nuwaxl.config import ConfigError, GenerateConfig, load_config, nearest, read_story


@dataclass(frozen=True)
class Inner:
    steps: int = 20
    text: str = ""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` must be 1 or more, got {self.steps}.")


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    fps: float = 8.0
    length: str | None = None


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_later_sources_win(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "fps: 2\ninner: {steps: 2, text: file}\nlength: 240\n")
    read = load_config(
        Outer,
        file,
        ["inner.steps=3", "fps=3"],
        defaults={"fps": 1, "length": "1s", "inner": {"text": "story"}},
        overrides={"fps": 4},
    )
    assert read == Outer(inner=Inner(steps=3, text="file"), fps=4.0, length="240")
    with pytest.raises(FrozenInstanceError):
        read.fps = 1.0  # pyright: ignore


def test_defaults_need_no_source() -> None:
    assert load_config(Outer) == Outer()


def test_an_override_is_taken_as_it_is() -> None:
    read = load_config(Outer, overrides={"inner": {"text": "a: b, [c] = d"}})
    assert read.inner.text == "a: b, [c] = d"


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_config(Outer, write(tmp_path / "c.yaml", "# nothing\n")) == Outer()


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (
            "inner.step=3",
            "unknown setting `inner.step` in inner.step=3; did you mean `inner.steps`?",
        ),
        ("steps=3", "unknown setting `steps` in steps=3; did you mean `inner.steps`?"),
        ("qqqq=3", "unknown setting `qqqq` in qqqq=3."),
        ("fps=abc", "`fps` in fps=abc: Value 'abc' of type 'str' could not be converted to Float."),
        ("fps=[1", "the value of 'fps=[1' is malformed"),
        ("fps", "expected key=value"),
        ("a dog", "expected key=value"),
        ("inner.steps=0", "`steps` must be 1 or more, got 0."),
    ],
)
def test_a_wrong_entry_is_one_line(entry: str, line: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(Outer, None, [entry])
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "line 3: malformed YAML"),
        ("fps: 8\nfps: 9\n", "line 2: `fps` is said twice."),
        ("- 1\n", "a settings file is `key: value` lines, got a list."),
        ("fsp: 8\n", "unknown setting `fsp` in"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    file = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError) as raised:
        load_config(Outer, file)
    assert line in str(raised.value)
    assert str(file) in str(raised.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot read the settings file 'none\.yaml': no such"):
        load_config(Outer, "none.yaml")


def test_a_story_is_scenes_and_settings(tmp_path: Path) -> None:
    scenes = "- {prompt: a dog, duration: 4s}\n- {prompt: a cat, duration: 5}\n"
    text = f"fps: 12\nseed: 3\nscenes:\n{scenes}"
    story = read_story(write(tmp_path / "s.yaml", text))
    assert story.settings == {"fps": 12, "seed": 3}
    assert story.scenes == [
        {"prompt": "a dog", "duration": "4s"},
        {"prompt": "a cat", "duration": 5},
    ]


@pytest.mark.parametrize("text", ["- a dog\n- a cat\n", "0s: a dog\n10s: a cat\n"])
def test_a_story_may_be_only_prompts(tmp_path: Path, text: str) -> None:
    story = read_story(write(tmp_path / "s.yaml", text))
    assert len(story.scenes) == 2
    assert not story.settings


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("scenes:\n- prompt: [\n", "line 3: malformed YAML"),
        ("sceness: 1\nscenes: [a]\n", "line 1: unknown key `sceness`; did you mean `scenes`?"),
        (
            "- prompt: a\n  duratoin: 3\n",
            "line 2: unknown key `duratoin`; did you mean `duration`?",
        ),
        ("- prompt: a\n- duration: 3\n", "line 2: this scene has no `prompt`."),
        ("- prompt: a\n- prompt: ''\n", "line 2: a prompt is text that is not empty."),
        ("- a\n- [b]\n", "line 2: a prompt is text that is not empty."),
        ("- prompt: a\n  prompt: b\n", "line 2: `prompt` is said twice."),
        ("", "a story is a list of scenes, each with a prompt and a duration; got nothing."),
        ("scenes: []\n", "got nothing."),
        ("just text\n", "got a text."),
    ],
)
def test_a_wrong_story_is_named_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    file = write(tmp_path / "s.yaml", text)
    with pytest.raises(ConfigError) as raised:
        read_story(file)
    assert line in str(raised.value)
    assert str(raised.value).startswith(str(file))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fps", 0.0),
        ("fps", float("nan")),
        ("depth", 0),
        ("batch_size", 0),
        ("seed", -1),
        ("device", "gpu"),
        ("dtype", "half"),
    ],
)
def test_generate_settings_are_checked(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"`{setting}` must be"):
        load_config(GenerateConfig, overrides={setting: value})


def test_nearest_finds_the_last_part_of_a_dotted_name() -> None:
    assert (
        nearest("guidance", ["fps", "sampling.guidance"]) == "; did you mean `sampling.guidance`?"
    )
    assert nearest("zzz", ["fps"]) == "."
