"""The licence of a base model, as its card says."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import ModelCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

FIELDS = ("license", "license_name", "license_link")


def licence_of(base_model: str | None, *, online: bool = False) -> dict[str, str]:
    """What the metadata of a base model's card say about its licence; nothing where that is not known.

    Args:
        base_model: A folder, or a name on the Hub.
        online: Whether to ask the Hub for a card that is not in the cache.
    """
    if not base_model:
        return {}
    path = Path(base_model, "README.md")
    if not os.path.isdir(base_model):
        try:
            path = Path(hf_hub_download(base_model, "README.md", local_files_only=not online))
        except (EntryNotFoundError, OSError, ValueError):  # no such card, no network, no name of the Hub
            return {}
    if not path.is_file():
        return {}
    try:
        data = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    except Exception:  # whatever is wrong with somebody else's card, a save must not fail for it
        return {}
    return {name: str(data.get(name)) for name in FIELDS if data.get(name)}
