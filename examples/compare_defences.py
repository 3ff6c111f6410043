"""Compare defences, one of them your own, on a folder of images and under an attack with its own settings.

    python examples/compare_defences.py [FOLDER]

The folder has one subfolder of images per class (``folder/star/1.png``). Without one, the script makes its own.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

import radapt
from radapt.attacks.pgd import PGD
from radapt.data import card
from radapt.models import open_image


class Quantise(nn.Module):
    """A defence of your own: any module from images to images, here one that rounds pixels to a few levels."""

    def __init__(self, levels: int = 6) -> None:
        super().__init__()
        self.steps = levels - 1

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels * self.steps).round() / self.steps


def dataset(folder: Path, model: radapt.VLM) -> radapt.Dataset:
    """The images of a folder as the model sees them: resized and cropped before any attack."""
    files = sorted(folder.glob("*/*.*"))
    classes = sorted({file.parent.name for file in files})
    images = torch.stack([model.preprocess(open_image(file)) for file in files])
    return radapt.Dataset(
        card=replace(card("shapes"), name="my-images", title="My images"),
        split="test",
        images=(255 * images).round().byte().permute(0, 2, 3, 1).numpy(),
        labels=torch.tensor([classes.index(file.parent.name) for file in files]),
        classes=tuple(classes),
    )


def make_folder(folder: Path, n: int = 10) -> Path:
    """A folder of images to begin with."""
    shapes = radapt.load_dataset("shapes", n=n)
    for number, (image, label) in enumerate(zip(shapes.images, shapes.labels.tolist(), strict=True)):
        file = folder / shapes.classes[label] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return folder


model = radapt.load("micro/clip")
data = dataset(Path(sys.argv[1]) if len(sys.argv) > 1 else make_folder(Path("my-images")), model)

results = radapt.evaluate(
    {
        "CLIP": model,
        "R-Adapt": (model, radapt.training_free(model, alpha=0.4)),
        # Rounding has no gradient: without a substitute, the white-box attack would go nowhere and flatter it.
        "Quantise": (model, radapt.InputDefence(Quantise(), substitute="identity")),
    },
    data=data,
    attack=PGD(eps=4 / 255, steps=10),
    results="compare_defences.sqlite",
    batch_size=16,
)
for result in results:
    name = f"{result.setting.method}, {result.kind}"
    print(f"{name:24} {result.percent:5.1f} [{result.low:.1f}, {result.high:.1f}] {'; '.join(result.flags)}")
