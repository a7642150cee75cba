"""What dropout keeps, as bits: the mask that is drawn at once."""

import numpy as np
import pytest

from bptt._dropout import Bits, draw, drop, drop_back


@pytest.mark.parametrize("kind", ["PCG64", "MT19937", "Philox", "SFC64"])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5000, 7), (3, 20_001), (100, 256)])
def test_bits_are_the_mask_that_is_drawn_at_once(kind, shape):
    whole, part = (np.random.Generator(getattr(np.random, kind)(3)) for _ in range(2))
    mask = draw(whole, shape, 0.3)
    bits = Bits(part, *shape, 0.3)
    np.testing.assert_array_equal(bits.rows(slice(None)), mask)
    rows = np.arange(shape[0])[::-2]
    np.testing.assert_array_equal(bits.rows(rows), mask[rows])
    assert bits.packed.nbytes == shape[0] * -(-shape[1] // 8)
    # Of an odd number of float32 the generator keeps half a draw.
    assert whole.random(dtype=np.float32) == part.random(dtype=np.float32)


def test_the_share_that_is_kept(rng):
    mask = draw(rng, (300, 1000), 0.2)
    assert abs(mask.mean() - 0.8) < 5 * np.sqrt(0.2 * 0.8 / mask.size)


def test_what_is_kept_is_scaled_and_its_gradient_too(rng):
    mask, z, dz = rng.random((4, 5)) < 0.5, rng.random((4, 5)), rng.random((4, 5))
    kept = drop(z, mask, 0.75)
    np.testing.assert_array_equal(kept, np.where(mask, z / 0.25, 0))
    back = dz.copy()
    drop_back(back, mask, 0.75)
    np.testing.assert_array_equal(back, np.where(mask, dz / 0.25, 0))
