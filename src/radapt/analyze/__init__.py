"""Analyses: what makes one model harder to fool than another, as plots with their numbers."""

from __future__ import annotations

from radapt.analyze.attention import attention_maps, insensitivity
from radapt.analyze.cka import cka
from radapt.analyze.replacement import replaced, stages
from radapt.analyze.spectrum import frequency_response, kernel_spectrum, perturbation_spectrum

__all__ = [
    "attention_maps",
    "cka",
    "frequency_response",
    "insensitivity",
    "kernel_spectrum",
    "perturbation_spectrum",
    "replaced",
    "stages",
]
