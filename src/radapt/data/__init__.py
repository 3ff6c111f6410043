"""Datasets: images with labels, captions or questions, each described by one card."""

from ._cards import METRICS, PROMPTS, REGISTRY, Card, TaskName, card, datasets
from ._dataset import Dataset, fill
from ._joined import joined
from ._mirror import data_root
from ._readers import READERS, load_dataset
from ._training import check_datasets, listed, training_images, warn_of_test_split

__all__ = [
    "METRICS",
    "PROMPTS",
    "READERS",
    "REGISTRY",
    "Card",
    "Dataset",
    "TaskName",
    "card",
    "check_datasets",
    "data_root",
    "datasets",
    "fill",
    "joined",
    "listed",
    "load_dataset",
    "training_images",
    "warn_of_test_split",
]
