"""The words for what the toon world can show: tables, no grammar.

Knows names of places, times, actions and directions, not how a sentence is built.
"""

from dataclasses import dataclass

from nuwaxl.toon.assets import actors, backgrounds
from nuwaxl.toon.scenes import resting_level


@dataclass(frozen=True)
class Place:
    """How a background is spoken of. The first entry of each tuple is the plain one."""

    at: tuple[str, ...]
    """Before the noun when nothing is said of a motion."""
    along: tuple[str, ...]
    """Before the noun when the actor moves."""
    nouns: tuple[str, ...]
    over: tuple[str, ...] = ("over", "above")
    """Before the noun when the actor is in the air above a ground or a sea."""
    adverbs: tuple[str, ...] = ()
    """Whole phrases that need no preposition."""
    daytime_nouns: tuple[str, ...] = ()
    """True by day only."""


def _split(text: str) -> tuple[str, ...]:
    """Read 'the beach, a beach'."""
    return tuple(part.strip() for part in text.split(","))


PLACES: dict[str, Place] = {
    "meadow": Place(
        at=("in", "on"),
        along=("through", "across", "over"),
        nouns=_split(
            "the meadow, a meadow, a green meadow, a grassy field, the grassland, "
            "the countryside, a pasture"
        ),
    ),
    "autumn forest": Place(
        at=("in", "by"),
        along=("through", "along"),
        nouns=_split(
            "the autumn forest, an autumn forest, the fall forest, the autumn woods, "
            "the orange trees, the autumn trees"
        ),
    ),
    "snowy hills": Place(
        at=("in", "on"),
        along=("across", "through", "over"),
        nouns=_split("the snowy hills, snowy hills, the snow, a snowfield, a winter field"),
        adverbs=("in the falling snow",),
    ),
    "mountains": Place(
        at=("in",),
        along=("through", "across"),
        nouns=_split(
            "the mountains, the misty mountains, the green mountains, a mountain valley, "
            "the hills, the highlands"
        ),
    ),
    "desert": Place(
        at=("in",),
        along=("across", "through"),
        nouns=_split(
            "the desert, a sandy desert, the dunes, the canyon desert, a dry desert, the sand"
        ),
    ),
    "beach": Place(
        at=("on", "at"),
        along=("across", "along"),
        nouns=_split("the beach, a beach, a sandy beach, the shore, the seashore, the coast"),
        adverbs=("at the seaside", "by the seaside"),
    ),
    "enchanted forest": Place(
        at=("in",),
        along=("through",),
        nouns=_split(
            "the enchanted forest, an enchanted forest, a magic forest, the fairy forest, "
            "the magical woods, the forest, a teal forest"
        ),
    ),
    "castle": Place(
        at=("by", "near", "at", "in front of"),
        along=("past", "by", "in front of"),
        nouns=_split("the castle, a castle, a fairytale castle, the palace, a medieval castle"),
        adverbs=("in the castle grounds", "in the kingdom"),
    ),
    "candy land": Place(
        at=("in",),
        along=("through", "across"),
        nouns=_split(
            "candy land, the land of sweets, a cake world, the candy world, sugar land, "
            "a sweet land"
        ),
    ),
    "coral reef": Place(
        at=("at", "by"),
        along=("through", "along", "past"),
        nouns=_split("the coral reef, a coral reef, a reef, the reef"),
        adverbs=("underwater", "under the sea", "on the sea floor", "at the seabed"),
    ),
    "deep sea": Place(
        at=("in",),
        along=("through",),
        nouns=_split(
            "the deep sea, the deep ocean, open water, the deep, the blue depths, the ocean depths"
        ),
    ),
    "alien planet": Place(
        at=("on",),
        along=("across", "over"),
        nouns=_split(
            "an alien planet, the alien planet, a strange planet, another planet, "
            "the red planet, a purple planet, mars"
        ),
    ),
    "space": Place(
        at=("in",),
        along=("through",),
        nouns=_split("space, outer space, the cosmos, the galaxy, starry space"),
        adverbs=("among the stars",),
    ),
    "ocean": Place(
        at=("on", "in"),
        along=("across", "over"),
        nouns=_split("the ocean, the sea, the open sea, the waves, the high seas"),
        adverbs=("at the sea surface",),
    ),
    "sky": Place(
        at=("in",),
        along=("through", "across"),
        nouns=_split("the sky, the clouds, a cloudy sky"),
        adverbs=("above the clouds", "up in the air"),
        daytime_nouns=("the blue sky", "a blue sky"),
    ),
    "city": Place(
        at=("in",),
        along=("through", "across"),
        nouns=_split("the city, a city, a big city"),
        adverbs=("downtown", "on a city street", "in front of the skyline"),
    ),
}

BARE_TIMES = {
    "day": ("day", "daytime", "daylight"),
    "sunset": ("sunset", "dusk", "evening"),
    "night": ("night", "nighttime", "dark night"),
}
TIMES = {
    "day": _split(
        "during the day, by day, in daylight, in the daytime, on a bright day, "
        "in broad daylight, at midday, on a clear day"
    ),
    "sunset": _split(
        "at sunset, at dusk, as the sun sets, at sundown, in the evening, "
        "in the evening light, at twilight, in the glow of the sunset"
    ),
    "night": _split(
        "at night, by night, in the dark, after dark, in the middle of the night, "
        "at midnight, on a dark night, in the nighttime"
    ),
}

Verb = tuple[str, str, str]
"""Base, third person, participle, each with any words that must follow."""


def _verbs(text: str) -> tuple[Verb, ...]:
    """Read 'walk walks walking, ...'; '~' joins words of one form."""
    forms = (entry.split() for entry in text.split(","))
    return tuple(
        (a.replace("~", " "), b.replace("~", " "), c.replace("~", " ")) for a, b, c in forms
    )


VERBS: dict[str, tuple[Verb, ...]] = {
    "walk": _verbs(
        "walk walks walking, stroll strolls strolling, wander wanders wandering, "
        "amble ambles ambling, march marches marching"
    ),
    "run": _verbs(
        "run runs running, race races racing, dash dashes dashing, sprint sprints sprinting, "
        "hurry hurries hurrying, rush rushes rushing"
    ),
    "jump": _verbs(
        "jump jumps jumping, hop hops hopping, leap leaps leaping, bounce bounces bouncing"
    ),
    "wait": _verbs(
        "wait waits waiting, stand stands standing, rest rests resting, "
        "stand~still stands~still standing~still, stay stays staying, pause pauses pausing"
    ),
    "drive": _verbs("drive drives driving, roll rolls rolling, speed speeds speeding"),
    "fly": _verbs("fly flies flying, soar soars soaring, glide glides gliding"),
    "hover": _verbs(
        "hover hovers hovering, float floats floating, float~in~place floats~in~place "
        "floating~in~place, hang~in~the~air hangs~in~the~air hanging~in~the~air"
    ),
    "swim": _verbs("swim swims swimming, glide glides gliding, cruise cruises cruising"),
    "sail": _verbs("sail sails sailing, cruise cruises cruising"),
}
_PARKED = _verbs(
    "wait waits waiting, stand stands standing, stand~still stands~still standing~still, "
    "stop stops stopping, park parks parking"
)
_AFLOAT = _verbs(
    "wait waits waiting, float~in~place floats~in~place floating~in~place, "
    "lie~still lies~still lying~still, rest rests resting"
)
_ADRIFT = _verbs(
    "float floats floating, float~in~place floats~in~place floating~in~place, "
    "hover hovers hovering, rest rests resting"
)
# What one actor does in its own way; it stands beside the plain verbs of the action.
OWN_VERBS: dict[tuple[str, str], tuple[Verb, ...]] = {
    ("horse", "run"): _verbs("gallop gallops galloping, run runs running"),
    ("horse", "walk"): _verbs("walk walks walking, trot trots trotting"),
    ("dog", "walk"): _verbs("walk walks walking, trot trots trotting, wander wanders wandering"),
    ("penguin", "walk"): _verbs("walk walks walking, waddle waddles waddling"),
    ("crab", "walk"): _verbs("walk walks walking, crawl crawls crawling"),
    ("cyclist", "drive"): _verbs("ride rides riding, cycle cycles cycling, pedal pedals pedaling"),
    ("skier", "drive"): _verbs("ski skis skiing, glide glides gliding, slide slides sliding"),
    ("train", "drive"): _verbs("roll rolls rolling, chug chugs chugging, steam steams steaming"),
    ("tractor", "drive"): _verbs("drive drives driving, rumble rumbles rumbling"),
    ("surfer", "sail"): _verbs("surf surfs surfing, glide glides gliding"),
    ("rocket", "fly"): _verbs("fly flies flying, zoom zooms zooming, soar soars soaring"),
}

_VERB_TABLES = (*VERBS.values(), *OWN_VERBS.values(), _PARKED, _AFLOAT, _ADRIFT)


def verb_forms() -> tuple[str, ...]:
    """Every form of every verb."""
    return tuple(form for verbs in _VERB_TABLES for verb in verbs for form in verb)


def verbs_for(actor: str, background: str, action: str) -> tuple[Verb, ...]:
    """What may be said of that action of that actor in that place, the plainest first."""
    if (actor, action) in OWN_VERBS:
        return OWN_VERBS[actor, action]
    facts = actors()[actor]
    if action == "wait" and facts.level == "surface":
        return _AFLOAT
    if action == "wait" and facts.group == "vehicle":
        return _PARKED
    if action == "hover" and "air" not in backgrounds()[background].mediums:
        return _ADRIFT
    return VERBS[action]


HEADINGS = (
    "to the {d}",
    "{d}wards",
    "{d}ward",
    "from {o} to {d}",
    "from the {o} to the {d}",
    "heading {d}",
    "going {d}",
    "toward the {d}",
    "moving {d}",
)
FACINGS = ("facing {d}", "looking {d}", "looking to the {d}", "turned to the {d}")

_PROPER = frozenset({"jaws", "flipper", "jumbo", "frosty", "tinkerbell"})
# A name that tells of a motion is true of some actions only, and tells the action.
_MOTION_NAMES = {
    "walking": {"walk"},
    "running": {"run"},
    "hopping": {"jump"},
    "jumping": {"jump"},
    "flying": {"fly", "hover"},
    "waddling": {"walk"},
    "fluttering": {"fly", "hover"},
    "cycling": {"drive"},
    "skiing": {"drive"},
    "surfing": {"sail"},
}


def _article(noun: str) -> str:
    if noun in _PROPER:
        return noun
    vowel = noun[0] in "aeiou" and not noun.startswith("uf")
    return f"{'an' if vowel else 'a'} {noun}"


def actor_names(actor: str, action: str | None) -> tuple[str, ...]:
    """Bare names that are true of an actor while it does that, its own name first.

    With no action, names that tell of a motion ('walking man') are left out. The actor's own name
    always stays: a flying saucer is one also where nothing is said of what it does.
    """
    true_names = [
        name
        for name in actors()[actor].synonyms
        if "night" not in name.split()
        and all(action in _MOTION_NAMES.get(word, {action}) for word in name.split())
    ]
    return (actor, *true_names)


def with_article(name: str, article: str = "a") -> str:
    """'a dog', 'an owl', 'the dog'; proper names stand alone."""
    return _article(name) if article == "a" or name in _PROPER else f"{article} {name}"


def place_phrases(
    actor: str, background: str, action: str, time_of_day: str, *, moving: bool
) -> tuple[str, ...]:
    """Phrases that say where, the plainest first.

    Args:
        actor: its name.
        background: its name.
        action: decides whether the actor is over the place or in it.
        time_of_day: some names are true by day only.
        moving: whether the sentence may tell of a motion.
    """
    place = PLACES[background]
    nouns = place.nouns + (place.daytime_nouns if time_of_day == "day" else ())
    facts = backgrounds()[background]
    aloft = action in ("fly", "hover") and resting_level(actor, action) == "free"
    if aloft and (facts.ground_y or facts.waterline_y) and "air" in facts.mediums:
        return tuple(f"{word} {noun}" for noun in nouns for word in place.over)
    words = place.along if moving else place.at
    return tuple(f"{word} {noun}" for noun in nouns for word in words) + place.adverbs
