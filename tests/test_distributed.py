"""One model over several processes or devices computes what it computes on one; every process keeps its preference.

Two processes on the CPU, joined by gloo. The workers run `distributed_worker.py`.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from peft import PeftModel
from transformers import LlamaForCausalLM

import distributed_worker as worker
from conftest import llama, steered

CONFIGS = Path(__file__).resolve().parent.parent / "examples" / "recipes" / "accelerate"
TOLERANCE = 1e-5
SECONDS = 60  # a hang fails

OnEveryProcess = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def on_every_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnEveryProcess]:
    """Call `function(rank, *arguments)` in every process of one group; the results by rank."""
    rendezvous = (tmp_path_factory.mktemp("group") / "rendezvous").as_uri()
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as pools:  # which end their processes also when these hang
        ranks = [
            pools.enter_context(spawn.Pool(1, worker.join_group, (rank, rendezvous)))
            for rank in range(worker.PROCESSES)
        ]

        def call(function: Callable[..., Any], *arguments: Any) -> list[Any]:
            pending = [pool.apply_async(function, (rank, *arguments)) for rank, pool in enumerate(ranks)]
            return [result.get(timeout=SECONDS) for result in pending]

        yield call


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize(
    ("how", "dtype"),
    [
        ("ddp", torch.float32),
        ("ddp", torch.float64),
        ("fsdp2", torch.float32),
        ("fsdp2", torch.float64),
        ("fsdp2", torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.mechanics
def test_two_processes_train_like_one(on_every_process, how, dtype, checkpointing):
    """Every row has its own preference; each process has half of the rows."""
    for rank, largest in enumerate(on_every_process(worker.compare_training, how, dtype, checkpointing)):
        figures = {name: f"{value:.1e}" for name, value in largest.items()}
        print(f"{how} {dtype}{' checkpointing' if checkpointing else ''}, rank {rank}, largest differences: {figures}")
        assert largest["training"] > 1e-3  # something was learned, so equal is not unchanged
        assert max(largest["loss"], largest["gradient"], largest["state"]) <= TOLERANCE


@pytest.mark.mechanics
def test_every_process_keeps_its_own_preference(on_every_process):
    """DDP broadcasts parameters and buffers from rank 0, when it is made and at every forward, but no preference."""
    results = on_every_process(worker.train_with_own_preference)
    print("ddp, a preference for each rank:", results)
    assert [result["preference"] for result in results] == [[1.0, 0.0], [0.0, 1.0]]
    assert all(result["loss"] <= TOLERANCE for result in results)
    assert all(result["loss, were rank 0's broadcast"] > 100 * TOLERANCE for result in results)


def test_fsdp2_refuses_an_adapter_of_two_dtypes(on_every_process):
    """Cast it to float32 first, as `get_peft_model` does by default; a base of another dtype does no harm."""
    with pytest.raises(AssertionError, match="FSDP expects uniform original parameter dtype"):
        on_every_process(worker.train_bfloat16_adapter)


DEVICES = {"embed_tokens": "cpu", "rotary_emb": "cpu", "layers.0": "cpu", "layers.1": "disk", "norm": "cpu"}


# PEFT copies the adapter's weights to where they are not, which is idle, and then to the file of the layer.
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter:UserWarning")
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.mechanics
def test_a_model_on_two_devices(low_cpu_mem_usage, tmp_path, monkeypatch):
    """The disk stands in for the second device: the layer's weights are elsewhere until its forward begins."""
    monkeypatch.chdir(
        tmp_path
    )  # PEFT 0.21.2 writes merged layers to the offload folder's path without its first slash
    llama().save_pretrained(tmp_path / "base")
    whole = steered(LlamaForCausalLM.from_pretrained(tmp_path / "base"), task_type="CAUSAL_LM")
    whole.save_pretrained(tmp_path / "adapter")
    devices = {f"model.{name}": device for name, device in DEVICES.items()} | {"lm_head": "cpu"}
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base", device_map=devices, offload_folder=tmp_path / "off")
    dispatched = PeftModel.from_pretrained(
        base,
        tmp_path / "adapter",
        low_cpu_mem_usage=low_cpu_mem_usage,
        device_map={f"base_model.model.{name}": device for name, device in devices.items()},
        offload_folder=tmp_path / "offload",
    )
    assert {p.device.type for n, p in dispatched.named_parameters() if ".panacea_svd." in n} == {"cpu", "meta"}

    ids, _ = worker.batch()

    def error(model: torch.nn.Module, *, expect: object, **preference: object) -> float:
        with torch.no_grad():
            return (model(ids, **preference).logits - whole(ids, preference=expect).logits).abs().max().item()

    per_row = [[1, 0], [0, 1], [0.5, 0.5], [0.2, 0.8]]
    errors = {str(p): error(dispatched, preference=p, expect=p) for p in ([1, 0], [0.2, 0.8], per_row)}
    dispatched.set_preference([0.2, 0.8])
    dispatched.merge_adapter()
    errors["merged"] = error(dispatched, expect=[0.2, 0.8])
    dispatched.unmerge_adapter()
    errors["unmerged"] = error(dispatched, preference=[1, 0], expect=[1, 0])
    errors["merged and unloaded"] = error(dispatched.merge_and_unload(), expect=[0.2, 0.8])
    print("offloaded:", errors)
    assert max(errors.values()) <= TOLERANCE


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("zero3", "DEEPSPEED")])
def test_accelerate_reads_the_configurations(name, kind):
    assert load_config_from_file(str(CONFIGS / f"{name}.yaml")).distributed_type == kind
