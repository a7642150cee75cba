"""The pictures: each draws what it says, into a given Axes or one of its own."""

import io

import numpy as np
import pytest
from tolerances import exact_bound

import bptt
from bptt.flow import cliff

pytest.importorskip("matplotlib")
from bptt import plots


@pytest.fixture
def tape(rng):
    x, W = rng.standard_normal((30, 2, 3)), rng.standard_normal((3, 6))
    return bptt.forward(x, W, rng.standard_normal((6, 6)) / 3)[1]


@pytest.fixture
def flow(tape):
    return bptt.gradient_flow(tape, dz_last=np.ones((2, 6)))


def pictures(tape, flow):
    return {
        "gradient_norms": lambda ax: plots.gradient_norms(flow, ax),
        "gradient_norms of two": lambda ax: plots.gradient_norms(
            {"a": flow, "b": flow}, ax
        ),
        "decay": lambda ax: plots.decay(flow, ax),
        "product_norms": lambda ax: plots.product_norms(tape, ax),
        "singular_values": lambda ax: plots.singular_values(tape, points=4, ax=ax),
        "eigenvalues": lambda ax: plots.eigenvalues(tape.V, ax),
        "saturation": lambda ax: plots.saturation(tape, ax),
        "loss_cliff": lambda ax: plots.loss_cliff(ax),
        "clipping": lambda ax: plots.clipping([3.0, 0.5, 2.0], 1.0, ax),
        "horizons": lambda ax: plots.horizons([1, 51, 101], [3.0, 9.5, np.inf], ax),
    }


@pytest.mark.parametrize("name", pictures(None, None))
def test_each_draws_into_an_axes_of_its_own_or_a_given_one(name, tape, flow):
    from matplotlib.figure import Figure

    draw = pictures(tape, flow)[name]
    ax = draw(None)
    assert ax.get_title()
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert ax.figure.patch.get_alpha() == 0
    ax.figure.savefig(io.BytesIO(), format="svg")
    given = Figure().subplots()
    assert draw(given) is given


def test_a_horizon_that_is_infinite_is_a_gap():
    (line,) = plots.horizons([1, 51, 101], [3.0, np.inf, 9.5]).lines
    np.testing.assert_array_equal(line.get_xdata(), [1, 51, 101])
    np.testing.assert_array_equal(line.get_ydata(), [3.0, np.nan, 9.5])
    with pytest.raises(ValueError, match=r"horizon must have shape \(n,\) = \(1,\)"):
        plots.horizons([1], [3.0, 2.0])


@pytest.mark.parametrize("name", ["decay", "product_norms", "loss_cliff"])
def test_letters_in_a_given_axes_are_of_its_colour(name, tape, flow):
    from matplotlib.colors import same_color
    from matplotlib.figure import Figure

    figure = Figure()
    ax = pictures(tape, flow)[name](figure.subplots())
    bar = [other for other in figure.axes if other is not ax]
    letters = [*ax.texts, *(bar[0].get_yticklabels() if bar else [])]
    letters += [] if bar else ax.get_legend().get_texts()
    assert letters
    for letter in letters:
        assert same_color(letter.get_color(), "black")


def test_lines_are_the_numbers(tape, flow):
    line = plots.gradient_norms(flow).lines[0]
    np.testing.assert_array_equal(line.get_ydata(), flow.log10_norm_all)
    measured, bound = plots.decay(flow).lines[:2]
    np.testing.assert_array_equal(measured.get_ydata(), flow.log10_decay)
    np.testing.assert_array_equal(bound.get_ydata(), flow.log10_bound)
    before, after = plots.clipping([3.0, 0.5, 2.0], 1.0, step=[1, 8, 15]).lines[:2]
    np.testing.assert_array_equal(after.get_xdata(), [1, 8, 15])
    before, after = plots.clipping([3.0, 0.5, 2.0], 1.0).lines[:2]
    np.testing.assert_array_equal(before.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(before.get_ydata(), [3.0, 0.5, 2.0])
    np.testing.assert_array_equal(after.get_ydata(), [1.0, 0.5, 1.0])
    circle, values = plots.eigenvalues(tape.V).lines
    np.testing.assert_array_equal(
        np.sort(values.get_xdata()), np.sort(np.linalg.eigvals(tape.V).real)
    )
    assert (np.abs(np.hypot(*circle.get_data()) - 1) <= exact_bound(1)).all()


def test_the_histogram_has_each_unit_once(tape):
    bars = plots.saturation(tape).patches
    total = sum(bar.get_height() for bar in bars)
    assert abs(total - 1) <= exact_bound(20)
    share = (1 - np.square(tape.z[1:]) < 0.05).mean()
    assert abs(bars[0].get_height() - share) <= exact_bound(1)


def test_a_vanished_gradient_is_a_gap_in_the_line(rng):
    _, tape = bptt.forward(rng.random((9, 1)), np.ones((1, 2)), np.zeros((2, 2)))
    flow = bptt.gradient_flow(tape, dz_last=np.ones(2))
    drawn = plots.gradient_norms(flow).lines[0].get_ydata()
    assert np.isnan(drawn[:-1]).all()
    assert np.isfinite(drawn[-1])
    assert plots.decay(flow).get_title()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_eigenvalues_of_what_is_not_finite_are_none(bad):
    V = np.eye(3)
    V[0, 1] = bad
    ax = plots.eigenvalues(V)
    assert ax.get_title() == "Eigenvalues of V, which is not finite"
    assert len(ax.lines[1].get_xdata()) == 0


def test_a_sequence_without_a_step_has_no_singular_values():
    tape = bptt.forward(np.zeros((0, 2, 1)), np.ones((1, 2)), np.eye(2))[1]
    ax = plots.singular_values(tape)
    assert len(ax.lines[0].get_xdata()) == 0


def test_the_cliff_throws_descent_back_unless_it_is_clipped():
    wild, clipped = cliff.descend(), cliff.descend(clip=0.1)
    assert wild[:, 3].max() > 50  # the wall
    assert wild[-1, 2] > 0.08  # far away on the plain
    assert clipped[-1, 2] < 0.001
    moves = np.hypot(*np.diff(clipped[:, :2], axis=0).T)
    assert moves.max() <= 0.2 * 0.1 + exact_bound(8)


def test_the_surface_is_that_of_the_network():
    path = cliff.descend(steps=5)
    loss = cliff.loss_surface(path[:, 0], path[:, 1])
    np.testing.assert_allclose(loss, path[:, 2], rtol=exact_bound(5000))


def test_a_ragged_batch_is_drawn_as_its_sequences(rng):
    x = [rng.standard_normal((n, 3)) for n in (9, 30, 12)]
    W, V = rng.standard_normal((3, 6)), rng.standard_normal((6, 6)) / 3
    resets = [np.arange(len(a)) == 4 for a in x]
    _, tape = bptt.forward(x, W, V, resets=resets)
    z = np.concatenate([bptt.forward(x[0][4:], W, V)[0]])
    last = plots.last_steps(tape, 100)
    assert len(last.x) == 5
    np.testing.assert_allclose(last.z[1:, 0], z, rtol=exact_bound(100))
    flow = bptt.gradient_flow(tape, dz_last=np.ones((3, 6)))
    for draw in pictures(tape, flow).values():
        assert draw(None).get_title()
    every = np.concatenate(bptt.forward(x, W, V, resets=resets)[0])
    share = (1 - np.square(every) < 0.05).mean()
    first = plots.saturation(tape).patches[0].get_height()
    assert abs(first - share) <= exact_bound(1)
