"""Wrong commands and broken files: each is one line, with what was wrong, and code 2."""

import json
import os
import shlex
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from command import BPTT, ENVIRONMENT, SMALL, TEXT, WARNINGS, bptt

from bptt import serialization
from bptt.network import Network


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "text.txt").write_text(TEXT)
    bptt(folder, "train", "text.txt", "-o", "m.npz", *SMALL)
    return folder / "m.npz"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["train", "none.txt"], "none.txt: No such file or directory"),
        (["train", "."], ".: Is a directory"),
        (
            ["train", "short.txt", "--length", "64", "--batch-size", "32"],
            "short.txt: --length 64 and --batch-size 32 need at least 2,112 characters to train on, got 36",
        ),
        (
            ["train", "empty.txt"],
            "empty.txt: too little text; 30 characters to train on and 3 held out are needed, got 0 and 0",
        ),
        (
            ["train", "text.txt", "--held-out", "0.0001"],
            "text.txt: too little text; 30 characters to train on and 3 held out are needed, got 5399 and 1",
        ),
        (
            ["train", "same.txt"],
            "same.txt: the text to train on must have at least 2 different characters, got only 'a'",
        ),
        (
            ["train", "text.txt", "--alphabet", "1"],
            "--alphabet: must be at least 2, got 1",
        ),
        (
            ["train", "text.txt", "-o", "folder.npz"],
            "error: folder.npz: Is a directory",
        ),
        (
            ["train", "text.txt", "-o", "/proc/m.npz"],
            "error: /proc/m.npz: No such file or directory",
        ),
        (
            ["train", "text.txt", "--hidden", "9" * 23],
            "--hidden: must be at most 9223372036854775807, got 9999",
        ),
        (
            ["train", "text.txt", "--hidden", "9" * 18],
            "input_size, hidden_size and output_size must make arrays of less than 2**63 bytes, got W (I, H)",
        ),
        (
            ["sample", "foreign.npz", "--length", "9" * 20],
            "--length: must be at most 9223372036854775807",
        ),
        (["train", "text.txt", "-o", "m.pt"], "--output must end in .safetensors"),
        (["train", "text.txt", "-o", "no/m.npz", *SMALL], "error: no: No such file"),
        (["train", "text.txt", "-o", "text.txt/m.npz"], "text.txt: No such file"),
        (["train", "text.txt", "--steps", "0"], "--steps: must be at least 1, got 0"),
        (["train", "text.txt", "--steps", "x"], "--steps: must be an integer, got 'x'"),
        (["train", "text.txt", "--clip", "-1"], "--clip: must be above 0, got -1"),
        (["train", "text.txt", "--clip", "nan"], "--clip: must be finite, got nan"),
        (["train", "text.txt", "--held-out", "1"], "must be between 0 and 1, got 1"),
        (["train", "text.txt", "--activation", "gelu"], "activation must be one of"),
        (["train", "text.txt", "--resume"], "No such file or directory"),
        (
            ["train", "text.txt", "--resume", "-o", "foreign.npz"],
            "not the checkpoint of",
        ),
        (["sample", "none.npz"], "none.npz: No such file or directory"),
        (["sample", "text.txt"], "text.txt is not a model file, or is damaged"),
        (["sample", "foreign.npz"], "foreign.npz is not a model of characters"),
        (["sample", "foreign.npz", "--temperature", "-1"], "must be at least 0"),
        (["sample", "foreign.npz", "--prompt", ""], "--prompt must have at least one"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(folder, args, message):
    (folder / "short.txt").write_text("abcd" * 10)
    (folder / "empty.txt").write_text("")
    (folder / "same.txt").write_text("a" * 99)
    (folder / "folder.npz").mkdir()
    Network(3, 4, 3).save(folder / "foreign.npz")
    out, err = bptt(folder, *args, code=2)
    assert out == ""
    lines = err.splitlines()
    assert lines[-1].startswith("bptt")
    assert message in lines[-1]
    assert all(line.startswith("a small text:") for line in lines[:-1])


def crafted(change):
    """Return a function that changes the description of the network in a file."""

    def apply(arrays, metadata):
        config = json.loads(metadata["network"])
        metadata["network"] = change(config) or json.dumps(config)

    return apply


def options_changed(**options):
    def apply(arrays, metadata):
        saved = json.loads(metadata["metadata"])
        saved["options"] |= options
        metadata["metadata"] = json.dumps(saved)
        metadata["optimizer"] = "Adam"

    return apply


DAMAGES = [
    (crafted(lambda config: "3"), ["sample"], "is not a model file, or is damaged"),
    (crafted(lambda config: "[" * 100_000), ["sample"], "is damaged: maximum recursion depth"),
    (crafted(lambda config: config.update(activation=["leaky_relu", 10**400])), ["sample"], "is damaged: alpha of leaky_relu"),
    (lambda a, m: m.update(metadata="[1]"), ["sample"], "its metadata are no JSON object"),
    (lambda a, m: m.update(metadata="null"), ["sample"], "its metadata are no JSON object"),
    (crafted(lambda config: config.update(readout="last")), ["sample"], "is not a model of characters"),
    (lambda a, m: a["U"].__setitem__(0, np.nan), ["sample"], "is damaged: U holds a NaN"),
    (lambda a, m: a["U"].__setitem__(..., 3e38), ["sample"], "is damaged: its weights are so large"),
    (options_changed(held_out=float("inf")), ["train", "text.txt", "--resume", "-o"], "is damaged: its option held_out is inf"),
    (options_changed(steps="many"), ["train", "text.txt", "--resume", "-o"], "is damaged: its option steps is 'many'"),
    (options_changed(activation=3), ["train", "text.txt", "--resume", "-o"], "is damaged: its option activation is 3"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "command", "message"), DAMAGES)
def test_a_crafted_model_is_one_line_that_names_it(model, damage, command, message):
    arrays, metadata = serialization.read(model)
    arrays = {name: np.array(array) for name, array in arrays.items()}
    damage(arrays, metadata)
    path = model.with_name("crafted.npz")
    serialization.write(path, arrays, metadata)
    _, err = bptt(model.parent, *command, "crafted.npz", code=2)
    assert err.count("\n") == 1
    assert err.startswith("bptt: error: crafted.npz ")
    assert message in err


SHELL = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")


@SHELL
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("info >&-", "bptt: error: standard output is closed\n"),
        ("sample m.npz >&-", "bptt: error: standard output is closed\n"),
        ("train - -o new.npz <&-", "bptt: error: standard input is closed\n"),
        ("info 2>&- | grep -c error:", ""),
        ("sample none.npz 2>&-", ""),
    ],
)
def test_a_closed_stream_is_one_line_at_most(model, command, message):
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(BPTT)} {command}"],
        cwd=model.parent,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=120,
        text=True,
    )
    assert done.stderr == message
    assert done.stdout in ("", "0\n")
    assert done.returncode in (1, 2)


def test_a_run_without_stderr_keeps_its_notes_to_itself(model):
    command = [*BPTT, "train", "text.txt", "-o", "quiet.npz", "--json", *SMALL]
    done = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", *command],
        cwd=model.parent,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout)["output"] == "quiet.npz"


def test_a_small_text_gets_small_batches(folder):
    (folder / "poem.txt").write_text(TEXT[:1600])
    steps = ["--steps", "3", "--hidden", "8", "--json"]
    out, err = bptt(folder, "train", "poem.txt", "-o", "m.npz", *steps)
    options = json.loads(out)["options"]
    assert 4 * options["length"] * options["batch_size"] <= 1440
    assert f"--batch-size {options['batch_size']} instead of" in err
    (folder / "tiny.txt").write_text(TEXT[:34])
    out, err = bptt(folder, "train", "tiny.txt", "-o", "m.npz", *steps)
    assert json.loads(out)["options"]["batch_size"] == 1
    assert "--length 4 instead of 64" in err


def test_ctrl_c_while_importing_is_no_traceback(tmp_path):
    code = textwrap.dedent(
        """
        import builtins, sys
        from bptt.cli import main

        plain = builtins.__import__

        def interrupted(name, *args):
            if name == sys.argv[1]:
                raise KeyboardInterrupt
            return plain(name, *args)

        builtins.__import__ = interrupted
        sys.exit(main(["train"]))
        """
    )
    for name in ("argparse", "bptt.training"):
        done = subprocess.run(
            [sys.executable, *WARNINGS, "-c", code, name],
            cwd=tmp_path,
            capture_output=True,
            timeout=60,
            text=True,
        )
        assert (done.returncode, done.stderr) == (130, "bptt: interrupted\n")
