"""What the texts of ``micro/photos`` are made of: other names and kinds of the classes, and sentences around them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from radapt.data import fill

__all__ = ["KINDS", "Words", "texts_of", "words_of"]

KINDS = (
    "animal", "vehicle", "plant", "food", "musical instrument", "tool", "furniture", "device", "building", "person",
    "toy", "sign", "vessel",
)  # fmt: skip
"""What a class may be a kind of."""

# name | its place in KINDS | the name of a class that is true of it, too | other names
_TABLE = """
airplane | vehicle | | plane, aircraft, aeroplane, jet
automobile | vehicle | | car, motorcar
bird | animal | |
cat | animal | | kitten, house cat
deer | animal | | stag, doe
dog | animal | | puppy, hound
frog | animal | | toad
horse | animal | | pony, foal
ship | vehicle | | boat, ocean liner
truck | vehicle | | lorry
faces | person | | face, person, human face, off-center face
faces easy | person | faces | centered face, portrait, face of a person
leopards | animal | | leopard
motorbikes | vehicle | | motorbike, motorcycle
accordion | musical instrument | |
airplanes | vehicle | airplane | airplane, plane, passenger plane
anchor | device | |
ant | animal | | insect
barrel | vessel | | cask
bass | animal | | bass fish, fish
beaver | animal | |
binocular | device | | binoculars, pair of binoculars
bonsai | plant | | bonsai tree, small tree
brain | device | | human brain
brontosaurus | animal | | dinosaur, sauropod
buddha | toy | | statue of buddha, buddha statue
butterfly | animal | | moth
camera | device | | photo camera
cannon | device | | gun
car side | vehicle | automobile | side of a car, car, car from the side
ceiling fan | furniture | | fan
cellphone | device | | mobile phone, phone
chair | furniture | | seat
chandelier | furniture | | ceiling lamp
cougar body | animal | | body of a cougar cat, cougar, puma
cougar face | animal | | face of a cougar cat, head of a cougar
crab | animal | |
crayfish | animal | | crawfish
crocodile | animal | | alligator
crocodile head | animal | | head of a crocodile
cup | vessel | | mug
dalmatian | animal | dog | dalmatian dog, spotted dog
dollar bill | sign | | banknote, money
dolphin | animal | |
dragonfly | animal | | flying insect
electric guitar | musical instrument | | guitar
elephant | animal | |
emu | animal | bird | large bird
euphonium | musical instrument | | tuba, brass instrument
ewer | vessel | | jug, pitcher
ferry | vehicle | ship | ferry boat, passenger ship
flamingo | animal | bird | pink bird
flamingo head | animal | bird | head of a flamingo
garfield | toy | | cartoon cat
gerenuk | animal | | antelope
gramophone | device | | phonograph, record player
grand piano | musical instrument | | piano
hawksbill | animal | | sea turtle, turtle
headphone | device | | headphones, pair of headphones
hedgehog | animal | |
helicopter | vehicle | |
ibis | animal | bird | wading bird
inline skate | device | | roller skate, skate
joshua tree | plant | | desert tree
kangaroo | animal | | wallaby
ketch | vehicle | ship | sailing boat, sailboat
lamp | furniture | | table lamp, desk lamp
laptop | device | | computer, notebook computer
llama | animal | | alpaca
lobster | animal | |
lotus | plant | | lotus flower
mandolin | musical instrument | | lute
mayfly | animal | | winged insect
menorah | furniture | | candle holder, candlestick
metronome | device | |
minaret | building | | tower, mosque tower
nautilus | animal | | shell
octopus | animal | | squid
okapi | animal | |
pagoda | building | | temple
panda | animal | | panda bear, bear
pigeon | animal | bird | dove
pizza | food | | pizza pie
platypus | animal | |
pyramid | building | |
revolver | device | | pistol, handgun
rhino | animal | | rhinoceros
rooster | animal | bird | cock, chicken
saxophone | musical instrument | | sax
schooner | vehicle | ship | sailing ship, tall ship
scissors | tool | | pair of scissors
scorpion | animal | |
sea horse | animal | | seahorse
snoopy | toy | | snoopy (cartoon beagle), cartoon dog
soccer ball | toy | | football, ball
stapler | tool | |
starfish | animal | | sea star
stegosaurus | animal | | dinosaur with plates
stop sign | sign | | road sign, traffic sign
strawberry | food | | berry, fruit
sunflower | plant | | yellow flower
tick | animal | | mite
trilobite | animal | | fossil
umbrella | device | | parasol
watch | device | | wristwatch, clock
water lilly | plant | | water lily, pond flower
wheelchair | vehicle | |
wild cat | animal | | wildcat
windsor chair | furniture | chair | wooden chair
wrench | tool | | spanner
yin yang | sign | | yin and yang symbol, symbol
background | | | scene
"""
_FIRST = "a photo of a {c}."
_PLAIN = (
    _FIRST, "a photo of {a c}.", "a photo of the {c}.", "a photo of {c}.", "a photo of one {c}.", "a photo of my {c}.",
    "a photo of many {c}.", "there is {a c} in the photo.", "there is the {c} in the scene.", "this is a photo of {c}.",
    "this is {a c}.", "itap of a {c}.", "itap of the {c}.", "itap of my {c}.", "{c}", "{a c}", "the {c}", "one {c}.",
)  # fmt: skip
_OF_PHOTO = (
    "bad", "good", "bright", "dark", "blurry", "cropped", "close-up", "black and white", "low contrast",
    "high contrast", "low resolution", "jpeg corrupted", "pixelated", "colour", "small",
)  # fmt: skip
_OF_THING = (
    "big", "small", "large", "clean", "dirty", "nice", "cool", "weird", "hard to see", "real", "old", "new", "red",
    "blue", "green", "white", "black", "brown", "yellow", "grey",
)  # fmt: skip
_MEDIA = (
    "picture", "image", "drawing", "painting", "sketch", "rendering", "rendition", "sculpture", "doodle", "cartoon",
    "plastic", "origami", "toy", "plushie", "embroidered", "graffiti", "tattoo", "art", "video game",
)  # fmt: skip
_REST = "what is in it ? a an the of and or on with no yes object thing digit handwritten texture type kind pet flower"


class Words:
    """What is known of a class by its name, or by one of its other names.

    Args:
        name: of the class.

    Attributes:
        kind: its place in ``KINDS``; -1 where it is unknown.
        also: names of the class of another set that is true of it, too; empty where there is none.
        others: other names.
    """

    def __init__(self, name: str) -> None:
        key = name.strip().lower()
        row = _ROWS.get(key) or next((each for each in _ROWS.values() if key in each[3]), ("", "", "", ()))
        self.kind = KINDS.index(row[1]) if row[1] else -1
        self.also = {row[0], row[2]} - {""}
        self.others = tuple(each for each in row[3] if each != key)


def _rows() -> dict[str, tuple[str, str, str, tuple[str, ...]]]:
    rows = {}
    for line in _TABLE.strip().splitlines():
        name, kind, also, others = (part.strip() for part in line.split("|"))
        rows[name] = (name, kind, also, tuple(each.strip() for each in others.split(",") if each.strip()))
    return rows


_ROWS = _rows()


def texts_of(name: str, others: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """Different ways to say what an image shows; the name itself in more than half, in the usual template in a quarter.

    Args:
        name: of the class.
        others: other names of it.
        count: number of texts; some may be equal.
        rng: source of random numbers.
    """
    texts = []
    for _ in range(count):
        called = name if not others or rng.random() < 0.6 else others[int(rng.integers(len(others)))]
        texts.append(fill(_template(rng), called))
    return texts


def _template(rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < 0.25:
        return _FIRST
    if draw < 0.55:
        return _PLAIN[rng.integers(len(_PLAIN))]
    if draw < 0.7:
        return f"a {_OF_PHOTO[rng.integers(len(_OF_PHOTO))]} photo of {('a', 'the')[rng.integers(2)]} {{c}}."
    if draw < 0.85:
        return f"a photo of {('a', 'the')[rng.integers(2)]} {_OF_THING[rng.integers(len(_OF_THING))]} {{c}}."
    return f"a {_MEDIA[rng.integers(len(_MEDIA))]} of {('a', 'the')[rng.integers(2)]} {{c}}."


def words_of(names: Sequence[str]) -> str:
    """A text with every word that a text about these classes, or the classes of the table, may hold."""
    known = (f"{row[0]} {' '.join(row[3])}" for row in _ROWS.values())
    return " ".join([*_PLAIN, *_OF_PHOTO, *_OF_THING, *_MEDIA, *KINDS, _REST, *known, *names]).lower()
