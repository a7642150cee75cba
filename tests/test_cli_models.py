"""What the command is made of: text, alphabet, trigram model, character model."""

import math
from collections import Counter

import numpy as np
import pytest
from tolerances import STANDARD_ERRORS, loss_bound

from bptt.cli import charmodel, text
from bptt.cli.trigram import Trigram
from bptt.network import Network
from bptt.serialization import ModelFileError


def grams(ids, n):
    """Return each n ids that follow one another."""
    return [tuple(ids[i : i + n].tolist()) for i in range(len(ids) - n + 1)]


def probability(counts, O, k2, k3, a, b, c):
    """Return p3(c|ab) by its definition."""
    one, two, three = counts
    total = sum(one.values())
    followed_b = sum(n for (x, _), n in two.items() if x == b)
    followed_ab = sum(n for (x, y, _), n in three.items() if (x, y) == (a, b))
    p1 = (one[c,] + 1) / (total + O)
    p2 = (two[b, c] + k2 * p1) / (followed_b + k2)
    return (three[a, b, c] + k3 * p2) / (followed_ab + k3)


def test_the_trigram_model_is_that_of_its_definition(rng):
    O, ids, seen = 4, rng.integers(0, 4, 60), rng.integers(0, 4, 30)
    counts = [Counter(grams(ids, n)) for n in (1, 2, 3)]
    bits = [
        -math.log2(probability(counts, O, 2.0, 3.0, *abc)) for abc in grams(seen, 3)
    ]
    found = Trigram(ids, O, 2.0, 3.0).bits(seen)
    bound = loss_bound(np.zeros(O), np.zeros(O), np.float64)
    assert abs(found - np.mean(bits)) <= len(bits) * bound


@pytest.mark.parametrize("context", [(0, 1), (3, 3), (1, 4)])
def test_its_probabilities_sum_to_one(context, rng):
    O, ids = 5, rng.integers(0, 4, 200)  # id 4 was never seen
    model = Trigram(ids, O, 2.0, 3.0)
    p = [2 ** -model.bits(np.array([*context, c])) for c in range(O)]
    assert abs(sum(p) - 1) <= loss_bound(np.zeros(O), np.zeros(O), np.float64)


def test_tuning_finds_what_suits_the_end_of_the_text(rng):
    ids = np.cumsum(rng.integers(0, 3, 5000)) % 7
    tuned = Trigram.tuned(ids, 7)
    fresh = np.cumsum(rng.integers(0, 3, 5000)) % 7
    assert tuned.bits(fresh) < Trigram(ids, 7, 0.5, 0.5).bits(fresh)
    assert math.log2(3) < tuned.bits(fresh) < math.log2(3) + 0.1


def test_the_alphabet_has_the_frequent_characters_and_one_for_the_rest():
    alphabet = text.Alphabet.of("aaabbbccd\ufffd", 4)
    assert alphabet.characters == "abc\ufffd"
    assert alphabet.encode("dab\U0001f600\ud800").tolist() == [3, 0, 1, 3, 3]
    assert alphabet.decode([2, 1, 0]) == "cba"
    with pytest.raises(ValueError, match="distinct characters"):
        text.Alphabet("aa\ufffd")


def test_the_end_of_each_text_is_held_out():
    assert text.split(["a" * 10, "b" * 20], 0.1) == ("a" * 9 + "b" * 18, "abb")


def test_the_standard_library_is_there_and_limited():
    whole = text.standard_library(300_000)
    assert sum(map(len, whole)) == 300_000
    assert whole == text.standard_library(300_000)
    assert "import" in whole[0]


def make(O=5, seed=0):
    return Network(O, 6, O, stateful=True, seed=seed)


@pytest.mark.parametrize("length", [2, 17, 499, 2003, 40_000])
def test_bits_are_the_mean_over_the_text(length, rng):
    ids = rng.integers(0, 5, length)
    assert charmodel.read_length(length) > length - charmodel._STREAMS
    network = make()
    for p in network.params.values():
        p[...] = 0
    found = charmodel.bits(network, ids)
    bound = loss_bound(np.zeros(5), np.zeros(5), np.float32)
    assert abs(found - math.log2(5)) <= bound
    assert network.state is None


def test_bits_of_one_stream_are_those_of_the_loss(rng):
    ids, network = rng.integers(0, 5, 900), make()
    expected = network.evaluate(ids[:-1], ids[1:]) / math.log(2)
    bound = loss_bound(np.zeros(5), np.zeros(5), np.float32)
    assert abs(charmodel.bits(network, ids) - expected) <= bound


def test_samples_follow_the_probabilities():
    network, alphabet = make(4), text.Alphabet("abc\ufffd")
    network.params["U"][...] = 0
    network.params["c"][...] = np.log([0.5, 0.3, 0.1, 0.1])

    def counts(temperature):
        drawn = "".join(
            charmodel.sample(
                network,
                alphabet,
                prompt="a",
                length=4000,
                temperature=temperature,
                seed=0,
            )
        )
        return np.array([drawn.count(c) for c in "abc\ufffd"]) / 4000

    for temperature in (1.0, 0.5):
        p = np.array([0.5, 0.3, 0.1, 0.0]) ** (1 / temperature)
        p /= p.sum()
        error = np.sqrt(p * (1 - p) / 4000)
        assert (np.abs(counts(temperature) - p) <= STANDARD_ERRORS * error).all()
    assert counts(0).tolist() == [1, 0, 0, 0]


def test_a_model_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "m.npz"
    make().save(path)
    with pytest.raises(ModelFileError, match="is not a model of characters"):
        charmodel.load(path)
    for alphabet, reason in [("ab\ufffd", "has 3 characters"), ("abcde", "U+FFFD")]:
        network = make()
        network.metadata["alphabet"] = alphabet
        network.save(path)
        with pytest.raises(ModelFileError, match=reason.replace("+", r"\+")):
            charmodel.load(path)


@pytest.mark.parametrize(
    "options", [{"readout": "last"}, {"stateful": False}, {"loss": "squared_error"}]
)
def test_a_network_that_predicts_no_characters_is_refused(tmp_path, options):
    path = tmp_path / "m.npz"
    network = Network(3, 6, 3, **({"stateful": True} | options))
    network.metadata["alphabet"] = "ab\ufffd"
    network.save(path)
    with pytest.raises(ModelFileError, match="is not a model of characters"):
        charmodel.load(path)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_model_with_weights_that_are_not_finite_is_refused(tmp_path, value):
    network = make(3)
    network.metadata["alphabet"] = "ab\ufffd"
    network.params["U"][1, 2] = value
    network.save(tmp_path / "m.npz")
    with pytest.raises(ModelFileError, match=r"m.npz is damaged: U holds a NaN or"):
        charmodel.load(tmp_path / "m.npz")


def test_samples_come_one_by_one():
    network, alphabet = make(3), text.Alphabet("ab\ufffd")
    endless = charmodel.sample(
        network, alphabet, prompt="a", length=10**18, temperature=1.0, seed=0
    )
    assert {next(endless) for _ in range(99)} == {"a", "b"}


def test_a_network_that_overflows_is_told_of():
    network, alphabet = make(3), text.Alphabet("ab\ufffd")
    network.params["U"][...] = 3e38
    network.params["b"][...] = 9.0
    endless = charmodel.sample(
        network, alphabet, prompt="a", length=9, temperature=1.0, seed=0
    )
    with pytest.raises(FloatingPointError, match="so large that it overflows"):
        next(endless)


TEXT = "größer \U0001f600\nend"


@pytest.mark.parametrize(
    ("data", "expected", "notes"),
    [
        (TEXT.encode(), TEXT, []),
        (TEXT.encode("utf-8-sig"), TEXT, []),
        (TEXT.encode("utf-16"), TEXT, []),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), TEXT, []),
        (b"a\r\nb\rc", "a\nb\nc", []),
        (b"gr\xf6\xdfer", "gr\ufffd\ufffder", ["2 bytes of FILE are not UTF-8"]),
        ("\ufffd".encode(), "\ufffd", []),
    ],
)
def test_texts_are_utf_8_or_say_what_they_are(tmp_path, data, expected, notes):
    path, noted = tmp_path / "text.txt", []
    path.write_bytes(data)
    assert text.read_texts([str(path)], noted.append) == [expected]
    assert noted == [note.replace("FILE", str(path)) for note in notes]
