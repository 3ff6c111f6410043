"""Registries of members that are not modules: those of this package in a mapping, others through entry points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from radapt.registry import Registry, key_of

__all__ = ["Table"]


@dataclass(frozen=True)
class Table(Registry):
    """What this package and others offer by name, where the members of this package lie in a mapping.

    Args:
        members: the members of this package by name.
    """

    members: Mapping[str, Any] = field(default_factory=dict)

    def own(self) -> list[str]:
        return sorted(self.members)

    def get(self, name: str) -> Any:
        key = key_of(name)
        return self.members[key] if key in self.members else super().get(key)
