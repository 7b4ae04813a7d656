"""Objectives that are rewards: TRL's GRPO and RLOO trainers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..aggregation import weights
from ..front import Front, evaluate_base, evaluate_front
from ..front.processes import first_does
from ..tuner.steering import steer_everyone
from . import identity, normalisation
from .base import PreferenceMixin
from .base_likelihood import base_log_perplexity
from .guard import DegenerationGuard
from .measuring import generation_settings, prompts_and_columns, reward_functions
from .steering_log import SteeringLog

NORMALISATION = "reward_normalisation.json"
FAR = 1e9
"""A reward that is beyond any ideal, so that under Tchebycheff others count."""


class ObjectiveRewardMixin(PreferenceMixin):
    """Put before TRL's `GRPOTrainer` or `RLOOTrainer`: `class MyGRPO(ObjectiveRewardMixin, GRPOTrainer)`.

    Each of the m `reward_funcs` is an objective, in the order of the config's `objectives`. The reward that is
    maximised under a preference is Σ_i p_i r_i (Eq. 16 of arXiv 2402.02030; TRL adds the KL term once). For the
    Tchebycheff kinds the factors of the r_i are the aggregation's gradient at the mean rewards of the prompt's
    completions, or of the batch.

    A preference travels with its completions through TRL's buffer: old, reference and new log-probabilities are
    computed under the preference that the completion was sampled under.

    With `preference_per="row"` every prompt has a preference of its own, shared by all its completions, which their
    baseline needs. With `preference_per="batch"` each generation has one.

    Args:
        preference_args: How preferences are drawn and rewards aggregated.

    Raises:
        ValueError: Arguments that cannot be right; the message says which.
        RuntimeError: The model has no Panacea adapter.
    """

    reward_func_names: list[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        m = len(self.objectives)
        if len(self.reward_funcs) != m:
            raise ValueError(
                f"`reward_funcs` must have one reward for each of {self.objectives}, but got {len(self.reward_funcs)}."
            )
        if self.args.reward_weights is not None:
            raise ValueError(
                f"`reward_weights` must be None, the preference weighs, but got {self.args.reward_weights}."
            )
        self._per_row = self.preference_args.preference_per == "row"
        self._normalised_first = getattr(self.args, "multi_objective_aggregation", None) == "normalize_then_sum"
        if self._per_row and getattr(self.args, "use_vllm", False):
            raise ValueError(
                "`preference_per` must be 'batch' with `use_vllm`, whose engine knows one, but got 'row'."
            )
        if self._per_row and getattr(self, "tools", None):
            raise ValueError(
                "`preference_per` must be 'batch' with `tools`, after whose use only some rows go on, but got 'row'."
            )
        if self._per_row and self._normalised_first:
            raise ValueError(
                "`preference_per` must be 'batch' with `multi_objective_aggregation='normalize_then_sum'`, which "
                "would undo the preference of a row, but got 'row'."
            )
        if self.preference_args.aggregation != "linear" and self.preference_args.ideal_point is None:
            raise ValueError(
                "`ideal_point` must be given unless `aggregation` is 'linear', because rewards have no best value of "
                "their own, but got None."
            )
        names = self.reward_func_names  # by which TRL logs
        self.reward_func_names = [
            name if names.count(name) == 1 else f"{name}_{objective}"
            for name, objective in zip(names, self.objectives, strict=True)
        ]
        if not self._normalised_first:
            # The aggregated reward is one more column, so that the others are logged as they are.
            self.reward_weights = torch.tensor([0.0] * m + [1.0])
        self._aggregation = self.preference_args.aggregate(sign=-1)
        self.reward_normalisation = torch.zeros(m), torch.ones(m)
        self._preferences = torch.empty(0, m)
        self._steering = SteeringLog(self.objectives)
        self._last_logps = torch.empty(0)

    # Rollouts

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        group = self.num_generations if self.model.training else self.num_generations_eval
        step, draw = self._count_draw()
        everywhere = len(inputs) * self.args.world_size
        # Completions of one prompt may be spread over processes, so all of them draw the preferences of all prompts.
        groups = -(-everywhere // group) if self._per_row else None
        drawn = self._draw(groups, {"step": step, "micro_step": draw})
        rows = drawn.expand(everywhere, -1) if drawn.ndim == 1 else drawn.repeat_interleave(group, dim=0)
        self._preferences = rows[:everywhere]
        of_this_process = rows[self.args.process_index * len(inputs) :][: len(inputs)].contiguous()
        self._steer_rows(of_this_process)
        if getattr(self.args, "use_vllm", False):
            self._last_loaded_step = -1  # the engine has the weights of another preference
        output = super()._generate_and_score_completions(inputs)
        output["preference"] = of_this_process.to(self.accelerator.device)
        if self.model.training:
            log_perplexity = base_log_perplexity(self, output, self._last_logps)  # of the reference, if TRL has one
            self._metrics["train"]["base_log_perplexity"].append(log_perplexity)
            self._tell_guards("base_log_perplexity", "completions/clipped_ratio")
        return output

    def _steer_rows(self, rows: Tensor) -> None:
        self._rows = rows.cpu()
        steer_everyone(self.model, self._rows if self._per_row else self._rows[0])

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> Tensor:
        if "ended" in inputs[0]:
            raise ValueError(
                "`train_dataset` must have no column `ended`, by which rewards know whether a completion has an end "
                "token, but got one; rename it."
            )
        ended = [ids[-1] in self.eos_token_ids for ids in completion_ids_list]
        columns = [{**row, "ended": end} for row, end in zip(inputs, ended, strict=True)]
        rewards = super()._calculate_rewards(columns, prompts, completions, completion_ids_list)
        mean, std = (constant.to(rewards.device) for constant in self.reward_normalisation)
        normalised = (rewards - mean) / std
        preferences = self._preferences.to(rewards.device)
        if self.model.training:
            together = self.num_generations if self._per_row else len(rewards)
            self._steering.add(preferences[::together], rewards.unflatten(0, (-1, together)).nanmean(dim=1))
        if self._normalised_first:
            self.reward_weights = self._factors(normalised.nanmean(dim=0), preferences[0])
            return rewards  # TRL normalises them in each group
        if self._per_row:
            group = self.num_generations if self.model.training else self.num_generations_eval
            means = normalised.unflatten(0, (-1, group)).nanmean(dim=1).repeat_interleave(group, dim=0)
        else:
            means = normalised.nanmean(dim=0).expand_as(normalised)
        factors = self._factors(means, preferences)
        aggregated = (factors * normalised).nansum(dim=1)
        aggregated[rewards.isnan().all(dim=1)] = torch.nan
        return torch.cat([rewards, aggregated[:, None]], dim=1)

    def _factors(self, mean_rewards: Tensor, preference: Tensor) -> Tensor:
        losses = -mean_rewards.where(~mean_rewards.isnan(), FAR)  # without an opinion, so never the worst
        return weights(self._aggregation, losses, preference)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        # The trainer goes through the rows of a generation in chunks; each chunk needs the preferences of its rows.
        n = len(input_ids)
        if batch_size is None or batch_size >= n:
            found = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size=batch_size, **kwargs
            )
            self._last_logps = found[0].detach()
            return found
        if any(isinstance(value, Tensor) for value in kwargs.values()):
            raise ValueError("`train_dataset` must not have images with a `batch_size` smaller than the generation.")
        rows, parts = self._rows, []
        for start in range(0, n, batch_size):
            chunk = slice(start, start + batch_size)
            self._steer_rows(rows[chunk])
            parts.append(
                super()._get_per_token_logps_and_entropies(
                    model, input_ids[chunk], attention_mask[chunk], logits_to_keep, **kwargs
                )
            )
        self._steer_rows(rows)
        found = tuple(None if values[0] is None else torch.cat(values) for values in zip(*parts, strict=True))
        self._last_logps = found[0].detach()
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._steer_rows(inputs["preference"])  # what evaluation or a later generation set in between is undone
        loss = super()._compute_loss(model, inputs)
        if self.model.training:
            self._tell_guards("entropy")
        return loss

    # What is logged

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        super().log({**logs, **self._steering.numbers()} if "loss" in logs else logs, *args, **kwargs)

    def _tell_guards(self, *names: str) -> None:
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, DegenerationGuard):
                callback.see({name: self._metrics["train"][name][-1] for name in names})

    # Rewards of the model as it is

    def measure(self, preferences: Any, dataset: Any = None, **options: Any) -> Front:
        """What each of K preferences attains on held-out prompts, by `peft_panacea.front.evaluate_front`.

        Completions are sampled as in training, with the trainer's tokenizer, seed and generation settings, in batches
        of `per_device_eval_batch_size`. The rewards get the other columns of the data set too, but none of what TRL
        adds of its own, such as `trainer_state`. Every process of a run must call it.

        Args:
            preferences: [K, m], such as `simplex_grid(m, n)`.
            dataset: Rows with a `prompt`; None for the trainer's `eval_dataset`.
            options: Of `evaluate_front`, such as `samples` or `record`; they have precedence.

        Raises:
            TypeError: A reward is a torch module or a coroutine function.
            ValueError: There is no one data set, or `evaluate_front` refuses something, such as a reward of None.
        """
        return evaluate_front(**self._measuring(dataset, options), preferences=preferences)

    def _measuring(self, dataset: Any, options: dict[str, Any]) -> dict[str, Any]:
        """What `evaluate_front` and `evaluate_base` are told."""
        prompts, columns = prompts_and_columns(self.eval_dataset if dataset is None else dataset)
        return {
            "model": self.accelerator.unwrap_model(self.model),
            "prompts": prompts,
            "rewards": reward_functions(self.objectives, self.reward_funcs),
            "tokenizer": self.processing_class,
            "seed": self.args.seed,
            "batch_size": self.args.per_device_eval_batch_size,
            **generation_settings(self),
            **({"columns": columns} if columns else {}),
            **options,
        }

    def normalise_rewards(self, dataset: Any) -> None:
        """Aggregate (r - mean) / std from now on, measured on the model without its adapter on prompts of `dataset`.

        Of every prompt there are `num_generations` completions. The constants are kept as `reward_normalisation.json`
        in `output_dir`, with digests of the rewards (`identity.py`) and of the prompts, and read from there as long as
        these are the same; if not, the log says so and they are measured anew. Every process of a run must call it.

        Raises:
            TypeError: A reward is a torch module or a coroutine function.
            ValueError: A reward is the same for every completion.
        """
        rewards = reward_functions(self.objectives, self.reward_funcs)
        measured_of = {
            "rewards": {
                objective: f"{name} {identity.digest(reward)}"
                for name, (objective, reward) in zip(self.reward_func_names, rewards.items(), strict=True)
            },
            "prompts": normalisation.digest(prompts_and_columns(dataset)[0], self.chat_template_kwargs),
        }
        path = Path(self.args.output_dir) / NORMALISATION
        # Only one process looks, so that all of them measure or none does.
        constants = first_does(partial(normalisation.read, path, measured_of))
        if constants is None:
            constants = {**measured_of, **self._measured_constants(dataset)}
            first_does(partial(normalisation.write, path, constants))
        mean, std = (torch.tensor([constants[key][name] for name in self.objectives]) for key in ("mean", "std"))
        self.reward_normalisation = mean, std

    def _measured_constants(self, dataset: Any) -> dict[str, dict[str, float]]:
        """`mean` and `std` by objective, of the completions of the model without its adapter."""
        scores = evaluate_base(**self._measuring(dataset, {"samples": self.num_generations}))
        return normalisation.constants(scores.reshape(-1, len(self.objectives)), self.objectives)
