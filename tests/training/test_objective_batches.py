"""How rows that belong to objectives are ordered and collated, and which columns no collator sees."""

import pytest
import torch

from peft_panacea.training.batches import ObjectiveCollator, ObjectiveSampler

OBJECTIVE = [0] * 7 + [1] * 3 + [2] * 5


def epoch(n: int, seed: int = 0) -> list[int]:
    sampler = ObjectiveSampler(OBJECTIVE, 3, seed=seed)
    sampler.set_epoch(n)
    rows = list(sampler)
    assert len(rows) == len(sampler)
    return rows


def test_rows_that_follow_each_other_hold_every_objective():
    objectives = [OBJECTIVE[row] for row in epoch(0)]
    assert all({0, 1, 2} == set(objectives[i : i + 3]) for i in range(len(objectives) - 2))


def test_an_epoch_has_the_largest_objective_once_and_the_others_evenly_often():
    rows = epoch(0)
    counts = torch.tensor(rows).bincount(minlength=15)
    assert len(rows) == 3 * 7
    assert counts[:7].tolist() == [1] * 7
    assert sorted(counts[7:10].tolist()) == [2, 2, 3]
    assert sorted(counts[10:].tolist()) == [1, 1, 1, 2, 2]
    assert {0, 1, 2} == {row - 7 for row in rows[1::3][:3]}  # none comes again before all have come


def test_the_order_is_a_function_of_seed_and_epoch():
    assert epoch(0) == epoch(0)
    assert len({tuple(epoch(n, seed)) for n in (0, 1, 2) for seed in (0, 1)}) == 6


def test_the_sampler_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    epoch(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_objective_without_rows_or_out_of_range_is_refused():
    with pytest.raises(
        ValueError, match=r"`train_dataset` must have rows of all 3 objectives, but has none of objec.* 2"
    ):
        ObjectiveSampler([0, 1, 1, 0], 3, seed=0)
    with pytest.raises(ValueError, match="must have rows of all 2 objectives, but has none of objective 2"):
        ObjectiveSampler([1, 1], 3, seed=0, face=[1, 2])
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match=f"`objective` must be between 0 and 1 in every row, but got .*{wrong}"):
            ObjectiveSampler([0, 1, wrong], 2, seed=0)


@pytest.mark.parametrize(
    "columns", [{}, {"objective": 1}, {"objective_labels": [1, -1]}, {"objective": 0, "objective_labels": [1, 0]}]
)
def test_the_collator_hides_the_columns_of_the_objectives(columns):
    seen = []

    def inner(rows):
        seen.extend(rows)
        return {"input_ids": torch.tensor([row["x"] for row in rows])}

    batch = ObjectiveCollator(inner)([{"x": [5, 6], **columns}, {"x": [7, 8], **columns}])
    assert [set(row) for row in seen] == [{"x"}, {"x"}]
    assert batch.keys() == {"input_ids", *columns}
    assert {name: batch[name].tolist() for name in columns} == {name: [value] * 2 for name, value in columns.items()}
