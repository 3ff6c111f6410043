"""Adapter methods by name: what each needs, and the one call that makes an adapter with any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from radapt.data import Dataset, listed, training_images
from radapt.errors import AdapterError, SettingsError
from radapt.io import check_writable, checkpoint_path, expanded
from radapt.models import VLM, load, zero_shot
from radapt.numbers import whole
from radapt.registry import Registry
from radapt.schema import check_keywords
from radapt.training import workers

from ._adapter import Adapter
from ._gaussian import cutoff_from_d0

__all__ = ["REGISTRY", "AdapterMethod", "adapt"]

REGISTRY = Registry("radapt.adapters", "adapter method", "METHOD")


@dataclass(frozen=True)
class AdapterMethod:
    """A way to make an adapter.

    Args:
        make: called with the model, then with what is needed, and with its own settings by keyword: ``make(model)``,
            ``make(model, guide)`` or ``make(model, pixels)``. A method that is trained also takes ``checkpoint``, a
            file that it leaves where it is for whoever saves the adapter to remove, and ``quiet``, and for
            ``loss="text"`` labels and a ``classifier``.
        needs_guide: it is made from a robust twin of the model.
        needs_images: it is trained on images.
        streams: it takes a dataset in the place of its images, reads them as it needs them, and warns of a test split.
    """

    make: Callable[..., Adapter]
    needs_guide: bool = False
    needs_images: bool = False
    streams: bool = False

    def settings(self, where: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that ``make`` takes by keyword, with ``d0`` as a cut-off (0 stands for no filter).

        Raises:
            SettingsError: ``make`` does not take one, a value is of the wrong kind, or the cut-off is given twice.
        """
        settings = dict(given)
        if "d0" in settings:
            d0 = settings.pop("d0")
            if "cutoff" in settings:
                raise SettingsError(f"{where}: cutoff and d0 are one setting in two units; give one of them")
            if isinstance(d0, bool) or not isinstance(d0, int | float):
                raise SettingsError(f"{where}: d0 must be a number, 0 for no filter, got {d0!r}")
            settings["cutoff"] = cutoff_from_d0(d0) if d0 else None
        handed = {"checkpoint", "quiet", "labels", "classifier"}  # by `adapt`, and no settings
        handed |= set() if isinstance(settings.get("pixels"), Tensor) else {"pixels"}
        check_keywords(where, self.make, settings, without=handed)
        return settings

    def trained(
        self, model: VLM, images: Dataset, settings: Mapping[str, Any], *, checkpoint: Path | None, quiet: bool
    ) -> Adapter:
        """An adapter that is trained on the images of a dataset, and with ``loss="text"`` on its labels and classes.

        Args:
            model: the model to adapt.
            images: the training images.
            settings: as :meth:`settings` returns them.
            checkpoint: file to resume from; it is left where it is.
            quiet: no progress bar.

        Raises:
            RadaptError: as of ``make``.
        """
        labelled: dict[str, Any] = {}
        if settings.get("loss") == "text":
            labelled = {"labels": images.labels, "classifier": zero_shot(model).classifier(images.prompts)}
        shown = images if self.streams else images.pixels(range(len(images)))
        return self.make(model, shown, **settings, **labelled, checkpoint=checkpoint, quiet=quiet)


def adapt(
    method: str | AdapterMethod,
    model: str | Path | VLM | nn.Module = "micro/clip",
    *,
    guide: str | Path | VLM | nn.Module | None = None,
    data: str | Path | Dataset | Sequence[str | Path | Dataset] | None = None,
    n: int | Sequence[int] | None = None,
    out: str | Path | None = None,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    dtype: str = "float32",
    device_map: str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Adapter:
    """Make an adapter by the name of its method, as ``radapt adapt`` does.

    The processes that ``accelerate launch`` started share a training: each takes batches of its own on a device of its
    own, and the first one saves.

    Args:
        method: ``training-free``, ``model-guided``, ``data-driven``, ``graft``, ``shallow``, or one that another
            package adds.
        model: the model to adapt, or its name; it is not changed.
        guide: the robust twin, for a method that needs one.
        data: the dataset, or its name, whose train split is used by a method that is trained, and for
            ``image="mean"``; several are joined; by default ``objects``.
        n: how many images of each dataset by name; of several of them, one number for each, or for all; by default
            2,000.
        out: folder that the adapter is saved to; None: it is not saved.
        checkpoint: file to resume from when a training is killed, by default beside ``out``; removed when the adapter
            is saved, and only then.
        device, dtype, device_map: see :func:`radapt.load`; a model object stays where it is unless given a device.
        quiet: no progress bar.
        settings: what else the method takes (``alpha``, ``mix``, ``steps``...); ``d0`` is the cut-off as the paper's
            D0 at 224 pixels, 0 for no filter.

    Raises:
        SettingsError: an unknown method or setting, a guide that is missing, or a guide or images that are not wanted.
        RadaptError: as the method's own function.
        AdapterError: the adapter cannot be written to ``out``; known before anything is made, where it can be.
    """
    folder, file = _places(out, checkpoint)
    chosen: AdapterMethod = REGISTRY.get(method) if isinstance(method, str) else method
    name = method if isinstance(method, str) else getattr(method.make, "__name__", "the method")
    if chosen.needs_guide != (guide is not None):
        raise SettingsError(
            f"{name} needs a guide, the robust twin, such as micro/fare"
            if chosen.needs_guide
            else f"{name} takes no guide; leave it out, or take model-guided"
        )
    taken = chosen.settings(name, settings)
    if not (chosen.needs_images or taken.get("image") == "mean") and not (data is None and n is None):
        raise SettingsError(f"{name} is made without images here; leave data and n out, or take image='mean'")
    data, n = "objects" if data is None else data, 2000 if n is None else n
    for each in listed(n):
        whole("n", each)
    group = workers()
    if group.device is not None and device not in (None, "cpu"):
        raise SettingsError(f"each of the {group.count} processes has a device of its own; leave device out")
    place: dict[str, Any] = {"device": device if group.device is None else group.device, "dtype": dtype}
    vlm = load(model, **place, device_map=device_map)
    if guide is not None:
        twin = load(guide, **place)
        adapter = chosen.make(vlm, twin, **taken, **_mean_pixels(taken, data, n, vlm, quiet))
    elif not chosen.needs_images:
        adapter = chosen.make(vlm, **taken, **_mean_pixels(taken, data, n, vlm, quiet))
    else:
        images = training_images(data, n, size=vlm.image_size[0], quiet=quiet, warn=not chosen.streams)
        adapter = chosen.trained(vlm, images, taken, checkpoint=file, quiet=quiet)
    if folder is not None and group.main:
        adapter.save_pretrained(folder)
        if file is not None and chosen.needs_images:
            file.unlink(missing_ok=True)
    return adapter


def _places(out: str | Path | None, checkpoint: str | Path | None) -> tuple[Path | None, Path | None]:
    """Folder of the adapter and file of the checkpoint, as far as they are wanted."""
    folder, file = (None if path is None else expanded(path) for path in (out, checkpoint))
    if folder is not None:
        try:
            check_writable(folder, folder=True)
        except SettingsError as error:
            raise AdapterError(f"cannot write the adapter to {folder}: {error}") from error
        file = checkpoint_path(folder) if file is None else file
    return folder, file


def _mean_pixels(settings: Mapping[str, Any], data: Any, n: Any, model: VLM, quiet: bool) -> dict[str, Any]:
    """The images that an anchor of a mean image is made of."""
    if settings.get("image") != "mean" or "pixels" in settings:
        return {}
    images = training_images(data, n, size=model.image_size[0], quiet=quiet)
    return {"pixels": images.pixels(range(len(images)))}
