"""Data sets: pictures with labels, captions or questions, each described by one card."""

from ._cards import PROMPTS, Card, card, datasets
from ._dataset import Dataset, fill
from ._readers import load_dataset

__all__ = ["PROMPTS", "Card", "Dataset", "card", "datasets", "fill", "load_dataset"]
