"""The schedule of recomputation: optimal, within its budget, clear when it cannot."""

from functools import cache

import pytest

from bptt._recompute import Sizes, advances, as_bytes, plan, split


@cache
def fewest(n, s):
    """Return the fewest runs over leaves, by trying every first split."""
    if n <= 1:
        return 0
    if s == 1:
        return n * (n - 1) // 2
    return min(k + fewest(n - k, s - 1) + fewest(k, s) for k in range(1, n))


def test_the_schedule_is_optimal():
    for n in range(2, 70):
        for s in range(1, 12):
            assert advances(n, s) == fewest(n, s), (n, s)
            if s > 1:
                k = split(n, s)
                assert k + fewest(n - k, s - 1) + fewest(k, s) == fewest(n, s)


def test_a_large_budget_costs_one_pass_and_small_ones_more():
    sizes = Sizes(10**6, 1, 16, 64, 4, 256)
    large = plan(sizes, memory=64 * 10**6)
    assert large.slots == large.leaves
    assert large.extra_steps < 10**6
    last = large
    for memory in (600_000, 500_000, 460_000, 430_000):
        smaller = plan(sizes, memory=memory)
        assert smaller.peak_bytes <= memory
        assert smaller.extra_steps > last.extra_steps
        last = smaller


def test_a_length_is_rounded_up_to_chunks():
    schedule = plan(Sizes(1000, 1, 3, 5, 8, 100), checkpoint=101)
    assert (schedule.steps, schedule.leaves, schedule.slots) == (200, 5, 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("64MB", 64_000_000), ("1.5 kib", 1536), ("2G", None), ("17", 17), (17, 17)],
)
def test_sizes(text, expected):
    if expected is None:
        with pytest.raises(ValueError, match="memory must be a number of bytes, or"):
            as_bytes("memory", text)
    else:
        assert as_bytes("memory", text) == expected
