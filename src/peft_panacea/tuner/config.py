"""What a Panacea adapter is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from peft.config import PeftConfig
from peft.utils import PeftType
from torch import Tensor

from .bounds import checked_bounds, kept_to, limits, nearest
from .preferences import Preferences, checked_names, checked_numbers, parse_preference

FORMAT_VERSION = 4
"""Of what is saved: the tensors' names, shapes and meaning, and the fields of the configuration. Earlier versions are
read, too: 1 had no `coordinates` but the raw ones, 2 no `preference_bounds`, 3 neither `scale_per_objective` nor
`named_preferences`."""


@dataclass
class PanaceaConfig(PeftConfig):
    """
    Configuration of a [`PanaceaModel`]: `W(p) = W0 + c · U diag(sigma, scale · z(p)) Vᵀ` on every targeted layer.

    Args:
        objectives (`int` or `list[str]`):
            The names of the objectives, in the order in which a preference lists them, or their number, which names
            them `objective_0`, `objective_1`, …
        r (`int`):
            The number of singular directions that all objectives share: 0 by default, because they learn what all
            preferences have in common before anything is steered; 8 in the paper.
        preference_rank (`int`):
            The number of singular directions that each objective owns; 1 in the paper.
        coordinates (`"raw"` or `"white"`):
            What z(p) is. `"raw"`: p, as in the paper. `"white"`: the preference centred, of unit variance,
            (p - 1/m) · m √((m + 1) / (m - 1)), so that an objective's own directions learn only what sets it apart,
            and shared ones, of which there must be some, what is common. On the simplex both are linear in p.
        scale_per_objective (`bool`):
            Whether each objective has a learned scale of its own, so that with `r=0` nothing is shared and one can be
            trained without moving the others; by default one scale serves all, as in the paper.
        default_preference (`list[float]` or `str`, *optional*):
            The preference of a fresh or freshly loaded model: non-negative numbers that sum to 1, as for
            `set_preference`, or what has a name among `named_preferences`. If unset the uniform one, or the nearest
            that `preference_bounds` allow.
        preference_bounds (`dict[str, tuple[float, float]]`, *optional*):
            For some objectives the least and the greatest weight, from 0 to 1. Preferences outside are refused
            wherever one is given, with `extrapolate` as well. Training draws from the whole simplex all the same.
        named_preferences (`dict[str, list[float]]`, *optional*):
            Preferences that have names, which stand for them wherever one is given: any finite numbers, also outside
            the simplex, but within `preference_bounds`.
        scaling (`float` or `"paper"`):
            The constant c. A number, 1 by default: c = 2500 · scaling / √in_features, which makes one learning rate
            fit layers of every width. `"paper"`: c = 64 on every layer.
        init_weights (`bool`):
            `True` (default): U and V ~ N(0, 0.02²), sigma = scale = 0, so the update is 0 for every preference.
            `False`: sigma and scale are random as well, so that the update is not 0; for tests.
        target_modules (`str` or `list[str]`, *optional*):
            The layers to adapt: names or name endings, or a regular expression if a string. `"all-linear"`, every
            linear layer but the output layer, as in the paper, is the default on transformers models.
        exclude_modules (`str` or `list[str]`, *optional*):
            The layers not to adapt, named like `target_modules`.
        layers_to_transform (`int` or `list[int]`, *optional*):
            The indices of the blocks to adapt; not with a regular expression in `target_modules`.
        layers_pattern (`str` or `list[str]`, *optional*):
            The name of the `nn.ModuleList` that `layers_to_transform` counts in, such as `"layers"` or `"h"`.
        rank_pattern (`dict[str, int]`):
            Values of `r` for layers whose name matches a key.
        panacea_dropout (`float`):
            The probability, from 0 to below 1, with which entries of the adapter's input are dropped in training.
        bias (`"none"`, `"all"` or `"panacea_only"`):
            The biases of the base model to train as well. Unless `"none"`, disabling the adapter does not give back
            the base model.
        modules_to_save (`list[str]`, *optional*):
            Modules to train and save in full next to the adapter, such as a classification head.
        trainable_token_indices (`list[int]` or `dict[str, list[int]]`, *optional*):
            Rows of the embedding, or of the named layers, to train next to the adapter.
        format_version (`int`):
            The version of the saved format, written into `adapter_config.json`; not to be chosen.
    """

    objectives: int | list[str] = field(default=2, metadata={"help": "The names of the objectives, or their number."})
    r: int = field(default=0, metadata={"help": "The number of singular directions shared by all objectives."})
    preference_rank: int = field(
        default=8, metadata={"help": "The number of singular directions owned by each objective."}
    )
    coordinates: Literal["raw", "white"] = field(
        default="raw", metadata={"help": "'raw': the preference as it is. 'white': centred, of unit variance; r ≥ 1."}
    )
    scale_per_objective: bool = field(
        default=False, metadata={"help": "Whether each objective has a learned scale of its own."}
    )
    default_preference: list[float] | None = field(
        default=None, metadata={"help": "The preference of a fresh or freshly loaded model; uniform if unset."}
    )
    preference_bounds: dict[str, tuple[float, float]] | None = field(
        default=None, metadata={"help": "For some objectives the least and the greatest weight that is allowed."}
    )
    named_preferences: dict[str, list[float]] | None = field(
        default=None, metadata={"help": "Preferences by name, also outside the simplex."}
    )
    scaling: float | Literal["paper"] = field(
        default=1.0, metadata={"help": "A factor on the width-aware constant c, or 'paper' for the paper's c = 64."}
    )
    init_weights: bool = field(
        default=True, metadata={"help": "True: no update at first. False: a random update, for tests."}
    )
    target_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "The layers to adapt; 'all-linear' on transformers models if unset."}
    )
    exclude_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "The layers not to adapt."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "The indices of the blocks to adapt."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "The name of the nn.ModuleList that `layers_to_transform` counts in."}
    )
    rank_pattern: dict[str, int] | None = field(
        default_factory=dict, metadata={"help": "Values of `r` for layers whose name matches a key."}
    )
    panacea_dropout: float = field(default=0.0, metadata={"help": "Dropout of the adapter's input in training."})
    bias: Literal["none", "all", "panacea_only"] = field(
        default="none", metadata={"help": "The biases of the base model to train: 'none', 'all' or 'panacea_only'."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules to train and save in full next to the adapter."}
    )
    trainable_token_indices: list[int] | dict[str, list[int]] | None = field(
        default=None, metadata={"help": "Rows of the embedding, or of the named layers, to train."}
    )

    format_version: int = field(default=FORMAT_VERSION, metadata={"help": "The version of the saved format."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.PANACEA
        if self.format_version not in range(1, FORMAT_VERSION + 1):
            raise ValueError(
                f"`format_version` must be at most {FORMAT_VERSION}, which this peft-panacea reads, but got "
                f"{self.format_version!r}; a later one needs a newer peft-panacea."
            )
        if self.format_version == 1:
            self.coordinates = "raw"
        self.format_version = FORMAT_VERSION
        if self.coordinates not in ("raw", "white"):
            raise ValueError(f"`coordinates` must be 'raw' or 'white', but got {self.coordinates!r}.")
        self.objectives = _checked_objectives(self.objectives)
        self.check_preferences()
        _check_integer("preference_rank", self.preference_rank, minimum=1)
        self.rank_pattern = self.rank_pattern or {}
        ranks = {"r": self.r, **{f"rank_pattern[{pattern!r}]": r for pattern, r in self.rank_pattern.items()}}
        for name, r in ranks.items():
            _check_integer(name, r, minimum=0)
            if r == 0 and self.coordinates == "white" and len(self.objective_names) > 1:
                raise ValueError(
                    f"`{name}` must be at least 1 with white coordinates, whose centre is made of the shared "
                    "directions alone, but got 0."
                )
        if not 0 <= self.panacea_dropout < 1:
            raise ValueError(f"`panacea_dropout` must be at least 0 and below 1, but got {self.panacea_dropout}.")
        is_number = isinstance(self.scaling, int | float) and not isinstance(self.scaling, bool)
        if not (self.scaling == "paper" or (is_number and 0 < self.scaling < math.inf)):
            raise ValueError(f"`scaling` must be a positive number or 'paper', but got {self.scaling!r}.")
        for name in ("init_weights", "scale_per_objective"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` must be True or False, but got {getattr(self, name)!r}.")
        if self.bias not in ("none", "all", "panacea_only"):
            raise ValueError(f"`bias` must be 'none', 'all' or 'panacea_only', but got {self.bias!r}.")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError("`layers_to_transform` cannot be used when `target_modules` is a str.")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("When `layers_pattern` is specified, `layers_to_transform` must also be specified.")

    @property
    def objective_names(self) -> list[str]:
        """The m objective names, in order."""
        if isinstance(self.objectives, int):
            return [f"objective_{i}" for i in range(self.objectives)]
        return self.objectives

    @property
    def initial_preference(self) -> list[float]:
        """`default_preference` in the order of the objectives, if unset the nearest to the uniform one."""
        names = self.objective_names
        uniform = [1 / len(names)] * len(names)
        if self.default_preference is not None or not self.preference_bounds:
            return self.default_preference or uniform
        return nearest(uniform, *limits(self.preference_bounds, names))

    @property
    def lora_rank(self) -> int:
        """The rank of the adapter at one preference as LoRA: the largest r + m·R of any layer."""
        r = max([self.r, *(self.rank_pattern or {}).values()])
        return r + len(self.objective_names) * self.preference_rank

    def parse_preference(self, preference: Preferences, *, extrapolate: bool = False) -> Tensor:
        """The function of this name, for the objectives of this adapter, its bounds and names."""
        return parse_preference(
            preference,
            self.objective_names,
            extrapolate=extrapolate,
            bounds=self.preference_bounds,
            names=self.named_preferences,
        )

    def allowed(self, preferences: Tensor) -> Tensor:
        """A grid kept to `preference_bounds`: what they forbid is moved to the nearest that they allow, once.

        Args:
            preferences: [n, m], on the simplex, such as `simplex_grid(m, steps)`.

        Returns:
            [k, m], k ≤ n, float32, in the same order; all n where there are no bounds.

        Raises:
            TypeError, ValueError: a row is no preference over the objectives.
        """
        rows = parse_preference(preferences, self.objective_names)
        bounds = self.preference_bounds
        return kept_to(rows, *limits(bounds, self.objective_names)) if bounds else rows

    def check_preferences(self) -> None:
        """Refuse bounds, names or a default that cannot be; they may have been set since they were checked first.

        Raises:
            TypeError, ValueError: as on making a configuration.
        """
        objectives = self.objective_names
        if self.preference_bounds is not None:
            self.preference_bounds = checked_bounds(self.preference_bounds, objectives)
        bounds, names, default = self.preference_bounds, self.named_preferences, self.default_preference
        if names is not None:
            names = self.named_preferences = checked_names(names, objectives, bounds)
        if default is not None:
            self.default_preference = checked_numbers(default, "`default_preference`", objectives, bounds, names)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in PEFT, but nothing is written that could not be read."""
        self.check_preferences()
        super().save_pretrained(*args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """What is saved; sets as sorted lists, so that it is the same in every process."""
        return {key: sorted(value) if isinstance(value, set) else value for key, value in super().to_dict().items()}

    def factor(self, in_features: int) -> float:
        """The constant c of a layer. By default sigma = 1 adds about the input's magnitude to the initial output."""
        if self.scaling == "paper":
            return 64.0
        return self.scaling / (0.02 * 0.02 * math.sqrt(in_features))

    def initial_std(self) -> dict[str, float]:
        """Standard deviations of the initial U, V and of sigma and scale."""
        return {"std_u": 0.02, "std_v": 0.02, "std_gain": 0.0 if self.init_weights else 0.2}


def _check_integer(name: str, value: Any, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"`{name}` must be an integer of at least {minimum}, but got {value!r}.")


def _checked_objectives(objectives: Any) -> int | list[str]:
    if isinstance(objectives, int) and not isinstance(objectives, bool):
        _check_integer("objectives", objectives, minimum=1)
        return objectives
    if not isinstance(objectives, list | tuple):
        raise TypeError(f"`objectives` must be a list of names or their number, but got {objectives!r}.")
    names = list(objectives)
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise ValueError(f"`objectives` must be at least one non-empty name, each only once, but got {names!r}.")
    return names
