"""The command, as a process: results, errors, Ctrl-C, and closed pipes."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import threading

import pytest
from command import BPTT, ENVIRONMENT, SMALL, TEXT, bptt

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


def test_train_writes_a_model_and_reports(folder):
    out, err = bptt(folder, "train", "text.txt", "-o", "m.npz", *SMALL)
    assert "held-out text" in out
    assert "trigram model" in out
    assert "m.npz" in out
    assert "step 30 of 30" in err
    assert "bits/char, |g|" in err
    network = Network.load(folder / "m.npz")
    assert network.hidden_size == 8
    assert sorted(network.metadata["alphabet"]) == sorted({*TEXT, "\ufffd"})
    assert sorted(path.name for path in folder.iterdir()) == ["m.npz", "text.txt"]


def test_json_is_all_that_goes_to_stdout(folder):
    out, _ = bptt(folder, "train", "text.txt", "-o", "m.npz", "--json", *SMALL)
    result = json.loads(out)
    assert out.count("\n") == 1
    assert result["options"]["hidden"] == 8
    assert result["options"]["learning_rate"] > 0
    assert 0 < result["bits_per_character"] < 8
    assert 0 < result["trigram_bits_per_character"] < 1
    assert result["training_characters"] + result["held_out_characters"] <= len(TEXT)
    assert len(result["sample"]) == 400
    assert result["output"] == "m.npz"


def test_a_longer_run_learns_more_than_a_trigram_model_knows(folder):
    options = ["--steps", "400", "--hidden", "32", "--length", "20"]
    options += ["--learning-rate", "0.008"]
    out, _ = bptt(folder, "train", "text.txt", "-o", "m.npz", "--json", *options)
    result = json.loads(out)
    assert result["bits_per_character"] < result["trigram_bits_per_character"]


@pytest.mark.slow
def test_the_defaults_beat_a_trigram_model(folder):
    out, _ = bptt(folder, "train", "--json", timeout=900)
    result = json.loads(out)
    assert result["bits_per_character"] < result["trigram_bits_per_character"]


def test_the_same_seed_is_the_same_file(folder):
    for name in ("a.npz", "b.npz"):
        bptt(folder, "train", "text.txt", "-o", name, *SMALL)
    assert (folder / "a.npz").read_bytes() == (folder / "b.npz").read_bytes()


def test_standard_input_and_characters_of_all_kinds(folder):
    text = "größer 😀 \r\n" * 300
    out, _ = bptt(folder, "train", "-", "-o", "m.npz", *SMALL, "--json", stdin=text)
    assert len(json.loads(out)["sample"]) == 400
    network = Network.load(folder / "m.npz")
    assert "😀" in network.metadata["alphabet"]
    assert "\r" not in network.metadata["alphabet"]


def test_the_standard_library_is_the_default_text(folder):
    out, err = bptt(folder, "train", "-o", "m.npz", "--json", *SMALL, "--steps", "2")
    result = json.loads(out)
    assert 500_000 < result["training_characters"] <= 1_800_000
    assert "texts" in err


def test_rare_characters_are_one(folder):
    bptt(folder, "train", "text.txt", "-o", "m.npz", "--alphabet", "5", *SMALL)
    assert len(Network.load(folder / "m.npz").metadata["alphabet"]) == 5


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one process")
def test_ctrl_c_leaves_a_checkpoint_that_continues_to_the_same_bits(folder):
    options = ["--steps", "12000", "--hidden", "8", "--length", "10"]
    bptt(folder, "train", "text.txt", "-o", "whole.npz", *options)
    command = [*BPTT, "train", "text.txt", "-o", "m.npz", *options]
    with subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True
    ) as process:
        # Reading ends where the process does, and it is ended if it hangs.
        timer = threading.Timer(60, process.kill)
        timer.start()
        assert any("step 1200 of" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=120) == 130
        timer.cancel()
    assert rest.splitlines()[-1] == "bptt: interrupted; to go on, add --resume"
    assert "Traceback" not in rest

    bptt(folder, "sample", "m.npz", "--length", "5")
    _, err = bptt(
        folder, "train", "text.txt", "-o", "m.npz", "--resume", "--hidden", 9, code=2
    )
    assert err == (
        "bptt: error: a resumed run keeps its options: --hidden was 8, got 9\n"
    )
    (folder / "other.txt").write_text(TEXT[1:])
    _, err = bptt(folder, "train", "other.txt", "-o", "m.npz", "--resume", code=2)
    assert err == "bptt: error: m.npz is the checkpoint of a run on another text\n"
    _, err = bptt(folder, "train", "text.txt", "-o", "m.npz", "--resume")
    assert "step 1200 of" not in err
    assert "step 12000 of" in err
    assert (folder / "m.npz").read_bytes() == (folder / "whole.npz").read_bytes()
    _, err = bptt(folder, "train", "text.txt", "-o", "m.npz", "--resume", code=2)
    assert err == "bptt: error: the run of m.npz is finished: nothing to resume\n"


def test_sample_writes_text_after_a_prompt(model):
    out, err = bptt(model.parent, "sample", model, "--prompt", "the ", "--length", 20)
    assert out.startswith("the ")
    assert len(out) == 4 + 20 + 1
    assert err == ""


def test_sample_is_decided_by_its_seed(model):
    def text(*options):
        out, _ = bptt(model.parent, "sample", model, "--json", *options)
        return json.loads(out)["text"]

    assert text("--seed", 1) == text("--seed", 1)
    assert text("--seed", 1) != text("--seed", 2)
    assert text() != text()
    cold = text("--temperature", 0, "--seed", 1)
    assert cold == text("--temperature", 0, "--seed", 2)
    assert text("--temperature", "1e-300") == cold
    assert len(text("--length", 7)) == 7
    assert text("--prompt", "\u4e00")


def test_a_character_that_the_terminal_has_not_is_no_error(folder):
    (folder / "text.txt").write_text("größer 😀\n" * 300, encoding="utf-8")
    bptt(folder, "train", "text.txt", "-o", "m.npz", *SMALL)
    done = subprocess.run(
        [*BPTT, "sample", "m.npz", "--prompt", "größer"],
        cwd=folder,
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.startswith(b"gr??er")


def test_info_says_which_backend_runs(tmp_path):
    out, _ = bptt(tmp_path, "info")
    assert "backend" in out
    out, _ = bptt(tmp_path, "info", "--json")
    assert set(json.loads(out)) >= {"bptt", "backend", "numpy", "python"}


@pytest.mark.parametrize("command", ["train", "sample", "info"])
def test_help_has_an_example(tmp_path, command):
    out, _ = bptt(tmp_path, command, "--help")
    assert f"  bptt {command} " in out.partition("example")[2]


def test_version(tmp_path):
    out, _ = bptt(tmp_path, "--version")
    assert out.startswith("bptt 0.")


@pytest.mark.skipif(os.name == "nt", reason="pipes close in another way")
def test_a_reader_that_goes_away_is_no_error(model):
    with subprocess.Popen(
        [*BPTT, "sample", str(model), "--length", "300"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        process.stdout.close()
        assert process.wait(timeout=120) == 141
        assert process.stderr.read() == b""


def test_a_terminal_gets_a_bar(folder):
    pty = pytest.importorskip("pty")
    pytest.importorskip("tqdm")
    ours, theirs = pty.openpty()
    # A new one is 0 columns wide, which is too narrow for any bar.
    importlib.import_module("termios").tcsetwinsize(theirs, (24, 100))
    command = [*BPTT, "train", "text.txt", "-o", "m.npz", *SMALL]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=theirs, env=ENVIRONMENT
    ) as process:
        os.close(theirs)
        shown = b""
        # A pseudo-terminal without a writer is an error on some systems, not an end.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 4096):
                shown += part
        assert process.wait(timeout=120) == 0
    os.close(ours)
    assert b"30/30" in shown
    assert b"bits/char, |g|" in shown
    assert b"step 30 of 30" not in shown


def test_layers(folder):
    bptt(folder, "train", "text.txt", "-o", "m.npz", "--layers", 2, *SMALL)
    network = Network.load(folder / "m.npz")
    assert network.stack.num_layers == 2
    assert network.metadata["options"]["layers"] == 2
    out, _ = bptt(folder, "sample", "m.npz", "--length", 20)
    assert len(out) > 20


@pytest.mark.parametrize(("given", "kept"), [("0.01", 0.01), ("none", None)])
def test_the_error_may_be_clipped(folder, given, kept):
    options = ["train", "text.txt", *SMALL, "--json"]
    plain, _ = bptt(folder, *options, "-o", "plain.npz")
    out, _ = bptt(folder, *options, "-o", "m.npz", "--clip-error", given)
    plain, other = json.loads(plain), json.loads(out)
    assert other["options"]["clip_error"] == kept
    same = other["bits_per_character"] == plain["bits_per_character"]
    assert same == (kept is None)


def test_an_option_that_a_checkpoint_lacks_had_its_default(folder, model):
    network = Network.load(model)
    del network.metadata["options"]["layers"]
    network.save(folder / "old.npz")
    _, err = bptt(folder, "train", "text.txt", "-o", "old.npz", "--resume", code=2)
    assert err == "bptt: error: the run of old.npz is finished: nothing to resume\n"
