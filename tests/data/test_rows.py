"""What is done to a batch of rows because of their objectives, and that it needs no data sets."""

import subprocess
import sys

import pytest
import torch

from peft_panacea.data.rows import copies, exchange, exchanged_names, select


def pairs() -> dict[str, object]:
    """Three pairs as TRL's collator lists them."""
    rows = torch.tensor([[10], [11], [12], [20], [21], [22]])  # all the chosen before all the rejected
    return {
        "input_ids": rows,
        "ref_chosen_logps": torch.tensor([0.1, 0.2, 0.3]),
        "ref_rejected_logps": torch.tensor([0.4, 0.5, 0.6]),
        "weight": torch.tensor([1, 2, 3]),
        "constant": torch.tensor(7.0),
        "use_cache": False,
    }


def test_copies_counts_how_often_a_row_is_listed():
    assert copies(pairs(), 3) == 2
    assert copies(pairs(), 6) == 1
    with pytest.raises(ValueError, match=r"`input_ids` must have a whole number of rows for each of the 4 .* got 6"):
        copies(pairs(), 4)


def test_select_takes_both_halves_of_a_pair():
    part = select(pairs(), torch.tensor([2, 0]), rows=3)
    assert part["input_ids"][:, 0].tolist() == [12, 10, 22, 20]
    assert part["ref_chosen_logps"].tolist() == pytest.approx([0.3, 0.1])
    assert part["weight"].tolist() == [3, 1]
    assert (part["constant"].item(), part["use_cache"]) == (7.0, False)


def test_what_has_other_rows_cannot_be_parted():
    """The patches of four images, as some collators list them."""
    images = {"input_ids": torch.zeros(4, 2), "pixel_values": torch.zeros(8, 3), "patches": torch.zeros(12, 3)}
    assert select(images, torch.arange(4), rows=4) == images
    for name, rows in (("pixel_values", 8), ("patches", 12)):
        part = {key: value for key, value in images.items() if key in ("input_ids", name)}
        with pytest.raises(ValueError, match=f"`preference_per` must be 'row' .* but of 4 rows `{name}` has {rows}"):
            select(part, torch.tensor([0, 2]), rows=4)


def test_exchange_swaps_the_chosen_with_the_rejected_where_it_is_told():
    batch = exchange(pairs(), torch.tensor([True, False, True]))
    assert batch["input_ids"][:, 0].tolist() == [20, 11, 22, 10, 21, 12]
    assert batch["ref_chosen_logps"].tolist() == pytest.approx([0.4, 0.2, 0.6])
    assert batch["ref_rejected_logps"].tolist() == pytest.approx([0.1, 0.5, 0.3])
    assert batch["weight"].tolist() == [1, 2, 3]
    twice = exchange(batch, torch.tensor([True, False, True]))
    assert torch.equal(twice["input_ids"], pairs()["input_ids"])


def test_rows_that_are_no_pairs_cannot_be_exchanged():
    rows = {"input_ids": torch.zeros(3, 1)}
    assert exchange(rows, torch.tensor([False] * 3)) is rows
    with pytest.raises(ValueError, match=r"`objective_labels` must be 0 or 1 where rows are not pairs .* but got -1"):
        exchange(rows, torch.tensor([False, True, False]))


def test_rows_are_counted_without_input_ids():
    images = {"flag": True, "pixel_values": torch.zeros(6, 3, 4, 4)}
    assert copies(images, 3) == 2
    with pytest.raises(ValueError, match="`pixel_values` must have a whole number of rows for each of the 4 rows"):
        copies(images, 4)


def test_columns_that_come_in_two_change_places():
    names = ["chosen", "rejected", "ref_chosen_logps", "ref_rejected_logps", "chosen_by", "prompt"]
    assert exchanged_names(names) == {
        "chosen": "rejected",
        "rejected": "chosen",
        "ref_chosen_logps": "ref_rejected_logps",
        "ref_rejected_logps": "ref_chosen_logps",
    }


BARE = """
import sys
sys.modules["datasets"] = None  # as if it were not installed
import peft_panacea.training
from peft_panacea.data import json_preferences, pairs_from_scores
assert len(pairs_from_scores("p", ["a", "b"], [[1], [2]])) == 1
json_preferences(sys.argv[1], ["helpful"])
"""


def test_without_data_sets_the_mixins_can_be_imported(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "t", "objective": "helpful"}')
    run = subprocess.run([sys.executable, "-c", BARE, str(path)], capture_output=True, text=True, check=False)
    sentence = "`datasets` must be installed for this; `pip install peft-panacea[train]` does it."
    assert run.stderr.rstrip().endswith(f"ModuleNotFoundError: {sentence}")
