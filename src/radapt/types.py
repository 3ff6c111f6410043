"""Shapes and names that every module shares.

One axis vocabulary: ``batch`` (samples), ``height``, ``width`` (pixels), ``classes``, ``tokens`` (of the vision
tower, prefix tokens included), ``features`` (width of the tower), ``embedding`` (width of the shared space).
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "Adversary",
    "Anchor",
    "AnchorImage",
    "AnchorLoss",
    "Classifier",
    "Decayed",
    "Embeddings",
    "Executor",
    "Flags",
    "Index",
    "Labels",
    "Logits",
    "Mix",
    "Norm",
    "OptimizerName",
    "PerSample",
    "Pixels",
    "Precision",
    "ReplacementOrder",
    "ReportTo",
    "Split",
]

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

Norm = Literal["linf", "l2"]
"""Norm of a ball of perturbations: largest change of a value, or Euclidean length."""
Mix = Literal["interpolate", "add"]
"""How an attention output and an anchor are combined."""
AnchorImage = Literal["white", "grey", "black", "noise", "mean"]
"""What an anchor may be taken on."""
AnchorLoss = Literal["embedding", "text"]
"""What a data-driven anchor minimises."""
Adversary = Literal["static", "adaptive"]
"""Whether the images of an anchor's training are attacked once, or through the adapter at each step."""
OptimizerName = Literal["adamw", "sgd"]
Decayed = Literal["matrices", "all"]
"""Parameters that weight decay applies to: those of two dimensions or more, or all."""
Precision = Literal["float32", "bfloat16"]
"""Of the attack and the loss of a fine-tuning; weights stay in float32."""
ReportTo = Literal["tensorboard", "wandb"]
"""What keeps the log of a training."""
ReplacementOrder = Literal["progressive", "single", "reverse", "interpolation"]
Split = Literal["train", "validation", "test"]
Executor = Literal["local", "ray"]
"""Who measures an evaluation: this process, or workers of Ray."""
