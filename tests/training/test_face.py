"""Training that is confined to some objectives leaves the others' directions as they are, to the bit."""

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from conftest import llama, randomise
from peft_panacea import PanaceaConfig
from peft_panacea.simplex import PreferenceSampler
from peft_panacea.training import PreferenceArguments
from peft_panacea.training.face import FaceSampler, face_of, rows_on
from peft_panacea.tuner import PanaceaSVD
from small_trainers import DPO, IDS, RLOO, STORYTELLER, Plain, adapter, labelled, make

pytestmark = pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours

NAMES = ["a", "b", "c"]


def model(**config: object):
    base = AutoModelForCausalLM.from_pretrained(STORYTELLER)
    return randomise(get_peft_model(base, PanaceaConfig(objectives=NAMES, task_type="CAUSAL_LM", **config)))


def blocks(trainer) -> list[list[torch.Tensor]]:
    """For each objective what it owns in every layer."""
    adapters = [module for module in trainer.model.modules() if isinstance(module, PanaceaSVD)]
    found: list[list[torch.Tensor]] = [[] for _ in NAMES]
    for svd in adapters:
        R, r = svd.preference_rank, 0 if svd.sigma is None else len(svd.sigma)
        for i, own in enumerate(found):
            rows = slice(r + i * R, r + (i + 1) * R)
            own += [svd.U[:, rows].detach().clone(), svd.Vh[rows].detach().clone()]
            own += [] if svd.shares_scale else [svd.scale[i].detach().clone()]
    return found


def moved(before, after) -> list[bool]:
    return [not all(map(torch.equal, old, new)) for old, new in zip(before, after, strict=True)]


def plain_rows(n: int = 18) -> dict[str, list]:
    return {"input_ids": IDS[:1] * n, "labels": IDS[:1] * n, "objective": [i % 3 for i in range(n)]}


def pairs() -> dict[str, list]:
    return labelled([[1, -1, 0], [0, 1, 1], [-1, 0, 1]])


def run(trainer, folder, names, data, preferences=None, own=None, **options):
    made = make(
        trainer,
        folder,
        preferences or PreferenceArguments(trained_objectives=names),
        data=data,
        model=model(**(own or {"scale_per_objective": True})),
        random_adapter=False,
        **options,
    )
    before, everything = blocks(made), adapter(made)
    made.train()
    return made, before, everything


@pytest.mark.parametrize("names", [["b"], ["c", "a"]], ids=str)
@pytest.mark.parametrize(
    ("trainer", "data"), [(Plain, plain_rows()), (DPO, pairs())], ids=["objective", "objective_labels"]
)
def test_only_their_blocks_move(trainer, data, names, tmp_path):
    made, before, _ = run(trainer, tmp_path, names, data)
    assert moved(before, blocks(made)) == [name in names for name in NAMES]


def test_one_preference_for_each_batch(tmp_path):
    preferences = PreferenceArguments(preference_per="batch", aggregation="tchebycheff", trained_objectives=["a", "c"])
    made, before, _ = run(Plain, tmp_path, None, plain_rows(), preferences, per_device_train_batch_size=4)
    assert moved(before, blocks(made)) == [True, False, True]
    logged = {key for entry in made.state.log_history for key in entry if key.endswith("_loss")}
    assert logged == {"a_loss", "c_loss", "train_loss"}


def test_rewards(tmp_path):
    rewards = [lambda completions, **_: [float(len(c)) for c in completions]] * 3
    made = make(
        RLOO,
        tmp_path,
        PreferenceArguments(trained_objectives=["b"]),
        model=model(scale_per_objective=True),
        random_adapter=False,
        reward_funcs=rewards,
    )
    before = blocks(made)
    made.train()
    assert moved(before, blocks(made)) == [False, True, False]


def test_what_is_shared_may_be_frozen(tmp_path):
    preferences = PreferenceArguments(freeze_shared=True)
    made = make(
        Plain, tmp_path, preferences, data=plain_rows(), model=model(r=3), random_adapter=False,
    )  # fmt: skip
    before, everything = blocks(made), adapter(made)
    made.train()
    assert moved(before, blocks(made)) == [True] * 3
    for name, tensor in adapter(made).items():
        shared = slice(3) if name.endswith("Vh") else (slice(None), slice(3)) if name.endswith("U") else slice(None)
        assert torch.equal(tensor[shared], everything[name][shared])
    assert all(parameter.requires_grad for name, parameter in made.model.named_parameters() if "svd" in name)


def test_gradients_are_those_of_training_everything(tokens):
    """Where something is frozen nothing else has another gradient."""
    from peft_panacea.tuner.freezing import shared_frozen

    steered = model(r=3)

    def gradients():
        steered.zero_grad()
        steered(**tokens, labels=tokens["input_ids"], preference=[0.2, 0.3, 0.5]).loss.backward()
        return {n: p.grad.clone() for n, p in steered.named_parameters() if p.grad is not None}

    everything = gradients()
    with shared_frozen(steered):
        some = gradients()
    assert {n.rpartition(".")[2] for n in everything} - {n.rpartition(".")[2] for n in some} == {"sigma", "scale"}
    for name, gradient in some.items():
        own = (slice(3, None),) if name.endswith("Vh") else (slice(None), slice(3, None))
        assert torch.equal(gradient[own], everything[name][own])
        assert gradient.count_nonzero() == gradient[own].count_nonzero()


def test_preferences_are_those_of_the_face():
    sampler = PreferenceSampler(2, vertex_probability=0.3, seed=1)
    on_face = FaceSampler(sampler, [0, 2], 3)
    drawn, given = on_face(50, step=4), on_face.given(torch.tensor([2, 0, 2]), step=4)
    assert torch.equal(drawn[:, [0, 2]], sampler(50, step=4))
    assert torch.equal(given[:, [0, 2]], sampler.given(torch.tensor([1, 0, 1]), step=4))
    assert not drawn[:, 1].any()
    assert not given[:, 1].any()


def test_one_objective_alone_is_its_vertex():
    on_face = FaceSampler(PreferenceSampler(1, seed=0), [1], 3)
    assert torch.equal(on_face(4), torch.tensor([[0.0, 1.0, 0.0]] * 4))
    assert torch.equal(on_face.given(torch.tensor([1, 1])), torch.tensor([[0.0, 1.0, 0.0]] * 2))


def test_rows_are_those_of_the_face():
    rows = Dataset.from_dict({"x": [0, 1, 2, 3], "objective": [0, 1, 2, 1]})
    assert rows_on(rows, [1])["x"][:] == [1, 3]
    stream = IterableDataset.from_generator(lambda: iter(rows))
    stream = stream.cast(rows.features)
    assert [row["x"] for row in rows_on(stream, [0, 2])] == [0, 2]
    labels = Dataset.from_dict({"x": [0, 1, 2], "objective_labels": [[1, 0, 0], [0, -1, 0], [0, 0, 0]]})
    for format_of_rows in (None, "numpy", "torch"):
        assert list(rows_on(labels.with_format(format_of_rows), [0, 1])["x"][:]) == [0, 1]
        assert list(rows_on(rows.with_format(format_of_rows), [1])["x"][:]) == [1, 3]
    with pytest.raises(ValueError, match="`train_dataset` must have rows of the `trained_objectives`, but has none"):
        rows_on(rows.select([0, 2]), [1])
    with pytest.raises(ValueError, match=r"`train_dataset` must be one of `datasets`, .* but got a list"):
        rows_on([1], [1])


@pytest.mark.parametrize("names", [[], ["a", "a"], ["d"]], ids=str)
def test_what_is_no_face_is_refused(names):
    with pytest.raises(ValueError, match=r"`trained_objectives` must be some of .*, each once, but got"):
        face_of(names, NAMES)


def test_what_would_move_the_rest_is_refused(tmp_path):
    for preferences in (PreferenceArguments(trained_objectives=["a"]), PreferenceArguments(freeze_shared=True)):
        with pytest.raises(ValueError, match=r"`weight_decay` must be 0 with `trained_objectives` or .* got 0\.1"):
            make(Plain, tmp_path, preferences, data=plain_rows(), model=model(), weight_decay=0.1)
    with pytest.raises(ValueError, match=r"`trained_objectives` must be all or not given with white coordinates"):
        run(Plain, tmp_path, ["a"], plain_rows(), own={"r": 1, "coordinates": "white"})


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"modules_to_save": ["lm_head"]}, r"lm_head\.modules_to_save\.default\.weight"),
        ({"bias": "all"}, r"bias, .* and more"),
        ({"trainable_token_indices": [3]}, "token_adapter"),
    ],
    ids=["modules_to_save", "bias", "trainable_token_indices"],
)
def test_what_is_trained_besides_the_adapter_is_refused(config, found, tmp_path):
    with_more = get_peft_model(
        llama(attention_bias=True),
        PanaceaConfig(objectives=NAMES, task_type="CAUSAL_LM", scale_per_objective=True, **config),
    )
    for preferences in (PreferenceArguments(trained_objectives=["a"]), PreferenceArguments(freeze_shared=True)):
        with pytest.raises(ValueError, match=f"What is trained must be Panacea's own with .* but got .*{found}"):
            make(Plain, tmp_path, preferences, data=plain_rows(), model=with_more, random_adapter=False)
    make(Plain, tmp_path, data=plain_rows(), model=with_more, random_adapter=False)


def test_a_shared_scale_of_zero_is_not_frozen(tmp_path):
    new = get_peft_model(llama(), PanaceaConfig(objectives=NAMES, task_type="CAUSAL_LM"))
    made = make(
        Plain,
        tmp_path,
        PreferenceArguments(trained_objectives=["a"], freeze_shared=True),
        data=plain_rows(),
        model=new,
        random_adapter=False,
    )
    with pytest.raises(RuntimeError, match=r"`scale` must not be 0 where it is frozen .* `scale_per_objective=True`"):
        made.train()


def test_all_objectives_are_as_none(tmp_path):
    found = []
    for names in (None, list(NAMES)):
        made, _, _ = run(Plain, tmp_path, names, plain_rows())
        found.append(adapter(made))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
