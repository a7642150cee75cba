"""A list of no sequences is a batch, of nothing: its gradients are zero."""

import numpy as np
import pytest

import bptt

I, H, O = 3, 4, 2
W, V = np.ones((I, H)), np.eye(H)
OPTIONS = [{}, {"resets": []}, {"memory": "10MB"}, {"checkpoint": 7}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_layer_of_no_sequences(options):
    z, tape = bptt.forward([], W, V, np.ones(H), np.ones((0, H)), **options)
    assert len(z) == 0
    assert isinstance(z, list) or len(options) == 1
    last = np.ones((0, H))
    grads, flow = bptt.backward(tape, [], dz_last=last, record=True)
    assert grads.x == flow.norms == flow.saturated == []
    assert tape.z_last.shape == grads.z0.shape == (0, H)
    for one in (grads.W, grads.V, grads.b, flow.dead):
        assert not one.any()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_of_no_sequences(bidirectional, num_layers, options):
    rnn = bptt.RNN(I, H, num_layers, bidirectional=bidirectional, seed=0)
    z, tape = rnn.forward([], **options)
    kept = not {"memory", "checkpoint"} & options.keys()
    assert tape.z_last.shape == (rnn.stack.cells, 0, H)
    if kept:
        assert z == []
    else:
        assert z.shape == tape.z_last.shape
    grads = rnn.backward(tape, [], dz_last=np.ones_like(tape.z_last))
    assert grads.x == []
    assert grads.z0.shape == tape.z_last.shape
    assert grads.params.keys() == rnn.params.keys()
    assert not any(one.any() for one in grads.params.values())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("readout", ["every", "last"])
def test_a_network_of_no_sequences(readout, loss, options):
    network = bptt.Network(I, H, O, loss=loss, readout=readout, seed=0)
    value, grads = network.loss_and_gradients([], [], **options)
    assert value == 0
    assert not any(getattr(grads, name).any() for name in ("W", "V", "b", "U", "c"))


def test_no_sequences_have_no_lengths():
    with pytest.raises(ValueError, match="x must be an array with lengths or offsets"):
        bptt.forward([], W, V, lengths=[])
