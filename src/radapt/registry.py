"""Members by name: the files of a package's folder, and what other packages add through entry points."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from radapt.errors import SettingsError

__all__ = ["Registry", "key_of", "nearest"]


def nearest(got: str, allowed: Iterable[str]) -> str:
    """The end of an error message: the nearest valid name, then all of them."""
    names = sorted(str(name) for name in allowed)
    written = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(got).lower(), written, n=1, cutoff=0.5)
    hint = f"; did you mean {written[close[0]]!r}?" if close else "."
    return f"{hint} Allowed: {', '.join(names)}"


@dataclass(frozen=True)
class Registry:
    """What a package offers by name.

    Its members are the modules of its folder without a leading underscore, and the entry points of the group that is
    called like the package, so that another package adds one in its ``pyproject.toml``::

        [project.entry-points."radapt.attacks"]
        my-attack = "my_package.my_attack:MyAttack"

    A member is imported when it is asked for. One of this library is never replaced by an entry point of its name.

    Args:
        package: name of the package (``radapt.attacks``).
        kind: what a member is, for messages (``attack``).
        attribute: name of the object that each module of the folder defines; empty where the module itself is meant.
    """

    package: str
    kind: str
    attribute: str = ""

    def own(self) -> list[str]:
        """Names of the members that come with this library, as written on the command line."""
        path = importlib.import_module(self.package).__path__
        names = (module.name for module in pkgutil.iter_modules(path))
        return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))

    def added(self) -> dict[str, EntryPoint]:
        """Entry points of other packages by name."""
        return {key_of(point.name): point for point in entry_points(group=self.package)}

    def names(self) -> list[str]:
        """Names of all members."""
        return sorted({*self.own(), *self.added()})

    def get(self, name: str) -> Any:
        """The member of a name.

        Raises:
            SettingsError: there is none, or the package that adds it cannot be imported.
        """
        key = key_of(name)
        if key in self.own():
            module = importlib.import_module(f"{self.package}.{key.replace('-', '_')}")
            return getattr(module, self.attribute) if self.attribute else module
        added = self.added()  # reads the metadata of every installed package
        if key not in added:
            raise SettingsError(f"unknown {self.kind} {name!r}{nearest(key, self.names())}")
        try:
            return added[key].load()
        except (ImportError, AttributeError) as error:
            raise SettingsError(f"{self.kind} {name!r} is added by {added[key].value}, which fails: {error}") from error

    def make(self, name: str, settings: Mapping[str, Any]) -> Any:
        """A member that is a dataclass, with its settings.

        Raises:
            SettingsError: there is no such member or setting, a needed setting is missing, or a value is out of range.
        """
        kind = self.get(name)
        allowed = {field.name: field for field in fields(kind)}
        for setting in settings:
            if setting not in allowed:
                raise SettingsError(f"{self.kind} {name!r} has no setting {setting!r}{nearest(setting, allowed)}")
        required = [key for key, f in allowed.items() if f.default is MISSING and f.default_factory is MISSING]
        missing = [key for key in required if key not in settings]
        if missing:
            raise SettingsError(f"{self.kind} {name!r} needs {', '.join(missing)}; give it as in {missing[0]}=4/255")
        return kind(**settings)


def key_of(name: str) -> str:
    """A name as members are called: lower case, with hyphens."""
    return str(name).strip().lower().replace("_", "-")
