"""Schedules: their values at the steps that matter, and what they refuse."""

import math
import pickle

import numpy as np
import pytest
from tolerances import assert_within, optimizer_bound

from bptt import schedules

STEPS = np.arange(30)


def values(schedule):
    return np.array([schedule(int(step)) for step in STEPS])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedules.constant(0.5), np.full(30, 0.5)),
        (schedules.step_decay(0.5, 10, 0.1), 0.5 * 0.1 ** (STEPS // 10)),
        (schedules.exponential(0.5, 0.9), 0.5 * 0.9**STEPS),
        (
            schedules.cosine(0.5, 20, 0.1),
            0.1 + 0.2 * (1 + np.cos(np.pi * np.minimum(STEPS, 20) / 20)),
        ),
        (schedules.linear_warmup(0.5, 10), 0.5 * np.minimum(1, (STEPS + 1) / 10)),
        (
            schedules.linear_warmup(schedules.exponential(0.5, 0.9), 10),
            0.5 * 0.9**STEPS * np.minimum(1, (STEPS + 1) / 10),
        ),
    ],
)
def test_values(schedule, expected):
    assert_within(values(schedule), expected, optimizer_bound(1, np.float64))
    again = pickle.loads(pickle.dumps(schedule))
    np.testing.assert_array_equal(values(again), values(schedule))


def test_the_first_step_of_a_warmup_is_a_step():
    assert schedules.linear_warmup(1.0, 4)(0) == 0.25


def test_a_schedule_has_no_memory():
    schedule = schedules.linear_warmup(schedules.cosine(1.0, 20), 5)
    assert (values(schedule)[::-1] == [schedule(int(s)) for s in STEPS[::-1]]).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: schedules.constant(-1),
            ValueError,
            "rate must be positive, got -1",
        ),
        (
            lambda: schedules.constant(math.inf),
            ValueError,
            "rate must be finite, got inf",
        ),
        (
            lambda: schedules.step_decay(1, 0),
            ValueError,
            "every must be at least 1, got 0",
        ),
        (
            lambda: schedules.step_decay(1, 10, 0),
            ValueError,
            "factor must be positive, got 0",
        ),
        (
            lambda: schedules.exponential(1, math.nan),
            ValueError,
            "decay must be positive, got nan",
        ),
        (
            lambda: schedules.cosine(1, 10, 2),
            ValueError,
            "floor must be from 0 to rate = 1.0, got 2",
        ),
        (
            lambda: schedules.cosine(1, 2.5),
            TypeError,
            "steps must be an integer, got float",
        ),
        (
            lambda: schedules.linear_warmup("slow", 3),
            TypeError,
            "schedule must be a number, got 'slow'",
        ),
    ],
)
def test_bad_input_is_told_of_in_one_line(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
