"""``bptt flow``: what it prints, and the page it writes."""

import json
import re

import numpy as np
import pytest
from command import SMALL, TEXT, bptt

import bptt as package
from bptt.network import Network

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
        (["--task", "copying"], "argument --task: invalid choice: 'copying'"),
        (["--task", "adding", "--activation", "tan"], "activation must be one of"),
    ],
)
def test_wrong_commands(arguments, message, folder):
    Network(3, 5, 2, loss="squared_error", seed=0).save(folder / "n2.npz")
    np.savez(folder / "half.npz", x=np.ones((3, 2)), W=np.ones((2, 2)))
    _, err = bptt(folder, "flow", *arguments, code=2)
    assert message in err
    assert err.count("\n") == 1
