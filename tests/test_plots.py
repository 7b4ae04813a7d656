"""What the figures show is read back from what was drawn."""

import re
import subprocess
import sys
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.text import Text

from peft_panacea.plots import plot_fronts, plot_positions, plot_training
from peft_panacea.plots.style import shorten
from peft_panacea.simplex import simplex_grid

LONG = "what_somebody took from a configuration file, with $ and $ and a_$ in it, and never_shortened "
TEN = [f"objective {i}" for i in range(10)]
LINE = simplex_grid(2, 4).numpy()
TRIANGLE = simplex_grid(3, 2).numpy()
MANY = np.concatenate([np.full((1, 10), 0.1), np.eye(10)[::-1], np.random.default_rng(0).dirichlet(np.ones(10), 3)])


@dataclass
class Stub:
    objectives: tuple[str, ...]
    preferences: np.ndarray
    scores: np.ndarray
    maximise: tuple[bool, ...]
    base: np.ndarray | None

    @property
    def values(self) -> np.ndarray:
        return self.scores.mean(axis=1)

    def interval(self, level: float = 0.95) -> np.ndarray:
        reach = np.linspace(0.1, 0.2, len(self.objectives))
        return np.stack([self.values - reach, self.values + 2 * reach])


def front(objectives, preferences, *, seed=0, maximise=True, base=True) -> Stub:
    """Conflicting objectives, in units of their own."""
    rng = np.random.default_rng(seed)
    preferences = np.array(preferences, dtype=float)
    m = len(objectives)
    maximise = (maximise,) * m if isinstance(maximise, bool) else tuple(maximise)
    noise = rng.normal(size=(1 + len(preferences), 8, m)) * 0.3
    scale = np.linspace(0.5, 4, m) * np.where(maximise, 1, -1)
    scores = (np.concatenate([np.zeros((1, m)), np.sqrt(preferences) - 0.3])[:, None] + noise) * scale + 5
    return Stub(tuple(objectives), preferences, scores[1:], maximise, scores[0] if base else None)


@pytest.fixture(autouse=True)
def pyplot_is_left_alone():
    before = dict(matplotlib.rcParams)
    yield
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def draw(figure):
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    return figure


def texts(figure):
    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]


def offsets(axes):
    """What every scatter of an axes drew, [points, 2] each."""
    return [np.asarray(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection)]


def inside(figure):
    """Whether no text and no axes reaches beyond the page."""
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    return box.x0 > -0.02 and box.y0 > -0.02 and box.x1 < width + 0.02 and box.y1 < height + 0.02


def test_two_objectives_of_one_front():
    one = front(["cheerful", "brief"], LINE[::-1])
    figure = draw(plot_fronts(one, title="A title"))
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("cheerful", "brief")
    assert bar.get_ylabel() == "weight of cheerful"
    points, base = offsets(axes)
    np.testing.assert_allclose(points, one.values[::-1])
    (dots,) = [c for c in axes.collections if c.get_array() is not None]
    np.testing.assert_allclose(dots.get_array(), LINE[:, 0])
    np.testing.assert_allclose(base, [one.base.mean(axis=0)])
    assert {"A title", "base model", "95 % interval over prompts"} <= set(texts(figure))


def test_the_intervals_are_drawn():
    one = front(["a", "b"], LINE)
    (across, along) = plot_fronts(one).axes[0].containers[0].lines[2]
    low, high = one.interval()
    for lines, i in [(across, 0), (along, 1)]:
        ends = np.array([segment[:, i] for segment in lines.get_segments()])
        np.testing.assert_allclose(ends, np.stack([low[:, i], high[:, i]], axis=1))


@pytest.mark.parametrize(("weights", "m"), [(LINE, 2), (TRIANGLE, 3), (np.eye(5), 5)], ids=str)
def test_a_front_of_one_prompt_has_no_bars(weights, m):
    """Nothing says how uncertain it is; beside others, which have theirs, it has a name in the legend as they do."""

    class NoInterval(Stub):
        def interval(self, level=0.95):
            raise ValueError("`scores` must have at least 2 prompts for intervals, but got 1.")

    measured = front("abcde"[:m], weights)
    one = NoInterval(**{**vars(measured), "scores": measured.scores[:, :1], "base": measured.base[:1]})
    for shown in (one, {"P": one}):
        figure = draw(plot_fronts(shown))
        assert not [text for text in texts(figure) if "interval" in text or "Bar" in text]
        assert not [c for axes in figure.axes for c in axes.containers if c.has_yerr or c.has_xerr]
    both = draw(plot_fronts({"P": one, "Q": measured}))
    assert any("95 % interval over prompts" in text for text in texts(both))


def test_only_triangles_need_mpltern(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpltern", None)
    plot_fronts(front(["a", "b"], LINE))
    plot_fronts(front("abcd", np.eye(4)))
    with pytest.raises(ModuleNotFoundError, match=r"`mpltern` must be installed .*`pip install peft-panacea\[eval\]`"):
        plot_fronts(front("abc", TRIANGLE))


def test_measuring_needs_no_package_for_figures():
    """And a figure without matplotlib is missed by the command that installs it."""
    without = "import sys; sys.modules['matplotlib'] = sys.modules['moocore'] = None; import peft_panacea."
    subprocess.run([sys.executable, "-c", without + "front"], check=True)
    failed = subprocess.run([sys.executable, "-c", without + "plots"], capture_output=True, text=True, check=False)
    message = r"`matplotlib.*` must be installed for this; `pip install peft-panacea\[eval\]` does it\."
    assert re.search(message, failed.stderr)


def test_an_interval_may_lie_on_one_side_of_its_mean():
    class Skewed(Stub):
        def interval(self, level=0.95):
            return np.stack([self.values + 0.1, self.values + 0.2])

    one = front(["a", "b"], LINE)
    draw(plot_fronts(Skewed(**vars(one))))


def test_methods_differ_in_colour_and_marker_and_line():
    fronts = {f"method {k}": front(["a", "b"], LINE[::-1], seed=k) for k in range(7)}
    figure = plot_fronts(fronts)
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_marker() in "os^DvXP"]
    for line, one in zip(lines, fronts.values(), strict=True):
        np.testing.assert_allclose(line.get_xydata(), one.values[::-1])
        assert line.get_markerfacecolor() == "none"  # what lies below shows through
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 7
    assert len({line.get_linestyle() for line in lines}) > 3
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == [*fronts, "base model", "95 % interval over prompts"]


def test_every_seed_is_drawn():
    fronts = {name: [front(["a", "b"], LINE, seed=3 * k + s) for s in range(3)] for k, name in enumerate("PQ")}
    figure = draw(plot_fronts(fronts))
    overview, *panels = figure.axes
    means = [line for line in overview.lines if line.get_marker() in "os"]
    for line, seeds, panel in zip(means, fronts.values(), panels, strict=True):
        np.testing.assert_allclose(line.get_xydata(), np.mean([s.values for s in seeds], axis=0))
        others = [drawn for drawn in panel.lines if drawn.get_linestyle() == ":"]
        own = [drawn for drawn in panel.lines if drawn not in others]
        assert len(others) == 2
        for drawn, seed in zip(own, seeds, strict=True):
            np.testing.assert_allclose(drawn.get_xydata(), seed.values)
    assert [panel.get_title() for panel in panels] == ["P", "Q"]
    assert {"range over seeds", "means, in the small panels"} <= set(texts(figure))
    low = np.min([s.values for s in fronts["P"]], axis=0)
    ends = overview.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([segment[0, 0] for segment in ends], low[:, 0])


def test_seeds_of_a_single_method_share_its_plane():
    seeds = [front(["a", "b"], LINE, seed=s) for s in range(3)]
    (axes,) = plot_fronts({"Panacea": seeds}).axes
    drawn = [line.get_xydata() for line in axes.lines]
    assert all(any(np.array_equal(seed.values, xy) for xy in drawn) for seed in seeds)


def test_the_base_is_drawn_once_if_shared_and_left_out_if_unknown():
    one = front(["a", "b"], LINE)
    assert len(offsets(plot_fronts({"P": one, "Q": one}).axes[0])[-1]) == 1
    assert len(offsets(plot_fronts({"P": one, "Q": front(["a", "b"], LINE, seed=1)}).axes[0])[-1]) == 2
    figure = plot_fronts(front(["a", "b"], LINE, base=False))
    assert len(offsets(figure.axes[0])) == 1
    assert "base model" not in texts(figure)


def test_the_direction_of_minimised_objectives_is_said():
    axes = plot_fronts(front(["good", "toxic"], LINE, maximise=[True, False])).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("good", "toxic\n(lower is better)")
    three = plot_fronts(front("abc", TRIANGLE, maximise=[True, False, True]))
    assert texts(three).count("b\n(lower is better)") == 3  # two planes and a colour bar
    (toxic,) = [a.collections[0] for a in three.axes if a.name == "ternary"][1:2]
    assert toxic.get_cmap().name == "viridis_r"
    many = plot_fronts(front(TEN, MANY, maximise=[False] + [True] * 9))
    assert "objective 0*" in texts(many)
    assert "objective 1*" not in texts(many)
    assert any("* lower is better" in t for t in texts(many))


def test_three_objectives_of_one_front():
    one = front(["a", "b", "c"], TRIANGLE)
    figure = plot_fronts(one)
    planes = [axes for axes in figure.axes if axes.name == "rectilinear"][:3]
    for axes, pair in zip(planes, [[0, 1], [0, 2], [1, 2]], strict=True):
        assert axes.get_xlabel() + axes.get_ylabel() == "".join("abc"[i] for i in pair)
        points, base = offsets(axes)
        order = np.argsort(TRIANGLE[:, 0], kind="stable")
        np.testing.assert_allclose(points, one.values[order][:, pair])
        np.testing.assert_allclose(base, [one.base.mean(axis=0)[pair]])
    triangles = [axes for axes in figure.axes if axes.name == "ternary"]
    assert len(triangles) == 3
    for i, axes in enumerate(triangles):
        np.testing.assert_allclose(axes.collections[0].get_array(), one.values[:, i])
        assert {"a", "b", "c"} <= {t.get_text() for t in axes.texts}
        corner = axes.collections[0].get_offsets()[TRIANGLE[:, 0] == 1]  # the first objective is on top
        assert corner[0, 1] == axes.collections[0].get_offsets()[:, 1].max()
    assert "weight of the\nhorizontal objective" in texts(figure)


def test_three_objectives_of_two_methods_share_their_colours():
    fronts = {"P": [front("abc", TRIANGLE, seed=s) for s in range(2)], "Q": front("abc", TRIANGLE, seed=5)}
    figure = plot_fronts(fronts)
    triangles = [axes for axes in figure.axes if axes.name == "ternary"]
    assert len(triangles) == 6
    for p, q in zip(triangles[::2], triangles[1::2], strict=True):
        assert p.collections[0].get_clim() == q.collections[0].get_clim()
    mean = np.mean([f.values for f in fronts["P"]], axis=0)
    np.testing.assert_allclose(triangles[0].collections[0].get_array(), mean[:, 0])
    assert {"P", "Q", "95 % interval over prompts or range over seeds"} <= set(texts(figure))


def test_many_objectives():
    one = front(TEN, MANY, maximise=[False] + [True] * 9)
    figure = draw(plot_fronts(one))
    assert inside(figure)
    weights, gains = (axes for axes in figure.axes if axes.images)
    order = [*range(10, 0, -1)]  # the vertices, by objective
    np.testing.assert_allclose(weights.images[0].get_array()[:10], MANY[order])
    rest = weights.images[0].get_array()[10:]
    assert sorted(map(tuple, rest.tolist())) == sorted(map(tuple, MANY[[0, 11, 12, 13]].tolist()))
    up = np.where(one.maximise, 1, -1)
    expected = (one.values - one.base.mean(axis=0)) * up / one.base.std(axis=0)
    shown = np.asarray(gains.images[0].get_array())
    np.testing.assert_allclose(shown[:10], expected[order])
    assert shown.diagonal().min() > 0  # the minimised one as well
    assert len(gains.texts) == 140
    assert all(
        abs(float(t.get_text().replace("−", "-")) - g) <= 0.051 for t, g in zip(gains.texts, shown.flat, strict=True)
    )
    labels = [t.get_text() for t in weights.get_yticklabels()]
    assert labels[:2] == ["only objective 0*", "only objective 1"]
    assert labels[-1] == "equal weights"
    (lines,) = [axes for axes in figure.axes if axes.get_ylabel() == "gain"]
    drawn = [line.get_ydata() for line in lines.lines if len(line.get_ydata()) == 10]
    np.testing.assert_allclose(drawn, expected[order])


def test_many_objectives_without_a_base_or_vertices():
    one = front("abcde", np.full((3, 5), 0.2), base=False)
    figure = draw(plot_fronts(one))
    shown = np.asarray([axes.images[0].get_array() for axes in figure.axes if axes.images][1])
    np.testing.assert_allclose(shown, (one.values - one.values.mean(axis=0)) / one.values.std(axis=0))
    assert not any(axes.get_ylabel() == "gain" for axes in figure.axes)
    assert any(t.startswith("gain over the mean of the column") for t in texts(figure))


def test_many_objectives_that_do_not_vary():
    one = front("abcd", np.eye(4))
    draw(plot_fronts(replace(one, scores=np.ones_like(one.scores), base=np.ones_like(one.base))))


def test_a_base_without_spread_but_for_rounding_is_no_unit():
    one = front("abcd", np.eye(4))
    base = np.full_like(one.base, 0.1) + 1e-17 * np.arange(one.base.shape[0])[:, None]
    figure = draw(plot_fronts(replace(one, base=base)))
    assert any(t.startswith("gain over the mean of the column") for t in texts(figure))


def test_many_objectives_of_several_methods_have_a_heat_map_each():
    fronts = {name: [front(TEN, MANY, seed=3 * k + s) for s in range(2)] for k, name in enumerate("PQR")}
    figure = draw(plot_fronts(fronts))
    assert inside(figure)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == 4
    assert len({image.get_clim() for image in images[1:]}) == 1
    assert sum(axes.get_ylabel() == "gain" for axes in figure.axes) == 3


@pytest.mark.parametrize("m", [2, 3, 5])
def test_long_names_stay_on_the_page(m):
    objectives = [f"{LONG}{i}" for i in range(m)]
    grid = simplex_grid(m, 2).numpy()
    fronts = {f"_{LONG}{k}": [front(objectives, grid, seed=s + k, maximise=False) for s in range(k)] for k in (1, 2)}
    for shown in [fronts, front(objectives, grid)][m == 3 :]:  # triangles are slow to draw
        assert inside(draw(plot_fronts(shown, title=LONG * 2)))


def test_no_letter_is_smaller_than_eight_points():
    log = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
    two, three, many = front("ab", LINE), front("abc", TRIANGLE), front(TEN, MANY)
    for figure in (plot_fronts(two), plot_fronts(three), plot_fronts(many), plot_training(log)):
        assert min(t.get_fontsize() for t in draw(figure).findobj(Text)) >= 8
        assert figure.get_size_inches()[0] == pytest.approx(6.4)


def test_shorten():
    assert shorten("length of answer", 12, lines=2) == "length of\nanswer"
    assert shorten("abcdefghij", 5) == "abc…j"
    assert shorten("a$b", 9) == r"a\$b"
    assert shorten("", 9) == ""


A, ABCD = front("ab", LINE), front("abcd", np.eye(4))
BAD = [
    (
        {"P": A, "Q": front("ac", LINE)},
        ValueError,
        "`fronts` must have the same objectives, but got ['a', 'b'] and ['a', 'c'].",
    ),
    (
        {"P": A, "Q": front("ab", LINE, maximise=False)},
        ValueError,
        "`fronts` must have the same maximise, but got [True, True] and [False, False].",
    ),
    ({"P": [A, front("ab", LINE[::-1])]}, ValueError, "`fronts` of one label must have the same preferences"),
    ({"P": ABCD, "Q": front("abcd", np.eye(4)[::-1])}, ValueError, "`fronts` of more than three objectives must have"),
    (front("a", np.ones((1, 1))), ValueError, "`fronts` must have at least two objectives, but got ['a']."),
    ({}, ValueError, "`fronts` must hold at least one front"),
    ({"P": A, "Q": []}, ValueError, "`fronts` must hold at least one front for every label"),
    ([A], TypeError, "`fronts` must be a front or a mapping of labels to fronts, but got list."),
    ({"P": np.ones((3, 2))}, TypeError, "but got ndarray."),
]


@pytest.mark.parametrize(("fronts", "error", "message"), BAD, ids=[bad[2][:60] for bad in BAD])
def test_bad_fronts_are_refused(fronts, error, message):
    with pytest.raises(error, match=re.escape(message)):
        plot_fronts(fronts)


LOG = [
    {"step": 1, "loss": 0.5, "rewards/brevity_8/mean": -6, "rewards/brevity_8/std": 1.0, "kl": 0.0, "lr": 1.0},
    {"step": 2, "eval_loss": 0.4},
    {"step": 2, "loss": 0.4, "rewards/brevity_8/mean": -5, "rewards/brevity_8/std": 1.0, "kl": 0.1, "lr": 0.5},
    {"step": 2, "train_loss": 0.45, "note": "text", "loss_is_finite": True},
]


def test_training_curves():
    figure = draw(plot_training(LOG))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "rewards/brevity_8/mean", "kl"]
    np.testing.assert_allclose(figure.axes[1].lines[0].get_xydata(), [[1, -6], [2, -5]])
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "step", "step"]


def test_training_curves_of_given_names():
    figure = plot_training(LOG, ["lr", "eval_loss"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["lr", "eval_loss"]
    np.testing.assert_allclose(figure.axes[1].lines[0].get_xydata(), [[2, 0.4]])


def test_bad_training_logs_are_refused():
    with pytest.raises(ValueError, match=r"`names` must be of numbers that were logged, \[.*\], but got 'note'\."):
        plot_training(LOG, ["note"])
    for log, names in [([], None), (LOG[:2], None), (LOG, [])]:
        with pytest.raises(ValueError, match="`log_history` must have a loss, reward or kl twice"):
            plot_training(log, names)


@pytest.mark.parametrize(
    ("objectives", "preferences"), [(["a", "b"], LINE), (["a", "b", "c"], TRIANGLE), (TEN, MANY)], ids=["2", "3", "10"]
)
def test_positions_stand_where_the_values_are(objectives, preferences):
    measured = front(objectives, preferences, maximise=[i != 1 for i in range(len(objectives))])
    here = measured.values[[1, 2]].mean(axis=0)
    figure = plot_positions(measured, {"here": here, "there": measured.values[0]})
    FigureCanvasAgg(figure).draw()
    labels = [text.get_text() for text in figure.legends[-1].get_texts()]
    assert [label for label in labels if label != "base model"] == ["here", "there"]
    (drawn,) = (points for points in figure.axes[0].collections if points.get_label() == "here")
    if len(objectives) == 2:
        np.testing.assert_allclose(drawn.get_offsets()[0], here)
    else:  # from the worst to the best
        low, high = measured.values.min(axis=0), measured.values.max(axis=0)
        share = (here - low) / (high - low)
        share[1] = 1 - share[1]
        np.testing.assert_allclose(drawn.get_offsets(), np.stack([share, np.arange(len(objectives))], axis=1))


def test_no_positions_is_a_figure_without_them():
    FigureCanvasAgg(plot_positions(front(TEN, MANY, base=False), {})).draw()
