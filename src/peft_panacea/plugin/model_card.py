"""The cards that PEFT and transformers write with every save and every push say how the adapter is steered."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from peft import PeftModel

from ..card import CARD, is_on_the_hub, new_card, renewed, replace_text
from ..tuner import PanaceaConfig

GENERATED = "This is the model card of a 🤗 transformers model"
"""How the sentence begins that transformers adds to its template."""


def say_how_to_steer() -> None:
    """Let `PeftModel.save_pretrained` and `push_to_hub` add that part to the card, or renew it.

    It is about the first Panacea adapter that is saved. What was measured is left out, because it was of the weights
    that are overwritten, perhaps. A push has replaced the saved card by the one on the Hub, or by transformers'
    template where there is none, when the files are uploaded.
    """
    create_or_update, upload = PeftModel.create_or_update_model_card, PeftModel._upload_modified_files
    save = PeftModel.save_pretrained
    arguments = inspect.signature(save)

    def write(self: PeftModel, folder: str, name: str | None, adapters: Iterable[str] | None = None) -> None:
        config = next(iter(_configs(self, adapters)), None)
        if config is None:
            return create_or_update(self, folder)
        path = Path(folder, CARD)
        before = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True) if path.exists() else None
        if before is None or not _is_written(before.text):
            replace_text(path, new_card(name or path.parent.name, config))
        create_or_update(self, folder)
        card = ModelCard.load(path)
        kept = _metadata(before)
        if name is None and (is_on_the_hub(card.data.get("base_model")) or not is_on_the_hub(kept.get("base_model"))):
            kept.pop("base_model", None)  # the folder may have had an adapter of another one
        _keep(card.data, kept)
        replace_text(path, renewed(str(card), config, name=name, online=name is not None))

    @functools.wraps(create_or_update)
    def create_or_update_model_card(self: PeftModel, output_dir: str) -> None:
        write(self, output_dir, None, vars(self).get("_saved_adapters"))

    @functools.wraps(save)
    def save_pretrained(self: PeftModel, *args: Any, **kwargs: Any) -> None:
        selected = arguments.bind(self, *args, **kwargs).arguments.get("selected_adapters")
        for config in _configs(self, selected):
            config.check_preferences()  # before a file is written
        self._saved_adapters = selected  # for the length of the call: what writes the card is not told
        try:
            save(self, *args, **kwargs)
        finally:
            del self._saved_adapters

    @functools.wraps(upload)
    def upload_modified_files(self: PeftModel, working_dir: str, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        if _configs(self):
            write(self, working_dir, repo_id)
        return upload(self, working_dir, repo_id, *args, **kwargs)

    PeftModel.save_pretrained = save_pretrained
    PeftModel.create_or_update_model_card = create_or_update_model_card
    PeftModel._upload_modified_files = upload_modified_files


def _configs(model: PeftModel, adapters: Iterable[str] | None = None) -> list[PanaceaConfig]:
    """Those of Panacea adapters, of all that the model has if None."""
    names = model.peft_config if adapters is None else adapters
    configs = (model.peft_config.get(name) for name in names)
    return [config for config in configs if isinstance(config, PanaceaConfig)]


def _metadata(card: Any) -> dict[str, Any]:
    return {} if card is None else card.data.to_dict()


def _is_written(text: str) -> bool:
    """Whether anybody has said anything: in a template nobody has."""
    template = ModelCard.from_template(ModelCardData()).text.splitlines()
    return any(line not in template and not line.startswith(GENERATED) for line in text.splitlines())


def _keep(data: Any, kept: dict[str, Any]) -> None:
    """Keep the metadata that were there; PEFT replaces tags."""
    data.tags = sorted({*(data.get("tags") or []), *kept.get("tags", [])})
    for name in kept.keys() - {"tags", "library_name"}:
        data[name] = kept[name]
