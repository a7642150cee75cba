import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bptt.bench import cases, command, contenders, grid, report, worker
from bptt.bench.cases import Shape, Task
from bptt.bench.runner import BUILT_IN, Entry, Timing, start

TINY = Task(Shape(3, 2, 4, 5))
ROOT = Path(__file__).parent.parent


def contender(name, task=TINY):
    kind = getattr(contenders, BUILT_IN[name].partition(":")[2])
    try:
        return kind(task, cases.arrays(task))
    except ImportError as absent:
        pytest.skip(str(absent))


@pytest.mark.parametrize("forward_only", [False, True])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["bptt", "numpy"])
def test_a_contender_gives_the_answer(name, dtype, activation, forward_only):
    task = Task(TINY.shape, dtype, activation, forward_only)
    one = contender(name, task)
    one.step()
    off = cases.deviation(one.result(), cases.answer(task))
    assert off <= cases.tolerance(task)


@pytest.mark.parametrize("leaf", cases.GRADIENTS)
def test_a_wrong_gradient_is_noticed(leaf):
    wrong = cases.answer(TINY)
    wrong[leaf] = wrong[leaf] * 1.01
    assert cases.deviation(wrong, cases.answer(TINY)) > cases.tolerance(TINY)


def test_a_missing_gradient_is_noticed():
    with pytest.raises(ValueError, match="a contender gave"):
        cases.deviation({}, cases.answer(TINY))


def test_states_neither_vanish_nor_explode():
    task = Task(Shape(2000, 1, 8, 32), "float64", "relu", forward_only=True)
    last = np.linalg.norm(cases.answer(task)["z"][-1])
    assert 1 < last < 100


def test_flops_count_every_product():
    (T, B, I, H) = TINY.shape
    products = [(B, I, H), (B, H, H)]  # x W, z V; backward da V^T, dV, dW, dx
    products += [(B, H, H), (H, B, H), (I, B, H), (B, H, I)]
    assert TINY.flops() == sum(2 * T * m * k * n for m, k, n in products)
    forward = Task(TINY.shape, forward_only=True)
    assert forward.flops() == sum(2 * T * m * k * n for m, k, n in products[:2])


def test_command_prints_the_table_and_writes_json(tmp_path, capsys):
    path = tmp_path / "bench.json"
    arguments = ["--shapes", "3,2,4,5", "--rounds", "1", "--contenders", "bptt"]
    arguments += ["numpy", "--threads", "1", "--json", str(path)]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    for column in ("T, B, I, H", "bptt ms", "numpy ms", "vs numpy", "GFLOP/s"):
        assert column in printed
    assert "wrong result" not in printed

    content = json.loads(path.read_text())
    assert {"cpu", "processors", "caches", "system", "date", "bptt"} <= set(
        content["machine"]
    )
    (row,) = content["rows"]
    assert row["shape"] == {"T": 3, "B": 2, "I": 4, "H": 5}
    assert row["flops"] == TINY.flops()
    assert set(row["ratios"]) == {"numpy"}
    assert [t["name"] for t in row["timings"]] == ["bptt", "numpy"]
    for timing in row["timings"]:
        assert len(timing["rounds"]) == 1
        assert timing["agrees"]
        assert 0 < timing["minimum"] <= timing["median"]


def test_grid_prints_the_costs(capsys):
    arguments = ["--grid", "--shapes", "2,1,4,4", "2,1,5,5", "2,2,4,4", "2,2,5,5"]
    assert command.main([*arguments, "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "B=1" in printed
    assert "holes above" in printed


def test_a_broken_contender_is_reported_and_the_others_run():
    entries = [
        Entry("broken", "bptt.bench.contenders:Nothing", 1),
        Entry("numpy", BUILT_IN["numpy"], 1),
    ]
    with start(entries) as runner:
        broken, numpy = runner.measure(TINY, rounds=1)
    assert "Nothing" in broken.absent
    assert len(numpy.rounds) == 1


class Mortal:
    """A contender that dies in its second step, unless the state is wide."""

    version = "1"

    def __init__(self, task, inputs):
        self.steps, self.wide = 0, task.shape.H > 5

    def step(self):
        self.steps += 1
        if self.steps > 2 and not self.wide:
            os._exit(1)

    def result(self):
        return None


def test_a_contender_that_dies_gets_another_chance_at_the_next_task(monkeypatch):
    # Its last words are looked at: those of an absent extension are not among them.
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::RuntimeWarning")
    entry = Entry("mortal", "test_bench:Mortal", 1, str(Path(__file__).parent))
    with start([entry]) as runner:
        (dead,) = runner.measure(TINY, rounds=1)
        (alive,) = runner.measure(Task(Shape(3, 2, 4, 6)), rounds=1)
    assert dead.absent == "ended without a word"
    assert not dead.rounds
    assert len(alive.rounds) == 1


def test_an_absent_framework_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    one = worker.Worker(BUILT_IN["torch"])
    reply = one.prepare({"shape": TINY.shape}, None)
    assert "torch" in reply["absent"]


def test_ratio_is_against_the_faster_setting_of_a_peer():
    timings = [
        Timing("bptt", 1, rounds=[1.0]),
        Timing("bptt", 2, rounds=[2.0]),
        Timing("peer", 1, rounds=[8.0, 10.0, 90.0]),
        Timing("peer", 2, rounds=[50.0]),
        Timing("peak", 2, rounds=[0.5], work=1e9),
    ]
    row = report.Row(TINY, timings)
    assert row.ratio("peer") == 5
    assert row.peak() == 2
    assert row.ratio("nobody") is None


def test_grid_has_every_cell_once():
    shapes = grid.shapes()
    assert len(set(shapes)) == len(shapes)
    header, cells = grid.table(dict.fromkeys(shapes, 1.0))
    assert len(cells) == len(grid.STEPS) * len(grid.HIDDEN)
    assert len(header) == 2 + len(grid.BATCH)


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,x", "0,1,1,1"])
def test_a_malformed_shape_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        command.main(["--shapes", text])
    assert "a shape is T,B,I,H, each at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--threads", "0", "must be a positive integer, got '0'"),
        ("--threads", "two", "must be a positive integer, got 'two'"),
        ("--rounds", "-1", "must be a positive integer, got '-1'"),
        ("--seconds", "0", "must be a number above 0, got '0'"),
        ("--seconds", "nan", "must be a number above 0, got 'nan'"),
        ("--json", "none/run.json", "must be a file in a folder, got 'none/run.json'"),
        ("--json", ".", "must be a file in a folder, got '.'"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_timed(
    option, text, message, capsys
):
    with pytest.raises(SystemExit) as ended:
        command.main([option, text, "--shapes", "1,1,1,1", "--contenders", "bptt"])
    assert ended.value.code == 2
    assert f"argument {option}: {message}" in capsys.readouterr().err


@pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="not run in the repository")
def test_module_of_the_repository_offers_onednn_and_the_peak():
    done = subprocess.run(
        [sys.executable, "-c", "from bench.__main__ import TARGETS; print(*TARGETS)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert {"onednn", "peak", *BUILT_IN} == set(done.stdout.split())
