"""The playground: a page in the browser on which a model is tried with and without its defence, and attacked live."""

from __future__ import annotations

from ._launch import MODELS, Playground, launch

__all__ = ["MODELS", "Playground", "launch"]
