"""What lies beside an adapter's weights, its own tokenizer among it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer

from .loading import base_of, load_config
from .reasons import in_one_sentence

WEIGHTS = ["*.safetensors", "*.bin", "*.pt"]


def folder_of(path: str | os.PathLike[str]) -> Path:
    """A folder with all files of an adapter but, perhaps, its weights.

    Args:
        path: A folder, or a name on the Hub; offline, what is in the cache.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError, ValueError: as `load`.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        return Path(path)
    with in_one_sentence("`path`", path):
        return Path(snapshot_download(path, ignore_patterns=WEIGHTS))


def load_tokenizer(path: str | os.PathLike[str]) -> Any:
    """The adapter's own tokenizer if it was saved with one, else that of its base model; with a padding token.

    Args:
        path: A folder, or a name on the Hub.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError, ValueError: as `load`.
    """
    config, folder = load_config(path), folder_of(path)
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder)
    else:
        base = base_of(config, path)
        with in_one_sentence(f"`base_model_name_or_path` of {path}", base):
            tokenizer = AutoTokenizer.from_pretrained(base, revision=config.revision)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer
