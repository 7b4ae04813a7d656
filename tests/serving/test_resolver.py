"""vLLM asks for models by name and gets LoRA folders; here by a stand-in of its interface (0.32)."""

import asyncio
import importlib.util
import inspect
import re
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from conftest import llama, steered
from peft_panacea.serving import resolver as resolving
from peft_panacea.serving.resolver import PanaceaResolver, register


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    base_model_name: str | None = None
    load_inplace: bool = False
    is_3d_lora_weight: bool = False

    def __post_init__(self):
        assert self.lora_int_id >= 1
        assert self.lora_path


class Registry:
    def __init__(self):
        self.resolvers = {}

    def register_resolver(self, resolver_name, resolver):
        self.resolvers[resolver_name] = resolver


@pytest.fixture
def vllm(monkeypatch):
    """Its modules, as far as they are used; `vllm.lora.resolver.LoRAResolverRegistry` is a new one."""
    modules = {name: ModuleType(name) for name in ("vllm", "vllm.envs", "vllm.lora.resolver", "vllm.lora.request")}
    vllm, envs, lora_resolver, request = modules.values()
    vllm.envs, envs.VLLM_ALLOW_RUNTIME_LORA_UPDATING = envs, True
    lora_resolver.LoRAResolverRegistry, request.LoRARequest = Registry(), LoRARequest
    modules["vllm.lora"] = ModuleType("vllm.lora")
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return vllm


class Server:
    """What `OpenAIServingModels.resolve_lora` does around the resolvers."""

    def __init__(self, registry):
        self.resolvers, self.known, self.locks, self.count = registry.resolvers, {}, {}, 0

    async def model(self, name):
        async with self.locks.setdefault(name, asyncio.Lock()):
            if name not in self.known:
                self.count += 1
                number = self.count
                for resolver in self.resolvers.values():
                    request = await resolver.resolve_lora("base", name)
                    if request is not None:
                        request.lora_int_id = number
                        self.known[name] = request
            return self.known.get(name)


@pytest.fixture
def adapter(tmp_path):
    steered(llama(), task_type="CAUSAL_LM").save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def server(vllm, adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_PANACEA_ADAPTERS", f"chat={adapter}")
    monkeypatch.setenv("PEFT_PANACEA_CACHE", str(tmp_path / "cache"))
    register()
    return Server(sys.modules["vllm.lora.resolver"].LoRAResolverRegistry)


def resolve(server, *names):
    async def all_at_once():
        return await asyncio.gather(*map(server.model, names))

    return asyncio.run(all_at_once())


def exports(tmp_path):
    return sorted(folder.name for folder in (tmp_path / "cache/adapters").iterdir())


def test_the_same_model_at_the_preference(server, tokens, adapter):
    torch.manual_seed(0)
    model = PeftModel.from_pretrained(llama(), adapter).eval()
    for name, preference in (
        ("chat@0.3,0.7", [0.3, 0.7]),
        ("chat@b=0.9,a=0.1", [0.1, 0.9]),
        ("chat", [0.5, 0.5]),
        ("chat@0.126,0.874", [0.13, 0.87]),
    ):
        (request,) = resolve(server, name)
        assert request.lora_name == name
        torch.manual_seed(0)
        lora = PeftModel.from_pretrained(llama(), request.lora_path).eval()
        with torch.no_grad():
            expected = model(**tokens, preference=preference).logits
            torch.testing.assert_close(lora(**tokens).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_name_of_the_adapters_is_exact_and_may_be_off_the_simplex(server, tokens, adapter):
    torch.manual_seed(0)
    steered(llama(), objectives=["a", "b"], named_preferences={"both": [1.004, 0.713]}).save_pretrained(adapter)
    torch.manual_seed(0)
    model = PeftModel.from_pretrained(llama(), adapter).eval()
    (request,) = resolve(server, "chat@both")
    torch.manual_seed(0)
    lora = PeftModel.from_pretrained(llama(), request.lora_path).eval()
    with torch.no_grad(), model.preference([1.004, 0.713], extrapolate=True):
        torch.testing.assert_close(lora(**tokens).logits, model(**tokens).logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"one of the adapter's `named_preferences` \['both'\], but got 'best'"):
        resolve(server, "chat@best")


def test_rounding_stays_within_the_bounds(server, adapter, tmp_path):
    steered(llama(), objectives=["a", "b"], preference_bounds={"b": (0.305, 1.0)}).save_pretrained(adapter)
    resolve(server, "chat@0.695,0.305", "chat@0.69,0.31", "chat@0.4,0.6")
    assert {name.rpartition("-")[2] for name in exports(tmp_path)} == {"31", "60"}
    with pytest.raises(ValueError, match=r"`preference` must have 'b' between 0\.305 and 1"):
        resolve(server, "chat@0.7,0.3")


def test_bounds_without_hundredths_are_served_as_they_are(server, adapter, tmp_path):
    third = dict.fromkeys("abc", (1 / 3, 1 / 3))
    steered(llama(), objectives=["a", "b", "c"], preference_bounds=third).save_pretrained(adapter)
    resolve(server, "chat")
    (name,) = exports(tmp_path)
    assert name.endswith("-exactly-0.333333-0.333333-0.333333")


def test_three_objectives_in_white_coordinates(server, tokens, adapter):
    torch.manual_seed(0)
    more = {"r": 2, "preference_rank": 3, "coordinates": "white"}
    model = steered(llama(), objectives=["a", "b", "c"], **more)
    model.save_pretrained(adapter)
    for name, preference in (("chat", [0.34, 0.33, 0.33]), ("chat@c=0.5,a=0.2,b=0.3", [0.2, 0.3, 0.5])):
        (request,) = resolve(server, name)
        torch.manual_seed(0)
        lora = PeftModel.from_pretrained(llama(), request.lora_path).eval()
        with torch.no_grad():
            expected = model(**tokens, preference=preference).logits
            torch.testing.assert_close(lora(**tokens).logits, expected, rtol=1e-4, atol=1e-4)


def test_many_at_once(server, tmp_path):
    names = [f"chat@{i / 100:.2f},{1 - i / 100:.2f}" for i in range(0, 100, 5)]
    requests = resolve(server, *names, *names)
    assert [request.lora_name for request in requests] == names + names
    assert len({request.lora_path for request in requests}) == len(exports(tmp_path)) == 20
    assert len({request.lora_int_id for request in requests}) == 20


def test_one_export_for_all_spellings_of_a_step(server, tmp_path):
    requests = resolve(server, "chat@0.3,0.7", "chat@0.30,0.70", "chat@a=0.3,b=0.7", "chat@0.301,0.699")
    assert len({request.lora_path for request in requests}) == len(exports(tmp_path)) == 1


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("0.3,0.3", "`preference` must have 2 non-negative entries that sum to 1, for a, b, but got [0.3, 0.3]."),
        ("1.4,-0.4", "`preference` must have 2 non-negative entries that sum to 1, for a, b, but got [1.4, -0.4]."),
        ("1", "`preference` must have 2 non-negative entries that sum to 1, for a, b, but got [1]."),
        ("a=0.3,c=0.7", "`preference` must name exactly the objectives ['a', 'b'], but got ['a', 'c']."),
        ("0.3,x", "`preference` must be numbers, or name=number for each, but got ['0.3', 'x']."),
        ("nan,nan", "`preference` must have 2 non-negative entries that sum to 1, for a, b, but got [nan, nan]."),
        ("", "`preference` must be numbers, or one of the adapter's `named_preferences` [], but got ''."),
        ("x", "`preference` must be numbers, or one of the adapter's `named_preferences` [], but got 'x'."),
    ],
)
def test_what_is_no_preference_is_refused_and_nothing_written(said, message, server, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve(server, f"chat@{said}")
    assert not (tmp_path / "cache").exists()


def test_other_names_are_left_to_others(server):
    assert resolve(server, "other@0.3,0.7", "cha", "chat2@0.3,0.7") == [None, None, None]


def test_what_vllm_does_not_load_is_refused_by_name(server, adapter):
    steered(llama(), modules_to_save=["lm_head"]).save_pretrained(adapter)
    with pytest.raises(ValueError, match="`model` must be an adapter alone for vLLM, but chat has `modules_to_save`"):
        resolve(server, "chat@0.3,0.7")


def test_an_adapter_that_was_trained_further_is_another(server, adapter, tmp_path):
    (before,) = resolve(server, "chat@0.3,0.7")
    steered(llama(), preference_rank=2).save_pretrained(adapter)
    (after,) = resolve(server, "chat@0.30,0.70")
    assert before.lora_path != after.lora_path


def test_a_name_on_the_hub_is_fetched_once(vllm, adapter, tmp_path, monkeypatch):
    fetched = []

    def snapshot_download(name, allow_patterns):
        fetched.append((name, allow_patterns))
        return str(adapter)

    monkeypatch.setattr(resolving, "snapshot_download", snapshot_download)
    resolver = PanaceaResolver.of(
        {"PEFT_PANACEA_ADAPTERS": "chat=user/chat", "PEFT_PANACEA_CACHE": str(tmp_path / "c")}
    )
    assert fetched == []
    for name in ("chat@0.3,0.7", "chat@0.4,0.6"):
        asyncio.run(resolver.resolve_lora("base", name))
    assert fetched == [("user/chat", ["adapter_config.json", "adapter_model.safetensors"])]


def test_without_adapters_nothing_happens(vllm, monkeypatch):
    monkeypatch.delenv("PEFT_PANACEA_ADAPTERS", raising=False)
    register()
    assert sys.modules["vllm.lora.resolver"].LoRAResolverRegistry.resolvers == {}


def test_vllm_would_not_ask(vllm, adapter, monkeypatch):
    monkeypatch.setenv("PEFT_PANACEA_ADAPTERS", f"chat={adapter}")
    vllm.envs.VLLM_ALLOW_RUNTIME_LORA_UPDATING = False
    with pytest.raises(RuntimeError, match="`VLLM_ALLOW_RUNTIME_LORA_UPDATING` must be 1"):
        register()


@pytest.mark.parametrize("said", ["", "chat", "chat=", "=x", "a@b=x", "a=x,a=y"])
def test_what_is_no_list_of_adapters_is_refused(said):
    with pytest.raises(ValueError, match="`PEFT_PANACEA_ADAPTERS` must be NAME=PATH"):
        PanaceaResolver.of({"PEFT_PANACEA_ADAPTERS": said})


def test_a_folder_of_something_else_is_refused_at_once(tmp_path):
    get_peft_model(llama(), LoraConfig()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`path` must hold a Panacea adapter"):
        PanaceaResolver.of({"PEFT_PANACEA_ADAPTERS": f"chat={tmp_path}"})


@pytest.mark.parametrize("limit", ["0", "-1", "many", ""])
def test_what_is_no_limit_is_refused(limit):
    with pytest.raises(ValueError, match="`PEFT_PANACEA_EXPORTS` must be an integer of at least 1"):
        PanaceaResolver.of({"PEFT_PANACEA_ADAPTERS": "chat=user/chat", "PEFT_PANACEA_EXPORTS": limit})


@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="needs vllm, which wants an environment of its own"
)
def test_the_stand_in_is_like_vllm():
    from vllm.lora.request import LoRARequest as Real
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    assert list(inspect.signature(Real).parameters)[:3] == list(inspect.signature(LoRARequest).parameters)[:3]
    mine, theirs = PanaceaResolver.resolve_lora, LoRAResolver.resolve_lora
    assert list(inspect.signature(mine).parameters) == list(inspect.signature(theirs).parameters)
    assert list(inspect.signature(LoRAResolverRegistry.register_resolver).parameters) == ["resolver_name", "resolver"]
