"""Scores of free text: CIDEr, BLEU, and the accuracy of short answers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs, cook_test

__all__ = ["Cider", "bleu", "canonical", "says_yes", "vqa_accuracy", "words"]

_MARKS = re.compile(r"[^\w\s]|_")
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
_NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_PEOPLE = 3


def words(text: str) -> str:
    """A caption as COCO's evaluation compares it: small letters, without punctuation, one space between words.

    (COCO's own tokenizer is a Java program; on plain sentences it gives the same.)
    """
    return " ".join(_MARKS.sub(" ", text.lower().replace("'", "")).split())


class Cider:
    """CIDEr (Vedantam et al. 2015, arXiv:1411.5726), as pycocoevalcap computes it, with word weights of a fixed corpus.

    So the score of a sample does not hang on which others are evaluated with it. Scores lie in [0, 10].

    Args:
        corpus: the references of every picture.
    """

    def __init__(self, corpus: Sequence[Sequence[str]]) -> None:
        self._corpus = [cook_refs([words(text) for text in texts]) for texts in corpus]
        counting = CiderScorer()
        counting.crefs = self._corpus
        counting.compute_doc_freq()
        self._frequency = counting.document_frequency

    def __call__(self, answer: str, references: Sequence[str]) -> float:
        """Score of one answer; 0 for an empty one."""
        scorer = CiderScorer()
        scorer.document_frequency = self._frequency
        scorer.ctest = [cook_test(words(answer))]
        # Only as many references are read as there are answers; their number is the size of the corpus.
        scorer.crefs = [cook_refs([words(text) for text in references]), *self._corpus[1:]]
        return float(scorer.compute_cider()[0])


def bleu(answer: str, references: Sequence[str]) -> float:
    """BLEU-4 of one sentence (Papineni et al. 2002), in [0, 1], as pycocoevalcap computes it."""
    scorer = BleuScorer(words(answer), [words(text) for text in references], n=4)
    _, by_order = scorer.compute_score(option="closest", verbose=0)
    return min(1.0, float(by_order[3][0]))


def canonical(answer: str) -> str:
    """A short answer as VQA's evaluation compares it: no punctuation, no articles, numbers as digits.

    Apostrophes go too, where the official code completes contractions: ``dont`` and ``don't`` agree either way.
    """
    kept = (word for word in words(answer).split() if word not in _ARTICLES)
    return " ".join(_NUMBERS.get(word, word) for word in kept)


def vqa_accuracy(answer: str, given: Sequence[str]) -> float:
    """VQA accuracy (Antol et al. 2015): mean over the people of ``min(1, agreeing others / 3)``.

    Where fewer than four people answered, as many must agree as there are others; one alone must be met.
    """
    said, right = canonical(answer), [canonical(each) for each in given]
    if len(right) == 1:
        return float(said == right[0])
    needed = min(_PEOPLE, len(right) - 1)
    shares = []
    for left_out in range(len(right)):
        others = right[:left_out] + right[left_out + 1 :]
        shares.append(min(1.0, others.count(said) / needed))
    return sum(shares) / len(shares)


def says_yes(answer: str) -> bool:
    """Whether an answer means yes, as POPE reads it (Li et al. 2023): unless its first sentence says no or not."""
    first = answer.split(".")[0].replace(",", "").lower().split()
    return not {"no", "not"} & set(first)
