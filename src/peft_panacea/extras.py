"""What is not there without an extra is missed with the command that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Within the block, a package that cannot be imported is one of `pip install peft-panacea[extra]`.

    Raises:
        ModuleNotFoundError: the package and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"`{error.name}` must be installed for this; `pip install peft-panacea[{extra}]` does it.", name=error.name
        ) from error
