"""Batches of which one step is too much for a chunk: rows in blocks."""

import numpy as np
import pytest
from proof import check_against_reference, random_case
from ragged import close, same_bits
from tolerances import assert_within

import bptt
from bptt import _backend, _reference
from bptt.activations import Activation

kernels = _backend.kernels
pytestmark = pytest.mark.skipif(kernels is _reference, reason="NumPy takes all rows")
TANH = Activation("tanh")

# 24 MiB have room for less than 2,100 rows of 500 units or more in float64, or twice as
# many in float32: z or da of two steps, and da of the chunk.
ROOM = 2100
# B, H that go in blocks: as two halves, of which one has a row more, or all rows.
HALVES = 4501, 500
WHOLE = 4300, 520


@pytest.mark.parametrize("rows_units", [HALVES, WHOLE], ids=["halves", "whole"])
@pytest.mark.parametrize("ids", [False, True], ids=["features", "ids"])
def test_blocks_against_the_reference(rows_units, ids, rng):
    B, H = rows_units
    assert B >= 2 * ROOM
    check_against_reference(kernels, random_case(rng, 2, B, 3, H, TANH, ids=ids))


@pytest.mark.parametrize("rows_units", [HALVES, WHOLE], ids=["halves", "whole"])
def test_rows_are_what_they_are_alone_and_sums_the_same_on_any_threads(rows_units, rng):
    B, H = rows_units
    case = random_case(rng, 2, 2 * B, 3, H, TANH, np.float32)
    runs = []
    for threads in (1, 2, 3, 4):
        with bptt.threads(threads):
            _, tape = bptt.forward(case.x, case.W, case.V, case.b, z0=case.z0)
            grads, flow = bptt.backward(tape, case.dz, record=True)
        runs.append([tape.z, *grads, *flow])
    for run in runs[1:]:
        same_bits(run, runs[0])

    last = slice(2 * B - 20, 2 * B)
    _, tape = bptt.forward(case.x[:, last], case.W, case.V, case.b, z0=case.z0[last])
    grads, flow = bptt.backward(tape, case.dz[:, last], record=True)
    z, _, _, _, dz0, dx, norms, saturated, _ = runs[0]
    parts = [z[:, last], dz0[last], dx[:, last], norms[:, last], saturated[:, last]]
    same_bits(parts, [tape.z, grads.z0, grads.x, flow.norms, flow.saturated])


@pytest.mark.parametrize("rows_units", [HALVES, WHOLE], ids=["halves", "whole"])
def test_a_clipped_error_and_dead_units(rows_units, rng):
    B, H = 2 * rows_units[0], rows_units[1]
    case = random_case(rng, 3, B, 3, H, Activation("relu"), np.float32)
    options = {"record": True, "clip_error": 0.5}

    def measured(rows):
        _, tape = bptt.forward(
            case.x[:, rows], case.W, case.V, case.b, activation="relu"
        )
        last = case.dz_last[rows]
        return bptt.backward(tape, case.dz[:, rows], dz_last=last, **options)

    grads, flow = measured(slice(None))
    parts = [measured(slice(r, r + 860)) for r in range(0, B, 860)]
    same_bits(flow.dead, sum(part.dead for _, part in parts))
    same_bits(flow.norms, np.concatenate([part.norms for _, part in parts], axis=1))
    for name in ("W", "V", "b"):
        close(
            getattr(grads, name), sum(getattr(part, name) for part, _ in parts), 3 * B
        )


@pytest.mark.parametrize("rows_units", [HALVES, WHOLE], ids=["halves", "whole"])
@pytest.mark.parametrize("begins_anew", [False, True])
def test_a_run_with_checkpoints_has_the_same_bits(rows_units, begins_anew, rng):
    B, H = rows_units
    case = random_case(rng, 5, 2 * B, 3, H, TANH, np.float32)
    given, runs = {}, []
    if begins_anew:
        # In one segment of the run, and in no other.
        given["resets"] = np.zeros((5, 2 * B), bool)
        given["resets"][3, ::7] = True
    for options in ({}, {"checkpoint": 2}):
        _, tape = bptt.forward(case.x, case.W, case.V, case.b, **given, **options)
        runs.append(bptt.backward(tape, case.dz, dz_last=case.dz_last))
    same_bits(list(runs[1]), list(runs[0]))


def test_inputs_that_have_no_room(rng):
    # Forwards in blocks, where x is packed, backwards not.
    case = random_case(rng, 2, 90, 80_000, 5, TANH, np.float32)
    check_against_reference(kernels, case)


@pytest.mark.parametrize(
    "sizes", [(*WHOLE, 3), (700, 16, 9000)], ids=["states", "inputs"]
)
def test_steps_that_stand_backwards_in_memory(sizes, rng):
    B, H, I = sizes
    case = random_case(rng, 3, B, I, H, TANH)
    runs = []
    for turn in (slice(None), slice(None, None, -1)):
        x, dz = case.x[turn].copy()[turn], case.dz[turn].copy()[turn]
        z = np.empty((4, *case.z0.shape))[turn]
        z[0] = case.z0
        sums = [np.empty_like(a) for a in (case.W, case.V, case.b, case.z0)]
        dx = np.empty(x.shape)[turn]
        kernels.forward(x, case.W, case.V, case.b, z, TANH)
        kernels.backward(x, case.W, case.V, z, TANH, dz, None, *sums, dx)
        runs.append([z, *sums, dx])
    same_bits(runs[1], runs[0])


def test_back_from_steps_to_the_states_they_start_from(rng):
    B, H = WHOLE
    V, da = rng.standard_normal((H, H)), rng.standard_normal((B, H))
    dz = np.empty_like(da)
    kernels.state_backward(V, da, dz)
    bound = 2 * (H + 2) * np.finfo(float).eps * np.abs(da) @ np.abs(V).T
    assert_within(dz, da @ V.T, bound)
