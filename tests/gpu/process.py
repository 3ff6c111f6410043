"""A training that `accelerate launch` starts: ``python process.py DEVICE WEIGHTS LOSSES``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.tiny import finetuned, own_labels, tiny_clip

__all__ = ["train"]


def train(device: str) -> tuple[Any, list[float]]:
    """A twin after a few steps, and the losses."""
    model = tiny_clip("tiny/clip", factor=10.0)
    data = own_labels(model, 8)
    return finetuned("tecoa", model.to(device), data, steps=2, batch_size=4, attack_steps=2, lr=1e-4, quiet=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    twin, losses = train(sys.argv[1])
    save_file({name: value.contiguous() for name, value in twin.model.state_dict().items()}, sys.argv[2])
    Path(sys.argv[3]).write_text(json.dumps(losses))
