"""What one of several processes does in the test of several processes: ``python process.py FOLDER SETTINGS``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.tiny import finetuned, own_labels, tiny_clip

from radapt import finetuning
from radapt.training.distributed import workers


def main(folder: Path, settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    model = tiny_clip("tiny/clip", factor=10.0)
    data = own_labels(model, 12)
    method = finetuning.make(str(settings.pop("method")))
    files = {"checkpoint": folder / "run.safetensors", "log": folder / "log", "out": folder / "twin"}
    twin, history = finetuned(method, model, data, **files, **settings)
    group = workers()
    save_file({name: value.contiguous() for name, value in twin.model.state_dict().items()}, folder / f"{group.rank}")
    (folder / f"facts {group.rank}.json").write_text(json.dumps({"history": history, "processes": group.count}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
