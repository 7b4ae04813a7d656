"""Why the Hub did not give or take something, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (  # type: ignore[attr-defined]  # `HTTPError` is that of httpx or of httpx2
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

REFUSED = (401, 403)


@contextmanager
def in_one_sentence(what: str, name: str) -> Iterator[None]:
    """Within the block, an error of the Hub is one of Python's own, however deep the libraries have buried it.

    Args:
        what: The parameter that named it, as errors call it.
        name: The repository or folder.

    Raises:
        PermissionError: the token may not, or there is none.
        FileNotFoundError: there is no such repository, or none that the token may see.
        ConnectionError: the Hub cannot be reached, or is not to be asked and what is wanted is not in the cache.
        ValueError: there is no such revision.
    """
    try:
        yield
    except Exception as error:
        reason = _reason(_chain(error), what, name)
        if reason is None:
            raise
        raise reason from error


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def _reason(errors: list[BaseException], what: str, name: str) -> Exception | None:
    def any_of(*kinds: type[BaseException]) -> bool:
        return any(isinstance(error, kinds) for error in errors)

    statuses = {error.response.status_code for error in errors if isinstance(error, HfHubHTTPError)}
    if any_of(GatedRepoError):
        return PermissionError(
            f"{what} must be a repository whose terms were accepted by the token's owner, but {name!r} asks for that "
            "on its page first."
        )
    if any_of(RepositoryNotFoundError, HFValidationError):
        return FileNotFoundError(
            f"{what} must be a folder or a repository of the Hub that the token may see, but {name!r} is neither."
        )
    if statuses & set(REFUSED):
        return PermissionError(
            f"{what} must be open to the token, but the Hub refused {name!r} ({min(statuses & set(REFUSED))}); "
            "`hf auth login` sets another token."
        )
    if any_of(RevisionNotFoundError):
        return ValueError(f"`revision` must be a branch, a tag or a commit of {name!r}, but has none of that name.")
    if any_of(OfflineModeIsEnabled):
        return ConnectionError(
            f"The Hub must be reachable for {what} {name!r}, which is not on this machine, but HF_HUB_OFFLINE is set."
        )
    away = any(isinstance(error, HTTPError) and not hasattr(error, "response") for error in errors)
    if away or any_of(LocalEntryNotFoundError):
        return ConnectionError(
            f"The Hub must be reachable for {what} {name!r}, but is not; HF_HUB_OFFLINE=1 makes do with what is here."
        )
    return None
