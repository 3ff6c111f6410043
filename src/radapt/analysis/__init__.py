"""Analyses: what makes one model harder to fool than another, as plots with their numbers.

Every file here without a leading underscore is an analysis; its name is the analysis's name, and its ``ANALYSIS`` the
class.
"""

from __future__ import annotations

from radapt.models import interpolated

from ._analysis import REGISTRY, Analysis
from ._analyze import analyze, make
from .attention import attention_maps
from .attention_sensitivity import attention_sensitivity
from .cka import cka
from .kernels import kernel_spectrum
from .perturbations import perturbation_spectrum
from .replacement import DIAGRAMS, replaced, stage_candidates, stages
from .response import frequency_response

__all__ = [
    "DIAGRAMS",
    "REGISTRY",
    "Analysis",
    "analyze",
    "attention_maps",
    "attention_sensitivity",
    "cka",
    "frequency_response",
    "interpolated",
    "kernel_spectrum",
    "make",
    "names",
    "perturbation_spectrum",
    "replaced",
    "stage_candidates",
    "stages",
]


def names() -> list[str]:
    """Names of all analyses."""
    return REGISTRY.names()
