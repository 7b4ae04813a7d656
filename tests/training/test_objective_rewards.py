"""Objectives that are rewards: what a completion is sampled, scored and trained under, refusals."""

import pytest
import torch
from torch import Tensor
from trl import GRPOTrainer

from peft_panacea.training import ObjectiveRewardMixin, PreferenceArguments
from small_trainers import BATCH, GRPO, PROMPTS, RLOO, ROW, adapter, difference, few_a, length, make, trained

pytestmark = pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours

EVALUATED = {"prompt": PROMPTS[:4]}


class Watching:
    """Remembers under which preference completions are sampled and trained, and how likely they then are."""

    def __init__(self, *args, **kwargs):
        self.sampled, self.generated, self.groups, self.matches, self.ratios = [], {}, [], [], []
        super().__init__(*args, **kwargs)

    def _generate(self, prompts, *args, **kwargs):
        self.sampled.append((list(prompts), self.model.get_preference()))
        return super()._generate(prompts, *args, **kwargs)

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            self.groups.append(([row["prompt"] for row in inputs], output["preference"]))
            self.generated = {self.name(output, i): p.tolist() for i, p in enumerate(output["preference"])}
        return output

    @staticmethod
    def name(batch, i: int) -> tuple[int, ...]:
        return (*batch["prompt_ids"][i].tolist(), *batch["completion_ids"][i].tolist())

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self.likelihood = found[0].detach()
        return found

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        if self.model.training:
            found = [self.generated[self.name(inputs, i)] for i in range(len(inputs["preference"]))]
            self.matches.append(found == inputs["preference"].tolist())
            old = inputs.get("old_per_token_logps")
            likelihood = self.likelihood * inputs["completion_mask"]
            if old is None:  # of the whole completion
                likelihood, old = likelihood.sum(dim=1), inputs["old_logps"]
            else:
                old = old * inputs["completion_mask"]
            self.ratios.append(((likelihood - old).exp() - 1).abs().max().item())
        return loss


class Unsteered(ObjectiveRewardMixin, GRPOTrainer):
    """Computes the loss under whatever preferences are current, those of the last generation."""

    def _compute_loss(self, model, inputs):
        return GRPOTrainer._compute_loss(self, model, inputs)


def watching(trainer: type) -> type:
    return type(f"Watching{trainer.__name__}", (Watching, trainer), {})


STALE = {"learning_rate": 0.0, "num_iterations": 2, "gradient_accumulation_steps": 2, "steps_per_generation": 4}


@pytest.fixture(
    scope="module",
    params=[(c, a) for c in (GRPO, RLOO) for a in (ROW, BATCH)],
    ids=lambda p: f"{p[0].__name__}-{p[1].preference_per}",
)
def stale(request, tmp_path_factory):
    """Trained on completions of some steps before, without learning anything, and evaluated in between."""
    kind, preferences = request.param
    return trained(
        watching(kind), tmp_path_factory.mktemp("stale"), preferences, eval_data=EVALUATED, eval_strategy="steps",
        eval_steps=1, per_device_eval_batch_size=8, max_steps=6, **STALE,
    )  # fmt: skip


@pytest.mark.mechanics
def test_the_importance_ratio_is_one_where_nothing_was_learned(stale):
    largest = max(stale.ratios)
    name = f"{type(stale).__mro__[2].__name__} {stale.preference_args.preference_per}"
    print(f"ratio, {name}, largest difference from 1: {largest:.1e}")
    assert len(stale.ratios) == 12
    assert largest <= 1e-6


@pytest.mark.mechanics
def test_the_importance_ratio_is_not_one_under_other_preferences(tmp_path):
    """One generation is one batch, whose rows TRL shuffles."""
    options = {"learning_rate": 0.0, "num_iterations": 2, "per_device_train_batch_size": 16, "dtype": torch.float64}
    ratios = {
        kind.__name__: max(trained(watching(kind), tmp_path, max_steps=2, **options).ratios)
        for kind in (GRPO, Unsteered)
    }
    print("ratio, largest difference from 1, steered as the completions were and not:", ratios)
    assert ratios["GRPO"] <= 1e-6
    assert ratios["Unsteered"] > 1e-2


def test_a_preference_is_shared_by_the_completions_of_a_prompt_and_stays_with_them(stale):
    assert all(stale.matches)
    assert len(stale.groups) == 2
    for prompts, preferences in stale.groups:
        by_prompt = {}
        for prompt, preference in zip(prompts, preferences.tolist(), strict=True):
            by_prompt.setdefault(prompt, set()).add(tuple(preference))
        assert len(by_prompt) == 4
        assert all(len(found) == 1 for found in by_prompt.values())
        different = len(set().union(*by_prompt.values()))
        assert different == (4 if stale.preference_args.preference_per == "row" else 1)
    assert not torch.equal(stale.groups[0][1], stale.groups[1][1])


def test_completions_are_sampled_under_their_preference(stale):
    sampled = [(prompts, p) for prompts, p in stale.sampled if len(prompts) == 16]
    for (prompts, steered), (of_group, preferences) in zip(sampled, stale.groups, strict=True):
        assert prompts == of_group
        torch.testing.assert_close(steered.expand(16, 2), preferences)


def test_the_preference_of_the_model_is_as_before(tmp_path):
    trainer = make(GRPO, tmp_path, eval_data=EVALUATED)
    trainer.model.set_preference([0.2, 0.8])
    trainer.train()
    trainer.evaluate()
    trainer.measure([[1, 0]])
    trainer.predict(trainer.eval_dataset)
    assert trainer.model.get_preference().tolist() == pytest.approx([0.2, 0.8])


# Rewards


MEAN, STD = torch.tensor([15.0, -2.0]), torch.tensor([4.0, 0.5])


class Scores:
    """Two rewards that remember what they gave; `missing` is the share of answers that are None."""

    def __init__(self, missing: bool = False) -> None:
        self.generator = torch.Generator().manual_seed(1)
        self.missing = missing
        self.given: dict[str, list[float | None]] = {}

    def functions(self):
        def a(completions, **_):
            return self.give("a", len(completions))

        def b(completions, **_):
            return self.give("b", len(completions))

        return a, b

    def give(self, name: str, n: int) -> list[float | None]:
        values = (torch.randn(n, generator=self.generator) * 3 + 5).tolist()
        if self.missing:
            values = [None if i % 4 == 3 or (name == "a" and i % 4 == 2) else v for i, v in enumerate(values)]
        self.given[name] = values
        return values

    def rewards(self) -> Tensor:
        return torch.tensor([[float("nan") if v is None else v for v in self.given[name]] for name in "ab"]).T


def generate(trainer) -> dict[str, Tensor]:
    trainer.model.train()
    return trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))


WITHOUT_SCALE = {GRPO: {"scale_rewards": "none"}, RLOO: {"beta": 0.0}}


def advantages(kind: type, rewards: Tensor) -> Tensor:
    """Reward less its baseline, in groups of four; 0 where there is no reward."""
    groups = rewards.view(-1, 4)
    n = (~groups.isnan()).sum(dim=1, keepdim=True)
    of_group = groups - groups.nanmean(dim=1, keepdim=True)
    return (of_group * (n / (n - 1) if kind is RLOO else 1)).nan_to_num().flatten()


@pytest.mark.parametrize("missing", [False, True], ids=["", "missing"])
@pytest.mark.parametrize("preferences", [ROW, BATCH], ids=["row", "batch"])
@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_the_reward_is_the_preference_times_the_normalised_rewards(kind, preferences, missing, tmp_path):
    scores = Scores(missing)
    trainer = make(
        kind,
        tmp_path,
        preferences,
        reward_funcs=scores.functions(),
        per_device_train_batch_size=16,
        **WITHOUT_SCALE[kind],
    )
    trainer.reward_normalisation = MEAN, STD
    output = generate(trainer)
    weighed = output["preference"] * (scores.rewards() - MEAN) / STD
    expected = weighed.nansum(dim=1)
    expected[weighed.isnan().all(dim=1)] = torch.nan
    torch.testing.assert_close(output["advantages"], advantages(kind, expected))
    for name, column in zip("ab", scores.rewards().T, strict=True):
        logged = trainer._metrics["train"][f"rewards/{name}/mean"]
        assert logged == [pytest.approx(column.nanmean().item())]


@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_rewards_know_in_training_and_when_measured_what_ended(kind, tmp_path):
    """By the same name, of the same type, beside the columns of the data set."""
    told = []

    def watching(completions, completion_ids, ended, answer, **_):
        told.append((completion_ids, ended, answer))
        return length(completions)

    data = {"prompt": PROMPTS, "answer": [f"of {prompt}" for prompt in PROMPTS]}
    options = {"max_completion_length": 48, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16}
    trainer = make(kind, tmp_path, data=data, reward_funcs=(watching, few_a), random_adapter=False, **options)
    generate(trainer)
    trainer.measure([[1, 0]], trainer.train_dataset)
    assert len(told) == 3, "a generation, the adapter, the base model"
    for ids, ended, answers in told:
        assert ended == [row[-1] == trainer.processing_class.eos_token_id for row in ids]
        assert set(ended) == {True, False}, "some must be cut off and some not"
        assert all(end or len(row) == 48 for row, end in zip(ids, ended, strict=True))
        assert set(answers) <= set(data["answer"])


def test_a_column_named_ended_is_refused(tmp_path):
    """Rewards would not know which they are given."""
    data = {"prompt": PROMPTS, "ended": [True] * 16}
    trainer = make(GRPO, tmp_path, data=data)
    with pytest.raises(ValueError, match=r"`train_dataset` must have no column `ended`, .* but got one"):
        trainer.train()
    assert trainer.state.global_step == 0
    with pytest.raises(ValueError, match=r"`columns` must have names other than .*ended, but got 'ended'"):
        trainer.measure([[1, 0]], trainer.train_dataset)


@pytest.mark.parametrize("aggregation", ["tchebycheff", "smooth_tchebycheff"])
@pytest.mark.parametrize("per", ["row", "batch"])
def test_other_aggregations_weigh_rewards_by_their_gradient_at_the_mean_rewards(per, aggregation, tmp_path):
    ideal = [20.0, 9.0]
    arguments = PreferenceArguments(per, aggregation=aggregation, ideal_point=ideal, smoothing=0.7)
    scores = Scores()
    trainer = make(
        GRPO,
        tmp_path,
        arguments,
        reward_funcs=scores.functions(),
        per_device_train_batch_size=16,
        scale_rewards="none",
    )
    output = generate(trainer)
    rewards, p = scores.rewards(), output["preference"]
    groups = rewards.view(4, 4, 2).mean(dim=1).repeat_interleave(4, dim=0)
    means = groups if per == "row" else rewards.mean(dim=0).expand(16, 2)
    terms = p * (torch.tensor(ideal) - means)  # how far, by weight, the mean reward is below the ideal one
    if aggregation == "tchebycheff":
        factors = p * torch.nn.functional.one_hot(terms.argmax(dim=1), 2)
    else:
        factors = p * (terms / 0.7).softmax(dim=1)
    torch.testing.assert_close(output["advantages"], advantages(GRPO, (factors * rewards).sum(dim=1)))


def test_rewards_that_are_normalised_before_they_are_summed_are_weighed_by_the_preference(tmp_path):
    scores = Scores()
    trainer = make(
        GRPO, tmp_path, BATCH, reward_funcs=scores.functions(), per_device_train_batch_size=16,
        multi_objective_aggregation="normalize_then_sum",
    )  # fmt: skip
    trainer.reward_normalisation = MEAN, STD
    output = generate(trainer)
    groups = scores.rewards().view(4, 4, 2)
    normalised = ((groups - groups.mean(dim=1, keepdim=True)) / (groups.std(dim=1, keepdim=True) + 1e-4)).view(16, 2)
    expected = (output["preference"] * normalised).sum(dim=1)
    expected = (expected - expected.mean()) / (expected.std() + 1e-4)
    torch.testing.assert_close(output["advantages"], expected)
    assert trainer._metrics["train"]["rewards/a/mean"] == [pytest.approx(scores.rewards()[:, 0].mean().item())]


@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_likelihoods_in_chunks_are_those_of_all_rows(kind, tmp_path):
    trainer = make(kind, tmp_path)
    ids = torch.randint(3, 1000, (6, 12), generator=torch.Generator().manual_seed(0))
    rows = torch.linspace(0, 1, 6)[:, None] * torch.tensor([1.0, -1.0]) + torch.tensor([0.0, 1.0])

    def likelihoods(rows: Tensor, **options) -> Tensor:
        trainer._steer_rows(rows)
        with torch.no_grad():
            found = trainer._get_per_token_logps_and_entropies(trainer.model, ids, torch.ones_like(ids), 5, **options)
        assert (found[1] is not None) == options.get("compute_entropy", False)
        torch.testing.assert_close(trainer.model.get_preference(), rows)
        return found[0]

    whole = likelihoods(rows)
    for size in (1, 2, 4, 6, 8):
        torch.testing.assert_close(likelihoods(rows, batch_size=size, compute_entropy=True), whole, rtol=0, atol=1e-5)
    assert (likelihoods(rows.flip(0)) - whole).abs().max() > 1e-2


# Evaluation


class Guarded(GRPO):
    """Evaluates with random numbers of its own, and measures."""

    def evaluate(self, *args, **kwargs):
        self.measure([[1, 0]])
        with torch.random.fork_rng():
            return super().evaluate(*args, **kwargs)


def test_evaluation_changes_nothing_in_training_but_the_random_numbers(tmp_path):
    """Those it changes in TRL, too, which samples with torch's global generator."""
    options = {"max_steps": 3, "learning_rate": 3e-3}
    evaluated = {
        **options,
        "eval_data": EVALUATED,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "per_device_eval_batch_size": 8,
    }
    without = adapter(trained(GRPO, tmp_path, **options))
    assert difference(adapter(trained(Guarded, tmp_path, **evaluated)), without) == 0
    assert difference(adapter(trained(GRPO, tmp_path, **evaluated)), without) > 0
    plain = [plain_trl(tmp_path, **those) for those in (options, evaluated)]
    assert difference(*plain) > 0


def plain_trl(folder, **options) -> dict[str, Tensor]:
    class WithoutPreference(GRPOTrainer):
        def __init__(self, preference_args, **kwargs):
            super().__init__(**kwargs)

    return adapter(trained(WithoutPreference, folder, reward_funcs=(length, few_a), **options))


def test_rewards_of_one_name_are_logged_apart(tmp_path):
    def brief(completions, **_):
        return [-value for value in length(completions)]

    brief.__name__ = length.__name__
    alike = trained(RLOO, tmp_path, reward_funcs=(length, brief), max_steps=1)
    logged = next(entry for entry in alike.state.log_history if "loss" in entry)
    assert logged["rewards/length_sunny/mean"] == -logged["rewards/length_rainy/mean"] > 0
    assert "rewards/length/mean" not in logged
    assert {name: len(column) for name, column in alike._logs["rewards"].items()} == {
        "length_sunny": 4,
        "length_rainy": 4,
    }
    assert make(RLOO, tmp_path).reward_func_names == ["length", "few_a"]


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"reward_funcs": [length]},
            r"`reward_funcs` must have one reward for each of \['sunny', 'rainy'\], but got 1",
        ),
        ({"reward_weights": [1.0, 2.0]}, "`reward_weights` must be None, the preference weighs, but got"),
        (
            {"multi_objective_aggregation": "normalize_then_sum"},
            "`preference_per` must be 'batch' with `multi_objective_aggregation='normalize_then_sum'`",
        ),
        (
            {"preferences": PreferenceArguments(aggregation="tchebycheff")},
            "`ideal_point` must be given unless `aggregation` is 'linear'",
        ),
        (
            {"preferences": PreferenceArguments(ideal_point=[1.0])},
            r"`ideal_point` must have one value for each of \['sunny', 'rainy'\], but got \[1.0\]",
        ),
    ],
    ids=["reward_funcs", "reward_weights", "normalize_then_sum", "no_ideal_point", "ideal_point"],
)
def test_what_cannot_be_right_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(GRPO, tmp_path, **options)


def test_vllm_knows_one_preference_and_takes_no_rows(tmp_path):
    class Pretending(GRPOTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.args.use_vllm = True

    kind = type("OnEngine", (ObjectiveRewardMixin, Pretending), {})
    with pytest.raises(ValueError, match="`preference_per` must be 'batch' with `use_vllm`, whose engine knows one"):
        make(kind, tmp_path, ROW)
    make(kind, tmp_path, BATCH)


PAGED = {
    "use_transformers_continuous_batching": True,
    "transformers_continuous_batching_config": {"num_blocks": 64, "max_batch_tokens": 64},
}


@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_continuous_batching_samples_each_prompt_under_its_preference(kind, tmp_path):
    """At a temperature near 0 it is the greedy completion under the group's preference."""
    trainer = make(kind, tmp_path, ROW, temperature=1e-4, **PAGED)
    output = trainer._generate_and_score_completions([{"prompt": prompt} for prompt in PROMPTS[:4] for _ in range(4)])
    assert len({tuple(p) for p in output["preference"].tolist()}) == 4
    for i, p in enumerate(output["preference"]):
        prompt = output["prompt_ids"][i][output["prompt_mask"][i].bool()]
        greedy = trainer.model.generate(prompt[None], preference=p, max_new_tokens=8, do_sample=False)
        completion = output["completion_ids"][i][output["completion_mask"][i].bool()]
        assert torch.equal(greedy[0, len(prompt) :], completion)


def test_training_with_continuous_batching(tmp_path):
    trainer = make(GRPO, tmp_path, ROW, **PAGED)
    before = adapter(trainer)
    trainer.train()
    assert difference(before, adapter(trainer)) > 0


def test_a_reward_without_an_opinion_is_never_the_worst(tmp_path):
    """Under Tchebycheff the others of its prompt count as if it were not there."""
    scores, ideal = Scores(), [20.0, 9.0]

    def silent(completions, **_):
        scores.given["b"] = [None] * len(completions)
        return scores.given["b"]

    for name in ("tchebycheff", "smooth_tchebycheff"):
        arguments = PreferenceArguments("row", aggregation=name, ideal_point=ideal)
        functions = scores.functions()[0], silent
        options = {"reward_funcs": functions, "per_device_train_batch_size": 16, "scale_rewards": "none"}
        output = generate(make(GRPO, tmp_path, arguments, **options))
        expected = output["preference"][:, 0] * scores.rewards()[:, 0]
        torch.testing.assert_close(output["advantages"], advantages(GRPO, expected))


def test_tools_want_one_preference(tmp_path):
    class Pretending(GRPOTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.tools = [length]

    kind = type("WithTools", (ObjectiveRewardMixin, Pretending), {})
    with pytest.raises(ValueError, match="`preference_per` must be 'batch' with `tools`, after whose use only some"):
        make(kind, tmp_path, ROW)
    make(kind, tmp_path, BATCH)


def test_evaluation_aggregates_by_prompt_as_training_does(tmp_path):
    """So that its reward does not depend on which prompts are in a batch."""
    arguments = PreferenceArguments("row", aggregation="tchebycheff", ideal_point=[20.0, 9.0])
    found = []
    for size in (4, 16):
        trainer = make(GRPO, tmp_path, arguments, eval_data={"prompt": PROMPTS[:4]}, per_device_eval_batch_size=size)
        trainer._preferences = torch.tensor([[0.5, 0.5]]).expand(size, 2)
        trainer.model.eval()
        rewards = torch.arange(32.0).view(16, 2)[:size] % 11
        trainer.reward_funcs = [lambda *_, _r=column, **__: _r for column in rewards.T.tolist()]
        rows = [{"prompt": PROMPTS[i // 4]} for i in range(size)]
        completions = trainer._calculate_rewards(rows, [r["prompt"] for r in rows], ["w3"] * size, [[3]] * size)
        found.append(completions[:4])
    torch.testing.assert_close(*found)
