"""Prompts as people type them: key words, requests, any order, other words, slips of the finger.

Knows words and shapes, not scenes that can exist: people ask for a dog in outer space, too.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from nuwaxl.toon import synonyms, words
from nuwaxl.toon.assets import DIRECTIONS, TIMES_OF_DAY, backgrounds
from nuwaxl.toon.sampling import sample_scene
from nuwaxl.toon.scenes import ACTIONS, actions

# Shares of prompts: places and actions drawn without a look at what fits, key words, slips.
_UNFIT, _KEY_WORDS, _SLIPS = 0.25, 0.3, 0.15
_SAID = {"background": 0.85, "time_of_day": 0.5, "action": 0.75, "direction": 0.5}

_REQUESTS = (
    "show me {}",
    "i want {}",
    "please draw {}",
    "could you make a video of {}",
    "a short film with {}",
    "an animation of {}",
    "let's see {}",
    "render {}",
    "give me {}",
    "i would love to watch {}",
    "how about {}",
    "imagine {}",
    "picture this: {}",
    "a clip of {}",
    "make {}",
    "create {} for me",
    "i need a cartoon of {}, please",
    "a story about {}",
    "is there {}?",
    "what about {}?",
    "have you got {}?",
    "my kids want to see {}",
    "here is {}",
    "we see {}",
    "film {}",
    "{}, animated",
    "{}, cartoon style",
    "{} in a cute cartoon",
    "cartoon: {}",
    "{}, 4k, high quality",
    "{}!",
)
_ADJECTIVES = (
    "happy",
    "big",
    "tiny",
    "cute",
    "beautiful",
    "lonely",
    "red",
    "funny",
    "brave",
    "young",
    "huge",
    "lovely",
    "colourful",
    "wild",
    "friendly",
    "angry",
    "blue",
    "sad",
    "fast",
    "slow",
    "pretty",
    "strange",
    "fat",
    "lazy",
    "shiny",
    "green",
    "nice",
    "giant",
    "curious",
)
_ADVERBS = (
    "slowly",
    "happily",
    "quietly",
    "gently",
    "all alone",
    "with joy",
    "calmly",
    "alone",
    "again",
    "playfully",
)
_ARTICLES = ("a", "a", "a", "the", "the", "one", "my", "this", "our", "some", "that", "")
_NEAR = ("near", "around", "at", "by", "inside", "within", "next to", "amid", "in", "on")
_SMALL = re.compile(r"\b(a|an|the|is|of|in|on|at|to|it|with|there) ")
_T = TypeVar("_T")
_KEYS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class _Told:
    """What is told, None where it is not; where the actor is decides on the words."""

    actor: str
    background: str
    time_of_day: str
    action: str
    direction: str
    said: tuple[str, ...]


def loose_caption(rng: np.random.Generator) -> tuple[str, Mapping[str, str]]:
    """A random prompt and the facts that it tells.

    The actor is always told. An actor who waits and looks at the viewer may still be told a
    direction: people do not know what can be seen.
    """
    told = _draw(rng)
    parts = {name: _part(name, told, rng) for name in told.said}
    if rng.random() < _KEY_WORDS:
        text = _key_words(told, parts, rng)
    else:
        text = _sentence(told, parts, rng)
        if rng.random() < 0.3:
            text = _pick(rng, _REQUESTS).format(text)
    if rng.random() < 0.2:
        text = _SMALL.sub(lambda found: found[0] if rng.random() < 0.5 else "", text)
    if rng.random() < _SLIPS:
        text = _slip(text, rng)
    return text, {name: getattr(told, name) for name in told.said}


def _draw(rng: np.random.Generator) -> _Told:
    scene = sample_scene(rng, 4.0)
    facts = {name: getattr(scene, name) for name in ("actor", *_SAID)}
    if rng.random() < _UNFIT:
        facts["background"] = _pick(rng, tuple(backgrounds()))
        facts["time_of_day"] = _pick(rng, TIMES_OF_DAY)
        if rng.random() < 0.5:
            facts["action"] = _pick(rng, tuple(ACTIONS))
    said = ("actor", *(name for name, share in _SAID.items() if rng.random() < share))
    return _Told(**facts, said=said)


def _pick(rng: np.random.Generator, options: Sequence[_T]) -> _T:
    return options[int(rng.integers(len(options)))]


def _name(told: _Told, rng: np.random.Generator) -> str:
    if rng.random() < 0.25:
        return told.actor
    known = words.actor_names(told.actor, told.action if "action" in told.said else None)
    return _pick(rng, known if rng.random() < 0.35 else synonyms.NAMES[told.actor])


def _verb(told: _Told, rng: np.random.Generator) -> words.Verb:
    fits = told.action in actions(told.actor, told.background)
    known = words.VERBS[told.action]
    if fits:
        known = words.verbs_for(told.actor, told.background, told.action)
    more = synonyms.verbs_for(told.actor, told.background, told.action)
    return _pick(rng, known if rng.random() < 0.5 else more)


def _noun(told: _Told, rng: np.random.Generator) -> str:
    place = words.PLACES[told.background]
    if rng.random() < 0.2:
        return told.background if rng.random() < 0.5 else place.nouns[0]
    return _pick(rng, place.nouns if rng.random() < 0.4 else synonyms.NOUNS[told.background])


def _place(told: _Told, rng: np.random.Generator) -> str:
    place = words.PLACES[told.background]
    if place.adverbs and rng.random() < 0.1:
        return _pick(rng, place.adverbs)
    noun = _noun(told, rng)
    if rng.random() < 0.08:
        noun = re.sub(r"^(an?|the) ", rf"\1 {_pick(rng, _ADJECTIVES)} ", noun)
    if rng.random() < 0.06:
        return f"with {noun} in the background"
    over = place.over if told.action in ("fly", "hover") else ()
    return f"{_pick(rng, (*place.at, *place.along, *over, _pick(rng, _NEAR)))} {noun}"


def _heading(told: _Told, rng: np.random.Generator) -> str:
    still = "action" in told.said and ACTIONS[told.action].speed == 0
    known, more = (words.HEADINGS, synonyms.HEADINGS)
    if still and rng.random() < 0.8:
        known, more = (words.FACINGS, synonyms.FACINGS)
    form = _pick(rng, known if rng.random() < 0.45 else more)
    other = DIRECTIONS[1 - DIRECTIONS.index(told.direction)]
    return form.format(d=told.direction, o=other, c=synonyms.COMPASS[told.direction])


def _part(name: str, told: _Told, rng: np.random.Generator) -> Any:
    if name == "time_of_day":
        tables = words.TIMES if rng.random() < 0.45 else synonyms.TIMES
        return _pick(rng, tables[told.time_of_day])
    make = {"actor": _name, "background": _place, "action": _verb, "direction": _heading}
    return make[name](told, rng)


def _subject(name: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.25:
        name = f"{_pick(rng, _ADJECTIVES)} {name}"
    article = _pick(rng, _ARTICLES)
    if article == "a" and name[0] in "aeiou":
        article = "an"
    return f"{article} {name}".strip()


def _sentence(told: _Told, parts: Mapping[str, Any], rng: np.random.Generator) -> str:
    """Subject, verb and the rest, in many orders."""
    subject = _subject(parts["actor"], rng)
    rest = [parts[name] for name in ("background", "direction", "time_of_day") if name in parts]
    rest = [rest[int(i)] for i in rng.permutation(len(rest))]
    if "action" not in parts:
        shape = int(rng.integers(3))
        if shape == 0 and rest:
            return f"{rest[0]}, {subject} {' '.join(rest[1:])}".strip()
        return " ".join([("there's " if shape == 1 else "") + subject, *rest])
    base, third, participle = parts["action"]
    if rng.random() < 0.12:
        rest.insert(0, _pick(rng, _ADVERBS))
    shapes = [
        " ".join([subject, third, *rest]),
        " ".join([subject, participle, *rest]),
        " ".join([subject, "is", participle, *rest]),
        " ".join([subject, _pick(rng, ("that", "which", "who")), third, *rest]),
        " ".join([subject, "that is", participle, *rest]),
        ", ".join([subject, " ".join([participle, *rest])]),
        ", ".join([" ".join([participle, *rest]), subject]),
        f"{subject}. it {third} {' '.join(rest)}",
        f"let {subject} {base} {' '.join(rest)}",
        f"can {subject} {base} {' '.join(rest)}?",
        f"{subject}s {base} {' '.join(rest)}",
        f"i see {subject} {participle} {' '.join(rest)}",
    ]
    if rest:
        shapes += [
            f"{rest[0]}, {subject} {third} {' '.join(rest[1:])}",
            f"{rest[0]} {third} {subject} {' '.join(rest[1:])}",
            f"{rest[0]}: {subject} {participle} {' '.join(rest[1:])}",
            f"{' '.join(rest)} {subject} {third}",
            f"{subject} {' '.join(rest)}, {participle}",
            f"{subject} {third}. {'. '.join(rest)}",
        ]
    return _pick(rng, shapes).strip()


def _key_words(told: _Told, parts: Mapping[str, Any], rng: np.random.Generator) -> str:
    """'beach dog sunset', 'night, city, cat running, left'."""
    keys = [parts["actor"]]
    if "action" in parts:
        keys.append(_pick(rng, parts["action"]))
    if "direction" in parts:
        keys.append(told.direction if rng.random() < 0.5 else parts["direction"])
    if "background" in parts:
        keys.append(re.sub(r"^(an?|the) ", "", _noun(told, rng)))
    if "time_of_day" in parts:
        tables = words.BARE_TIMES if rng.random() < 0.5 else synonyms.BARE_TIMES
        keys.append(_pick(rng, tables[told.time_of_day]))
    order = rng.permutation(len(keys)) if rng.random() < 0.6 else range(len(keys))
    return _pick(rng, (" ", ", ", ", ", ". ", " - ")).join(keys[int(i)] for i in order)


def _slip(text: str, rng: np.random.Generator) -> str:
    """One or two words of four letters and more with a letter left out, doubled, wrong or early."""
    typed = text.split(" ")
    long = [place for place, word in enumerate(typed) if len(word) > 3]
    for place in rng.permutation(long)[: int(rng.integers(1, 3))] if long else ():
        word, at = typed[int(place)], int(rng.integers(1, len(typed[int(place)]) - 1))
        typed[int(place)] = (
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + _pick(rng, _KEYS) + word[at + 1 :],
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        )[int(rng.integers(4))]
    return " ".join(typed)


def loose_words() -> tuple[str, ...]:
    """What such prompts say beside the words of the world."""
    return (*_REQUESTS, *_ADJECTIVES, *_ADVERBS, *_ARTICLES, *_NEAR)
