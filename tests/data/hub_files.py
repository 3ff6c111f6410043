"""Small datasets in the formats of the hub, for tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import datasets
import yaml
from PIL import Image

from radapt.data import Dataset

__all__ = ["archives", "mirror", "own", "parquet", "photo", "which"]

_FACTS = {"name": "own", "title": "Own", "task": "zero-shot", "source": "hub", "licence": "MIT", "citation": "None."}
_FACTS |= {"metric": "top-1", "description": "Images.", "tests": "Colour."}


def photo(at: int) -> Image.Image:
    """Of one grey level, which says which image it is."""
    return Image.new("RGB", (20, 16), (at, at, at))


def which(data: Dataset) -> list[int]:
    return [int(image[8, 8, 0]) for image in data.images]


def archives(folder: Path, labels: list[int], *, split: str = "test", kind: str = "webp", shard: int = 100) -> Path:
    """A folder as the webdatasets of clip-benchmark are: archives, their number, class names and templates."""
    (folder / split).mkdir(parents=True)
    starts = range(0, len(labels), shard)
    for number, start in enumerate(starts):
        with tarfile.open(folder / split / f"{number}.tar", "w") as tar:
            for at in range(start, min(start + shard, len(labels))):
                buffer = io.BytesIO()
                photo(at).save(buffer, kind, **({"lossless": True} if kind == "webp" else {}))
                for ending, content in (("cls", str(labels[at]).encode()), (kind, buffer.getvalue())):
                    entry = tarfile.TarInfo(f"s{at:07d}.{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    (folder / split / "nshards.txt").write_text(str(len(starts)))
    (folder / "classnames.txt").write_text("tabby cat\nmissile\nprojectile\n")
    (folder / "templates.txt").write_text("a photo of a {c}.\nart of the {c}.\n")
    return folder


def mirror(root: Path, sizes: dict[str, int], names: tuple[str, ...] = ("wds_vtab-cifar10",)) -> Path:
    """A mirror of the hub: folders of archives with splits of these sizes and one template, labels 0, 1, 2, 0, 1..."""
    for name in names:
        for split, count in sizes.items():
            archives(root / name, [at % 3 for at in range(count)], split=split, shard=5)
        (root / name / "templates.txt").unlink()
        (root / name / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    return root


def parquet(folder: Path, columns: dict[str, list[Any]], split: str = "test", **features: Any) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    count = len(next(iter(columns.values())))
    rows = datasets.Dataset.from_dict({"image": [photo(at) for at in range(count)], **columns})
    for column, feature in {"image": datasets.Image(), **features}.items():
        rows = rows.cast_column(column, feature)
    rows.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


def own(folder: Path, repository: Path | str, options: dict[str, Any], **changes: Any) -> str:
    content = {**_FACTS, "templates": ["the {c}"], **changes}
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({**content, "options": {"repository": str(repository), "size": 16, **options}}))
    return str(path)
