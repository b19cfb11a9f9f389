"""Objects on their way to a worker: what they are made of goes as a pickle, their classes by name."""

from __future__ import annotations

import io
import pickle
from types import FunctionType

from seal_lightning.errors import SealError
from seal_lightning.processes.ranks import one_line


class CannotBeSent(SealError):
    """An object cannot be made again in another process; the message says why."""


class _Pickler(pickle.Pickler):
    """Looks at everything on its way."""

    def __init__(self, file: io.BytesIO, *, looking_for: type | None = None) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.looking_for, self.found = looking_for, False

    def persistent_id(self, value: object) -> None:
        self.found = self.found or (self.looking_for is not None and isinstance(value, self.looking_for))
        if isinstance(value, type | FunctionType) and value.__module__ == "__main__":
            raise CannotBeSent(f"{value.__qualname__} is defined in the program that runs: move it into a module")


def parcel(value: object) -> bytes:
    """An object as a pickle. Raises `CannotBeSent`."""
    file = io.BytesIO()
    try:
        _Pickler(file).dump(value)
    except CannotBeSent:
        raise
    except Exception as error:  # whatever a class of the user's does when it is pickled
        raise CannotBeSent(f"something cannot be sent to another process ({one_line(error)})") from error
    return file.getvalue()


def holds(value: object, kind: type) -> bool:
    """Whether an object of this class is somewhere in what would be sent."""
    pickler = _Pickler(io.BytesIO(), looking_for=kind)
    try:
        pickler.dump(value)
    except Exception:  # what cannot be sent is told by `parcel`
        return pickler.found
    return pickler.found
