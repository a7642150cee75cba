"""The layers: imports go down only, and `import bptt` brings in nothing else."""

import ast
import subprocess
import sys
from pathlib import Path

import bptt

PACKAGE = Path(bptt.__file__).parent

# From the ground up. A module may import those of lower levels, and its own package.
LEVELS = [
    {"_aligned", "_dropout", "_ids", "_parts", "_validation", "activations"},
    {
        "_lengths",
        "_threads",
        "_recompute",
        "_reference_parts",
        "_reference_tangents",
        "_tape",
    },
    {"_kernels", "_reference"},
    {"_backend"},
    {"_at_once", "_forms", "_totals"},
    {"_asked", "_halves", "_leaves", "_reuse", "_zigzag"},
    {"clipping", "_inputs", "_runs", "_sources"},
    {"_sides"},
    {"_sides_ragged"},
    {"_layers", "_layers_both", "recurrence", "streaming"},
    {"_errors_both", "_layer_tapes", "flow", "initializers", "losses", "schedules"},
    {
        "_both_ways",
        "_directions",
        "_parameters",
        "_torch_names",
        "optimizers",
        "serialization",
    },
    {"_stack_tape"},
    {"_omega", "_stack"},
    {"_network_file", "_pieces", "_readout", "_stack_inputs", "_window", "rnn"},
    {"network", "truncation"},
    {"_drawing", "_interrupts", "data", "history", "network_flow"},
    {"_progress", "_walk"},
    {"_checkpoint"},
    {"training"},
    {"plots"},
    {"bench"},
    {"cli"},
]
LEVEL = {name: n for n, level in enumerate(LEVELS) for name in level}


def modules():
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if name not in ("__init__", "__main__"):
            yield name, path


def imported(path):
    """Return the modules of bptt that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            first, *rest = node.module.split(".")
            if first == "bptt":
                yield from rest[:1] or (a.name for a in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("bptt."):
                    yield alias.name.split(".")[1]


def test_every_module_has_a_level():
    assert {name for name, _ in modules()} | {"_kernels"} == set(LEVEL)


def test_imports_go_down_only():
    upward = [
        (name, other)
        for name, path in modules()
        for other in imported(path)
        if other in LEVEL and other != name and LEVEL[other] > LEVEL[name]
    ]
    assert upward == []


def test_import_brings_in_numpy_and_nothing_else():
    code = (
        "import sys, numpy; before = set(sys.modules); import bptt;"
        "print(*sorted({n.split('.')[0] for n in set(sys.modules) - before}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    extra = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert {name for name in extra if "cython" not in name} <= {"bptt", "numpy"}


def test_the_door_is_small():
    assert len(bptt.__all__) <= 20
