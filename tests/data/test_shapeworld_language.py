"""Captions and questions, read back by a parser of their own."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from radapt.data import load_dataset
from radapt.data.shapeworld import ATTRIBUTES, Scene, World, caption, draw, generator, mentioned, questions, render

SENTENCE = re.compile(
    r"(?:a (?:photo|picture) of )?an?"
    r"(?: (?P<size>small|medium|large))?(?: (?P<texture>plain|striped|dotted|chequered))?"
    rf"(?: (?P<colour>{'|'.join(ATTRIBUTES['colour'])}))? (?P<shape>object|{'|'.join(ATTRIBUTES['shape'])})"
    rf"(?: on an? (?P<background>{'|'.join(ATTRIBUTES['background'])}) background)?"
)


def parse(sentence: str) -> dict[str, str]:
    """Attributes that a caption names."""
    match = SENTENCE.fullmatch(sentence)
    assert match is not None, sentence
    return {name: value for name, value in match.groupdict().items() if value not in (None, "object")}


def truth(scene: Scene) -> dict[str, str]:
    return {name: getattr(scene, name) for name in ATTRIBUTES}


def answer(question: str, scene: Scene) -> str:
    if found := re.fullmatch(r"is there an? (\w+)( object)?\?", question):
        return "yes" if found[1] == (scene.colour if found[2] else scene.shape) else "no"
    wanted = {
        "what shape is it?": scene.shape,
        f"what colour is the {scene.shape}?": scene.colour,
        f"what is the texture of the {scene.shape}?": scene.texture,
        f"how large is the {scene.shape}?": scene.size,
        "what colour is the background?": scene.background,
    }
    return wanted[question]


def test_a_caption_names_what_it_mentions_and_nothing_else() -> None:
    for index, scene in enumerate(draw(World(), "test", range(200))):
        mention = mentioned(generator("captions", index))
        assert parse(caption(scene, mention)) == {name: truth(scene)[name] for name in mention}


def test_references_are_true_of_their_image() -> None:
    data = load_dataset("shapeworld-captions", n=100)
    for references, scene in zip(data.captions, draw(World(), "test", range(100)), strict=True):
        assert len(references) == len(set(references)) == 5
        assert parse(references[0]) == truth(scene)
        for reference in references:
            named = parse(reference)
            assert len(named) >= 3
            assert named.items() <= truth(scene).items()


def test_a_caption_of_the_retrieval_set_is_true_of_one_image_only() -> None:
    data = load_dataset("shapeworld-retrieval", n=400)
    first: dict[str, int] = {}
    for index, scene in enumerate(draw(World(), "test", range(500))):
        first.setdefault(caption(scene), index)
    captions = [text for texts in data.captions for text in texts]
    assert all(len(texts) == 3 for texts in data.captions)
    assert len(captions) == len(set(captions))
    assert [texts[0] for texts in data.captions] == list(first)[:400]
    assert list(first.values())[:400] != list(range(400))  # a repeated scene was passed over
    checked = [3, 250, 399]
    indices = [first[data.captions[position][0]] for position in checked]
    np.testing.assert_array_equal(data.images[checked], render(World(), "test", indices)[0])
    for position, index in zip(checked, indices, strict=True):
        scene = draw(World(), "test", [index])[0]
        assert all(parse(text) == truth(scene) for text in data.captions[position])


def test_answers_are_right() -> None:
    data = load_dataset("shapeworld-vqa", n=200)
    for pairs, scene in zip(data.questions, draw(World(), "test", range(200)), strict=True):
        assert len(pairs) == len({question for question, _ in pairs}) == 7
        assert [given for _, given in pairs] == [answer(question, scene) for question, _ in pairs]


def test_yes_and_no_are_about_equally_likely() -> None:
    scenes = draw(World(), "test", range(1000))
    asked = [questions(scene, generator("questions", index))[-2:] for index, scene in enumerate(scenes)]
    counts = Counter(given for pairs in asked for _, given in pairs)
    assert set(counts) == {"yes", "no"}
    assert 0.5 < counts["yes"] / 2000 < 0.6
