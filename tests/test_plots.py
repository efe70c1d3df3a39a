"""The pictures: what is drawn, what is refused, and that a file comes out."""

import io
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

import torchreg as tr
from torchreg import plots


def series(kind: str) -> Figure:
    if kind == "frontier":
        return plots.frontier(
            {"loss": [(0.0, 0.97)], "proximal": [(0.8, 0.97), (1.0, 0.1)]},
            chosen={"proximal": (0, 0.96)},
            lowest=0.9,
        )
    if kind == "histograms":
        return plots.weight_histograms({"a": torch.eye(5), "b": torch.zeros(3), "c": torch.ones(2)})
    if kind == "map":
        return plots.input_map({"w": torch.eye(4)[:2]}, (2, 2), example=torch.ones(2, 2))
    return plots.training_curves([0, 1], {"a": [1.0, 0.1]}, {"a": [0.0, 0.5]})


def panels(figure: Figure) -> list[Any]:
    """The axes, whose artists matplotlib types too loosely to read."""
    return list(figure.axes)


def test_a_path_of_one_point_or_down_to_zero_is_drawn_whole() -> None:
    x, model = torch.eye(3, dtype=torch.float64), torch.nn.Linear(3, 1, dtype=torch.float64)
    regularizer, loss = tr.Regularizer(model, tr.L1(1.0)), tr.LeastSquares(x, x[:, 0])
    for strengths in ([0.0], [0.1], [0.2, 0.0], [0.5, 0.1]):
        found = tr.path(regularizer, loss, strengths=strengths)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure = plots.regularization_path(found, names=["a" * 60, "b", "c"])
            figure.savefig(io.BytesIO())
        coefficients, _, counts, _ = panels(figure)
        high, low = counts.get_xlim()
        assert high > max(strengths)
        assert low < min(strengths)  # no marker on the edge is cut
        assert counts.get_ylim()[0] < 0
        assert len(strengths) > 1 or coefficients.get_lines()[0].get_marker() == "o"
        assert len(coefficients.get_legend().get_texts()[0].get_text()) <= 28


KINDS = ["frontier", "histograms", "map", "curves"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_is_written_as_a_png_that_shows_something(kind: str) -> None:
    figure = series(kind)
    file, raw = io.BytesIO(), io.BytesIO()
    figure.savefig(file, format="png", dpi=60)
    assert file.getvalue().startswith(b"\x89PNG")
    figure.savefig(raw, format="rgba", dpi=60)
    pixels = torch.frombuffer(bytearray(raw.getvalue()), dtype=torch.uint8)
    assert (pixels < 128).float().mean() > 0.001


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_leaves_the_picture(kind: str) -> None:
    figure = series(kind)
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.get_tightbbox()
    assert box is not None
    x0, y0, x1, y1 = (edge * figure.dpi for edge in box.extents)
    assert x0 >= -1
    assert y0 >= -1
    assert x1 <= width + 1
    assert y1 <= height + 1


def test_points_without_an_exact_zero_stand_in_the_left_panel() -> None:
    left, right = panels(series("frontier"))
    drawn = [line for line in left.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert [list(line.get_ydata()) for line in drawn] == [[0.97]]
    kept = next(line for line in right.lines if line.get_marker() == "s")
    assert list(kept.get_xdata()) == pytest.approx([0.2])


def test_what_is_not_drawn_is_counted_above_its_own_panel() -> None:
    left, right = panels(series("frontier"))
    assert left.get_title(loc="left") == ""
    assert right.get_title(loc="left") == "not drawn: 1 run below\n90% validation accuracy"


def test_the_chosen_point_is_joined_to_its_other_accuracy() -> None:
    right = panels(series("frontier"))[1]
    (join,) = [line for line in right.lines if len(line.get_xdata()) == 2]
    assert list(join.get_xdata()) == pytest.approx([0.2, 0.2])
    assert list(join.get_ydata()) == [0.97, 0.96]


@pytest.mark.parametrize(
    ("points", "label"), [([(0.0, 0.9), (0.0, 0.8)], "no exact"), ([(0.5, 0.9)], "exact zeros")]
)
def test_a_panel_without_points_is_left_out(points: plots.Points, label: str) -> None:
    (only,) = panels(plots.frontier({"a": points}))
    assert only.get_xlabel().startswith(label)
    assert only.get_ylabel() == "validation accuracy"


def test_the_legend_shows_a_line_where_one_is_drawn() -> None:
    figure = plots.frontier({"a": [(0.0, 0.9), (0.0, 0.8)], "b": [(0.5, 0.9), (0.6, 0.9)]})
    styles = [handle.get_linestyle() for handle in figure.legends[0].get_lines()]
    assert styles == ["None", "--"]


def test_lines_that_coincide_are_named() -> None:
    none, some = [0.0, 0.0], [0.0, 0.5]
    figure = plots.training_curves(
        [0, 1],
        {"a": [1.0, 0.1], "b": [1.0, 0.2], "c": [1.0, 0.3]},
        {"a": none, "b": some, "c": none},
    )
    assert [axes.get_title(loc="left") for axes in panels(figure)] == ["", "on one line at 0: a, c"]


def test_exact_zeros_are_one_bar_and_every_weight_is_counted_once() -> None:
    weights = torch.tensor([0.0, 0.0, 1e-30, 1e-4, -2.0, 3.0])
    axes = panels(plots.weight_histograms({"w": weights}))[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert sum(heights) == 6
    assert heights[-1] == 2
    assert axes.texts[0].get_text() == "exact zeros: 33.3%"


def test_a_nearly_zero_weight_is_not_an_exact_zero() -> None:
    axes = panels(plots.weight_histograms({"w": torch.full((4,), 1e-12)}))[0]
    assert axes.texts[0].get_text() == "exact zeros: 0"


def test_unused_inputs_are_crossed_out() -> None:
    axes = panels(plots.input_map({"w": torch.tensor([[0.0, 1.0, 2.0, 0.0]])}, (2, 2)))[0]
    (crosses,) = axes.lines
    assert list(zip(crosses.get_xdata(), crosses.get_ydata(), strict=True)) == [(0, 0), (1, 1)]


def test_colours_follow_the_order_of_the_names() -> None:
    curves = series("curves").axes[0].lines[0].get_color()
    assert series("frontier").axes[0].lines[0].get_color() == curves


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: plots.frontier({}), "at least one series"),
        (lambda: plots.frontier({"a": []}), "'a' is empty"),
        (lambda: plots.frontier({"a": [(98.0, 0.5)]}), "fractions in \\[0, 1\\]"),
        (lambda: plots.frontier({"a": [(0.0, float("nan"))]}), "fractions"),
        (lambda: plots.frontier({"a": [(0, 1)]}, chosen={"b": (0, 1)}), "not among the series"),
        (lambda: plots.frontier({"a": [(0, 1)]}, chosen={"a": (1, 1)}), "no point 1 among 1"),
        (lambda: plots.frontier({str(i): [(0, 1)] for i in range(9)}), "at most 8"),
        (lambda: plots.weight_histograms({"a": torch.tensor([float("nan")])}), "not all finite"),
        (lambda: plots.weight_histograms({"a": torch.empty(0)}), "empty"),
        (lambda: plots.input_map({"a": torch.ones(2, 5)}, (2, 2)), "shaped \\(outputs, 4\\)"),
        (
            lambda: plots.input_map({"a": torch.ones(2, 4)}, (2, 2), example=torch.ones(3)),
            "example of 2 x 2",
        ),
        (lambda: plots.training_curves([0], {"a": [1.0]}, {"b": [0.0]}), "other names"),
        (lambda: plots.training_curves([0], {"a": [1.0, 2.0]}, {"a": [0.0]}), "expected 1 numbers"),
    ],
)
def test_bad_input_is_told(call: object, told: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=told):
        call()


def test_without_matplotlib_the_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['matplotlib.figure'] = None\n"
        "import torchreg\n"
        "try: torchreg.plots\n"
        "except ImportError as error: print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert 'pip install "torchreg-prox[experiments]"' in told.stdout
