"""The tables in the docs are the committed results, and the scripts that measured them run."""

import gzip
import json
import random
import shutil
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model

from conftest import llama, load_script
from peft_panacea import PanaceaConfig
from peft_panacea.front import Front
from peft_panacea.tuner import PanaceaSVD
from small_chat import save_chat_model

ROOT = Path(__file__).resolve().parent.parent
STORYTELLER = ROOT / "examples" / "storyteller"


@pytest.fixture(autouse=True)
def scripts_find_their_neighbours(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "paper"))


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


def test_performance_tables():
    table = import_module("performance.table")
    page = table.PAGE.read_text(encoding="utf-8")
    for name, content in table.tables(table.reports()).items():
        assert f"<!-- {name} -->\n{content}\n<!-- end -->" in page, name


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """`make bench` at tiny sizes, where new processes are none; returns the rows of its JSON."""
    monkeypatch.setattr(import_module("performance.start"), "process", lambda code: lambda: exec(code, {}))
    output = tmp_path / "performance.json"

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["run.py", "--quick", "--output", str(output), *options])
        import_module("performance.run").main()
        return json.loads(output.read_text())["rows"]

    return run


@pytest.mark.filterwarnings("default")  # what PEFT warns of when it is given several LoRAs is not ours
def test_every_group_of_performance_is_measured_once(bench, capsys):
    table = import_module("performance.table")
    rows = bench()
    assert {name.partition(": ")[0] for name in rows} == {
        name.partition(": ")[0] for name, row in table.merged(table.reports()).items() if "sides" in row
    }
    for row in rows.values():
        assert np.isfinite(list(row["sides"].values())).all()
        assert np.isfinite(list(row["figures"].values())).all()
    printed = capsys.readouterr().out
    assert all(f"| {target.what} |" in printed for target in table.TARGETS)

    again = bench("--only", "memory", "--restart")
    assert again.pop("memory: width 64")["sides"] == rows.pop("memory: width 64")["sides"], "not deterministic"
    assert again == rows, "what was measured is measured again"


def test_sides_take_turns():
    timing, order = import_module("performance.timing"), []
    turns = timing.alternate({side: lambda side=side: order.append(side) or 0.1 for side in "abc"}, budget=0)
    assert "".join(order).endswith("abccba")
    assert turns == {side: [0.1, 0.1] for side in "abc"}


def test_overhead_is_in_that_of_the_other_side():
    turns = {"base": [1.0, 2.0, 3.0], "LoRA": [1.4, 2.4, 3.4], "Panacea": [1.2, 2.2, 3.2]}
    found = import_module("performance.timing").overhead(turns, "Panacea", "LoRA", "base")
    assert found == pytest.approx([0.5] * 3)


def test_what_cannot_run_stays_in_the_table():
    def without_bitsandbytes():
        raise ImportError("no bitsandbytes")

    row = import_module("performance.run").measured("cpu", without_bitsandbytes)
    assert row == {"not run": "no bitsandbytes"}
    assert "| here | not run |" in import_module("performance.table").details({"decode: here": row}, "decode")


@pytest.mark.parametrize(("value", "verdict"), [(0.93, "pass"), (0.931, "short")])
def test_verdict_on_a_target(value, verdict):
    row = {"sides": {}, "figures": {"over LoRA": [value] * 3, "overhead in LoRA's": [0.5] * 3}}
    row["figures"]["overhead in LoRA's"][0] = -1.0
    printed = import_module("performance.table").targets({"training: here": row})
    assert f"| {value:.3f} | ≤ 0.93 | {verdict} |" in printed
    assert "| 0.500 (-1.000 to 0.500) | ≤ 0.5 | noise |" in printed, "a negative cost passes"


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


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """A stand-in for the folder of public data: the storyteller, stories of its grammar, its lexicon."""
    folder = tmp_path_factory.mktemp("public")
    shutil.copytree(STORYTELLER / "model", folder / "models" / "stories260K")
    for name in ("tinystories", "vader"):
        (folder / "data" / name).mkdir(parents=True)
    grammar, rng = load_script(STORYTELLER / "grammar.py"), random.Random(0)
    stories = [grammar.story(rng) for _ in range(30)]
    (folder / "data" / "tinystories" / "stories.json").write_text(json.dumps(stories))
    shutil.copy(STORYTELLER / "lexicon.txt", folder / "data" / "vader" / "vader_lexicon.txt")
    return folder


@pytest.fixture
def paper(monkeypatch, tmp_path):
    """`run.py` with six steps for each model, few prompts and short completions."""
    monkeypatch.chdir(tmp_path)
    run = import_module("run")
    for experiment in (run.StoryRewards, run.StoryPairs, run.StoryStyles):
        monkeypatch.setattr(experiment, "steps", 6)
    stories = import_module("stories").Stories
    monkeypatch.setattr(stories, "TEST", 4)
    monkeypatch.setattr(stories, "DEVELOPMENT", 4)
    for module in ("story_rewards", "story_pairs"):
        monkeypatch.setattr(f"{module}.TOKENS", 8)
    return run


@pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours
@pytest.mark.parametrize("name", ["rl2", "dpo", "sft3"])
def test_every_method_of_an_experiment_runs(paper, public, tmp_path, name):
    paper.one_seed(name, public, 4, tmp_path / "runs", set())
    found = [paper.compact(path) for path in (tmp_path / "runs").glob("*.json")]
    committed = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())["fronts"]

    def kinds(fronts):
        return {(f["method"], f["cost"], len(f["preferences"]), "base" in f) for f in fronts if f["seed"] == 4}

    assert kinds(committed) <= kinds(found)  # a method may still have to be run
    steered = next(f["values"] for f in found if f["method"] == "Panacea, as in the paper")
    assert len(np.unique(steered, axis=0)) > 1


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("kind", "label"), [("gain", "bilinear, after PARM, rate 1e-3"), ("region", "inner half")])
def test_an_ablation_runs(paper, public, kind, label):
    found = import_module("ablations").run(kind, label, 10, public)
    assert np.isfinite(found["values"]).all()
    assert (np.array(found["values"]) != found["base"]).any()


@pytest.fixture
def chat(monkeypatch, tmp_path):
    """`chat_run.py` with a tiny chat model, two steps for each model and few prompts; returns what runs it."""
    (tmp_path / "data" / "vader").mkdir(parents=True)
    (tmp_path / "data" / "vader" / "vader_lexicon.txt").write_text("".join(f"w{i}\t{i - 30}\n" for i in range(10, 60)))
    (tmp_path / "data" / "instruct").mkdir()
    (tmp_path / "models" / "smollm2-135m-instruct").mkdir(parents=True)
    splits = ("train", "dev", "test") * 12
    prompts = [
        {"prompt": f"w{10 + i} w9", "source": "koala", "licence": "MIT", "split": split}
        for i, split in enumerate(splits)
    ]
    labels = [{"truthful": [1, 0], "informative": [0, 1]}, {"truthful": [0, 1], "informative": [0, 1]}]
    pairs = [
        {"prompt": f"w{30 + i % 18}", "response_0": f"w{i + 12}", "response_1": "w50 w51", "labels": labels[i // 18],
         "source": "truthfulqa_human", "split": split}
        for i, split in enumerate(splits)
    ]  # fmt: skip
    for name, rows in (("prompts", prompts), ("pairs", pairs)):
        with gzip.open(tmp_path / "data" / "instruct" / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    monkeypatch.chdir(tmp_path)
    run = import_module("chat_run")
    monkeypatch.setattr("chat.MODEL", save_chat_model(tmp_path / "model"))
    for experiment in (run.ChatRewards, run.ChatPairs, run.ChatStyles):
        monkeypatch.setattr(experiment, "steps", 2)
        monkeypatch.setattr(experiment, "precision", {"bf16": False, "use_cpu": True})
    monkeypatch.setattr("chat_rewards.TOKENS", 16)

    def start(name, *options):
        arguments = [name, "--shared", tmp_path, "--results", tmp_path / "results", "--seeds", "0", *options]
        monkeypatch.setattr(sys, "argv", ["chat_run.py", *map(str, arguments)])
        run.main()
        return {path.stem: Front.from_json(path) for path in (tmp_path / "results" / name).glob("*.json")}

    return start


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "more"),
    [("rl2", ["Rewarded Soups"]), ("dpo", ["one per preference, each", "Rewarded Soups, each"]), ("sft3", [])],
)
def test_methods_on_a_chat_model_run_once(chat, monkeypatch, name, more):
    labels = ["Panacea", "prompt, graded", *more]
    found = chat(name, "--methods", *labels)
    assert found.keys() == {f"{label}_0" for label in labels}
    assert all(np.isfinite(front.scores).all() for front in found.values())
    assert ("history" in found["Panacea_0"].details) == (name == "rl2")
    if name == "dpo":  # the ends of the soup are two of the models, which are trained once
        soup, separate = found["Rewarded Soups, each_0"], found["one per preference, each_0"]
        np.testing.assert_allclose(soup.scores[[0, -1]], separate.scores[[0, -1]], atol=1e-6)
        assert len(list(Path("runs/paper/chat/dpo/separate").iterdir())) == len(separate.preferences)
    monkeypatch.setattr("chat_run.run", lambda *_: pytest.fail("run again"))
    assert chat(name, "--methods", *labels).keys() == found.keys()

    tables = import_module("chat_tables")
    monkeypatch.setattr(tables, "RESULTS", Path("results").resolve())
    assert len(tables.tables()[f"chat {name}"].splitlines()) == len(labels) + 2


@pytest.mark.filterwarnings("default")
def test_a_rate_is_chosen_on_other_prompts_by_the_adapters_that_are_tested(chat, monkeypatch):
    pairs = import_module("chat_run").ChatPairs
    train_one, front, rates, prompts = pairs.train_one, pairs.front, [], []

    def training(self, fixed, settings, *more):
        rates.append(settings.learning_rate)
        return train_one(self, fixed, settings, *more)

    def measuring(self, *more, **options):
        prompts.append(options["prompts"])
        return front(self, *more, **options)

    monkeypatch.setattr(pairs, "train_one", training)
    monkeypatch.setattr(pairs, "front", measuring)
    methods = ["--methods", "Panacea", "Rewarded Soups, rate 1e-2"]
    tested = chat("dpo", *methods)
    chat("dpo", "--development", "--results", "development", *methods)
    assert rates == [None, 0.01, 0.01]
    assert prompts == [None, None, *[pairs(Path()).development] * 2]
    for name in tested:
        assert Front.from_json(f"development/dpo/{name}.json").details == tested[name].details


@pytest.mark.filterwarnings("default")
def test_methods_of_the_family_run_once(paper, public, monkeypatch, tmp_path):
    run = import_module("family_run")
    monkeypatch.setattr("family_experiments.TOKENS", 8)
    monkeypatch.setattr("family_experiments.MEASURED", {"samples": 1, "batch_size": 64})
    labels = ["soup", "soup, extrapolated", "MVA", "soup, then joint", run.IN_THE_PROMPT]
    options = ["stories", "--shared", public, "--results", tmp_path, "--seeds", "5", "--methods", *labels]
    monkeypatch.setattr(sys, "argv", ["family_run.py", *map(str, options)])
    run.main()
    found = {path.stem: Front.from_json(path) for path in (tmp_path / "stories").glob("*.json")}
    assert found.keys() == {f"{label}_5" for label in labels}
    interpolated, extrapolated = found["soup_5"], found["soup, extrapolated_5"]
    assert interpolated.details["interference"] == extrapolated.details["interference"]
    np.testing.assert_allclose(interpolated.preferences.sum(axis=1), 1, atol=1e-6)
    assert extrapolated.details["kept"] == len(extrapolated.preferences) <= extrapolated.details["tried"] == 25
    monkeypatch.setattr(run, "measure", lambda *_: pytest.fail("run again"))
    run.main()


@pytest.mark.filterwarnings("default")
def test_a_model_that_reads_its_preference_is_compared_with_one_that_reads_it_untrained(chat):
    experiment = import_module("family_experiments").ChatFamily(Path())
    model = import_module("family").train_reader(experiment, 0)
    front = experiment.conditioned(model)
    assert front.preferences.shape == (5, 2)
    assert front.values.all()
    for module in model.modules():
        if isinstance(module, PanaceaSVD):
            module.scale.data.zero_()  # nothing is gained by anything
    assert not experiment.conditioned(model).values.any()


def test_family_tables():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for name, content in import_module("family_tables").tables().items():
        assert f"<!-- {name} -->\n{content}\n<!-- end -->" in page, name


@pytest.mark.filterwarnings("default")
def test_persons_are_simulated_from_adapters_that_are_there(chat, monkeypatch, tmp_path):
    path = tmp_path / "data" / "instruct" / "pairs.jsonl.gz"
    ratings = ["naturalness", "coherence", "engagingness", "groundedness", "understandability"]
    rng = random.Random(0)
    with gzip.open(path, "at") as file:
        for i in range(36):
            labels = {name: [rng.random(), rng.random()] for name in ratings}
            row = {"prompt": f"w{i % 12 + 10} w9\n w{i % 12 + 20}", "response_0": f"w{i + 12}", "response_1": "w50"}
            split = ("train", "dev", "test")[i % 3]
            file.write(json.dumps({**row, "labels": labels, "source": "topical_chat_usr", "split": split}) + "\n")
    chat("dpo", "--methods", "Panacea")
    for seed in (1, 2):
        shutil.copytree("runs/paper/chat/dpo/Panacea_0", f"runs/paper/chat/dpo/Panacea_{seed}")

    personalise = import_module("personalise")
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- {name} -->\n<!-- end -->\n" for name in ("recovery Topical-Chat", "prediction")))
    for name, value in {
        "PERSONS": 2,
        "COUNTS": (3,),
        "ASKED": (2,),
        "RESULT": tmp_path / "p.json",
        "PAGE": page,
    }.items():
        monkeypatch.setattr(personalise, name, value)
    monkeypatch.setattr(personalise.ChatRatings, "steps", 2)
    monkeypatch.setattr(personalise.ChatRatings, "precision", {"bf16": False, "use_cpu": True})
    monkeypatch.setattr(sys, "argv", ["personalise.py", "--shared", str(tmp_path)])
    personalise.main()
    found = personalise.read_results()
    assert found.keys() == {"TruthfulQA", "Topical-Chat"}
    for result in found.values():
        for persons in result["persons"].values():
            assert 0 <= persons["fits"]["asked"]["2"]["held"][0] <= 1
    assert "| by labels | 2 | asked |" in page.read_text()
    (tmp_path / "p.json").unlink()
    monkeypatch.setattr(personalise, "margins", lambda *_, **__: pytest.fail("measured again"))
    personalise.main()
    assert personalise.read_results() == found


def test_personalisation_tables():
    personalise = import_module("personalise")
    page = personalise.PAGE.read_text(encoding="utf-8")
    for name, content in personalise.tables(
        json.loads(personalise.RESULT.read_text(encoding="utf-8"))["results"]
    ).items():
        assert f"<!-- {name} -->\n{content}\n<!-- end -->" in page, name


def test_an_unknown_method_is_named(chat):
    with pytest.raises(SystemExit, match=r"`--methods` must be among .* but got 'magic'"):
        chat("dpo", "--methods", "magic")


def test_chat_tables():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for name, content in import_module("chat_tables").tables().items():
        assert f"<!-- {name} -->\n{content}\n<!-- end -->" in page, name


@pytest.mark.parametrize(("server", "page"), [("llama.cpp", "llama-cpp"), ("vLLM", "vllm")])
def test_the_tables_of_servers(server, page):
    comparing = load_script(ROOT / "benchmarks/serving/comparing.py")
    runs = json.loads(comparing.RESULT.read_text(encoding="utf-8"))["runs"]
    text = (ROOT / f"docs/serving/{page}.md").read_text(encoding="utf-8")
    assert f"<!-- serving -->\n{comparing.table(server, runs)}\n<!-- end -->" in text


def test_the_tables_of_the_playground(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "serving"))
    playground = import_module("playground")
    page = playground.PAGE.read_text(encoding="utf-8")
    for name, content in playground.tables(json.loads(playground.RESULT.read_text(encoding="utf-8"))["runs"]).items():
        assert f"<!-- {name} -->\n{content}\n<!-- end -->" in page, name


def test_coordinates_tables():
    coordinates = import_module("coordinates")
    page = coordinates.PAGE.read_text(encoding="utf-8")
    for name, content in coordinates.tables().items():
        assert f"<!-- {name} -->\n{content}\n<!-- end -->" in page, name


def test_decorrelation_tables():
    decorrelation = load_script(ROOT / "benchmarks" / "decorrelation.py")
    page = decorrelation.PAGE.read_text(encoding="utf-8")
    for name, content in decorrelation.tables(json.loads(decorrelation.RESULT.read_text(encoding="utf-8"))).items():
        assert f"<!-- {name} -->\n{content}\n<!-- end -->" in page, name


def test_first_steps():
    """A reward that follows its weight from the ninth step on, of two that never do and always do."""
    rng = np.random.default_rng(0)
    history = []
    for step in range(24):
        weight = rng.random(6)
        columns = [np.zeros(6), 3 * weight * (step >= 8)]
        history.append([np.stack([1 - weight, weight], 1).tolist(), np.stack(columns, 1).tolist()])
    never, first = import_module("first_steps").first_steps(history, [1.0, 1.0], window=8)
    assert never is None
    assert 9 < first <= 16


def test_missing_public_data_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"`--shared` must be .* lacks models/stories260K \(.*Karpathy"):
        import_module("public_data").public_data(tmp_path)


def test_prompts_of_the_comparison_per_row(tmp_path):
    stories = tmp_path / "data" / "tinystories" / "stories.json"
    stories.parent.mkdir(parents=True)
    stories.write_text(json.dumps(["A cat sat. It ran.", "A cat sat. It hid.", " Who is it? A dog."]))
    path = load_script(ROOT / "benchmarks" / "per_row.py").first_sentences(tmp_path, tmp_path)
    assert json.loads(path.read_text()) == ["A cat sat.", "Who is it?"]
