"""Adapters on their way into a server and out of it: written, loaded, named, and removed once they have answered.

A few are made at a time, in threads of their own, so that some are loaded while others answer. A thread that a silent
server holds up keeps no process alive.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from transformers import PreTrainedModel

from seal_lightning.endpoints.asking import Abandoned
from seal_lightning.models.lora import LoRA, save_lora

AT_ONCE = 4  # adapters that are made and loaded at one time
TICK = 0.5  # seconds between two looks at whether to go on
GRACE = 5.0  # seconds for what is being loaded when nobody wants it any more

Make = Callable[[], LoRA | None]  # an adapter, made when its turn comes; None for the model itself


class Loader(Protocol):
    """What takes adapters in and out of a server."""

    def load(self, name: str, folder: Path, rank: int, on_wait: Callable[[], None]) -> None: ...
    def unload(self, names: Sequence[str]) -> None: ...


class Loading:
    """One adapter that is made and loaded in a thread.

    Args:
        make: Makes it.
        loader: Loads it.
        folder: Where it is written.
        base: The name of the model itself.
        model: What it is for.
        turn: Held by as many threads as may work at once.
    """

    def __init__(
        self, make: Make, *, loader: Loader, folder: Path, base: str, model: PreTrainedModel, turn: threading.Semaphore
    ) -> None:
        self.name = base
        self.loaded = False
        self._make, self._loader, self._folder, self._model, self._turn = make, loader, folder, model, turn
        self._unwanted = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="seal-adapter", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            with self._turn:
                self._go_on()
                lora = self._make()
                if lora is None:
                    return
                # new each time: neither another process nor a run that was killed can have loaded it
                name = f"seal-{uuid4().hex}"
                save_lora(lora, self._folder / name, model=self._model, lasting=False)
                self._loader.load(name, self._folder / name, lora.rank, self._go_on)
                self.name, self.loaded = name, True
        except BaseException as error:
            self._error = error

    def _go_on(self) -> None:
        if self._unwanted.is_set():
            raise Abandoned

    def wait(self, on_wait: Callable[[], None]) -> str:
        """Its name, once it is loaded. Raises what loading raised, or what `on_wait` does."""
        while self._thread.is_alive():
            self._thread.join(TICK)
            if self._thread.is_alive():
                on_wait()
        if self._error is not None:
            raise self._error
        return self.name

    def abandon(self) -> None:
        """Begin nothing more for it."""
        self._unwanted.set()

    def end(self) -> str | None:
        """Its name if the server has it; its files are removed."""
        self._thread.join(GRACE)
        if not self.loaded:
            return None
        shutil.rmtree(self._folder / self.name, ignore_errors=True)
        return self.name


@contextmanager
def loaded_in_turn(
    groups: Sequence[Sequence[Make]],
    *,
    loader: Loader,
    folder: Path,
    base: str,
    model: PreTrainedModel,
    ahead: bool,
    on_wait: Callable[[], None],
) -> Iterator[Iterator[list[str]]]:
    """The names of one group of adapters after the other, each loaded while the names are in use.

    Args:
        groups: What makes the adapters of each.
        loader: Loads and unloads them.
        folder: A new folder for their files, removed at the end.
        base: The name of the model itself, for those that are None.
        model: What they are for.
        ahead: Whether to load the next group while one is in use; no further ones in any case.
        on_wait: Called about twice a second while waiting, and may raise to end it.
    """
    folder.mkdir(parents=True)  # not tempfile's way: the server may run as another user
    turn = threading.Semaphore(AT_ONCE)
    held: list[list[Loading]] = []

    def begin(group: Sequence[Make]) -> None:
        held.append([Loading(make, loader=loader, folder=folder, base=base, model=model, turn=turn) for make in group])

    def leave(group: Sequence[Loading]) -> None:
        for loading in group:
            loading.abandon()
        loader.unload([name for loading in group if (name := loading.end())])

    def in_turn() -> Iterator[list[str]]:
        for number in range(len(groups)):
            if not held:
                begin(groups[number])
            names = [loading.wait(on_wait) for loading in held[0]]
            if ahead and number + 1 < len(groups):
                begin(groups[number + 1])
            yield names
            leave(held[0])
            del held[0]

    try:
        yield in_turn()
    finally:
        leave([loading for group in held for loading in group])
        shutil.rmtree(folder, ignore_errors=True)
