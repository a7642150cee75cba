"""Files: what is written comes back, and whatever is not a model is one clear error."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from bptt import serialization
from bptt.activations import Activation
from bptt.network import Network
from bptt.serialization import ModelFileError

FORMATS = pytest.mark.parametrize("suffix", [".npz", ".safetensors"])


def make(dtype=np.float32):
    network = Network(
        3,
        5,
        2,
        activation=Activation("leaky_relu", 0.2),
        loss="binary_cross_entropy",
        readout="last",
        stateful=True,
        seed=0,
        dtype=dtype,
    )
    network.metadata = {"alphabet": "aä\n�😀", "options": {"steps": 3}}
    return network


@pytest.fixture
def path(tmp_path, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"model{suffix}"


@FORMATS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_network_comes_back_as_it_was(path, dtype):
    network = make(dtype)
    network.save(path)
    loaded = Network.load(path)
    assert repr(loaded) == repr(network)
    assert loaded.activation == network.activation
    assert loaded.stateful
    assert loaded.metadata == network.metadata
    for name, p in network.params.items():
        q = loaded.params[name]
        assert q.dtype == p.dtype
        assert q.tobytes() == p.tobytes()
        assert q.flags.writeable


@FORMATS
def test_arrays_of_every_kind_come_back(path, rng):
    arrays = {
        "strided": rng.normal(size=(6, 4))[::2, ::-1],
        "fortran": np.asfortranarray(rng.normal(size=(3, 4))),
        "scalar": np.array(7, np.int64),
        "empty": np.empty((0, 4)),
        "with.a.dot": np.array([np.nan, -np.inf, -0.0], np.float32),
    }
    serialization.write(path, arrays, {"name": "value", "text": "ä\n"})
    read, metadata = serialization.read(path)
    assert metadata == {"name": "value", "text": "ä\n"}
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        assert read[name].tobytes() == array.tobytes()


@FORMATS
def test_the_content_says_what_a_file_is_not_the_name(path):
    make().save(path)
    moved = path.rename(path.with_suffix(".bin"))
    assert Network.load(moved).metadata == make().metadata


@FORMATS
def test_the_same_network_is_the_same_file(path):
    make().save(path)
    first = path.read_bytes()
    make().save(path)
    assert path.read_bytes() == first


def check_refused(path):
    """Assert that a file is refused with one line that names it."""
    with pytest.raises(ModelFileError) as caught:
        Network.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


@FORMATS
def test_a_truncated_file_is_refused(path):
    make().save(path)
    data = path.read_bytes()
    for length in sorted({*range(0, len(data), 61), *range(20), len(data) - 1}):
        path.write_bytes(data[:length])
        check_refused(path)


@FORMATS
def test_a_changed_byte_is_found_or_does_no_harm(path):
    network = make()
    network.save(path)
    data = path.read_bytes()
    refused = 0
    for at in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        try:
            loaded = Network.load(path)
        except ModelFileError:
            refused += 1
        else:  # a byte of the container that means nothing, such as a date
            assert loaded.metadata == network.metadata
            assert all(
                loaded.params[n].tobytes() == p.tobytes()
                for n, p in network.params.items()
            )
    assert refused > len(data) / 7 / 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"PK",
        b"PK\x05\x06" + b"\0" * 18,
        b"\xff" * 8 + b"{}",
        b"def f(): pass\n" * 50,
        b"\x02\0\0\0\0\0\0\0[]",
        b"\x93NUMPY\x01\0",
        pickle.dumps({"W": [1.0]}),
        (2**62).to_bytes(8, "little") + b"{" * 100,
    ],
)
def test_garbage_is_refused(tmp_path, data):
    pytest.importorskip("safetensors")
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    check_refused(path)


class Trap:
    """What a pickle could do on being read."""

    def __reduce__(self):
        return os.mkdir, ("was-executed",)


def test_an_npz_with_pickles_is_refused_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.npz"
    trap = np.array([Trap()], dtype=object)
    np.savez(path, W=trap, bptt=trap)
    check_refused(path)
    assert not (tmp_path / "was-executed").exists()


def test_a_foreign_npz_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, W=np.ones(3))
    check_refused(path)
    np.savez_compressed(path, W=np.zeros(10**6))
    check_refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    check_refused(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "model.safetensors"
    library.save_file({"weight_ih_l0": np.ones((3, 3), np.float32)}, path)
    check_refused(path)
    library.save_file({"W": np.ones(3)}, path, {"format": "pt"})
    check_refused(path)


@FORMATS
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a, m: a.pop("V"), "'V'"),
        (lambda a, m: a.update(V=np.eye(4, dtype=np.float32)), r"V must have shape"),
        (lambda a, m: a.update(b=np.zeros(5)), "b must have dtype float32"),
        (lambda a, m: m.update(format="bptt.Network 9"), "its format is"),
        (lambda a, m: m.pop("format"), "its format is None"),
        (lambda a, m: m.update(network="{"), "damaged"),
        (lambda a, m: m.update(network="[]"), "damaged"),
        (lambda a, m: m.update(network="3"), "damaged"),
        (lambda a, m: m.update(network="[" * 100_000), "recursion"),
        (lambda a, m: m.update(metadata="[1]"), "no JSON object"),
        (lambda a, m: m.update(metadata="null"), "no JSON object"),
        (lambda a, m: m.update(network='{"sizes": 3}'), "damaged"),
        (lambda a, m: m.update(metadata="nonsense"), "damaged"),
    ],
)
def test_contents_that_do_not_fit_are_refused(path, change, reason):
    arrays, metadata = make().contents()
    change(arrays, metadata)
    serialization.write(path, arrays, metadata)
    check_refused(path)
    with pytest.raises(ModelFileError, match=reason):
        Network.load(path)


def test_a_file_that_claims_many_layers_makes_none_of_them(tmp_path):
    arrays, metadata = make().contents()
    config = json.loads(metadata["network"])
    metadata["network"] = json.dumps(config | {"num_layers": 100_000})
    serialization.write(tmp_path / "a.npz", arrays, metadata)
    with pytest.raises(ModelFileError, match="5 arrays are too few for 100000 layers"):
        Network.load(tmp_path / "a.npz")


def test_unknown_settings_are_refused(tmp_path):
    arrays, metadata = make().contents()
    config = json.loads(metadata["network"])
    metadata["network"] = json.dumps(config | {"attention": True})
    serialization.write(tmp_path / "a.npz", arrays, metadata)
    check_refused(tmp_path / "a.npz")


@FORMATS
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    make().save(path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        make(np.float64).save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_write_through_a_link_keeps_the_link(tmp_path):
    target, link = tmp_path / "there" / "model.npz", tmp_path / "link.npz"
    target.parent.mkdir()
    make().save(target)
    link.symlink_to(target)
    make(np.float64).save(link)
    assert link.is_symlink()
    assert Network.load(target).dtype == np.float64
    assert list(target.parent.iterdir()) == [target]


def test_a_path_is_tried_before_it_is_needed(tmp_path):
    folder = tmp_path / "folder.npz"
    folder.mkdir()
    with pytest.raises(OSError, match="Is a directory") as caught:
        serialization.check_path("path", folder)
    assert caught.value.filename == str(folder)
    path = tmp_path / "model.npz"
    assert serialization.check_path("path", path) == path
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("write", [serialization.check_path, "save"])
def test_a_folder_that_takes_no_file_is_told_of_by_the_name_given(
    tmp_path, monkeypatch, write
):
    def refuse(self, mode):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(tmp_path), "open", refuse)
    path = tmp_path / "model.npz"
    with pytest.raises(PermissionError) as caught:
        make().save(path) if write == "save" else write("path", path)
    assert caught.value.filename == str(path)


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"path must end in .safetensors or .npz, got '.*model.pt'"
    ):
        make().save(tmp_path / "model.pt")


def test_a_missing_file_is_what_the_system_says(tmp_path):
    with pytest.raises(FileNotFoundError):
        Network.load(tmp_path / "none.npz")


def test_without_safetensors_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"pip install 'bptt\[train\]'"):
        make().save(tmp_path / "model.safetensors")
    make().save(tmp_path / "model.npz")
