import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuwaxl.tree.storyline import Scene, Storyline, format_time, parse_length, parse_time

INF, NAN = math.inf, math.nan


def starts(story: Storyline) -> list[tuple[float, str]]:
    return [(scene.start, scene.prompt) for scene in story.scenes]


# ---- Ways to write a story ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", [(0, "a")]),
        (["a"], [(0, "a")]),
        (["a", "b", "c", "d"], [(0, "a"), (3, "b"), (6, "c"), (9, "d")]),
        (["a", "a", "b"], [(0, "a"), (8, "b")]),
        ({0: "a", "4s": "b", 9.5: "c"}, [(0, "a"), (4, "b"), (9.5, "c")]),
        ({"0.1m": "b", "0": "a"}, [(0, "a"), (6, "b")]),
        ([{"prompt": "a"}, {"prompt": "b"}], [(0, "a"), (6, "b")]),
        ([{"prompt": "a", "duration": 4}, {"prompt": "b", "duration": "2s"}], [(0, "a"), (4, "b")]),
        ([{"prompt": "a", "start": 0}, {"prompt": "b", "start": 5}], [(0, "a"), (5, "b")]),
        ([{"prompt": "a", "end": "3s"}, {"prompt": "b", "end": 9}], [(0, "a"), (3, "b")]),
        ([{"prompt": "a", "duration": 3}, {"prompt": "b", "start": 3}], [(0, "a"), (3, "b")]),
        ({"scenes": ["a", "b"], "fps": 8, "seed": 1}, [(0, "a"), (6, "b")]),
    ],
)
def test_all_ways_to_write_a_story(value, expected):
    assert starts(Storyline.parse(value, 12)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", None),
        (["a", "b"], None),
        ({0: "a", 4: "b"}, None),
        ([{"prompt": "a"}], None),
        ([{"prompt": "a", "duration": 4}, {"prompt": "b"}], None),
        ([{"prompt": "a", "duration": 4}, {"prompt": "b", "duration": "2.5s"}], 6.5),
        ([{"prompt": "a", "start": 0}, {"prompt": "b", "start": 5, "duration": 1}], 6),
        ({"scenes": [{"prompt": "a", "end": "1m"}]}, 60),
    ],
)
def test_a_story_with_an_end_of_its_own_says_how_long_it_lasts(value, expected):
    assert Storyline.duration_of(value) == expected


SCENE_A = {"prompt": "a", "duration": 4}
BAD_STORIES = {
    "overlap": ([SCENE_A, {"prompt": "b", "start": 3}], ["overlap", "scene 2", "3s", "4s"]),
    "gap": ([SCENE_A, {"prompt": "b", "start": 5}], ["gap", "scene 2", "5s", "4s"]),
    "late begin": ([{"prompt": "a", "start": 2, "end": 3}], ["gap", "scene 1", "2s", "0s"]),
    "late begin of a mapping": ({2: "a"}, ["start at 0s", "2s"]),
    "zero duration": ([{"prompt": "a", "duration": 0}], ["`duration` of scene 1", "got 0"]),
    "negative duration": ([{"prompt": "a", "duration": -1}], ["`duration` of scene 1", "-1"]),
    "NaN duration": ([{"prompt": "a", "duration": NAN}], ["`duration` of scene 1", "nan"]),
    "infinite duration": ([{"prompt": "a", "duration": INF}], ["`duration` of scene 1", "inf"]),
    "no time": ([SCENE_A, {"prompt": "b", "end": "x"}], ["`end` of scene 2", "'x'", "2m30s"]),
    "a list as time": ([{"prompt": "a", "duration": [4]}], ["`duration` of scene 1", "[4]"]),
    "true as time": ([{"prompt": "a", "duration": True}], ["`duration` of scene 1", "True"]),
    "end before start": (
        [SCENE_A, {"prompt": "b", "start": 4, "end": 2}],
        ["`end` of scene 2", "start at 4s", "got 2"],
    ),
    "said twice": ([SCENE_A | {"end": 4}], ["`duration`", "`end`", "scene 1", "one of them"]),
    "open scene": ([{"prompt": "a"}, SCENE_A], ["Scene 2", "`start`", "scene 1"]),
    "one time twice": ({0: "a", 60: "b", "1m": "c"}, ["'b' at 1m", "'c' at 1m"]),
    "empty prompt": ("  ", ["`prompt`", "'  '"]),
    "empty prompt in a list": (["a", ""], ["`prompt` of scene 2", "''"]),
    "number as prompt": (["a", 7], ["`prompt` of scene 2", "text", "7", "quotes"]),
    "number as prompt of a scene": ([SCENE_A | {"prompt": 7}], ["`prompt` of scene 1", "7"]),
    "number as prompt at a time": ({0: "a", 2: 7}, ["`prompt` at 2s", "7"]),
    "no prompt": ([{"duration": 4}], ["Scene 1", "`prompt`"]),
    "misspelt": ([{"promt": "a", "duration": 4}], ["Scene 1", "prompt, duration", "'promt'"]),
    "misspelt in the story": ({"scenes": ["a"], "fsp": 8}, ["A story", "fps", "'fsp'"]),
    "scenes and prompts": ([SCENE_A, "b"], ["both", "{prompt, duration}"]),
    "nothing": ([], ["A story", "[]"]),
    "an empty mapping": ({}, ["A story", "{}"]),
    "never shown": ({0: "a", 12: "b"}, ["'b'", "starts at 12s", "film of 12s", "longer"]),
}


@pytest.mark.parametrize("name", BAD_STORIES)
def test_a_story_that_cannot_be_is_refused_in_one_line(name):
    value, expected = BAD_STORIES[name]
    with pytest.raises(ValueError, match=r"\A[^\n]+\.\Z") as caught:
        Storyline.parse(value, 12)
    for part in expected:
        assert part in str(caught.value)


@pytest.mark.parametrize("duration", [0, -1, INF, NAN])
def test_a_film_must_last(duration):
    with pytest.raises(ValueError, match="`duration` must be more than 0"):
        Storyline.parse("a", duration)


# ---- The prompt in force --------------------------------------------------------------------


def test_the_last_scene_goes_on_until_the_film_ends():
    assert Storyline.parse([SCENE_A], 100).prompt_at(99) == "a"


def test_the_film_may_end_within_a_scene():
    story = Storyline.parse([SCENE_A, {"prompt": "b", "duration": 60}], 5)
    assert story.prompts_at([0, 3.9, 4, 4.9]) == ("a", "a", "b", "b")


@given(
    fps=st.sampled_from([1, 8, 12, 24, 25, 30, 24000 / 1001, 59.94]),
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=12),
    offset=st.integers(0, 10**6),
)
@settings(max_examples=50, deadline=None)
def test_a_cut_falls_on_the_frame_at_which_its_scene_starts(fps, lengths, offset):
    """However the float sums of durations round."""
    lengths = [offset + 1, *lengths]
    scenes = [{"prompt": str(i), "duration": length / fps} for i, length in enumerate(lengths)]
    story = Storyline.parse(scenes, sum(lengths) / fps)
    frame = 0
    for index, length in enumerate(lengths):
        assert story.prompt_at(frame / fps) == str(index)
        frame += length
        assert story.prompt_at((frame - 1) / fps) == str(index)


@given(num_prompts=st.integers(1, 40), frames_each=st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_prompts_share_the_film_equally(num_prompts, frames_each):
    num_frames = num_prompts * frames_each
    story = Storyline.parse([str(i) for i in range(num_prompts)], num_frames / 24)
    prompts = story.prompts_at(frame / 24 for frame in range(num_frames))
    assert prompts == tuple(str(frame // frames_each) for frame in range(num_frames))


@pytest.mark.parametrize("time", [-1, NAN])
def test_nothing_is_in_force_before_the_film(time):
    with pytest.raises(ValueError, match="`time`"):
        Storyline.parse("a", 1).prompt_at(time)


# ---- Edits and equality ---------------------------------------------------------------------

FRAMES = [frame / 8 for frame in range(80)]


@given(
    cuts=st.sets(st.integers(1, 79), max_size=6),
    start=st.integers(0, 79),
    length=st.integers(1, 80),
    prompt=st.sampled_from("abx"),
)
@settings(max_examples=100, deadline=None)
def test_an_edit_changes_its_range_and_nothing_else(cuts, start, length, prompt):
    story = Storyline(tuple(Scene(cut / 8, "abc"[cut % 3]) for cut in sorted({0, *cuts})))
    stop = start + length
    edited = story.with_prompt(start / 8, stop / 8, prompt)
    for frame, (old, new) in enumerate(
        zip(story.prompts_at(FRAMES), edited.prompts_at(FRAMES), strict=True)
    ):
        assert new == (prompt if start <= frame < stop else old)


def test_an_edit_undone_is_the_same_story():
    story = Storyline.parse(["a", "b"], 10)
    assert story.with_prompt(6, 8, "x") != story
    assert story.with_prompt(6, 8, "x").with_prompt(6, 8, "b") == story
    assert hash(story.with_prompt(6, 8, "b")) == hash(story)
    assert starts(story.with_prompt(2, INF, "x")) == [(0, "a"), (2, "x")]
    assert starts(story.with_prompt(0, 5, "x")) == [(0, "x"), (5, "b")]


@pytest.mark.parametrize(("start", "stop"), [(2, 2), (3, 2), (-1, 2), (NAN, 2), (0, NAN)])
def test_an_edit_must_have_a_range(start, stop):
    with pytest.raises(ValueError, match="0 <= start < stop"):
        Storyline.parse("a", 10).with_prompt(start, stop, "x")


def test_a_story_can_be_sent_to_a_worker():
    story = Storyline.parse(["a", "b"], 10)
    story.prompt_at(0)
    assert pickle.loads(pickle.dumps(story)) == story


def test_scenes_must_be_in_order():
    with pytest.raises(ValueError, match="at least one scene"):
        Storyline(())
    with pytest.raises(ValueError, match="one after the other"):
        Storyline((Scene(0, "a"), Scene(2, "b"), Scene(1, "c")))
    with pytest.raises(ValueError, match="`start`"):
        Scene(NAN, "a")


# ---- Length and time ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "num_frames"),
    [
        ("240", 240),
        (240, 240),
        (" 1 ", 1),
        ("1e9", 10**9),
        ("12345678901234567", 12345678901234567),
        ("30s", 240),
        ("2m30s", 1200),
        ("2M 30S", 1200),
        ("1h", 28800),
        ("1.5m", 720),
        ("1h0.5s", 28804),
        ("1e-05s", 1),
        ("0.0625s", 1),
        ("0.19s", 2),
        ("0.1875s", 2),
        ("0.18s", 1),
    ],
)
def test_length_is_frames_or_a_time(text, num_frames):
    assert parse_length(text, 8) == num_frames


@pytest.mark.parametrize(
    "text", ["abc", "", " ", "nan", "inf", "s", "1x", "30s2m", "-5s", "240.5", "1e400", "1e400s"]
)
def test_no_length(text):
    with pytest.raises(ValueError, match=r"^`length` .*'90s' or '2m30s', got " + repr(text)):
        parse_length(text, 8)


@pytest.mark.parametrize("text", ["0", "-5", "0s", "0m0s", "0.0"])
def test_a_film_has_a_frame(text):
    with pytest.raises(ValueError, match=f"^`length` must be at least one frame, got '{text}'"):
        parse_length(text, 8)


@pytest.mark.parametrize("fps", [0, -8, NAN, INF])
def test_frames_per_second_must_be_positive(fps):
    with pytest.raises(ValueError, match="`fps` must be above 0"):
        parse_length("30s", fps)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(90, 90), (2.5, 2.5), ("90", 90), ("90s", 90), ("1m30s", 90), (".5", 0.5), ("0", 0)],
)
def test_time_is_seconds_or_text(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", -1, NAN, INF, "nan", True, None, [1]])
def test_no_time(text):
    with pytest.raises(ValueError, match=r"^`when` must be seconds"):
        parse_time(text, name="when")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (2.5, "2.5s"), (90, "1m30s"), (60, "1m"), (7200, "2h"), (3601.25, "1h1.25s")],
)
def test_time_is_written_as_it_is_read(seconds, text):
    assert format_time(seconds) == text
    assert parse_time(text) == seconds


@given(st.integers(0, 10**9))
@settings(max_examples=100, deadline=None)
def test_written_time_is_read_back(milliseconds):
    assert parse_time(format_time(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)
