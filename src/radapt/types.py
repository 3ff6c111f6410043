"""Shapes and names that every module shares.

One axis vocabulary: ``batch`` (samples), ``height``, ``width`` (pixels), ``classes``, ``tokens`` (of the vision
tower, prefix tokens included), ``features`` (width of the tower), ``embedding`` (width of the shared space).
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Anchor", "Classifier", "Embeddings", "Flags", "Index", "Labels", "Logits", "PerSample", "Pixels"]

Pixels = Float[Tensor, "batch 3 height width"]
"""Images in [0, 1], before normalisation."""
Labels = Int[Tensor, " batch"]
Index = Int[Tensor, " batch"]
"""Positions of samples in the objective's own numbering."""
Logits = Float[Tensor, "batch classes"]
PerSample = Float[Tensor, " batch"]
Flags = Bool[Tensor, " batch"]
Embeddings = Float[Tensor, "batch embedding"]
Classifier = Float[Tensor, "classes embedding"]
"""One unit vector per class."""
Anchor = Float[Tensor, "tokens features"]
"""One vector per token of the vision tower."""
