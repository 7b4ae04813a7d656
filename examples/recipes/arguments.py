"""The flags that all recipes share, and the data that they name."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from datasets import Dataset, load_dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase, TrainerCallback

from peft_panacea import PanaceaConfig, data
from peft_panacea.data.sources import OBJECTIVES
from peft_panacea.training import IterateAverage
from peft_panacea.training.batches import belonging

ADAPTER = ("r", "preference_rank", "coordinates", "scale_per_objective", "scaling", "panacea_dropout")
PAPER = {"r": 8, "preference_rank": 1, "coordinates": "raw", "scaling": "paper"}


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """What a user can mend is said without a traceback."""
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(f"{error}") from None


@dataclass
class RecipeArguments:
    """Flags of every recipe, next to those of `PreferenceArguments` and of the TRL trainer."""

    model_name_or_path: str = field(metadata={"help": "Causal language model, on the Hub or in a folder."})
    objectives: list[str] = field(metadata={"help": "Names of the objectives, in the order of all else."})
    data: str = field(metadata={"help": "A .json or .jsonl file (docs/data.md), or a data set of the Hub."})
    data_format: str | None = field(
        default=None, metadata={"help": "Of the Hub: the function of `peft_panacea.data`, such as pku_safe_rlhf."}
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "Put in front of every conversation that has none."}
    )
    plain: bool = field(
        default=False, metadata={"help": "Continue texts as they are, although the model has a chat template."}
    )
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = field(
        default="float32", metadata={"help": "Of the frozen weights; 'auto': as they are stored."}
    )
    held_out: int = field(
        default=64, metadata={"help": "Prompts kept from training, for the front; 0: none, and no front."}
    )
    front_steps: int = field(
        default=4, metadata={"help": "Steps from one objective to another in the final front; 0: no front."}
    )
    average: float = field(
        default=0.0, metadata={"help": "Share of the last steps whose mean the adapter becomes; 0: it stays the last."}
    )
    paper: bool = field(
        default=False,
        metadata={"help": "The paper's adapter, where no flag says otherwise, and --preference_per batch."},
    )
    r: int | None = field(default=None, metadata={"help": "Rank that all objectives share."})
    preference_rank: int | None = field(default=None, metadata={"help": "Rank that each objective has for itself."})
    coordinates: Literal["white", "raw"] | None = field(
        default=None, metadata={"help": "'white': the preference centred, of unit variance. 'raw': the paper's."}
    )
    scale_per_objective: bool | None = field(
        default=None, metadata={"help": "Whether each objective has a scale of its own, to be trained alone."}
    )
    scaling: str | None = field(
        default=None, metadata={"help": "A factor on the width-aware constant c, or 'paper' for c = 64."}
    )
    panacea_dropout: float | None = field(default=None, metadata={"help": "Dropout of the adapter's input."})

    def __post_init__(self) -> None:
        for name, highest in (("held_out", None), ("front_steps", None), ("average", 1)):
            value = getattr(self, name)
            if value < 0 or (highest is not None and value > highest):
                rule = "at least 0" if highest is None else f"between 0 and {highest}"
                raise ValueError(f"`--{name}` must be {rule}, but got {value}.")
        self.peft_config()

    def peft_config(self) -> PanaceaConfig:
        given = {name: value for name in ADAPTER if (value := getattr(self, name)) is not None}
        with suppress(ValueError):  # what is no number, 'paper' or not, is the configuration's to judge
            given["scaling"] = float(given.get("scaling", ""))
        settings = {**(PAPER if self.paper else {}), **given}
        return PanaceaConfig(objectives=self.objectives, task_type="CAUSAL_LM", **settings)

    def callbacks(self) -> list[TrainerCallback]:
        return [IterateAverage(self.average)] if self.average else []

    def tokenizer(self) -> PreTrainedTokenizerBase:
        with in_one_sentence():
            return AutoTokenizer.from_pretrained(self.model_name_or_path)

    def rows(self) -> Dataset:
        """The rows of `--data`, with `objective` or `objective_labels`."""
        if self.data_format is None:
            return data.json_preferences(self.data, self.objectives)
        formats = [name for name in data.__all__ if getattr(data, name).__module__.endswith(".sources")]
        if self.data_format not in formats:
            raise ValueError(f"`--data_format` must be one of {formats}, but got {self.data_format!r}.")
        own = OBJECTIVES.get(self.data_format, self.objectives)
        if self.objectives != list(own):
            raise ValueError(
                f"`--objectives` must be those of {self.data_format} in their order, {list(own)}, but got "
                f"{self.objectives}."
            )
        options = {"attributes": own} if self.data_format == "helpsteer2" else {}
        return getattr(data, self.data_format)(load_dataset(self.data, split="train"), **options)

    def check_measurable(self, name: str, rows: Dataset | None) -> None:
        """Refuse rows kept by `--name` if the front could not have the loss of every objective on them."""
        if rows is None or not self.front_steps:
            return
        has_rows = belonging(rows, self.objectives).any(dim=0).tolist()
        if missing := [one for one, has in zip(self.objectives, has_rows, strict=True) if not has]:
            raise ValueError(
                f"`--{name}` must keep rows of every objective for the front (--front_steps 0: no front), but of "
                f"{len(rows)} rows none is of {missing}."
            )

    def prompts(self) -> Dataset:
        """The prompts of a JSON file, or the column `prompt` of a data set of the Hub."""
        if Path(self.data).suffix in (".json", ".jsonl"):
            return Dataset.from_dict({"prompt": data.json_prompts(self.data)})
        rows = load_dataset(self.data, split="train")
        if "prompt" not in rows.column_names:
            raise ValueError(f"`--data` must have a column `prompt`, but {self.data} has {rows.column_names}.")
        return rows.select_columns("prompt")

    def split(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, *more: int) -> list[Dataset | None]:
        """The rows for training, and those of the held-out prompts (rows, where there are none), always the same.

        Behind them those of as many further prompts as `more` says. All as conversations, if the model answers them
        through its chat template.
        """
        has_prompts = "prompt" in rows.column_names
        keys = list(map(str, rows["prompt"] if has_prompts else range(len(rows))))
        unique = list(dict.fromkeys(keys))
        left = len(unique) - sum(more)
        if self.held_out >= left:
            raise ValueError(f"`--held_out` must be below {left}, of which it is kept, but got {self.held_out}.")
        random.Random(0).shuffle(unique)
        part = dict.fromkeys(unique, 0)
        for number, size in enumerate((self.held_out, *more), start=1):
            part |= dict.fromkeys(unique[:size], number)
            unique = unique[size:]
        first, plain = (rows[0]["prompt"], self.plain) if has_prompts else ("", True)
        if data.is_chat(first, tokenizer, plain=plain, system_prompt=self.system_prompt):
            if isinstance(first, str):
                print(
                    "The model has a chat template, and each text is asked as a user's message (--plain: it is not)."
                )
            rows = rows.map(partial(data.chat_row, system_prompt=self.system_prompt), desc="as conversations")
        indices = ([i for i, key in enumerate(keys) if part[key] == number] for number in range(len(more) + 2))
        return [rows.select(found) if found else None for found in indices]
