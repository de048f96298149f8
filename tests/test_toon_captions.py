"""Captions of the toon world are true, varied, and tell which facts they tell."""

import re

import numpy as np
import pytest

from nuwaxl.toon import (
    ACTIONS,
    ATTRIBUTES,
    Scene,
    actions,
    actors,
    backgrounds,
    canonical_caption,
    caption,
    combinations,
    mentioned,
    sample_scene,
    unknown_words,
    vocabulary,
    words,
)

TIME_WORDS = {
    "day": {"day", "daytime", "daylight", "midday"},
    "sunset": {"sunset", "dusk", "sun", "sundown", "evening", "twilight"},
    "night": {"night", "nighttime", "dark", "midnight"},
}


def scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [sample_scene(rng, 5.0, held_out=i % 5 == 0) for i in range(count)]


def told_direction(text: str) -> str | None:
    """The direction a caption tells, read without the grammar."""
    text = re.sub(r"from (the )?(left|right)", "", text.lower())
    found = re.findall(r"\b(left|right)", text)
    assert len(set(found)) <= 1, text
    return found[0] if found else None


def test_captions_tell_only_what_is_in_force():
    rng = np.random.default_rng(1)
    for scene in scenes(1500):
        text, said = mentioned(scene, rng)
        told = set(re.findall(r"[a-z]+", text.lower()))
        assert told_direction(text) == (scene.direction if "direction" in said else None), text
        for time, time_words in TIME_WORDS.items():
            expected = time == scene.time_of_day and "time_of_day" in said
            assert bool(told & time_words) == expected, text
        names = words.actor_names(scene.actor, scene.action)
        assert any(name in text.lower() for name in names), text


@pytest.mark.parametrize("attribute", ["action", "background"])
def test_captions_tell_an_attribute_exactly_when_they_say_so(attribute: str):
    rng = np.random.default_rng(2)
    for scene in scenes(1500):
        text, said = mentioned(scene, rng)
        if attribute == "action":
            own = words.verbs_for(scene.actor, scene.background, scene.action)
            phrases = [form for verb in own for form in verb[1:]]
        else:
            place = words.PLACES[scene.background]
            nouns = (*place.nouns, *place.daytime_nouns)
            phrases = [re.sub("^(the|an?) ", "", noun) for noun in nouns] + list(place.adverbs)
        told_action = scene.action if "action" in said else None
        names = words.actor_names(scene.actor, told_action)
        for name in sorted(names, key=len, reverse=True):
            text = text.lower().replace(name, "")
        told = any(re.search(rf"\b{re.escape(phrase)}\b", text.lower()) for phrase in phrases)
        assert told == (attribute in said), (text, said)


def test_names_that_tell_of_a_motion_or_a_time_are_used_only_when_true():
    assert "walking man" in words.actor_names("man", "walk")
    assert "walking man" not in words.actor_names("man", "wait")
    assert "walking man" not in words.actor_names("man", None)
    assert "night owl" not in words.actor_names("owl", "walk")
    by_day = words.place_phrases("bee", "sky", "fly", "day", moving=True)
    at_night = words.place_phrases("bee", "sky", "fly", "night", moving=True)
    assert any("blue sky" in phrase for phrase in by_day)
    assert not any("blue sky" in phrase for phrase in at_night)


def test_who_looks_at_the_viewer_and_stays_has_no_direction_to_tell():
    rng = np.random.default_rng(3)
    scene = Scene("penguin", "beach", "day", "wait", "left", 0.0, 5.0)
    assert all("direction" not in mentioned(scene, rng)[1] for _ in range(100))
    assert "left" not in canonical_caption(scene)


def test_captions_leave_attributes_out_often_and_the_actor_never():
    rng = np.random.default_rng(4)
    scene = Scene("dog", "beach", "sunset", "run", "right", 0.0, 5.0)
    said = [mentioned(scene, rng)[1] for _ in range(2000)]
    share = {name: np.mean([name not in facts for facts in said]) for name in ATTRIBUTES}
    assert share["actor"] == 0.0
    assert all(0.05 < share[name] < 0.3 for name in ATTRIBUTES[1:])


def test_captions_of_a_scene_are_many_and_come_from_the_seed():
    scene = Scene("dog", "beach", "sunset", "run", "right", 0.0, 5.0)
    first, second = ([caption(scene, np.random.default_rng(s)) for s in range(300)] for _ in "ab")
    assert first == second
    assert len(set(first)) > 280


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        (
            Scene("dog", "beach", "sunset", "run", "right", 0.0, 5.0),
            "a dog runs to the right across the beach at sunset",
        ),
        (
            Scene("owl", "city", "night", "wait", "right", 0.0, 5.0),
            "an owl waits in the city at night",
        ),
        (
            Scene("eagle", "meadow", "day", "hover", "left", 0.0, 5.0),
            "an eagle hovers over the meadow during the day, facing left",
        ),
        (
            Scene("fish", "coral reef", "day", "swim", "left", 0.0, 5.0),
            "a fish swims to the left through the coral reef during the day",
        ),
    ],
)
def test_canonical_caption_is_plain(scene: Scene, expected: str):
    assert canonical_caption(scene) == expected


def test_canonical_captions_are_one_per_visible_scene():
    seen: dict[str, tuple] = {}
    for actor, place, time in combinations():
        for action in actions(actor, place):
            for direction in ("left", "right"):
                scene = Scene(actor, place, time, action, direction, 0.0, 5.0)
                hidden = actors()[actor].front_view and ACTIONS[action].speed == 0
                facts = (actor, place, time, action, None if hidden else direction)
                assert seen.setdefault(canonical_caption(scene), facts) == facts


def test_vocabulary_holds_every_word_of_every_caption():
    rng = np.random.default_rng(5)
    for scene in scenes(1500):
        assert unknown_words(caption(scene, rng)) == []
        assert unknown_words(canonical_caption(scene)) == []


def test_a_part_of_the_world_knows_fewer_words() -> None:
    prompt = "a giraffe and a dog on the beach in candy land"
    assert unknown_words(prompt) == []
    assert unknown_words(prompt, ("dog", "cat"), ("beach",)) == ["giraffe", "candy", "land"]


def test_unknown_words_are_named_once_and_in_order():
    assert unknown_words("Two dogs and a zebra chase a zebra through Paris") == [
        "zebra",
        "chase",
        "paris",
    ]
    assert unknown_words("a t-rex at a farmer's tractor, the UFO is flying!") == []
    assert {"dog", "beach", "sunset", "running"} <= vocabulary()


def test_every_place_has_words():
    assert set(words.PLACES) == set(backgrounds())
    assert set(words.VERBS) == set(ACTIONS)
