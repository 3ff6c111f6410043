"""Scores of free text: CIDEr, BLEU, and the accuracy of short answers."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

from radapt.errors import SettingsError

__all__ = ["Cider", "bleu", "canonical", "says_yes", "vqa_accuracy", "words"]

_MARKS = re.compile(r"[^\w\s]|_")
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
_NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_PEOPLE = 3

# The rest are facts of VQA's evaluation (github.com/GT-Vision-Lab/VQA, vqaEval.py of 2021), slips included.
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_APART = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32
_CONTRACTIONS = """
    'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
    needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_COMPLETED = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTIONS.split() for at, sign in enumerate(word) if sign == "'"
} | {"somebody'd": "somebodyd"}
"""Contractions that lack one apostrophe, and what they become."""


def _scorer(name: str) -> Any:
    """A module of pycocoevalcap, which is large and serves this task alone."""
    try:
        return importlib.import_module(f"pycocoevalcap.{name}.{name}_scorer")
    except ImportError as error:
        raise SettingsError('scores of captions need pycocoevalcap: pip install "radapt[captions]"') from error


def words(text: str) -> str:
    """A caption as COCO's evaluation compares it: lower case, without punctuation, one space between words.

    (COCO's own tokenizer is a Java program; on plain sentences it gives the same.)
    """
    return " ".join(_MARKS.sub(" ", text.lower().replace("'", "")).split())


class Cider:
    """CIDEr (Vedantam et al. 2015, arXiv:1411.5726), as pycocoevalcap computes it, with word weights of a fixed corpus.

    So the score of a sample does not depend on which others are evaluated with it. Scores lie in [0, 10].

    Args:
        corpus: the references of every image.

    Raises:
        SettingsError: pycocoevalcap, the extra ``captions``, is not installed.
    """

    def __init__(self, corpus: Sequence[Sequence[str]]) -> None:
        self._scorer = _scorer("cider")
        self._corpus = [self._scorer.cook_refs([words(text) for text in texts]) for texts in corpus]
        counting = self._scorer.CiderScorer()
        counting.crefs = self._corpus
        counting.compute_doc_freq()
        self._frequency = counting.document_frequency

    def __call__(self, answer: str, references: Sequence[str]) -> float:
        """Score of one answer; 0 for an empty one."""
        scorer = self._scorer.CiderScorer()
        scorer.document_frequency = self._frequency
        scorer.ctest = [self._scorer.cook_test(words(answer))]
        # Only as many references are read as there are answers; their number is the size of the corpus.
        scorer.crefs = [self._scorer.cook_refs([words(text) for text in references]), *self._corpus[1:]]
        return float(scorer.compute_cider()[0])


def bleu(answer: str, references: Sequence[str]) -> float:
    """BLEU-4 of one sentence (Papineni et al. 2002), in [0, 1], as pycocoevalcap computes it.

    Raises:
        SettingsError: pycocoevalcap, the extra ``captions``, is not installed.
    """
    scorer = _scorer("bleu").BleuScorer(words(answer), [words(text) for text in references], n=4)
    _, by_order = scorer.compute_score(option="closest", verbose=0)
    return min(1.0, float(by_order[3][0]))


def canonical(answer: str) -> str:
    """A short answer as VQA's evaluation compares it (Antol et al. 2015): small letters, no articles, ``2`` for two.

    A mark of punctuation becomes a space, unless it stands beside a space somewhere, or any digits have a comma between
    them: then it goes, and so do all others. A period goes unless a digit follows it. Contractions that lack an
    apostrophe get it. Colons, apostrophes and signs such as ``%`` stay.

    The official script leaves answers alone where all people gave the very same; here they are always compared in this
    form, as in the evaluations of OpenFlamingo and RobustVLM, so that "Yes." agrees with ten times "yes".
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    apart = _DIGITS_APART.search(text) is not None
    marks: dict[str, str | int | None] = {
        mark: "" if apart or f"{mark} " in text or f" {mark}" in text else " " for mark in _PUNCTUATION
    }
    text = _PERIOD.sub("", text.translate(str.maketrans(marks)), count=_MOST_PERIODS)
    numbers = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_COMPLETED.get(word, word) for word in numbers if word not in _ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """VQA accuracy (Antol et al. 2015): mean over the people of ``min(1, agreeing others / 3)``.

    Where fewer than four people answered, as many must agree as there are others; a single one must be matched.
    """
    text, correct = canonical(answer), [canonical(each) for each in references]
    if len(correct) == 1:
        return float(text == correct[0])
    needed = min(_PEOPLE, len(correct) - 1)
    shares = []
    for left_out in range(len(correct)):
        others = correct[:left_out] + correct[left_out + 1 :]
        shares.append(min(1.0, others.count(text) / needed))
    return sum(shares) / len(shares)


def says_yes(answer: str) -> bool:
    """Whether an answer means yes, as POPE reads it (Li et al. 2023): unless its first sentence says no or not."""
    first = answer.split(".")[0].replace(",", "").lower().split()
    return not {"no", "not"} & set(first)
