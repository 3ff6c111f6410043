"""What the processes of :mod:`tests.faults.disturbed` have imported before they begin."""

from __future__ import annotations

import torch

import radapt.cli.main
import radapt.evaluation
import radapt.models.hf_clip
import radapt.results  # noqa: F401

torch.set_num_threads(1)
