"""How preferences are drawn and losses aggregated: defaults, flags, refusals."""

import pytest
import torch
from transformers import HfArgumentParser
from trl import DPOConfig, TrlParser

from peft_panacea.simplex import PreferenceSampler
from peft_panacea.training import PreferenceArguments


def test_the_defaults_are_stratified_linear_and_per_row():
    defaults = PreferenceArguments()
    assert (defaults.preference_per, defaults.aggregation) == ("row", "linear")
    assert defaults.sampler(3, seed=5) == PreferenceSampler(3, "stratified", vertex_probability=0.0, seed=5)


def test_a_share_of_vertices_that_is_given_has_precedence():
    assert PreferenceArguments().sampler(2, 0, vertex_probability=0.5).vertex_probability == 0.5
    assert PreferenceArguments(vertex_probability=0.0).sampler(2, 0, vertex_probability=0.5).vertex_probability == 0.0


FLAGS = [
    "--preference_per", "batch", "--preference_distribution", "dirichlet", "--preference_concentration", "2",
    "--vertex_probability", "0.25", "--aggregation", "tchebycheff", "--ideal_point", "0.5", "1.5",
    "--smoothing", "0.2", "--steering_rows", "4", "--trained_objectives", "a", "c", "--freeze_shared", "true",
]  # fmt: skip
PARSED = PreferenceArguments("batch", "dirichlet", 2.0, 0.25, "tchebycheff", [0.5, 1.5], 0.2, 4, ["a", "c"], True)


def test_every_field_is_a_flag():
    assert HfArgumentParser(PreferenceArguments).parse_args_into_dataclasses(FLAGS) == (PARSED,)


def test_trl_reads_the_flags_next_to_its_own(tmp_path):
    parser = TrlParser((DPOConfig, PreferenceArguments))
    _, preferences = parser.parse_args_and_config(["--output_dir", str(tmp_path), "--use_cpu", "true", *FLAGS])
    assert preferences == PARSED


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("preference_per", "step", r"`preference_per` must be one of \['row', 'batch'\], but got 'step'"),
        ("aggregation", "max", "`aggregation` must be one of .*'smooth_tchebycheff'.*, but got 'max'"),
        ("smoothing", 0.0, "`smoothing` must be greater than 0 and finite, but got 0.0"),
        ("steering_rows", -1, "`steering_rows` must be at least 0, but got -1"),
        ("smoothing", float("nan"), "`smoothing` must be greater than 0 and finite, but got nan"),
        ("smoothing", float("inf"), "`smoothing` must be greater than 0 and finite, but got inf"),
        ("ideal_point", [0.0, float("nan")], r"`ideal_point` must have finite values, but got \[0\.0, nan\]"),
        ("preference_distribution", "beta", "`distribution` must be one of .*, but got 'beta'"),
        ("preference_concentration", 0.5, "`concentration` must be 1 unless `distribution` is 'dirichlet'"),
        ("vertex_probability", 1.5, "`vertex_probability` must be a number from 0 to 1, but got 1.5"),
    ],
)
def test_what_cannot_be_right_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        PreferenceArguments(**{field: value})


LOSSES, PREFERENCE = torch.tensor([1.0, 4.0, 2.0]), torch.tensor([0.5, 0.2, 0.3])
IDEAL = [0.5, 1.0, -1.0]  # terms 0.25, 0.6, 0.9


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("linear", 0.5 + 0.8 + 0.6),
        ("tchebycheff", 0.9),
        ("smooth_tchebycheff", 0.2 * torch.tensor([1.25, 3.0, 4.5]).exp().sum().log().item()),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_ideal_point_is_one_of_losses_or_of_rewards(aggregation, expected, sign):
    arguments = PreferenceArguments(
        "batch", aggregation=aggregation, ideal_point=[sign * z for z in IDEAL], smoothing=0.2
    )
    assert arguments.aggregate(sign=sign)(LOSSES, PREFERENCE).item() == pytest.approx(expected)
