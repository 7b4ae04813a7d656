"""What each process of `test_distributed.py` runs; as a script, what `accelerate launch` runs."""

import json
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from accelerate import Accelerator
from conftest import llama, steered

PROCESSES = 2
STEPS = 3


def join_group(rank: int, rendezvous: str) -> None:
    """Join the other process; a collective that waits for longer than the timeout raises."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing(_enable)?` is deprecated", FutureWarning)
    dist.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=PROCESSES, timeout=timedelta(seconds=30)
    )


def batch() -> tuple[Tensor, Tensor]:
    """Four rows of tokens and the preference of each."""
    ids = torch.randint(3, 64, (4, 8), generator=torch.Generator().manual_seed(3))
    first = torch.linspace(0, 1, 4)
    return ids, torch.stack([first, 1 - first], dim=1)


def share(rank: int, rows: Tensor) -> Tensor:
    """The rows of one process."""
    return rows.chunk(PROCESSES)[rank]


def tiny(dtype: torch.dtype = torch.float32) -> PeftModel:
    """The same model in every process, its base of `dtype`; the adapter is float32, as PEFT makes it by default."""
    torch.manual_seed(0)
    return steered(llama().to(dtype), task_type="CAUSAL_LM").train()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Not Adam, whose first steps are as long for a gradient of 1e-9 as for one of 1, and no rate that amplifies."""
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.003)


def train(model: nn.Module, ids: Tensor, preference: Tensor | None, parts: int = 1) -> Tensor:
    """The loss of each step, [STEPS]. The current preference if None; the batch in `parts`, one after the other."""
    optimizer = sgd(model)
    preferences = [None] * parts if preference is None else preference.chunk(parts)
    losses = torch.zeros(STEPS)
    for step in range(STEPS):
        optimizer.zero_grad()
        for rows, of_rows in zip(ids.chunk(parts), preferences, strict=True):
            loss = model(input_ids=rows, labels=rows, preference=of_rows).loss / parts
            loss.backward()
            losses[step] += loss.detach()
        optimizer.step()
    return losses


def mean_over_processes(losses: Tensor) -> Tensor:
    total = losses.clone()
    dist.all_reduce(total)
    return total / PROCESSES


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Of the last step, gathered."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in found.items()}


def state(model: nn.Module) -> dict[str, Tensor]:
    """The full state dict, gathered."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


def difference(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest, in units of the largest entry that was expected."""
    assert actual.keys() == expected.keys()
    largest = max(tensor.abs().max().item() for tensor in expected.values())
    return max((actual[name] - expected[name]).abs().max().item() for name in expected) / largest


def ddp(model: PeftModel) -> nn.Module:
    return DistributedDataParallel(model)


def fsdp2(model: PeftModel) -> nn.Module:
    """One group of parameters per decoder layer and one for the rest."""
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for layer in model.get_base_model().model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


SPREAD = {"ddp": ddp, "fsdp2": fsdp2}


def compare_training(rank: int, how: str, dtype: torch.dtype, checkpointing: bool) -> dict[str, float]:
    """Train on this process's share of the batch, and alone on all of it; the largest differences."""
    ids, preference = batch()
    alone, together = tiny(dtype), tiny(dtype)
    initial = {name: tensor.clone() for name, tensor in state(alone).items()}
    # bfloat16 rounds visibly, and not alike in matrices of four rows and of two.
    losses = train(alone, ids, preference, parts=PROCESSES if dtype == torch.bfloat16 else 1)
    if checkpointing:
        together.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    spread = SPREAD[how](together)
    shared = mean_over_processes(train(spread, share(rank, ids), share(rank, preference)))
    return {
        "loss": difference({"": shared}, {"": losses}),
        "gradient": difference(gradients(together), gradients(alone)),
        "state": difference(state(together), state(alone)),
        "training": difference(state(together), initial),
    }


def train_with_own_preference(rank: int) -> dict[str, object]:
    """DDP with one current preference per process, compared with one process that gives the rows theirs."""
    ids, _ = batch()
    own = [[1.0, 0.0], [0.0, 1.0]]
    alone, together = tiny(), tiny()
    losses = train(alone, ids, torch.tensor([own[0], own[0], own[1], own[1]]))
    of_rank_0 = train(tiny(), ids, torch.tensor(own[0]))
    together.set_preference(own[rank])
    shared = mean_over_processes(train(ddp(together), share(rank, ids), None))
    return {
        "preference": together.get_preference().tolist(),
        "loss": (losses - shared).abs().max().item(),
        "loss, were rank 0's broadcast": (of_rank_0 - shared).abs().max().item(),
    }


def train_bfloat16_adapter(rank: int) -> None:
    """An adapter like that of transformers' `add_adapter` on a bfloat16 base: U and Vh bfloat16, the rest float32."""
    model = tiny(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if name.endswith((".U", ".Vh")):
            parameter.data = parameter.data.bfloat16()
    ids, preference = batch()
    train(fsdp2(model), share(rank, ids), share(rank, preference))


def main() -> None:
    """Train with what `accelerate launch` was configured for, and report as one line of JSON."""
    accelerator = Accelerator()
    model = tiny()
    model, optimizer = accelerator.prepare(model, sgd(model))
    ids, preference = (share(accelerator.process_index, rows).to(accelerator.device) for rows in batch())
    losses = []
    for _ in range(STEPS):
        loss = model(input_ids=ids, labels=ids, preference=preference).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach().clone(), "mean").item())
    report = {"processes": accelerator.num_processes, "model": type(model).__name__, "losses": losses}
    accelerator.print(json.dumps(report))


if __name__ == "__main__":
    main()
