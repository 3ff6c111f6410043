"""The shelf: the models and adapters that the page offers, and defended models that several people may use at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from radapt.adapters import Adapter, cutoff_from_d0, micro_adapters, training_free
from radapt.errors import AdapterError, InputError, SettingsError
from radapt.io import expanded
from radapt.models import VLM, load, replica
from radapt.registry import nearest

__all__ = ["SLIDERS", "Shelf"]

SLIDERS = "training-free (the sliders)"
"""The defence whose settings are the sliders; all others are adapters as they were saved."""
_KEPT = 32


class Shelf:
    """Models and adapters by name.

    Nothing is ever attached to a model of the shelf: each defence is on a replica of its own, which is not changed any
    more once it is made, so that people who use different defences at the same time do not see each other.

    Args:
        models: names or folders of models.
        adapters: folders or names of adapters, beside those that ship with the package.
        device, dtype: where and in what precision the weights are.

    Raises:
        SettingsError: no model, or one name twice.
        RadaptError: a model or an adapter cannot be read.
    """

    def __init__(
        self,
        models: Sequence[str | Path | VLM],
        adapters: Sequence[str | Path | Adapter] = (),
        *,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.models: dict[str, VLM] = {}
        for each in models:
            model = each if isinstance(each, VLM) else load(each, device=device, dtype=dtype)
            if model.name in self.models:
                raise SettingsError(f"the model {model.name} is given twice; give each model once")
            self.models[model.name] = model
        if not self.models:
            raise SettingsError("there is no model to play with; name one, such as micro/clip")
        self._adapters = {name: Adapter.from_pretrained(name) for name in micro_adapters()}
        for given in adapters:
            if isinstance(given, Adapter):
                self._adapters[f"{given.settings.method} {given.fingerprint}"] = given
            else:
                name = str(given)
                self._adapters[name] = Adapter.from_pretrained(
                    name if name in self._adapters else expanded(name) if name.startswith("~") else given
                )
        self._lock, self._anchors = Lock(), dict[str, Adapter]()
        self._made: OrderedDict[tuple[str, str], VLM] = OrderedDict()
        self._fitting = {name: self._fit(model) for name, model in self.models.items()}

    def _fit(self, model: VLM) -> dict[str, Adapter]:
        fitting = {}
        for name, adapter in self._adapters.items():
            try:
                adapter.attach(replica(model)).detach()
            except AdapterError:
                continue
            fitting[name] = adapter
        return fitting

    def model(self, name: str) -> VLM:
        """A model without a defence.

        Raises:
            InputError: there is none of this name.
        """
        if name not in self.models:
            raise InputError(f"there is no model {name!r} here{nearest(name, self.models)}")
        return self.models[name]

    def defences(self, name: str) -> list[str]:
        """Names of the defences of a model: the sliders, and the adapters that fit it."""
        self.model(name)
        return [SLIDERS, *self._fitting[name]]

    def adapter(self, name: str, defence: str, *, d0: float, alpha: float) -> Adapter:
        """The adapter of a defence.

        Args:
            name: of the model.
            defence: one of :meth:`defences`.
            d0: cut-off of the sliders, in cycles per image of 224 pixels; 0: no filter.
            alpha: weight of the anchor of the sliders.

        Raises:
            InputError: there is no such model or defence.
            SettingsError: a slider is out of range.
        """
        if defence == SLIDERS:
            return self._anchored(name).change(cutoff=cutoff_from_d0(d0) if d0 else None, alpha=alpha)
        if defence not in self.defences(name):
            raise InputError(f"there is no defence {defence!r} of {name} here{nearest(defence, self.defences(name))}")
        return self._fitting[name][defence]

    def _anchored(self, name: str) -> Adapter:
        """The training-free adapter of a model; its anchor does not depend on the sliders, and is made once."""
        model = self.model(name)
        with self._lock:
            if name not in self._anchors:
                self._anchors[name] = training_free(model)
            return self._anchors[name]

    def defended(self, name: str, adapter: Adapter) -> VLM:
        """A replica of a model with an adapter on it, which nobody may change."""
        key = name, adapter.fingerprint
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        made = replica(self.model(name))
        adapter.attach(made)
        with self._lock:
            self._made[key] = made
            while len(self._made) > _KEPT:
                self._made.popitem(last=False)
        return made
