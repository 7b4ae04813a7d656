"""The adapter at one preference as a file to take along."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile, ZipInfo

from ..convert import export_lora
from ..tuner import Preference, first_active


@contextmanager
def zipped_lora(model: Any, preference: Preference) -> Iterator[Path]:
    """Within the block there is a zip of what `export_lora` writes, named after the preference; then it is gone.

    Equal preferences make equal files, because the entries have no time.

    Raises:
        TypeError, ValueError: the preference is none.
    """
    weights = model.peft_config[first_active(model)].parse_preference(preference).tolist()
    with TemporaryDirectory(prefix="peft-panacea-") as folder:
        export_lora(model, preference, Path(folder, "lora"))
        path = Path(folder, f"lora-{'-'.join(f'{weight:.4g}' for weight in weights)}.zip")
        with ZipFile(path, "w") as archive:
            for file in sorted(Path(folder, "lora").iterdir()):
                archive.writestr(ZipInfo(f"lora/{file.name}"), file.read_bytes())
        yield path
