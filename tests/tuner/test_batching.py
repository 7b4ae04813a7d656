"""Continuous batching: each request has its own preference, whoever adds it and whatever it shares with others."""

import threading

import pytest
import torch
from peft import inject_adapter_in_model
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.requests import RequestState

import peft_panacea
from conftest import llama, randomise, steered
from peft_panacea import PanaceaConfig
from peft_panacea.tuner import batching

pytestmark = pytest.mark.filterwarnings("default")  # what transformers warns of is not ours

GREEDY = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=2, pad_token_id=0)


def small(**options):
    """A cache of 512 tokens; by default transformers takes most of the memory, in pages longer than these prompts."""
    return ContinuousBatchingConfig(**{"page_size": 8, "num_blocks": 64, "max_batch_tokens": 48, **options})


@pytest.fixture(scope="module")
def three():
    return steered(llama(), objectives=["a", "b", "c"], task_type="CAUSAL_LM")


def requests(n=16):
    """Prompts of which many begin alike, and as many preferences."""
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 64, (int(k),), generator=generator).tolist() for k in range(2, 2 + n)]
    prompts[: n // 2] = [prompts[-1][: 8 + i] for i in range(n // 2)]
    preferences = torch.rand(n, 3, generator=generator) ** 4
    return prompts, preferences / preferences.sum(1, keepdim=True)


def alone(model, prompts, preferences):
    """The same, one by one, without continuous batching."""
    return [
        model.generate(torch.tensor([prompt]), preference=p, generation_config=GREEDY)[0, len(prompt) :].tolist()
        for prompt, p in zip(prompts, preferences, strict=True)
    ]


def batched(model, prompts, **options):
    found = model.generate_batch(prompts, generation_config=GREEDY, continuous_batching_config=small(), **options)
    return [output.generated_tokens for output in found.values()]


def test_generate_batch_with_a_preference_for_each_input(three):
    prompts, preferences = requests()
    expected = alone(three, prompts, preferences)
    assert batched(three, prompts, preference=preferences) == expected
    with three.preference(preferences):
        assert batched(three, prompts) == expected
    one = alone(three, prompts, preferences[:1].expand(len(prompts), -1))
    assert batched(three, prompts, preference=preferences[0]) == one != expected


def test_each_request_has_what_is_seen_where_it_is_added(three):
    """By a keyword, in a block, set for everyone, in other threads; later changes do not reach it."""
    prompts, preferences = requests()
    expected = dict(enumerate(alone(three, prompts, preferences)))
    base, names = three.get_base_model(), {}
    with base.continuous_batching_context_manager(GREEDY, continuous_batching_config=small()) as manager:

        def add(i):
            if i % 4 == 0:
                names[manager.add_request(prompts[i], preference=preferences[i])] = i
            elif i % 4 == 1:
                with three.preference(preferences[i]):
                    names[manager.add_request(prompts[i])] = i
            else:
                three.set_preference(preferences[i])
                names[manager.add_request(prompts[i])] = i

        for i in range(0, len(prompts), 2):
            if i % 4 == 0:
                thread = threading.Thread(target=add, args=(i,))
                thread.start()
                thread.join()
            else:
                add(i)
        for i in range(1, len(prompts), 2):
            add(i)
        three.set_preference([1, 0, 0])
        found = {}
        while len(found) < len(prompts):
            output = manager.get_result(timeout=10)
            found[names[output.request_id]] = output.generated_tokens
    three.set_preference([1 / 3] * 3)
    assert found == expected


def test_several_sequences_keep_the_preference_of_their_request(three):
    prompts, preferences = requests(4)
    greedy = {**GREEDY.to_diff_dict(), "do_sample": True, "temperature": 1e-7}  # no chance between near ties
    config = GenerationConfig(**greedy, num_return_sequences=3)
    found = three.generate_batch(
        prompts, generation_config=config, continuous_batching_config=small(), preference=preferences
    )
    expected = [tokens for tokens in alone(three, prompts, preferences) for _ in range(3)]
    assert [output.generated_tokens for output in found.values()] == expected


def test_a_request_that_is_begun_again_keeps_its_preference(three, monkeypatch):
    """In a cache too small for all, transformers starts some requests again from their tokens so far."""
    begun, again = [], RequestState.create_equivalent_initial_request
    monkeypatch.setattr(
        RequestState, "create_equivalent_initial_request", lambda state: begun.append(state) or again(state)
    )
    prompts, preferences = requests()
    found = three.generate_batch(
        prompts, generation_config=GREEDY, preference=preferences,
        continuous_batching_config=small(num_blocks=4, max_batch_tokens=24),
    )  # fmt: skip
    assert begun
    assert [output.generated_tokens for output in found.values()] == alone(three, prompts, preferences)


def test_a_transformers_model_that_an_adapter_was_put_into():
    model = randomise(inject_adapter_in_model(PanaceaConfig(objectives=["a", "b", "c"], r=8), llama())).eval()
    prompts, preferences = requests(4)
    expected = []
    for prompt, p in zip(prompts, preferences, strict=True):
        with peft_panacea.preference(model, p):
            answer = model.generate(torch.tensor([prompt]), generation_config=GREEDY)
        expected.append(answer[0, len(prompt) :].tolist())
    assert batched(model, prompts, preference=preferences) == expected


def test_what_prompts_have_in_common_is_not_shared(three, monkeypatch):
    prompts, preferences = requests()
    expected = alone(three, prompts, preferences)
    assert batched(three, prompts, preference=preferences) == expected

    def shared(config):
        config = steerable(config)
        config.allow_block_sharing = True
        return config

    steerable = batching._steerable
    monkeypatch.setattr(batching, "_steerable", shared)
    assert batched(three, prompts, preference=preferences) != expected, "the test is blind"


def test_an_adapter_that_is_not_active_is_not_asked():
    model = steered(llama(), objectives=["a", "b", "c"], task_type="CAUSAL_LM")
    model.add_adapter("other", PanaceaConfig(objectives=["d", "e"], task_type="CAUSAL_LM"))
    randomise(model)
    prompts, preferences = requests(4)
    assert batched(model, prompts, preference=preferences) == alone(model, prompts, preferences)
    model.set_adapter("other")
    assert batched(model, prompts, preference=[0.3, 0.7]) == alone(model, prompts, [[0.3, 0.7]] * 4)


def test_what_cannot_be_steered_is_refused(three):
    prompts, preferences = requests(4)
    for option, value in (("use_cuda_graph", True), ("use_cuda_graph", (False, True)), ("use_async_batching", True)):
        with pytest.raises(ValueError, match=f"`{option}` must not be set with a Panacea adapter"):
            three.generate_batch(prompts, GREEDY, small(**{option: value}))
    base = three.get_base_model()
    with base.continuous_batching_context_manager(GREEDY, continuous_batching_config=small()) as manager:
        with pytest.raises(ValueError, match="must be one preference for one request, but got 4 rows"):
            manager.add_request(prompts[0], preference=preferences)
        with pytest.raises(ValueError, match=r"one for each of 3 inputs, but got shape \(4, 3\)"):
            manager.add_requests(prompts[:3], preference=preferences)
        with pytest.raises(ValueError, match="3 non-negative entries that sum to 1"):
            manager.add_request(prompts[0], preference=[1, 1, 1])


def test_a_users_configuration_is_not_changed(three):
    config = small()
    three.generate_batch(requests(2)[0], generation_config=GREEDY, continuous_batching_config=config)
    assert config.allow_block_sharing


def test_without_the_adapter_it_is_transformers_own_again():
    model = steered(llama(), task_type="CAUSAL_LM")
    base = model.unload()
    assert not {"generate_batch", "init_continuous_batching"} & set(vars(base))
