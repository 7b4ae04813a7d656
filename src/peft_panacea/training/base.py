"""What both mixins share: which preference is drawn when, and that a trainer leaves the model as it found it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..seeding import derive
from ..simplex import PreferenceSampler
from ..tuner.freezing import shared_frozen
from ..tuner.steering import find_layer, get_objectives, preference_kept
from ..tuner.svd import PanaceaSVD
from .arguments import PreferenceArguments
from .face import FaceSampler, face_of
from .line import SteeringLine

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object


class PreferenceMixin(Trainer):
    """Draws preferences as a function of (seed, step, micro-step, process), so that a resumed run draws the same."""

    data_collator: Any
    eval_dataset: Any

    vertices_of_rows = 0.0
    """The share of vertices among the preferences of rows, if the arguments do not say which."""

    def __init__(self, *args: Any, preference_args: PreferenceArguments | None = None, **kwargs: Any) -> None:
        self.preference_args = preference_args or PreferenceArguments()
        super().__init__(*args, **kwargs)
        if find_layer(self.model) is None:
            raise RuntimeError(
                "`model` must have a Panacea adapter, but none of its layers has one; give it one with "
                "`get_peft_model` or pass `peft_config`."
            )
        self.objectives = get_objectives(self.model)
        ideal = self.preference_args.ideal_point
        if ideal is not None and len(ideal) != len(self.objectives):
            raise ValueError(f"`ideal_point` must have one value for each of {self.objectives}, but got {ideal}.")
        self.face = face_of(self.preference_args.trained_objectives, self.objectives)
        self._refuse_what_would_move_the_rest()
        vertices = self.vertices_of_rows if self.preference_args.preference_per == "row" else 0.0
        m, evaluation = len(self.objectives), derive(self.args.seed, "evaluation")  # which disturbs no training
        on_face = self.preference_args.sampler(len(self.face), self.args.seed, vertices)
        self._samplers: dict[bool, PreferenceSampler | FaceSampler] = {
            True: on_face if len(self.face) == m else FaceSampler(on_face, self.face, m),
            False: self.preference_args.sampler(m, evaluation, vertices),
        }
        self._phase: tuple[bool, int] | None = None
        self._draws = 0
        for module in self.model.modules():
            if isinstance(module, PanaceaSVD):
                module.restore_diagonal()  # TRL casts the adapters of quantised models; DDP is not yet around it
        self.add_callback(SteeringLine)

    def _refuse_what_would_move_the_rest(self) -> None:
        confined = len(self.face) < len(self.objectives)
        if not confined and not self.preference_args.freeze_shared:
            return
        if self.args.weight_decay:
            raise ValueError(
                "`weight_decay` must be 0 with `trained_objectives` or `freeze_shared`, because it moves what is not "
                f"trained as well, but got {self.args.weight_decay}."
            )
        adapters = [module for module in self.model.modules() if isinstance(module, PanaceaSVD)]
        own = {id(parameter) for svd in adapters for parameter in svd.parameters()}
        others = [n for n, p in self.model.named_parameters() if p.requires_grad and id(p) not in own]
        if others:
            raise ValueError(
                "What is trained must be Panacea's own with `trained_objectives` or `freeze_shared`, because all else "
                "moves every objective, as `modules_to_save`, `bias` and `trainable_token_indices` do, but got "
                f"{', '.join(others[:3])}{' and more' if len(others) > 3 else ''}."
            )
        white = any(svd.centre for svd in adapters)
        if confined and white:
            raise ValueError(
                "`trained_objectives` must be all or not given with white coordinates, under which no objective "
                f"weighs nothing, but got {self.preference_args.trained_objectives}."
            )

    def _draw(self, n: int | None, key: dict[str, int], objective: Tensor | None = None) -> Tensor:
        """The preferences of n rows [n, m], or one for all of them [m] if n is None.

        Given the rows' objectives, each preference is drawn with density proportional to its entry for that objective.
        """
        sampler = self._samplers[self.model.training]
        if n is None:
            return sampler(1, **key)[0]
        return sampler(n, **key) if objective is None else sampler.given(objective, **key)

    def _count_draw(self) -> tuple[int, int]:
        """The step and which draw of the step this is; the step is 0 in evaluation."""
        phase = (self.model.training, self.state.global_step)
        if phase != self._phase:
            self._phase, self._draws = phase, 0
        self._draws += 1
        return (self.state.global_step if self.model.training else 0), self._draws - 1

    def train(self, *args: Any, **kwargs: Any) -> Any:
        frozen = shared_frozen(self.model) if self.preference_args.freeze_shared else nullcontext()
        with preference_kept(self.model), frozen:
            return super().train(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with preference_kept(self.model):
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        with preference_kept(self.model):
            return super().predict(*args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._phase = None
        return super().evaluation_loop(*args, **kwargs)
