"""The folder of an adapter, with its card and its front, to the Hub."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import EntryNotFoundError
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

from ..card import CARD, FRONT, PICTURE, card_text
from .loading import load_config
from .reasons import in_one_sentence

NEEDED = (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME)
OF_TOKENIZERS = ("tokenizer*", "chat_template*", "special_tokens_map.json", "added_tokens.json", "vocab.*")
OF_SLOW_TOKENIZERS = ("merges.txt", "*.model", "*.spm")
TAKEN = (FRONT, PICTURE, *OF_TOKENIZERS, *OF_SLOW_TOKENIZERS)
"""What else goes along. Checkpoints, prompts and completions, which a run leaves beside them, stay at home."""


def push(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> str:
    """Upload the adapter of a folder, its card, its front and the front's picture if there are any, and its tokenizer.

    The card is the one on the Hub, with what its owner has written there, or the folder's where there is none yet;
    the part about steering is written anew, with the folder's front. Nothing changes in the folder.

    Args:
        folder: Of an adapter.
        repo_id: `user/name`; made if it does not exist.
        token: As of `huggingface_hub`.
        private: Whether a repository that is made is private; None for the owner's default.
        revision: A branch that exists; None for `main`.

    Returns:
        The address of the repository.

    Raises:
        ValueError: the folder has no Panacea adapter or no whole one, or its front has other objectives.
        PermissionError, ConnectionError: the Hub refused, or cannot be reached.
    """
    folder = Path(folder)
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"`folder` must hold {' and '.join(NEEDED)}, but {folder} lacks {' and '.join(missing)}.")
    load_config(folder)
    names = {path.name for pattern in TAKEN for path in folder.glob(pattern) if path.is_file()}
    api = HfApi(token=token)
    with in_one_sentence("`repo_id`", repo_id):
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        try:
            card = Path(api.hf_hub_download(address.repo_id, CARD, revision=revision)).read_text(encoding="utf-8")
        except EntryNotFoundError:
            card = None
        content: dict[str, bytes | Path] = {name: folder / name for name in (*NEEDED, *sorted(names))}
        content[CARD] = card_text(folder, name=address.repo_id, card=card, online=True).encode()
        files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=what) for name, what in content.items()]
        api.create_commit(address.repo_id, files, commit_message="Upload adapter", revision=revision)
    return str(address)
