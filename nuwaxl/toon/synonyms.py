"""More words for what the toon world can show, as people use them who never read its captions.

Tables beside those of `words`, for reading prompts; captions of the world do not use them. No word
of `benchmarks/own_words.yaml` is added here, or that list would no longer measure words unseen.
"""

from functools import cache

from nuwaxl.toon.scenes import actions
from nuwaxl.toon.words import Verb


def _split(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(","))


NAMES: dict[str, tuple[str, ...]] = {
    "cat": _split(
        "tomcat, house cat, ginger cat, tabby, kitty cat, calico, siamese cat, moggy, puss"
    ),
    "dog": _split(
        "mutt, canine, terrier, labrador, retriever, beagle, spaniel, bulldog, sheepdog, collie, "
        "puppy dog, dachshund, little dog, hunting dog"
    ),
    "horse": _split(
        "mustang, foal, racehorse, bronco, thoroughbred, filly, gelding, arabian horse"
    ),
    "rabbit": _split("cottontail, jackrabbit, easter bunny, fluffy bunny, wild rabbit, pet rabbit"),
    "elephant": _split(
        "baby elephant, tusker, african elephant, indian elephant, elephant with a long trunk"
    ),
    "tiger": _split("tigress, siberian tiger, tiger with black stripes, wild tiger, young tiger"),
    "giraffe": _split("baby giraffe, camelopard, animal with a long neck, african giraffe"),
    "kangaroo": _split("marsupial, kanga, wallaroo, big red kangaroo, baby kangaroo"),
    "dinosaur": _split(
        "raptor, velociraptor, allosaurus, tyrannosaur, prehistoric reptile, jurassic monster, "
        "prehistoric beast, giant reptile, triceratops, big lizard"
    ),
    "penguin": _split(
        "king penguin, penguin chick, flightless bird, baby penguin, adelie, antarctic penguin"
    ),
    "monkey": _split("macaque, baboon, gorilla, primate, capuchin, orangutan, baby monkey"),
    "butterfly": _split(
        "moth, swallowtail, colourful butterfly, papillon, red admiral, butterflies"
    ),
    "eagle": _split("buzzard, osprey, condor, raptor bird, sea eagle, birdie"),
    "bee": _split("hornet, worker bee, queen bee, stinging insect, honey maker, striped insect"),
    "owl": _split("snowy owl, tawny owl, owlet, screech owl, horned owl, baby owl, hooting bird"),
    "fish": _split(
        "minnow, guppy, trout, salmon, tuna, koi, sardine, sea fish, little swimmer, carp, yellow "
        "fish, pet fish, fishy"
    ),
    "shark": _split("hammerhead, bull shark, mako, man-eating shark, huge shark, predator fish"),
    "dolphin": _split("spinner dolphin, cetacean, bottlenose, smiling dolphin, baby dolphin"),
    "octopus": _split(
        "squid, octopi, tentacled creature, giant octopus, sea monster with tentacles, cuttlefish"
    ),
    "crab": _split("hermit crab, king crab, fiddler crab, lobster, animal with claws, big crab"),
    "man": _split(
        "bloke, fellow, chap, dude, hiker, businessman, grown man, mister, commuter, lad, male "
        "person, boy, passer-by, tourist, human"
    ),
    "runner": _split("marathon runner, female runner, lady, girl, track athlete, young woman"),
    "dancer": _split(
        "dancing lady, tango dancer, flamenco woman, dancing girl, woman in a red gown"
    ),
    "cyclist": _split(
        "bicycle racer, person on a bicycle, mountain biker, woman on a bicycle, cycling person, "
        "someone on a pushbike, girl on her bicycle"
    ),
    "surfer": _split("surf rider, board rider, man on a board, surfing man, surfer girl"),
    "skier": _split("ski racer, slalom skier, man on skis, winter athlete, woman on skis"),
    "acrobat": _split(
        "circus performer, cartwheeler, tumbling person, circus artist, trapeze artist"
    ),
    "fairy": _split("faerie, fairy princess, nymph, tiny fairy, winged girl, elf"),
    "car": _split(
        "sedan, hatchback, taxi, cab, convertible, racing car, coupe, jeep, motor vehicle, "
        "limousine, minicar, race car, roadster"
    ),
    "train": _split(
        "freight train, passenger train, railroad train, railway train, choo choo, railroad "
        "engine, tank engine, subway train, diesel engine"
    ),
    "bus": _split(
        "minibus, tour bus, public bus, shuttle bus, yellow bus, motorcoach, tourist bus"
    ),
    "tractor": _split("agricultural vehicle, ploughing machine, harvester, combine, red tractor"),
    "helicopter": _split(
        "rotorcraft, police helicopter, news chopper, military helicopter, rescue copter, "
        "gyrocopter"
    ),
    "rocket": _split(
        "space shuttle, missile, moonshot, launch vehicle, red rocket, nasa rocket, shuttle"
    ),
    "flying saucer": _split(
        "unidentified flying object, flying disc, alien vessel, alien saucer, martian ship, "
        "mothership"
    ),
    "sailboat": _split(
        "sloop, schooner, catamaran, sailing vessel, boat with a sail, tiny boat, ketch, sailing "
        "dinghy, sail boat, vessel"
    ),
    "dragon": _split(
        "fire-breathing dragon, wyvern, winged lizard, mythical beast, drake, fire dragon"
    ),
    "robot": _split("automaton, mech, mechanical man, tin man, robotic creature, cyborg robot"),
    "ghost": _split("apparition, wraith, poltergeist, white ghost, scary ghost, haunting spirit"),
    "snowman": _split("snowmen, snow person, man made of snow, snowman with a carrot nose, olaf"),
}

NOUNS: dict[str, tuple[str, ...]] = {
    "meadow": _split(
        "the fields, green fields, a grassy plain, the plains, a hayfield, the grass, the savanna, "
        "farmland, a clover field, a lawn, the steppe, a paddock, a park, tall grass, the garden, "
        "a green field, a daisy field"
    ),
    "autumn forest": _split(
        "the woods in autumn, the woodland in autumn, a forest in fall, falling leaves, red "
        "leaves, a grove of maples, the autumnal woods, colorful autumn leaves, the fall colors, "
        "fallen leaves, the october forest, the fall woods, a forest with orange leaves, an orange "
        "forest, brown leaves"
    ),
    "snowy hills": _split(
        "a snowy field, deep snow, the arctic, the tundra, a frozen land, antarctica, the ice, a "
        "snowy plain, a winter wonderland, the wintry hills, fresh snow, a blanket of snow, the "
        "frozen north, snowdrifts, white hills, the south pole, winter, an icy plain, a glacier"
    ),
    "mountains": _split(
        "the alps, the himalayas, the rockies, a mountain range, tall mountains, the mountainside, "
        "a mountain pass, high summits, the sierra, the cliffs, rocky crags, the foothills, a "
        "mountain trail, the ridge, a mountain, the mountain tops, a valley"
    ),
    "desert": _split(
        "the sahara, the sandhills, a dusty desert, an arid wasteland, the badlands, the gobi, dry "
        "sand, an arid plain, barren drylands, arizona, an oasis, the hot sand, the wasteland, "
        "cactus country, a sand dune, endless sand"
    ),
    "beach": _split(
        "the coastline, a tropical beach, the sandy coast, the strand, a sandy cove, the "
        "beachfront, the coastal sands, a palm beach, the sand by the sea, the waterfront, a bay, "
        "a shore, the sandy shores, an island beach, a tropical island"
    ),
    "enchanted forest": _split(
        "a mystical forest, a fairytale forest, the elven woods, a bewitched forest, a mysterious "
        "forest, the fairy woods, a glowing forest, the jungle, the woodland, the woods, the green "
        "woods, a thick forest, a magic woodland, a rainforest, mossy trees"
    ),
    "castle": _split(
        "the citadel, a stronghold, the royal palace, a chateau, the king's castle, a medieval "
        "keep, the castle gate, the castle towers, a stone castle, the battlements, a fort, a "
        "royal residence, a knight's castle, the princess castle"
    ),
    "candy land": _split(
        "a world of candy, a world made of sweets, the sugar world, a land of cakes, a gingerbread "
        "world, a chocolate world, a confectionery land, cupcake land, a land full of candies, a "
        "world of ice cream, jelly bean land, marshmallow land, cookies and cakes, the sweet world"
    ),
    "coral reef": _split(
        "a reef of coral, colourful coral, the great barrier reef, the ocean floor, a coral "
        "garden, the bottom of the sea, sea anemones, an underwater garden, an underwater reef, a "
        "tropical reef, hard coral, seaweed and coral, an aquarium"
    ),
    "deep sea": _split(
        "the deepest ocean, the lightless depths, the murky depths, the depths of the ocean, the "
        "bottomless ocean, an ocean trench, deep water, the deep blue, deep under water, the "
        "depths, the inky depths, the depths of the sea, the deep blue sea"
    ),
    "alien planet": _split(
        "a distant planet, an exoplanet, a far-off world, an alien world, a faraway planet, an "
        "unknown planet, a planet far away, martian soil, a weird planet, venus, jupiter, some "
        "other planet, the purple planet, an unearthly planet, another world, the planet saturn"
    ),
    "space": _split(
        "deep space, the universe, the milky way, interstellar space, the void of space, orbit, "
        "the vacuum of space, zero gravity, a nebula, the solar system, the galaxies, the "
        "starfield, empty space"
    ),
    "ocean": _split(
        "the pacific, the atlantic, the seas, a stormy sea, choppy water, the waters, the wide "
        "ocean, the blue ocean, rolling waves, the seven seas, the mediterranean, a vast ocean, "
        "the blue waves, the salt water"
    ),
    "sky": _split(
        "the heavens, midair, the air, the skies, white clouds, fluffy clouds, the cloudscape, the "
        "atmosphere, the open sky, a wide sky, the clouds up high, thin air"
    ),
    "city": _split(
        "a street, the streets, the urban jungle, the skyscrapers, tall buildings, the city "
        "centre, a crowded city, a modern city, the high street, an urban area, the suburbs, city "
        "traffic, an avenue, office buildings, a road in the city, the capital, a busy road, a "
        "village street"
    ),
}

TIMES: dict[str, tuple[str, ...]] = {
    "day": _split(
        "on a sunny day, in the sunshine, in the afternoon, at lunchtime, by daylight, on a nice "
        "day, in bright sunlight, while the sun shines, under the midday sun, on a sunny "
        "afternoon, in full sun, under the bright sun, during daytime, in the early afternoon, in "
        "the sun"
    ),
    "sunset": _split(
        "at the end of the day, when the sun sets, in the setting sun, as evening falls, at "
        "eventide, in the red evening light, during sunset, in the last light of the day, at day's "
        "end, with the sun low on the horizon, under a setting sun, in the sunset glow, as dusk "
        "falls, in the gloaming, shortly before nightfall, while the sun is setting, in an orange "
        "sunset, in the glow of evening"
    ),
    "night": _split(
        "under the stars, by starlight, on a starry night, in the dead of night, during the night, "
        "in the darkness, in pitch darkness, on a moonless night, past midnight, overnight, on a "
        "black night, in the night, this night, at two in the night, in deep night, beneath a "
        "night sky, under the night stars"
    ),
}
BARE_TIMES: dict[str, tuple[str, ...]] = {
    "day": _split("sunny, afternoon, sunshine, sunlight, bright day, midday, sunny day, daylight"),
    "sunset": _split("evening light, setting sun, twilight, sundown, sunset light, nightfall glow"),
    "night": _split(
        "darkness, starlight, midnight, pitch dark, nocturnal, starry night, dark, nightly"
    ),
}

_DOUBLED = frozenset(
    {
        "step",
        "skip",
        "run",
        "spin",
        "zip",
        "nap",
        "slip",
        "skim",
        "hop",
        "bob",
        "jet",
        "swim",
        "flit",
    }
)


def _third(base: str) -> str:
    if base.endswith(("s", "sh", "ch", "x", "z", "o")):
        return base + "es"
    return base[:-1] + "ies" if base[-1] == "y" and base[-2] not in "aeiou" else base + "s"


def _participle(base: str) -> str:
    if base in _DOUBLED:
        return base + base[-1] + "ing"
    if base.endswith("ie"):
        return base[:-2] + "ying"
    return base[:-1] + "ing" if base.endswith("e") and not base.endswith("ee") else base + "ing"


def _verbs(text: str) -> tuple[Verb, ...]:
    """Read 'stroll, take a walk': the first word of each is bent."""
    verbs = []
    for phrase in _split(text):
        base, *rest = phrase.split()
        forms = ("be", "is", "being") if base == "be" else (base, _third(base), _participle(base))
        verbs.append(tuple(" ".join([form, *rest]) for form in forms))
    return tuple(verbs)


_VERBS: dict[str, tuple[Verb, ...]] = {
    "walk": _verbs(
        "saunter, tread, trudge, pace, plod, roam, hike, tramp, tiptoe, step, shuffle, toddle, go "
        "on foot, take a walk, stride, go for a walk, move at a walking pace, pad, wander slowly"
    ),
    "run": _verbs(
        "bolt, scamper, scurry, charge, tear along, hasten, flee, dart, pelt, barrel along, run "
        "fast, scoot, go for a run, run at full tilt, move very fast, gallop, race at high speed, "
        "career"
    ),
    "jump": _verbs(
        "spring, vault, skip, pounce, jump up and down, hop along, spring into the air, caper, "
        "jump for joy, leapfrog, take big jumps, bunny hop, take a leap, jump around"
    ),
    "wait": _verbs(
        "linger, stand around, remain, idle, do nothing, keep still, stay put, take a rest, relax, "
        "sleep, nap, loiter, lie down, stand motionless, freeze, hang around, be still, be idle, "
        "be motionless, stay where it is, take a break, be at rest"
    ),
}
_DRIVE = _verbs(
    "motor, zip, trundle, rattle along, race, hurry, rush, dash, roll along, travel, tear along, "
    "head down the road, move along, hurtle, drive fast, race at high speed, rumble along"
)
_PARKED = _verbs(
    "stand idle, remain, idle, stay put, be stationary, linger, brake, stand around, be at rest, "
    "take a break, wait for passengers, be motionless, keep still"
)
_FLY = _verbs(
    "swoop, flit, dart, whirl, jet, streak, speed, race, zip, rocket, hurtle, shoot, take off, "
    "travel through the air, sweep, waft, dash, zoom, rush, fly fast, sail by, pass through the "
    "air, launch"
)
_HOVER = _verbs(
    "levitate, stay in the air, hang suspended, remain aloft, stay aloft, hover in place, linger, "
    "hang motionless, stand in the air, stay in one place in the air, be suspended in the air"
)
_ADRIFT = _verbs(
    "hang suspended, stay in one place, float motionless, tread water, linger, keep still, remain "
    "in place, stay put, do nothing, be still, hover in place"
)
_SWIM = _verbs(
    "paddle, dart, weave, propel itself, dive, move through the water, slip through the water, "
    "speed, race, wriggle, rush, dash, take a swim, go for a swim, snake, travel"
)
_SAIL = _verbs(
    "voyage, skim, ride the wind, navigate, cross the water, tack, travel, speed, race, go sailing"
)
_AFLOAT = _verbs(
    "stay put, remain, be moored, lie becalmed, keep still, bob gently, be motionless, linger"
)
_OWN: dict[str, tuple[Verb, ...]] = {
    "cyclist": _verbs(
        "bike, bicycle, spin along, ride a bicycle, travel, race, rush, go cycling, speed"
    ),
    "skier": _verbs(
        "slalom, swoosh, go skiing, race, speed, rush, slide downhill, carve, shoot downhill"
    ),
    "surfer": _verbs("ride a wave, catch a wave, ride the waves, carve, go surfing, speed, race"),
}


@cache
def verbs_for(actor: str, background: str, action: str) -> tuple[Verb, ...]:
    """What may be said of an action; for impossible ones only what is true of any actor."""
    possible = action in actions(actor, background)
    if action == "drive":
        return _OWN.get(actor, _DRIVE) if possible else _DRIVE[:4]
    if action == "wait" and possible and "sail" in actions(actor, background):
        return _AFLOAT
    if action == "wait" and possible and "drive" in actions(actor, background):
        return _PARKED
    if action == "hover":
        return _ADRIFT if "swim" in actions(actor, background) else _HOVER
    if action == "sail" and actor in _OWN:
        return _OWN[actor]
    return {**_VERBS, "fly": _FLY, "swim": _SWIM, "sail": _SAIL}[action]


HEADINGS = _split(
    "{d}, to {d}, {d}-bound, off to the {d}, in the {d} direction, headed {d}, towards {d}, on its "
    "way to the {d}, {o} to {d}, from {o} toward {d}, away from the {o}, out to the {d}, to our "
    "{d}, direction {d}, bearing {d}, starting at the {o} and ending at the {d}, in a {d}ward "
    "direction, over to the {d}, {d} across the picture, {o}-to-{d}, to the {d} hand, {c}ward, "
    "{c}bound, in {c}erly direction, toward the {c}ern horizon"
)
COMPASS = {"left": "west", "right": "east"}
FACINGS = _split(
    "with its face to the {d}, pointing {d}, its nose to the {d}, turned {d}, gazing to the {d}, "
    "looking off to the {d}, staring {d}, watching the {d}"
)


def verb_forms() -> tuple[str, ...]:
    """Every form of every verb."""
    tables = (*_VERBS.values(), *_OWN.values(), _DRIVE, _PARKED, _FLY, _HOVER, _ADRIFT, _SWIM)
    return tuple(form for verbs in (*tables, _SAIL, _AFLOAT) for verb in verbs for form in verb)
