"""Whose preference a running call sees, where nothing runs: scopes of threads, tasks and generators."""

import asyncio
import contextvars
import copy
import gc
import itertools
import pickle
import threading
from contextlib import nullcontext

import pytest
import torch

from peft_panacea.tuner import PreferenceState
from peft_panacea.tuner.state import Scope

A, B, C = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.25, 0.75])


@pytest.fixture
def state():
    state = PreferenceState()
    state.add("x", ["a", "b"], torch.tensor([0.5, 0.5]))
    return state


def seen(state, adapter="x"):
    return state.get(adapter).tolist()


def in_a_thread(function):
    """The result of a function that runs in a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def steps(state, preference):
    """A generator that steers between its steps."""
    with state.block({"x": preference}):
        while True:
            yield seen(state)


def test_a_change_replaces_and_never_writes(state):
    before = state.get("x")
    state.set({"x": A})
    assert before.tolist() == [0.5, 0.5]
    assert seen(state) == A.tolist()


def test_a_preference_is_copied_to_a_device_once_per_change(state):
    meta = torch.device("meta")
    assert state.get("x", meta) is state.get("x", meta)
    state.set({"x": A})
    assert state.get("x", meta) is state.get("x", meta)
    with state.block({"x": B}):
        assert state.get("x", meta) is state.get("x", meta)
    assert seen(state) == A.tolist()


def test_a_block_holds_for_its_own_thread(state):
    with state.block({"x": A}):
        assert seen(state) == A.tolist()
        assert in_a_thread(lambda: seen(state)) == [0.5, 0.5]
        state.set({"x": B})
        assert seen(state) == A.tolist()
        assert in_a_thread(lambda: seen(state)) == B.tolist()
    assert seen(state) == B.tolist()


def test_blocks_nest_and_other_adapters_are_live(state):
    state.add("y", ["a", "b"], B)
    with state.block({"x": A}):
        with state.block({"y": C}):
            assert (seen(state), seen(state, "y")) == (A.tolist(), C.tolist())
        state.set({"y": A})
        assert seen(state, "y") == A.tolist()
    assert (seen(state), seen(state, "y")) == ([0.5, 0.5], A.tolist())


def test_a_call_keeps_what_it_began_with(state):
    state.add("y", ["a", "b"], B)
    with state.call({"x": A}):
        state.set({"x": C, "y": C})
        assert (seen(state), seen(state, "y")) == (A.tolist(), B.tolist())
    assert (seen(state), seen(state, "y")) == (C.tolist(), C.tolist())


def test_the_blocks_of_one_model_do_not_steer_another(state):
    other = PreferenceState()
    other.add("x", ["a", "b"], C)
    with state.block({"x": A}):
        assert seen(other) == C.tolist()
        with other.block({"x": B}):
            assert (seen(state), seen(other)) == (A.tolist(), B.tolist())
        assert (seen(state), seen(other)) == (A.tolist(), C.tolist())


def test_tasks_have_blocks_of_their_own_and_keep_that_in_which_they_began(state):
    async def task(preference):
        with state.block({"x": preference}):
            for _ in range(3):
                await asyncio.sleep(0)
                assert seen(state) == preference.tolist()
        return seen(state)

    async def begun(left):
        await left.wait()
        return seen(state), await asyncio.to_thread(seen, state)

    async def main():
        left = asyncio.Event()
        with state.block({"x": C}):
            child = asyncio.create_task(begun(left))
            assert await asyncio.gather(task(A), task(B), task(A)) == [C.tolist()] * 3
        left.set()
        assert await child == (C.tolist(), C.tolist())
        assert seen(state) == [0.5, 0.5]

    asyncio.run(main())


def test_a_generator_that_another_thread_closes_steers_nobody(state):
    generator = steps(state, A)
    assert next(generator) == seen(state) == A.tolist()
    in_a_thread(generator.close)
    assert seen(state) == [0.5, 0.5]
    with state.block({"x": B}):
        generator = steps(state, A)
        next(generator)
        in_a_thread(generator.close)
        assert seen(state) == B.tolist()
    assert seen(state) == [0.5, 0.5]


def test_a_generator_that_is_closed_out_of_turn_leaves_the_inner_block_alone(state):
    with state.block({"x": C}):
        generator = steps(state, A)
        next(generator)
        with state.block({"x": B}):
            generator.close()
            assert seen(state) == B.tolist()
        assert seen(state) == C.tolist()
    assert seen(state) == [0.5, 0.5]


@pytest.mark.parametrize("close", [lambda generator: generator.close(), lambda g: in_a_thread(g.close)])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_generators_may_be_closed_in_any_order(close, order, state):
    """What is seen is the innermost that is open, within another block and after it."""
    for around in (False, True):
        generators = [steps(state, preference) for preference in (A, B, C)]
        for generator in generators:
            next(generator)
        last = state.block({"x": torch.tensor([0.1, 0.9])}) if around else nullcontext()
        with last:
            within = seen(state)
            for i in order:
                close(generators[i])
                if around:
                    assert seen(state) == within
        assert seen(state) == [0.5, 0.5]
        with state.block({"x": A}):
            assert seen(state) == A.tolist()
        assert seen(state) == [0.5, 0.5]


def test_what_is_left_is_seen_through_to_what_is_open(state):
    inner_first = [steps(state, preference) for preference in (A, B, C)]
    for generator in inner_first:
        next(generator)
    for generator, expected in zip(reversed(inner_first), (B.tolist(), A.tolist(), [0.5, 0.5]), strict=True):
        in_a_thread(generator.close)
        assert seen(state) == expected


def test_a_generator_whose_steps_run_in_other_contexts_leaves_no_trace(state):
    """As where a web framework runs each step in a thread of its pool."""
    generator = steps(state, A)
    for _ in range(2):
        contextvars.copy_context().run(next, generator)
    contextvars.copy_context().run(generator.close)
    assert seen(state) == [0.5, 0.5]


def test_an_abandoned_async_generator_steers_nobody(state):
    async def answers():
        with state.block({"x": A}):
            for _ in range(3):
                yield seen(state)

    async def main():
        async for answer in answers():
            assert answer == A.tolist()
            break
        gc.collect()
        for _ in range(3):
            await asyncio.sleep(0)  # the event loop closes it in a task of its own
        assert seen(state) == [0.5, 0.5]

    asyncio.run(main())


def test_an_exception_leaves_the_block(state):
    with pytest.raises(KeyError), state.block({"x": A}), state.call({"x": B}):
        raise KeyError
    assert seen(state) == [0.5, 0.5]


def test_nothing_is_kept(state):
    def scopes():
        gc.collect()
        return sum(issubclass(type(thing), Scope) for thing in gc.get_objects())

    before = scopes()
    for _ in range(100):
        with state.block({"x": A}), state.call({}):
            state.set({"x": B})
        generator = steps(state, A)
        next(generator)
        in_a_thread(generator.close)
    assert scopes() - before <= 1  # the last generator's, closed elsewhere, until the next block is left


def test_nothing_is_kept_of_generators_that_take_turns(state):
    """As in a thread that always has an answer open when the last one is closed."""

    def take_turns(n):
        last = steps(state, A)
        next(last)
        for _ in range(n):
            generator = steps(state, B)
            next(generator)
            last.close()
            last = generator
        gc.collect()
        found = sum(issubclass(type(thing), Scope) for thing in gc.get_objects())
        last.close()
        return found

    assert take_turns(50) <= take_turns(5) + 1


def test_what_is_set_for_everyone_within_is_undone(state):
    state.set({"x": C})
    with state.block({"x": A}), state.as_everyone():
        assert seen(state) == C.tolist()
        state.set({"x": B})
        assert seen(state) == in_a_thread(lambda: seen(state)) == B.tolist()
    assert seen(state) == C.tolist()


def test_what_was_replaced_within_is_not_put_back(state):
    with state.as_everyone():
        state.remove("x")
        state.add("x", ["a", "b", "c"], torch.tensor([0.2, 0.3, 0.5]))
    assert state.get("x").shape == (3,), "another adapter of the same name"


def test_a_recomputation_in_another_thread_sees_what_the_forward_saw(state):
    with state.block({"x": A}):
        forward = state.seen()

    def recompute():
        with state.as_seen(forward):
            return seen(state)

    state.set({"x": B})
    assert in_a_thread(recompute) == A.tolist()
    assert seen(state) == B.tolist()


def test_rows_are_repeated_in_their_own_call_alone(state):
    rows = torch.stack([A, B])
    with state.block({"x": rows}):
        state.repeat_rows(2)
        assert seen(state) == rows.tolist(), "not in a call"
        with state.call({}):
            state.repeat_rows(2)
            assert seen(state) == torch.stack([A, A, B, B]).tolist()
        assert seen(state) == rows.tolist()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_a_copy_is_steered_apart(duplicate, state):
    state.set({"x": C})
    with state.block({"x": A}):
        twin = duplicate(state)
        assert (seen(state), seen(twin)) == (A.tolist(), C.tolist())
        twin.set({"x": B})
    assert (seen(state), seen(twin)) == (C.tolist(), B.tolist())
    assert twin.objectives == state.objectives


def test_a_removed_adapter_is_forgotten(state):
    with state.block({"x": A}):
        state.remove("x")
        state.remove("x")
        assert state.objectives == {}
        state.add("x", ["a", "b"], B)
        assert seen(state) == B.tolist(), "another adapter of the same name"
