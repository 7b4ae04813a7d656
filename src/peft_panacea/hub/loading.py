"""Base model and adapter in one call, and what is wrong with them in one sentence."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import peft
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from peft import PeftConfig
from peft.utils import CONFIG_NAME, load_peft_weights
from safetensors import SafetensorError
from transformers import AutoConfig

from ..tuner import PanaceaConfig
from .reasons import in_one_sentence

if TYPE_CHECKING:
    from peft import PeftModel

AUTO_CLASSES = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "TOKEN_CLS": "AutoPeftModelForTokenClassification",
    "QUESTION_ANS": "AutoPeftModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoPeftModelForFeatureExtraction",
}
"""By the task of a configuration, PEFT's class that loads base model and adapter."""

OF_THE_HUB = ("token", "cache_dir")
"""Options that are about how files are fetched, for whatever is fetched."""


def load(path: str | os.PathLike[str], **options: Any) -> PeftModel:
    """Load an adapter and the base model that its configuration names, ready to be steered.

    Args:
        path: A folder, or a name on the Hub.
        options: What `from_pretrained` of PEFT's auto class for the adapter's task takes: `dtype`, `device_map`,
            `quantization_config`, `attn_implementation` and so on go to the base model, `revision`, `adapter_name` and
            `is_trainable` to the adapter, `token`, `cache_dir` and `trust_remote_code` to both. The base model's
            revision is that of the configuration.

    Returns:
        The model, in eval mode, under its default preference.

    Raises:
        FileNotFoundError: there is no such folder or repository, of the adapter or of its base model.
        PermissionError: the token may not read one of them.
        ConnectionError: the Hub cannot be reached; under HF_HUB_OFFLINE=1, one of them is not in the cache.
        ValueError: it is no Panacea adapter, its configuration names no base model, the base model is another one than
            it was trained on, or a file is damaged.
    """
    path = os.fspath(path)
    config = load_config(path, **options)
    base = base_of(config, path)
    of_the_hub = {name: options[name] for name in OF_THE_HUB if name in options}
    of_the_base = {**of_the_hub, "trust_remote_code": options.get("trust_remote_code", False)}
    with in_one_sentence(f"`base_model_name_or_path` of {path}", base):
        try:
            AutoConfig.from_pretrained(base, revision=config.revision, **of_the_base)
        except ValueError as error:  # which goes on with all models that transformers knows
            said = str(error).partition(". ")[0].splitlines()[0]
            raise ValueError(
                f"`base_model_name_or_path` of {path} must be a model of transformers, but got {base!r}: {said}."
            ) from error
    auto_class = getattr(peft, AUTO_CLASSES.get(config.task_type or "", "AutoPeftModel"))
    with in_one_sentence("`path`", path):
        try:
            return auto_class.from_pretrained(path, **options)
        except SafetensorError as error:
            name = _damaged(path, base, {**of_the_hub, "revision": options.get("revision")})
            raise ValueError(f"The weights in {name} must be whole safetensors files, but got: {error}.") from error


def load_config(path: str | os.PathLike[str], **options: Any) -> PanaceaConfig:
    """The configuration of an adapter.

    Args:
        path: A folder, or a name on the Hub.
        options: Those of `load`; what is not about fetching a configuration is passed over.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: as `load`.
        ValueError: it is no Panacea adapter.
    """
    path = os.fspath(path)
    no_adapter = f"`path` must hold an adapter, but {path} has no {CONFIG_NAME}."
    if os.path.isdir(path) and not os.path.isfile(os.path.join(path, options.get("subfolder") or "", CONFIG_NAME)):
        raise ValueError(no_adapter)
    try:
        with in_one_sentence("`path`", path):
            config = PeftConfig.from_pretrained(path, **options)
    except json.JSONDecodeError as error:
        raise ValueError(f"{CONFIG_NAME} in {path} must be JSON, but is not: {error}.") from error
    except KeyError as error:
        raise ValueError(f"`path` must be a Panacea adapter, but {path} is of no kind that PEFT knows.") from error
    except ValueError as error:
        missing = isinstance(error.__cause__, EntryNotFoundError)
        if missing and not isinstance(error.__cause__, LocalEntryNotFoundError):
            raise ValueError(no_adapter) from error
        raise
    if not isinstance(config, PanaceaConfig):
        raise ValueError(f"`path` must be a Panacea adapter, but {path} is of {config.peft_type}.")
    return config


def base_of(config: PeftConfig, path: str | os.PathLike[str]) -> str:
    """The base model that the configuration of the adapter in `path` names.

    Raises:
        ValueError: it names none.
    """
    if not config.base_model_name_or_path:
        raise ValueError(
            f"`base_model_name_or_path` must be in the configuration of {path}, but is not; load the base model "
            "yourself, and give both to `PeftModel.from_pretrained`."
        )
    return config.base_model_name_or_path


def _damaged(path: str, base: str, of_the_hub: dict[str, Any]) -> str:
    try:
        load_peft_weights(path, device="cpu", **of_the_hub)
    except SafetensorError:
        return path
    return base
