"""``bptt flow``: what it prints, and the page it writes."""

import json
import re

import numpy as np
import pytest
from command import SMALL, TEXT, bptt

import bptt as package
from bptt.cli import report, watch
from bptt.history import History
from bptt.network import Network
from bptt.network_flow import layer_flows

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow")
    (folder / "text.txt").write_text(TEXT)
    bptt(folder, "train", "text.txt", "-o", "m.npz", *SMALL)
    return folder


def test_a_task_gets_a_verdict_a_table_and_a_page(folder):
    out, _ = bptt(folder, "flow", "--task", "adding", "--length", "40", "-o", "a.html")
    assert out.startswith("Vanishing: the gradient falls to 1 % in ")
    for name in ("horizon", "spectral radius", "saturated", "dead", "written  a.html"):
        assert name in out
    page = (folder / "a.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.count("<figure>") == page.count("</svg>") == 7
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    # Nothing is fetched from elsewhere, and no two pictures share a name.
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))
    # Each picture is told in words, to who reads and to who listens.
    told = re.findall(r'<svg role="img" aria-labelledby="([^"]+)"', page)
    words = re.findall(r'<figcaption id="([^"]+)">[^<]{40,}</figcaption>', page)
    assert len(told) == 7
    assert told == words


def test_a_model_of_characters_reads_text_and_shows_its_training(folder):
    training = Network.load(folder / "m.npz").metadata["training"]
    assert len(training["norm"]) == 30
    assert training["clip"] == 1.0
    arguments = ["--text", "text.txt", "--length", "20", "-o", "m.html"]
    bptt(folder, "flow", "m.npz", *arguments)
    page = (folder / "m.html").read_text()
    assert page.count("<figure>") == 8
    out, _ = bptt(folder, "flow", "m.npz", "--text", "text.txt", "--json")
    result = json.loads(out)
    assert result["subject"] == "m.npz"
    assert result["sizes"] == {"T": 100, "B": 8, "I": len({*TEXT}) + 1, "H": 8}


def test_norms_are_drawn_at_the_steps_they_are_of(monkeypatch):
    monkeypatch.setattr(watch, "KEPT", 10)
    history = History()
    for norm in range(1, 36):
        history.add(1.0, float(norm), False, 0.1)
    kept = watch.Watch(None, None).kept(history, 5.0)
    ax = report._around(kept)["clipping"]()
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), ax.lines[0].get_ydata())
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), np.arange(1, 36, 4))
    assert "clipping" not in report._around(kept | {"every": "4"})


@pytest.mark.parametrize(
    ("horizon", "drawn"),
    [([[1, 4.5], [51, 7.0]], 1), ([], 0), ([[1]], 0), ([["a", 2.0]], 0), (3, 0)],
)
def test_the_horizon_while_it_was_trained_is_drawn(horizon, drawn, folder):
    network = Network.load(folder / "m.npz")
    network.metadata["training"]["horizon"] = horizon
    network.save(folder / "h.npz")
    bptt(folder, "flow", "h.npz", "--text", "text.txt", "--length", "9", "-o", "h.html")
    page = (folder / "h.html").read_text()
    assert page.count("How many steps back the gradient reached meanwhile") == drawn


@pytest.mark.parametrize(
    ("loss", "readout"), [("squared_error", "last"), ("binary_cross_entropy", "every")]
)
def test_another_model_gets_random_input(loss, readout, folder):
    Network(3, 5, 2, loss=loss, readout=readout, seed=0).save(folder / "n.npz")
    out, _ = bptt(folder, "flow", "n.npz", "--json", "--length", "12")
    assert json.loads(out)["sizes"] == {"T": 12, "B": 8, "I": 3, "H": 5}


def test_a_file_of_arrays(folder, rng):
    x, W, V = (rng.standard_normal(s) for s in [(9, 2, 3), (3, 4), (4, 4)])
    dz = rng.standard_normal((9, 2, 4))
    np.savez(folder / "arrays.npz", x=x, W=W, V=V, dz=dz, activation="sigmoid")
    out, _ = bptt(folder, "flow", "arrays.npz", "--json")
    _, tape = package.forward(x, W, V, activation="sigmoid")
    expected = package.gradient_flow(tape, dz).to_dict()
    assert json.loads(out) == {"subject": "arrays.npz", **expected}


def test_arrays_may_have_lengths_and_resets(folder, rng):
    x, W, V = (rng.standard_normal(s) for s in [(9, 2, 3), (3, 4), (4, 4)])
    options = {"lengths": [9, 4], "resets": rng.random((9, 2)) < 0.3}
    dz_last = rng.standard_normal((2, 4))
    np.savez(folder / "ragged.npz", x=x, W=W, V=V, dz_last=dz_last, **options)
    out, _ = bptt(folder, "flow", "ragged.npz", "--json")
    _, tape = package.forward(x, W, V, **options)
    expected = package.gradient_flow(tape, dz_last=dz_last).to_dict()
    assert json.loads(out) == {"subject": "ragged.npz", **expected}


@pytest.mark.parametrize("readout", ["every", "last"])
@pytest.mark.parametrize(("num_layers", "bidirectional"), [(2, False), (1, True)])
def test_each_layer_gets_a_verdict_a_table_and_pictures(
    num_layers, bidirectional, readout, folder
):
    network = Network(
        3, 5, 2, loss="squared_error", readout=readout, num_layers=num_layers,
        bidirectional=bidirectional, seed=0,
    )  # fmt: skip
    network.save(folder / "stack.npz")
    names = ["Layer 1", "Layer 2"]
    if bidirectional:
        names = ["Layer 1, from the first step", "Layer 1, from the end"]
    given = ["flow", "stack.npz", "--length", "30"]
    out, _ = bptt(folder, *given, "-o", "stack.html")
    assert [line for line in out.splitlines() if line.startswith("Layer")] == names
    assert out.count("\nspectral radius") == 2
    page = (folder / "stack.html").read_text()
    assert re.findall(r"<h2>([^<]*)</h2>", page) == names
    assert page.count("<figure>") == page.count("</svg>") == 2 * 6 + 1
    found = re.findall(r'\bid="([^"]+)"', page)
    assert len(found) == len(set(found))

    out, _ = bptt(folder, *given, "--json")
    result = json.loads(out)
    assert result.keys() == {"subject", "layers"}
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 8, 3)).astype(np.float32)
    target = rng.standard_normal((30, 8, 2) if readout == "every" else (8, 2))
    places = [(1, "forward"), (1, "reverse") if bidirectional else (2, "forward")]
    flows = layer_flows(network, x, target)
    for one, flow, place in zip(result["layers"], flows, places, strict=True):
        assert (one.pop("layer"), one.pop("direction")) == place
        assert one == flow.to_dict()


def test_a_layer_below_dead_ones_is_told_that_no_gradient_comes(folder):
    network = Network(
        3, 5, 2, loss="squared_error", num_layers=2, activation="relu", seed=0
    )
    network.params["b_l1"][...] = -100
    network.save(folder / "dead.npz")
    out, _ = bptt(folder, "flow", "dead.npz", "--length", "20", "-o", "dead.html")
    none, dead = "No gradient: none comes to this layer.", "Dead: "
    assert out.startswith(f"Layer 1\n\n{none}\n\nLayer 2\n\n{dead}")
    page = (folder / "dead.html").read_text()
    assert f"<h2>Layer 1</h2><p>{none}</p>" in page
    assert page.count("<figure>") == 4 + 6 + 1
    out, _ = bptt(folder, "flow", "dead.npz", "--length", "20", "--json")
    first, second = json.loads(out)["layers"]
    assert first == {
        "layer": 1, "direction": "forward", "kind": "no gradient", "verdict": none
    }  # fmt: skip
    assert second["kind"] == "dead"


def test_a_model_that_is_not_finite_gets_its_page(folder):
    network = Network(3, 5, 2, loss="squared_error", seed=0)
    network.params["V"][0, 0] = np.nan
    network.save(folder / "nan.npz")
    out, _ = bptt(folder, "flow", "nan.npz", "--length", "20", "-o", "nan.html")
    assert out.startswith("Not finite: dL/dz[20]")
    assert "horizon          not finite" in out
    assert (folder / "nan.html").read_text().count("<figure>") == 7


def test_the_live_line_has_norm_clipping_and_horizon(folder):
    _, err = bptt(folder, "train", "text.txt", "-o", "live.npz", *SMALL)
    assert re.search(
        r"step 30 of 30: .* bits/char, \|g\| .*, clipped \d+%, horizon", err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of MODEL and --task must be given"),
        (["m.npz", "--task", "adding"], "one of MODEL and --task must be given"),
        (["none.npz"], "none.npz: No such file or directory"),
        (["m.npz", "--json", "-o", "x.html"], "--json writes no report"),
        (["n2.npz", "--text", "text.txt"], "--text is for models of characters"),
        (["half.npz"], "half.npz must hold x, W, V and dz or dz_last"),
        (["none.npz", "--length", "0"], "argument --length: must be at least 1, got 0"),
        (["--task", "adding", "--length", "1"], "--length must be at least 2"),
        (["--task", "adding", "--text", "text.txt"], "--text is for models of char"),
        (["m.npz", "--hidden", "64"], "--hidden is for --task, got m.npz"),
        (["n2.npz", "--init", "zeros"], "--init is for --task, got n2.npz"),
        (
            ["whole.npz", "--batch-size", "8"],
            "--batch-size is for a model or --task, got the arrays of whole.npz",
        ),
        (["whole.npz", "--text", "text.txt"], "--text is for a model or --task, got"),
        (["silent.npz"], "dz must not be 0 everywhere: the loss has no gradient"),
        (["--task", "copying"], "argument --task: invalid choice: 'copying'"),
        (["--task", "adding", "--activation", "tan"], "activation must be one of"),
    ],
)
def test_wrong_commands(arguments, message, folder):
    Network(3, 5, 2, loss="squared_error", seed=0).save(folder / "n2.npz")
    arrays = {name: np.ones((3, 3)) for name in ("x", "W", "V", "dz")}
    np.savez(folder / "whole.npz", **arrays)
    np.savez(folder / "silent.npz", **{**arrays, "dz": np.zeros((3, 3))})
    del arrays["V"]
    np.savez(folder / "half.npz", **arrays)
    _, err = bptt(folder, "flow", *arguments, code=2)
    assert message in err
    assert err.count("\n") == 1
