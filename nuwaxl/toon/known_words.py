"""Which words of a prompt the toon world, or a part of it, has nothing to show for.

Knows words and how they are bent and mistyped, not what a sentence means.
"""

import re
from collections.abc import Collection, Iterable
from functools import cache

from nuwaxl.toon import synonyms, words
from nuwaxl.toon.assets import actors, backgrounds

# What a prompt may say beside the words of the world; it changes nothing. No nouns, but those of
# pictures and of asking for one.
FUNCTION_WORDS = """
a an the this that these those my your his her its our their one two three some any every each all
both few many several another other others such same own no not none nor neither either
i me you he him she it we us they them who whom whose which what where when why how myself itself
himself herself themselves someone somebody anyone anybody everyone something anything everything
nothing there here
is are was were be been being am has have had having do does did doing done can could will would
shall should may might must let lets ought
and or but so if then than as because since until while whereas though although whether
of in on at by to from through throughout across along over above under below beneath underneath
near nearby past into onto toward towards up down out off away back about around round between
among amongst amid beside besides behind before after against during within without inside
outside beyond upon via per for with like unlike opposite next close far front ahead forward
forwards backward backwards sideways apart together
very quite rather too also just only even still again almost always never ever often sometimes
once twice now soon later already yet more most less least much little lot lots bit really simply
maybe perhaps please thanks thank ok okay yes well
go goes going gone went get gets getting got come comes coming came keep keeps keeping move moves
moving moved travel travels travelling traveling head heads heading headed make makes making made
start starts starting begin begins beginning end ends ending continue continues seem seems appear
appears happen happens become becomes turn turns turning face faces facing look looks looking
seen see sees seeing watch watches watching
show shows showing shown want wants wanted need needs like love generate generates create creates
draw draws drawing drawn paint render film films animate animated animation cartoon cartoons video
videos movie movies clip clips picture pictures image images scene scenes scenery landscape
setting view background foreground screen frame frames shot camera story style short give tell
describe imagine
side sides edge edges middle center centre top bottom place way direction time times moment
while ago time-lapse it'd
"""
# Things of their own that stand in longer names: a 'school bus' does not make a school known.
_ONLY_IN_NAMES = frozenset(
    """
admiral anemones artist athlete baby barn bean beast blanket board bull cactus cake cakes carrot
chick chocolate circus claws clover cookies craft cream creature cub cupcake daisy disc dress ears
easter emperor engine farm farmer farmer's fiddler fire floor freight gate giant ginger
gingerbread godmother gown grounds grove hand hermit honey horned house ice insect jelly king
king's knight knight's landmark lizard maker marshmallow military monster nasa neck news nose
object october office palm passenger passengers performer pet pole police predator prey princess
queen racer reptile rescue residence scarf school seaweed serpent ship soil stone sugar surfboard
tank tentacles tongue tour towers traffic trapeze trunk tumbling vacuum village wand wings worker
""".split()  # noqa: SIM905, a table of words reads as one
)
_BENT = (
    ("ies", "y"), ("es", ""), ("s", ""), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"),
    ("ly", ""),
)  # fmt: skip


def tokens_of(text: str) -> list[str]:
    """Words in small letters; 'long-necked' is two, "farmer's" is one."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower().replace("\u2019", "'"))


def _things(actor_names: Iterable[str], background_names: Iterable[str]) -> Iterable[str]:
    """What these actors and places are called."""
    for name in actor_names:
        actor = actors()[name]
        yield from (actor.name, *actor.synonyms, *synonyms.NAMES[name], actor.native_action)
    for name in background_names:
        background, place = backgrounds()[name], words.PLACES[name]
        yield from (background.name, *background.synonyms, *place.adverbs)
        yield from (*place.nouns, *place.daytime_nouns, *synonyms.NOUNS[name])


def _phrases() -> Iterable[str]:
    """What may be said of times, actions and directions."""
    for table in (words.TIMES, words.BARE_TIMES, synonyms.TIMES, synonyms.BARE_TIMES):
        for phrases in table.values():
            yield from phrases
    yield from (*words.verb_forms(), *synonyms.verb_forms())
    for direction in ("left", "right"):
        compass = synonyms.COMPASS[direction]
        yield compass
        for form in (*words.HEADINGS, *words.FACINGS, *synonyms.HEADINGS, *synonyms.FACINGS):
            yield form.format(d=direction, o="", c=compass)


class _Known:
    """Single words and phrases that some part of the world has something to show for."""

    def __init__(self, actor_names: Iterable[str], background_names: Iterable[str]):
        function = frozenset(tokens_of(FUNCTION_WORDS))
        self.singles: set[str] = set(function)
        self.phrases: set[tuple[str, ...]] = set()
        """Two words and more, met as a whole."""
        self.all = set(function)
        for text in (*_things(actor_names, background_names), *_phrases()):
            tokens = tuple(tokens_of(text))
            self.all |= set(tokens)
            telling = set(tokens) - function
            self.singles |= telling if len(telling) == 1 else telling - _ONLY_IN_NAMES
            if len(tokens) > 1:
                self.phrases.add(_without(tokens, function))
                self.singles.add("".join(tokens))  # 'snow man', 'snowman'
        self.longest = max(map(len, self.phrases))


def _without(tokens: tuple[str, ...], function: Collection[str]) -> tuple[str, ...]:
    """The phrase without the function words before it: 'the blue sky' is met as 'blue sky'."""
    while tokens and tokens[0] in function:
        tokens = tokens[1:]
    return tokens


@cache
def _known(actor_names: tuple[str, ...] | None, background_names: tuple[str, ...] | None) -> _Known:
    return _Known(
        actors() if actor_names is None else actor_names,
        backgrounds() if background_names is None else background_names,
    )


def vocabulary(
    actor_names: tuple[str, ...] | None = None, background_names: tuple[str, ...] | None = None
) -> frozenset[str]:
    """Every word that is used for anything in the world, those of longer names included.

    Args:
        actor_names: of these actors only, as a model may have been taught a part; None: of all.
        background_names: of these places only; None: of all.
    """
    return frozenset(_known(actor_names, background_names).all)


def unknown_words(
    prompt: str,
    actor_names: tuple[str, ...] | None = None,
    background_names: tuple[str, ...] | None = None,
    *,
    dictionary: Collection[str] = (),
) -> list[str]:
    """The words of a prompt that the world has nothing to show for, in order, each once.

    Words may be bent: 'dogs' and 'strolled' are known because 'dog' and 'stroll' are. A word of a
    longer name is known in that name only: 'school bus', but not 'school'.

    Args:
        prompt: any text.
        actor_names: what these actors have names for; None: all.
        background_names: what these places have names for; None: all.
        dictionary: words of the language. A word that is not among them is taken for a slip of the
            finger where a known word is one or, in long words, two letters away. Empty: no slips.
    """
    known = _known(actor_names, background_names)
    tokens = tokens_of(prompt)
    covered = _covered(tokens, known)
    missing = [
        token
        for place, token in enumerate(tokens)
        if place not in covered
        and not _bases(token) & known.singles
        and not (dictionary and token not in dictionary and _is_slip(token, known.singles))
    ]
    return list(dict.fromkeys(missing))


def _covered(tokens: list[str], known: _Known) -> set[int]:
    """Places of the tokens that stand in a known phrase, its last word bent or not."""
    covered: set[int] = set()
    for start in range(len(tokens)):
        for end in range(start + 2, min(len(tokens), start + known.longest) + 1):
            *before, last = tokens[start:end]
            if any((*before, base) in known.phrases for base in _bases(last)):
                covered |= set(range(start, end))
    return covered


def _bases(word: str) -> set[str]:
    """The word and what it may be a form of."""
    word = word.removesuffix("n't")
    bases = {word, word.split("'")[0]}  # "I'd", "dog's"
    for ending, instead in _BENT:
        if word.endswith(ending) and len(word) > len(ending) + 2:
            stem = word.removesuffix(ending) + instead
            bases.add(stem)
            if stem[-1] == stem[-2]:  # 'stopped'
                bases.add(stem[:-1])
    return bases


def _is_slip(word: str, singles: Collection[str]) -> bool:
    """Whether a known word that begins alike is near enough."""
    allowed = 2 if len(word) >= 8 else 1
    return len(word) >= 4 and any(
        known[0] == word[0]
        and len(known) >= 4
        and abs(len(known) - len(word)) <= allowed
        and _distance(word, known) <= allowed
        for known in singles
    )


def _distance(a: str, b: str) -> int:
    """Letters to add, drop, change or swap with their neighbour to make `b` of `a`."""
    rows = [list(range(len(b) + 1))]
    for i in range(1, len(a) + 1):
        row = [i]
        for j in range(1, len(b) + 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def names_of(thing: str) -> frozenset[str]:
    """Every word of the names of an actor or a place.

    Args:
        thing: an actor's name or a background's.
    """
    parts = ((thing,), ()) if thing in actors() else ((), (thing,))
    return frozenset(token for text in _things(*parts) for token in tokens_of(text))
