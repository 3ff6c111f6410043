"""An adapter on a model, until it is detached."""

from __future__ import annotations

from types import TracebackType

from radapt.errors import AdapterError
from radapt.models import Tower

from ._mount import AdapterMount

__all__ = ["Attachment"]


class Attachment:
    """An adapter on a model; leaving the ``with`` block, or :meth:`detach`, restores the model exactly."""

    def __init__(self, tower: Tower, mount: AdapterMount, all_of_it: list[Attachment]) -> None:
        self._tower, self._mount, self._all_of_it, self._entered = tower, mount, all_of_it, False
        if not self.active:
            tower.mount(mount)
        all_of_it.append(self)

    @property
    def active(self) -> bool:
        """Whether the adapter is still on the model."""
        return self._tower.mounted() is self._mount

    def detach(self) -> None:
        """Restore the model; does nothing when this adapter is detached already."""
        with self._tower.changing():
            if self.active:
                self._tower.unmount()
        if self in self._all_of_it:  # or the adapter would keep the model
            self._all_of_it.remove(self)

    def __enter__(self) -> Attachment:
        """Itself, for a ``with`` block.

        Raises:
            AdapterError: the adapter is off the model already, or this is the second block, whose end would be that of
                the first.
        """
        if not self.active:
            raise AdapterError("this attachment has ended, and the model is without its adapter; attach it again")
        if self._entered:
            raise AdapterError("this attachment is in a with block already; attach the adapter once more after it")
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()
