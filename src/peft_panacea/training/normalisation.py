"""Constants that rewards are normalised by, kept beside a run with what they were measured of."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def digest(prompts: list[Any]) -> str:
    """16 hexadecimal digits that tell lists of prompts apart."""
    return hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()[:16]


def read(path: Path, measured_of: dict[str, Any]) -> dict[str, Any] | None:
    """What the file holds, or None if there is none or it was measured of something else, which the log then says."""
    if not path.exists():
        return None
    constants = json.loads(path.read_text(encoding="utf-8"))
    differing = [key for key, value in measured_of.items() if constants.get(key) != value]
    if differing:
        logger.warning("%s is of other %s; the rewards are measured anew.", path, " and ".join(differing))
        return None
    return constants


def write(path: Path, constants: dict[str, Any]) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(constants, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
