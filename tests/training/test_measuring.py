"""A trainer's rewards over a grid: sampled as the trainer samples, by `evaluate_front`, disturbing nothing."""

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model

from conftest import llama
from peft_panacea import PanaceaConfig
from peft_panacea.simplex import simplex_grid
from peft_panacea.training.measuring import prompts_and_columns
from small_tokenizers import PLAIN_CHAT, word_tokenizer
from small_trainers import GRPO, OBJECTIVES, PROMPTS, RLOO, adapter, difference, few_a, length, make

pytestmark = pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours

EVALUATED = {"prompt": PROMPTS[:4]}
GRID = simplex_grid(2, 2)


def test_measuring_is_deterministic_and_disturbs_nothing(tmp_path):
    trainer = make(GRPO, tmp_path, eval_data=EVALUATED, per_device_eval_batch_size=8)
    trainer.model.set_preference([0.2, 0.8])
    before, state = adapter(trainer), torch.get_rng_state()
    front = trainer.measure(GRID)
    print("front, mean rewards at (0, 1), (½, ½), (1, 0):", front.values.tolist())
    assert front.objectives == tuple(OBJECTIVES)
    assert front.scores.shape == (3, 4, 2)
    assert front.base.shape == (4, 2)
    assert len({tuple(row) for row in front.values.tolist()}) == 3
    assert (trainer.measure(GRID.tolist()).scores == front.scores).all()
    other = trainer.measure(GRID, trainer.train_dataset.select(range(8, 12)))
    assert (other.scores != front.scores).any()
    assert torch.equal(torch.get_rng_state(), state)
    assert difference(adapter(trainer), before) == 0
    assert not any(trainer._metrics["eval"].values())
    assert trainer.model.training
    assert trainer.model.get_preference().tolist() == pytest.approx([0.2, 0.8])


class Listening:
    """A reward that remembers what it was given."""

    def __init__(self) -> None:
        self.__name__ = "listening"
        self.texts: list[str] = []

    def __call__(self, completions, **_):
        self.texts += completions
        return length(completions)


@pytest.mark.parametrize("vllm", [False, True], ids=["", "vllm"])
@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_completions_are_sampled_as_the_trainer_samples(kind, vllm, tmp_path):
    """With one token to choose from: as greedy search does, and as many as a completion has in training."""
    reward = Listening()
    options = {"top_k": 1, "max_completion_length": 6, "per_device_eval_batch_size": 4}
    trainer = make(kind, tmp_path, eval_data=EVALUATED, reward_funcs=(reward, few_a), **options)
    if vllm:
        del trainer.generation_config  # with vLLM a trainer has none
    trainer.measure([[0.3, 0.7]], base=False)
    tokenizer = trainer.processing_class
    expected = []
    for prompt in PROMPTS[:4]:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        whole = trainer.model.eval().generate(
            input_ids=ids, do_sample=False, max_new_tokens=6, preference=[0.3, 0.7], pad_token_id=0
        )
        assert whole.shape[1] <= ids.shape[1] + 6
        expected.append(tokenizer.decode(whole[0], skip_special_tokens=True)[len(prompt) :])
    assert sorted(reward.texts) == sorted(expected)


def test_options_of_evaluate_front_have_precedence(tmp_path):
    trainer = make(GRPO, tmp_path, eval_data=EVALUATED)
    front = trainer.measure([[1, 0]], base=False, samples=2, seed=5, batch_size=3, max_new_tokens=1, details={"x": 1})
    assert front.base is None
    assert {"samples": 2, "seed": 5, "batch_size": 3, "x": 1}.items() <= front.details.items()
    ordinary = trainer.measure([[1, 0]])
    assert {"samples": 1, "seed": 3, "batch_size": 8}.items() <= ordinary.details.items()
    assert (front.side_effects["length"] < ordinary.side_effects["length"]).any()


def test_further_columns_are_arguments_of_the_rewards():
    rows = Dataset.from_dict({"prompt": ["a", "b"], "answer": [1, 2], "completion": ["c", "d"]})
    assert prompts_and_columns(rows) == (["a", "b"], {"answer": [1, 2]})
    assert prompts_and_columns(list(rows)) == prompts_and_columns(rows)
    assert prompts_and_columns([]) == ([], {})


async def waiting(completions, **_):
    return [0.0] * len(completions)


class Waiting:
    async def __call__(self, completions, **_):
        return [0.0] * len(completions)


@pytest.mark.parametrize("method", ["measure", "normalise_rewards"])
@pytest.mark.parametrize(
    ("reward", "found"),
    [
        (waiting, "a coroutine function"),
        (Waiting(), "a coroutine function"),
        (torch.nn.Linear(1, 1), "the model Linear"),
    ],
    ids=["async", "async_call", "module"],
)
def test_rewards_that_only_trl_can_call_are_refused(reward, found, method, tmp_path):
    trainer = make(GRPO, tmp_path, eval_data=EVALUATED)
    trainer.reward_funcs[1] = reward
    message = (
        rf"`reward_funcs` must be plain functions to be measured, but got {found} for 'rainy'; a model can be given "
        r"as `peft_panacea\.rewards\.Classifier`\."
    )
    with pytest.raises(TypeError, match=message):
        trainer.measure([[1, 0]]) if method == "measure" else trainer.normalise_rewards(trainer.train_dataset)
    assert not list(tmp_path.iterdir())


def test_there_must_be_one_data_set(tmp_path):
    trainer = make(GRPO, tmp_path)
    with pytest.raises(ValueError, match=r"`dataset` must be one data set, unless .*`eval_dataset` is, but got None"):
        trainer.measure([[1, 0]])
    trainer.eval_dataset = {"a": trainer.train_dataset, "b": trainer.train_dataset}
    with pytest.raises(ValueError, match=r"`dataset` must be one .*, but got those of \['a', 'b'\]"):
        trainer.measure([[1, 0]])


THINKING = PLAIN_CHAT + "{% if enable_thinking is defined and not enable_thinking %}w63 {% else %}w62 {% endif %}"


@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_conversations_are_rendered_as_in_training(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("small_trainers.AutoTokenizer.from_pretrained", lambda _: word_tokenizer(THINKING))
    rows = {"prompt": [[{"role": "user", "content": f"w{5 + i}"}] for i in range(4)]}
    config = PanaceaConfig(objectives=OBJECTIVES, task_type="CAUSAL_LM")
    trainer = make(
        kind,
        tmp_path,
        data=rows,
        eval_data=rows,
        model=get_peft_model(llama(vocab_size=64), config),
        reward_funcs=(said, lambda completions, **_: [-value % 7 for value in said(completions)]),
        max_steps=1,
        chat_template_kwargs={"enable_thinking": False},
    )
    asked, generate = set(), trainer.model.generate

    def recording(*args, **kwargs):
        asked.update(map(tuple, kwargs["input_ids"].tolist()))
        return generate(*args, **kwargs)

    monkeypatch.setattr(trainer.model, "generate", recording)
    trainer.train()
    in_training = set(asked)
    assert {ids[-1] for ids in in_training} == {63}
    for measure in (lambda: trainer.measure([[1, 0]]), lambda: trainer.normalise_rewards(trainer.train_dataset)):
        asked.clear()
        measure()
        assert {ids[-1] for ids in asked} == {63}
        assert in_training <= asked


def said(completions, **_):
    """A number that differs between conversations' completions."""
    return [float(sum(map(ord, completion[0]["content"]))) for completion in completions]
