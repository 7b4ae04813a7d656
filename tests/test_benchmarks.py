"""The tables in the docs are the committed results."""

import json
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from conftest import llama, load_script
from peft_panacea import PanaceaConfig
from peft_panacea.front import Front

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def width_sweep():
    return load_script(ROOT / "benchmarks" / "width_sweep.py")


@pytest.mark.parametrize("inputs", ["white", "coloured"])
def test_width_sweep_tables(width_sweep, inputs):
    results = json.loads((ROOT / "docs" / "results" / "initialisation.json").read_text())["results"]
    assert width_sweep.table(results, inputs) in (ROOT / "docs" / "initialisation.md").read_text(encoding="utf-8")


def test_one_learning_rate_trains_every_width(width_sweep):
    """The recommendation, at a size that a test can pay: both ends of a factor of 16."""
    for width in (32, 512):
        assert width_sweep.relative_loss(width, 1.0, 3e-3, "coloured", seed=0) < 0.1


def test_sampling_table():
    results = json.loads((ROOT / "docs" / "results" / "sampling.json").read_text())["runs"]
    table = load_script(ROOT / "benchmarks" / "sampling.py").table(results)
    assert table in (ROOT / "docs" / "sampling.md").read_text(encoding="utf-8")


def test_per_row_table():
    fronts = json.loads((ROOT / "docs" / "results" / "per_row.json").read_text())["fronts"]
    table = load_script(ROOT / "benchmarks" / "per_row.py").table(fronts)
    assert table in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_readme_numbers_are_the_committed_front():
    front = Front.from_json(ROOT / "examples" / "storyteller" / "adapter" / "front.json")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for p, value, low, high in zip(front.preferences, front.values, *front.interval(), strict=True):
        if p[0] in (0.0, 0.5, 1.0):
            cheerful = f"{value[0]:+.2f} [{low[0]:+.2f}, {high[0]:+.2f}]"
            brief = f"{-value[1]:.2f} [{-high[1]:.2f}, {-low[1]:.2f}]"
            assert f"| {p[0]:.1f} | {cheerful} | {brief} |" in readme
    assert f"| base model | {front.base_values[0]:+.2f} | {-front.base_values[1]:.2f} |" in readme
    found, bounds = front.metrics(), front.metric_intervals()
    for name in ("hypervolume", "inner product", "monotonicity", "calibration"):
        assert f"| {found[name]:.3f} [{bounds[name][0]:.3f}, {bounds[name][1]:.3f}] |" in readme


@pytest.fixture(scope="module")
def paper_tables():
    return load_script(ROOT / "benchmarks" / "paper" / "tables.py")


def test_tables_of_the_papers_experiments(paper_tables):
    pages = "".join(page.read_text(encoding="utf-8") for page in paper_tables.PAGES)
    for name, table in paper_tables.tables().items():
        assert f"<!-- {name} -->\n{table}\n<!-- end -->" in pages, name


def test_concave_table():
    report = json.loads((ROOT / "docs" / "results" / "concave.json").read_text())
    table = load_script(ROOT / "benchmarks" / "concave.py").table(report)
    assert table in (ROOT / "docs" / "open-questions.md").read_text(encoding="utf-8")


@pytest.fixture
def specialists():
    """Two separate models of rank 5, each under its own vertex, with updates that are not zero."""
    models = []
    for i in range(2):
        torch.manual_seed(i)
        vertex = [float(i == 0), float(i == 1)]
        config = PanaceaConfig(objectives=2, r=3, default_preference=vertex, init_weights=False, task_type="CAUSAL_LM")
        models.append(get_peft_model(llama(), config))
    return models


class Experiment:
    objectives = ("first", "second")

    def base_model(self):
        return llama()


def updates(model, preference):
    return [module.delta_weight(torch.tensor(preference)) for module in paper_methods().adapters(model).values()]


def paper_methods():
    return load_script(ROOT / "benchmarks" / "paper" / "methods.py")


@pytest.mark.parametrize("preference", [[1.0, 0.0], [0.3, 0.7], [0.0, 1.0]])
def test_a_soup_is_the_weighted_mean_of_the_updates(specialists, preference):
    soup = paper_methods().soup(Experiment(), specialists)
    first, second = updates(specialists[0], [1.0, 0.0]), updates(specialists[1], [0.0, 1.0])
    for found, a, b in zip(updates(soup, preference), first, second, strict=True):
        torch.testing.assert_close(found, preference[0] * a + preference[1] * b)


def test_a_soup_of_factors_is_pefts_linear_combination(specialists):
    soup = paper_methods().soup_of_factors(Experiment(), specialists, [0.3, 0.7])
    adapters = [paper_methods().adapters(model).values() for model in specialists]
    for found, a, b in zip(updates(soup, [1.0, 0.0]), *adapters, strict=True):
        (Ba, Aa), (Bb, Ab) = (paper_methods().factors(x, v) for x, v in ((a, [1.0, 0.0]), (b, [0.0, 1.0])))
        B, A = (0.3**0.5 * x + 0.7**0.5 * y for x, y in ((Ba, Bb), (Aa, Ab)))
        torch.testing.assert_close(found, B @ A)
