"""Objectives that are losses: SFT, DPO, KTO, and whatever else has a `compute_loss`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..aggregation import weights
from ..data.rows import COLUMNS, LENGTHS, Batch, copies, exchange, select, values_of
from ..front import Front
from ..seeding import derive
from ..simplex import PreferenceSampler
from ..tuner.steering import first_active, first_layer, parse_for, preference_kept, steer_everyone
from .base import PreferenceMixin
from .batches import (
    ObjectiveCollator,
    ObjectiveSampler,
    by_objective,
    by_token,
    known_labels,
    one_forward_serves,
    one_number_for_each,
    packed_by_objective,
)
from .face import rows_on
from .forward import SharedForward
from .measuring import one_progress_bar
from .probe import LossProbe
from .refusals import refuse_what_cannot_be_right


class ObjectiveLossMixin(PreferenceMixin):
    """Put before a transformers or TRL trainer, whose loss it calls: `class MyDPO(ObjectiveLossMixin, DPOTrainer)`.

    The training rows have a column `objective`, the index of the objective they belong to, or `objective_labels`, for
    each objective 1 if the row belongs to it, -1 if it does with chosen and rejected exchanged, 0 if not.

    With `preference_per="row"` every row of objective i is trained by the trainer's own loss, under a preference drawn
    with density proportional to p_i. The expected loss is then that of linear scalarisation, Σ_i p_i L_i (Eq. 6 of
    arXiv 2402.02030) over all preferences, without any weights: see `PreferenceSampler.given`. A row with labels is
    trained for one of its objectives, drawn anew each time.

    Batches without padding have a preference for each sequence, and packs are made of rows of one objective.

    With `preference_per="batch"` the trainer's loss is computed for each objective and aggregated.

    Evaluation is by objective: `eval_<objective>_loss`, under preferences drawn for that objective, always the same.

    Args:
        preference_args: How preferences are drawn and objectives aggregated.

    Raises:
        ValueError: Arguments or columns that cannot be right; the message says which.
        RuntimeError: The model has no Panacea adapter.
    """

    vertices_of_rows = 0.5  # docs/sampling.md has the comparison

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        m = len(self.objectives)
        refuse_what_cannot_be_right(self)
        columns = getattr(self.train_dataset, "column_names", None)
        if columns is not None and not set(COLUMNS) & set(columns):
            raise ValueError(f"`train_dataset` must have one of the columns {list(COLUMNS)}, but got {columns}.")
        labels = known_labels(self.train_dataset, self.objectives, "train_dataset")
        if isinstance(self.eval_dataset, dict):
            for name, part in self.eval_dataset.items():
                known_labels(part, self.objectives, f"eval_dataset[{name!r}]")
        self._one_forward = (
            labels is not None
            and "objective" not in (columns or ())
            and one_forward_serves(labels, self.face)
            and self.label_smoother is None  # with which the trainer asks for more than its model's loss
            and self.compute_loss_func is None
        )
        if self.train_dataset is not None and len(self.face) < m:
            self.train_dataset: Any = rows_on(self.train_dataset, self.face)
        if self.preference_args.preference_per == "batch":
            self.loss_is_scaled_for_ga = False  # ours is a mean over rows of the micro-batch
            size, several = self.args.per_device_train_batch_size, 2 * len(self.face)
            by_row = columns is not None and "objective" in columns
            if by_row and getattr(self, "calculate_KL", False) and size < several:
                raise ValueError(
                    f"`per_device_train_batch_size` must be at least {several}, two rows of every objective, with "
                    f"`preference_per='batch'` and the KL term of KTO, but got {size}."
                )
            if by_row and size % len(self.face):
                raise ValueError(
                    f"`per_device_train_batch_size` must be a multiple of {len(self.face)}, the number of objectives, "
                    f"with `preference_per='batch'`, but got {size}."
                )
        self.data_collator = ObjectiveCollator(
            self.data_collator,
            end_to_end=getattr(self, "padding_free", False),
            apart=self.preference_args.preference_per == "batch",
        )
        if self.eval_dataset is not None and not isinstance(self.eval_dataset, dict):
            self.eval_dataset = by_objective(self.eval_dataset, self.objectives)
        self._on_face = torch.tensor(self.face)
        self._choice = PreferenceSampler(objectives=2, seed=derive(self.args.seed, "objective of a row"))
        self._measured: Tensor | None = None  # the preference under which `measure` evaluates
        self._aggregation = self.preference_args.aggregate()
        self._objective_losses: list[Tensor] = []
        self._probe: LossProbe | None = None

    # The parts of the trainer that know columns and rows

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, *rest: Any) -> Any:
        def prepared(dataset: Any) -> Any:
            return super(ObjectiveLossMixin, self)._prepare_dataset(dataset, processing_class, args, *rest)

        packs = bool(rest) and rest[0] is True  # as TRL's SFT has it; in its other trainers this is a name
        return packed_by_objective(dataset, prepared) if packs else prepared(dataset)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += [column for column in COLUMNS if column not in self._signature_columns]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if "objective" not in (getattr(dataset, "column_names", None) or ()) or not hasattr(dataset, "__len__"):
            return super()._get_train_sampler(train_dataset)
        return ObjectiveSampler(values_of(dataset, "objective"), len(self.objectives), self.args.seed, self.face)

    # The loss

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = dict(inputs)
        objective, labels, lengths = (inputs.pop(column, None) for column in (*COLUMNS, LENGTHS))
        if objective is None and labels is None:
            raise ValueError(f"A batch must have one of the columns {list(COLUMNS)}, but got {list(inputs)}.")
        if labels is not None and labels.shape[1] != len(self.objectives):
            raise one_number_for_each(self.objectives, "a batch", labels[0].tolist(), 0)
        step, draw = self._count_draw()
        if self.model.training and self.preference_args.preference_per == "batch":
            preference = self._draw(None, {"step": step})
            return self._aggregated_loss(model, inputs, objective, labels, preference)
        # The k-th micro-batch of process r has the preferences that a single process would give its rows.
        key = {"step": step, "micro_step": draw * self.args.world_size + self.args.process_index}
        objective = self._choose_objective(labels, key) if objective is None else objective.cpu()
        if labels is not None:
            inputs = exchange(inputs, labels.cpu().gather(1, objective[:, None])[:, 0] < 0)
        preference = self._draw(len(objective), key, objective) if self._measured is None else self._measured
        if preference.ndim == 2:
            if lengths is None:
                preference = preference.repeat(copies(inputs, len(objective)), 1)
            else:
                preference = by_token(preference, lengths.cpu(), inputs["input_ids"].shape[1])
        steer_everyone(self.model, preference)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _choose_objective(self, labels: Tensor, key: dict[str, int]) -> Tensor:
        """For each row one of the objectives trained that it has a label for, all equally likely, [B]."""
        labels = labels.cpu()
        if self.model.training:
            labels = torch.zeros_like(labels).index_copy_(1, self._on_face, labels[:, self._on_face])
        counts = (labels != 0).sum(dim=1)
        if not counts.all():
            raise ValueError("`objective_labels` must not be 0 for every objective of a row.")
        uniform = self._choice(len(labels), **key)[:, 0]  # evenly spread, so that the objectives are balanced
        nth = (uniform * counts).long().clamp(max=counts - 1)
        return (labels != 0).long().cumsum(dim=1).gt(nth[:, None]).long().argmax(dim=1)

    def _aggregated_loss(
        self, model: Any, inputs: Batch, objective: Tensor | None, labels: Tensor | None, preference: Tensor
    ) -> Tensor:
        """The losses of all objectives under one preference, aggregated."""
        if objective is not None:
            labels = torch.nn.functional.one_hot(objective, len(self.objectives))
        assert labels is not None
        rows = len(labels)
        steer_everyone(self.model, preference)
        forward = SharedForward(model) if self._one_forward else model
        losses = [preference.new_zeros(())] * len(self.objectives)  # of one that is not trained, and weighs nothing
        for i in self.face:
            label = labels[:, i].cpu()
            index = label.nonzero().flatten()
            if not len(index):
                raise ValueError(
                    f"A batch must hold rows of every objective with `preference_per='batch'`, but has none of "
                    f"{self.objectives[i]!r}; make the batches larger or use `preference_per='row'`."
                )
            part = exchange(select(inputs, index, rows), label[index] < 0)
            if self._one_forward:
                forward.turn_to(label)
            losses[i] = super().compute_loss(forward, part)
        of_this_process = torch.stack([loss.to(self.args.device) for loss in losses])
        over_processes = self.accelerator.reduce(of_this_process.detach(), reduction="mean")
        self._objective_losses.append(over_processes)
        # The aggregate of the losses over all processes, with its gradient for the rows of this one.
        preference = preference.to(over_processes.device)
        factors = weights(self._aggregation, over_processes, preference)
        zero_with_gradient = of_this_process - of_this_process.detach()
        return self._aggregation(over_processes, preference) + (factors * zero_with_gradient).sum()

    # What is logged

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self._objective_losses:
            means = torch.stack(self._objective_losses).mean(dim=0).tolist()
            logs = {**logs, **{f"{self.objectives[i]}_loss": means[i] for i in self.face}}
            self._objective_losses.clear()
        if "loss" in logs and self.preference_args.steering_rows and len(self.objectives) > 1:
            self._probe = self._probe or LossProbe(self)
            logs = {**logs, **self._probe.numbers()}
        super().log(logs, *args, **kwargs)

    # The losses of the model as it is

    def measure(self, preferences: Any, *, extrapolate: bool = False) -> Front:
        """The loss of each objective on its part of `eval_dataset` under each of K preferences, [K, m].

        Args:
            preferences: [K, m], such as `simplex_grid(m, n)`.
            extrapolate: Whether they may be off the simplex.

        Returns:
            A front to be minimised; `base` are the losses without the adapter, if the model is a `PeftModel`. Every
            loss is one value for all rows of its objective, so P is 1 and there are no intervals.

        Raises:
            TypeError, ValueError: The trainer has no `eval_dataset`, an objective no batch of it, or these are no
                preferences of the adapter.
        """
        if self.eval_dataset is None:
            raise ValueError("`eval_dataset` must be given to the trainer to be measured on, but got None.")
        for name in self.objectives:
            if name not in self.eval_dataset:
                raise _no_rows(name)
        model = self.accelerator.unwrap_model(self.model)
        name = first_active(model)
        steered = parse_for(first_layer(model), preferences, name, extrapolate=extrapolate)[name]
        if steered.ndim != 2:
            raise ValueError(f"`preferences` must have shape (K, {len(self.objectives)}), but got one preference.")
        base = None
        batches = sum(len(self.get_eval_dataloader(name)) for name in self.objectives)
        loops = len(steered) + hasattr(model, "disable_adapter")
        with preference_kept(self.model), one_progress_bar(self, loops * batches):
            losses = np.array([self._losses(preference) for preference in steered])
            if hasattr(model, "disable_adapter"):
                with model.disable_adapter():
                    base = np.array([self._losses(steered[0])])
        return Front(self.objectives, steered.numpy(), losses[:, None], maximise=False, base=base)

    def _losses(self, preference: Tensor) -> list[float]:
        """The loss of each objective under one preference [m]."""
        losses = []
        for name in self.objectives:
            with self._measuring(preference):
                loader = self.get_eval_dataloader(name)
                output = self.evaluation_loop(loader, description="Front", prediction_loss_only=True)
            if "eval_loss" not in output.metrics:  # the only batch was not full, and those are dropped
                raise _no_rows(name)
            losses.append(output.metrics["eval_loss"])
        return losses

    @contextmanager
    def _measuring(self, preference: Tensor) -> Iterator[None]:
        """Evaluate under this preference [m], whatever is drawn otherwise, and leave nothing for the next log."""
        self._measured = preference
        try:
            yield
        finally:
            self._measured = None
            if hasattr(self, "_metrics"):  # which TRL's trainers collect until they log
                self._metrics["eval"].clear()


def _no_rows(objective: str) -> ValueError:
    return ValueError(
        f"`eval_dataset` must have a batch of rows of every objective to be measured on, but has none of "
        f"{objective!r}."
    )
