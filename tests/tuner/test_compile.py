"""A change of the preference does not compile again."""

import contextvars
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch._dynamo.testing

from conftest import llama, steered

PREFERENCES = [[1, 0], [0.5, 0.5], [0.2, 0.8], [0, 1]]


@pytest.mark.mechanics
@pytest.mark.parametrize("training", [False, True])
def test_one_full_graph_for_every_preference_and_one_more_for_rows(training, tokens):
    torch._dynamo.reset()
    model = steered(llama()).train(training)
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for p in PREFERENCES:
        model.set_preference(p)
        torch.testing.assert_close(compiled(**tokens).logits, model(**tokens).logits)
    assert counter.frame_count == 1
    for rows in torch.distributions.Dirichlet(torch.ones(2)).sample((3, 4)):
        model.set_preference(rows)
        torch.testing.assert_close(compiled(**tokens).logits, model(**tokens).logits)
    assert counter.frame_count == 2
    print(f"graphs, {training=}: 1 for four preferences, {counter.frame_count} with those for rows")


@pytest.mark.mechanics
@pytest.mark.parametrize("set_first", [False, True])
def test_at_most_one_more_graph_for_the_blocks_of_all_threads(set_first, tokens):
    torch._dynamo.reset()
    model = steered(llama())
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    expected = [model(**tokens, preference=p).logits for p in PREFERENCES]

    def ask(i):
        with model.preference(PREFERENCES[i]):
            return torch.allclose(compiled(**tokens).logits, expected[i], atol=1e-6)

    def ask_all():
        if set_first:
            compiled(**tokens)
        assert ask(0)
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(ask, [0, 1, 2, 3] * 5))
        torch.testing.assert_close(compiled(**tokens).logits, model(**tokens).logits)

    contextvars.Context().run(ask_all)  # where no other test has left anything
    assert counter.frame_count == 1 + set_first
    print(f"graphs, blocks of four threads, {set_first=}: {counter.frame_count}")


@pytest.mark.mechanics
def test_the_graph_has_the_eager_gradient(tokens):
    """Through AOT autograd, with two preferences before one backward."""
    torch._dynamo.reset()
    model = steered(llama()).train()

    def gradient(call):
        model.zero_grad()
        losses = []
        for p in ([1, 0], [[0, 1]] * 4):
            model.set_preference(p)
            losses.append(call(**tokens, labels=tokens["input_ids"]).loss)
        sum(losses).backward()
        return torch.cat([p.grad.flatten() for n, p in model.named_parameters() if ".panacea_svd." in n])

    expected = gradient(model)
    error = ((gradient(torch.compile(model, backend="aot_eager")) - expected).norm() / expected.norm()).item()
    print(f"compiled gradient error: {error:.1g}")
    assert error <= 1e-5


def test_a_static_cache_decodes_like_a_dynamic_one(tokens):
    model = steered(llama(), task_type="CAUSAL_LM")
    options = {"preference": [[1, 0], [0, 1], [0.3, 0.7], [0.5, 0.5]], "do_sample": False, "max_new_tokens": 8}
    static = model.generate(**tokens, cache_implementation="static", disable_compile=True, **options)
    assert torch.equal(static, model.generate(**tokens, **options))
