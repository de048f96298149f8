"""Captions of toon scenes: what a sentence says is true, what is left out is left open.

Knows sentences, not pixels and not time: a caption is that of one scene.
"""

import re

import numpy as np

from nuwaxl.toon import words
from nuwaxl.toon.assets import actors, backgrounds
from nuwaxl.toon.scenes import ACTIONS, Scene

ATTRIBUTES = ("actor", "background", "time_of_day", "action", "direction")

# A prompt that says nothing of the time should mostly be day, so day goes unsaid more often.
_TIME_SAID = {"day": 0.65, "sunset": 0.92, "night": 0.92}
_SAID = {"background": 0.92, "action": 0.85, "direction": 0.78}


def canonical_caption(scene: Scene) -> str:
    """The plainest sentence that says all that can be seen."""
    verb = words.verbs_for(scene.actor, scene.background, scene.action)[0]
    moving = ACTIONS[scene.action].speed > 0
    place = words.place_phrases(
        scene.actor, scene.background, scene.action, scene.time_of_day, moving=moving
    )[0]
    time = words.TIMES[scene.time_of_day][0]
    actor = words.with_article(scene.actor)
    if moving:
        return f"{actor} {verb[1]} to the {scene.direction} {place} {time}"
    facing = "" if "direction" not in _sayable(scene) else f", facing {scene.direction}"
    return f"{actor} {verb[1]} {place} {time}{facing}"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A random true sentence about a scene."""
    return mentioned(scene, rng)[0]


def mentioned(scene: Scene, rng: np.random.Generator) -> tuple[str, frozenset[str]]:
    """A random true sentence about a scene, and which of `ATTRIBUTES` it tells.

    The actor is always told; each of the others is left out in 10 to 35 % of the sentences.
    """
    said = _choose_said(scene, rng)
    text = _list_caption(scene, rng, said) if rng.random() < 0.15 else _sentence(scene, rng, said)
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:] + "."
    return text, said


def _sayable(scene: Scene) -> frozenset[str]:
    """What a viewer can tell: one who looks at the viewer and stays put has no direction."""
    hidden = actors()[scene.actor].front_view and ACTIONS[scene.action].speed == 0
    return frozenset(ATTRIBUTES) - ({"direction"} if hidden else set())


def _choose_said(scene: Scene, rng: np.random.Generator) -> frozenset[str]:
    # Outer space knows no other time than night, so it is seldom said there.
    time_said = _TIME_SAID[scene.time_of_day]
    if len(backgrounds()[scene.background].times) == 1:
        time_said = 0.2
    chances = {"actor": 1.0, "time_of_day": time_said, **_SAID}
    # One draw per attribute, always, so that a scene's other words do not hang on what is sayable.
    return frozenset(name for name in ATTRIBUTES if rng.random() < chances[name]) & _sayable(scene)


def _pick(rng: np.random.Generator, options: tuple[str, ...] | list[str]) -> str:
    """One of the options; the plain first one in a third of the cases."""
    return options[0] if rng.random() < 0.33 else options[int(rng.integers(len(options)))]


def _actor_name(scene: Scene, rng: np.random.Generator, said: frozenset[str]) -> str:
    return _pick(rng, words.actor_names(scene.actor, scene.action if "action" in said else None))


def _heading(scene: Scene, rng: np.random.Generator) -> str:
    forms = words.HEADINGS if ACTIONS[scene.action].speed > 0 else words.FACINGS
    other = "left" if scene.direction == "right" else "right"
    return _pick(rng, forms).format(d=scene.direction, o=other)


def _place(scene: Scene, rng: np.random.Generator, *, moving: bool) -> str:
    phrases = words.place_phrases(
        scene.actor, scene.background, scene.action, scene.time_of_day, moving=moving
    )
    return _pick(rng, phrases)


def _sentence(scene: Scene, rng: np.random.Generator, said: frozenset[str]) -> str:
    """'a dog runs across the beach at sunset', in many shapes."""
    article = "the" if rng.random() < 0.12 else "a"
    subject = words.with_article(_actor_name(scene, rng, said), article)
    if "action" in said:
        verbs = words.verbs_for(scene.actor, scene.background, scene.action)
        verb = verbs[0] if rng.random() < 0.4 else verbs[int(rng.integers(len(verbs)))]
        # 'runs', 'is running', or the short form of picture captions, 'running'.
        subject += f" {(verb[1], 'is ' + verb[2], verb[2])[int(rng.choice(3, p=(0.5, 0.3, 0.2)))]}"
    elif rng.random() < 0.2:
        subject = f"there is {subject}"
    moving = "action" in said and ACTIONS[scene.action].speed > 0
    middle = []
    if "background" in said:
        middle.append(_place(scene, rng, moving=moving and rng.random() < 0.7))
    if "direction" in said:
        middle.insert(int(rng.integers(len(middle) + 1)), _heading(scene, rng))
    front = ""
    if "time_of_day" in said:
        time = _pick(rng, words.TIMES[scene.time_of_day])
        if rng.random() < 0.3:
            front = f"{time}, "
        else:
            middle.append(time)
    elif "background" in said and rng.random() < 0.1:
        front = f"{_place(scene, rng, moving=False)}, "
        middle = middle[1:] if "direction" not in said else [_heading(scene, rng)]
    elif rng.random() < 0.06:
        front = "a cartoon of "
    return front + " ".join([subject, *middle])


def _list_caption(scene: Scene, rng: np.random.Generator, said: frozenset[str]) -> str:
    """'dog, beach, sunset, running right'."""
    parts = [_actor_name(scene, rng, said)]
    if "action" in said:
        verbs = words.verbs_for(scene.actor, scene.background, scene.action)
        action = verbs[int(rng.integers(len(verbs)))][2]
        if "direction" in said:
            still = ACTIONS[scene.action].speed == 0
            action += f", facing {scene.direction}" if still else f" {scene.direction}"
        parts.append(action)
    elif "direction" in said:
        parts.append(_heading(scene, rng))
    if "background" in said:
        place = words.PLACES[scene.background]
        nouns = place.nouns + (place.daytime_nouns if scene.time_of_day == "day" else ())
        parts.append(re.sub(r"^(the|an?) ", "", _pick(rng, nouns)))
    if "time_of_day" in said:
        parts.append(_pick(rng, words.BARE_TIMES[scene.time_of_day]))
    # The actor comes first: encoders weigh the start of a list, and users name the hero first.
    order = [0, *(1 + rng.permutation(len(parts) - 1))]
    return ", ".join(parts[int(i)] for i in order)
