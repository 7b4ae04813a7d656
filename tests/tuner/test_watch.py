"""A gain that was made once is never used when it is out of date: bit for bit, whatever happens in between."""

import contextvars
import inspect
import random
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from conftest import MLP, randomise, steered
from peft_panacea.tuner import PanaceaSVD, watch
from peft_panacea.tuner.state import Held, Scope
from peft_panacea.tuner.watch import Watch

pytestmark = pytest.mark.filterwarnings("ignore:Merging rounds")

STEPS = 600
PAIR, ROWS = torch.randn(3, 12), torch.randn(3, 3, 12)  # a preference per row would broadcast against both


def diagonal(model):
    return [module for module in model.modules() if isinstance(module, PanaceaSVD)]


def with_nothing_kept(forward):
    def anew(self, result, x, held, in_place, settled):
        return forward(self, result, x, Held(held.on()), in_place)

    return anew


def draw(rng, rows=False):
    first = [rng.random() for _ in range(3 if rows else 1)]
    preferences = [[p, 1 - p] for p in first]
    return preferences if rows else preferences[0]


class Walk:
    """A model to which random things happen, and what they are.

    Args:
        looks: Whether writes that nobody counts can be seen, as on the CPU; else the mode is set after them, or they
            follow a forward that was recorded.
    """

    def __init__(self, monkeypatch, looks, seed=0):
        self.rng = random.Random(seed)
        self.looks = looks
        self.model = steered(MLP(), target_modules=["hidden", "out"])
        self.patch = monkeypatch
        if not looks:
            monkeypatch.setattr(watch, "_reader", lambda data: None)
        self.count = 0

    def check(self, **preference):
        """Whether the model answers as if nothing were kept."""
        dtype = self.model.base_model.model.hidden.weight.dtype
        same = True
        # A `PeftModel` looks once in every call, its layers look by themselves where there is no call.
        for model, options in ((self.model, preference), (self.model.base_model.model, {})):
            for x in (PAIR.to(dtype), ROWS.to(dtype)):
                with torch.no_grad():
                    answer = model(x, **options)
                    with self.patch.context() as patch:
                        patch.setattr(PanaceaSVD, "forward", with_nothing_kept(PanaceaSVD.forward))
                        same &= torch.equal(answer, model(x, **options))
                assert answer.isfinite().all()
        return same

    def run(self):
        """The number of steps after which an answer was wrong, or None."""
        steps = [getattr(self, name) for name in sorted(dir(self)) if name.startswith("do_")]
        for self.count in range(STEPS):
            step = self.rng.choice(steps)
            if step() is False or not self.check():
                return self.count
        return None

    def do_set(self):
        self.model.set_preference(draw(self.rng))

    def do_set_rows(self):
        self.model.set_preference(draw(self.rng, rows=True))

    def do_with(self):
        with self.model.preference(draw(self.rng, rows=self.rng.random() < 0.5)):
            return self.check()

    def do_call(self):
        return self.check(preference=draw(self.rng))

    def do_threads(self):
        with ThreadPoolExecutor(2) as pool:
            return all(pool.map(self.ask, [draw(self.rng) for _ in range(4)]))

    def ask(self, preference):
        with self.model.preference(preference), torch.no_grad():
            x = PAIR.to(self.model.base_model.model.hidden.weight.dtype)
            answer = self.model(x)
            with torch.enable_grad():  # where nothing is kept
                return torch.equal(answer, self.model(x).detach())

    def do_train(self):
        self.model.train()
        self.step()
        self.model.eval()

    def do_train_in_eval_mode(self):
        self.step()

    def step(self):
        parameters = [p for module in diagonal(self.model) for p in module.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=1e-6)
        self.model(PAIR.to(parameters[0].dtype)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def do_train_behind_the_versions(self):
        """As sharding writes, and without a change of mode."""
        parameters = [p for module in diagonal(self.model) for p in module._diagonal()]
        x = PAIR.to(next(self.model.parameters()).dtype)
        gradients = torch.autograd.grad(self.model(x).sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            with torch.autograd._unsafe_preserve_version_counter(parameter), torch.no_grad():
                parameter.sub_(1e-6 * gradient)

    def one(self):
        return self.rng.choice(diagonal(self.model)).scale

    def do_write(self):
        with torch.no_grad():
            self.one().mul_(1.25 if self.rng.random() < 0.5 else 0.8)

    def do_write_into_data(self):
        self.one().data.mul_(1.25 if self.rng.random() < 0.5 else 0.8)
        if not self.looks:
            self.model.eval()

    def do_new_data(self):
        parameter = self.one()
        parameter.data = parameter.data * self.rng.choice([0.8, 1.25])

    def do_new_parameter(self):
        module = self.rng.choice(diagonal(self.model))
        module.scale = nn.Parameter(module.scale.detach() * self.rng.choice([0.8, 1.25]))

    def do_new_parameter_of_the_same_memory(self):
        """Which counts its versions anew, until it has counted as many."""
        module = self.rng.choice(diagonal(self.model))
        version, module.scale = module.scale._version, nn.Parameter(module.scale.data)
        with torch.no_grad():
            for factor in [1.0] * (version - 1) + [0.8]:
                module.scale.mul_(factor)

    def do_load(self):
        factor = self.rng.choice([0.8, 1.25])
        other = {k: v * factor if "panacea_svd" in k else v for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(other, assign=self.rng.random() < 0.5)

    def do_randomise(self):
        randomise(self.model, seed=self.rng.randrange(1000))

    def do_merge(self):
        self.model.set_preference(draw(self.rng))
        self.model.merge_adapter()
        same = self.check()
        self.model.unmerge_adapter()
        return same

    def do_adapter(self):
        self.model.add_adapter("other", self.model.peft_config["default"])
        self.model.set_adapter("other")
        same = self.check()
        self.model.set_adapter("default")
        self.model.delete_adapter("other")
        return same

    def do_dtype(self):
        self.model.to(self.rng.choice([torch.float32, torch.float64, torch.bfloat16]))

    def do_device(self):
        """There and back, to other values."""
        values = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.to("meta").to_empty(device="cpu").load_state_dict(values)
        self.model.eval()


@pytest.mark.parametrize("looks", [True, False], ids=["cpu", "elsewhere"])
def test_nothing_is_ever_out_of_date(looks, monkeypatch):
    walk = Walk(monkeypatch, looks)
    assert walk.run() is None, f"wrong after {walk.count} steps"


# What keeps a gain from being used when it is out of date → where, the code that does it, and the code without it.
CHECKS = {
    "call": (Scope, "__init__", "held.settle()", "pass"),
    "watch": (PanaceaSVD, "is_current", "watch is self.watch and", ""),
    "parameter": (Watch, "holds", "parameter is not known or", ""),
    "memory": (Watch, "holds", "parameter.data_ptr() != address or", ""),
    "version": (Watch, "holds", "or parameter._version != version", ""),
    "values": (Watch, "holds", "read() != content", "False"),
    "recorded forward": (PanaceaSVD, "forward", "self.watch = None", "pass"),
    "mode": (PanaceaSVD, "train", "self.watch = None", "pass"),
    "dimensions": (PanaceaSVD, "forward", "x.ndim", "2"),
    "preference": (Held, "__init__", "Tensor]] = {}", "Tensor]] = SHARED"),
}
SEEN_BY_VALUE = {"watch", "parameter", "version", "recorded forward", "mode"}
"""What is needed only where values cannot be looked at."""


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_is_needed(check, monkeypatch):
    owner, name, code, without = CHECKS[check]
    function = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function)).replace("super()", "super(PanaceaSVD, self)")
    assert code in source
    namespace = {**function.__globals__, "SHARED": {}}
    exec(source.replace(code, without), namespace)
    walk = Walk(monkeypatch, looks=check not in SEEN_BY_VALUE)
    monkeypatch.setattr(owner, name, namespace[name])
    assert walk.run() is not None


def test_what_began_in_a_call_looks_by_itself_when_the_call_has_ended():
    """A generator that was given up within it, and a copy of its context."""
    model = steered(MLP(), target_modules=["hidden", "out"])
    inner, state = model.base_model.model, model.base_model.preference_state
    scale = diagonal(model)[0].scale

    def steps():
        with state.call({}):
            while True:
                yield contextvars.copy_context(), inner(PAIR)

    @torch.no_grad()
    def changed(before):
        scale.mul_(2)
        return not torch.equal(inner(PAIR), before)

    with torch.no_grad():
        generator = steps()
        context, before = next(generator)
    ThreadPoolExecutor(1).submit(generator.close).result()
    assert changed(before)
    assert context.run(changed, inner(PAIR).detach())
