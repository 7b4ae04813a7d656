"""Exports on disk, shared by processes: made once, and removed only when no living process was given them."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class ExportCache:
    """Folders by key, at most `limit` of them; the least recently asked for goes first.

    A process keeps what it was given until it ends: vLLM reads a folder again whenever it has dropped the adapter from
    memory, and its engine dies where it is gone. What a process was given stands in a file that it has locked, so that
    the lock goes with the process, however it ends.

    Args:
        root: Folder of all, made if need be.
        limit: How many are kept, ≥ 1.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self.folders, self.partial = root / "adapters", root / "partial"
        self.held, self.lock = root / "held", root / "lock"
        self.limit = limit
        self._mine: int | None = None
        self._given: set[str] = set()

    def get(self, key: str, write: Callable[[Path], None]) -> Path:
        """The folder of this key.

        Args:
            key: A name of a folder.
            write: Makes the folder that it is given, and is called if there is none. What it leaves by an error is
                seen by nobody.

        Raises:
            RuntimeError: there are `limit` others, all given to living processes.
        """
        folder = self.folders / key
        with self._locked():
            if not folder.is_dir():
                self._make_room()
                shutil.rmtree(self.partial, ignore_errors=True)
                write(self.partial)
                self.partial.rename(folder)
            os.utime(folder)
            self._hold(key)
        return folder

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time, of all threads and processes."""
        self.folders.mkdir(parents=True, exist_ok=True)
        with self.lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _hold(self, key: str) -> None:
        if key in self._given:
            return
        if self._mine is None:
            self.held.mkdir(exist_ok=True)
            # A descriptor, because a file object would be closed with the cache, and the process goes on.
            self._mine = os.open(self.held / uuid.uuid4().hex, os.O_CREAT | os.O_WRONLY)
            fcntl.flock(self._mine, fcntl.LOCK_EX)
        os.write(self._mine, f"{key}\n".encode())
        self._given.add(key)

    def _in_use(self) -> set[str]:
        """The keys that living processes were given; what dead ones left is removed."""
        keys: set[str] = set()
        for path in self.held.glob("*"):
            with path.open(encoding="utf-8") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    keys.update(file.read().split("\n"))
                else:
                    path.unlink()
        return keys

    def _make_room(self) -> None:
        kept = sorted(self.folders.iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
        if len(kept) < self.limit:
            return
        in_use = self._in_use()
        free = [folder for folder in kept if folder.name not in in_use]
        too_many = len(kept) - self.limit + 1
        if len(free) < too_many:
            raise RuntimeError(
                f"`PEFT_PANACEA_EXPORTS` must leave room for another preference, but {len(kept) - len(free)} are in "
                f"use and it is {self.limit}."
            )
        for folder in free[:too_many]:
            shutil.rmtree(self.partial, ignore_errors=True)
            folder.rename(self.partial)  # so that no half of it is ever found
            shutil.rmtree(self.partial)
