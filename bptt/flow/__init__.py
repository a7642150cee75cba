"""The flow of gradients through time: how they vanish, explode, and what stops them.

The Jacobian of one step is dz[t]/dz[t-1] = D[t] V^T, with D[t] = diag(sigma'(a[t])),
and that of a gap is a product of them, which holds (V^T)^(t-i). What is here takes a
tape of `bptt.forward` and computes with that product:

`jacobian`, `jacobian_product`, `log_singular_values`, `split_growth`, `product_norms`
    the matrices, their sizes over every gap, and which of D and V made them so
`jvp`, `vjp`
    products with them from the right and from the left, in the kernels
`gradient_flow`
    what became of the gradient of a loss, and a verdict in a sentence
`lyapunov_exponents`
    growth along a long trajectory
`omega`, `OmegaTerm`
    the regulariser that asks the error to keep its length, and its place in a loss
`RTRL`
    the same gradients forwards in time
"""

from bptt.flow.exponents import LyapunovSpectrum, lyapunov_exponents
from bptt.flow.gradients import GradientFlow, gradient_flow, horizon
from bptt.flow.jacobians import (
    Growth,
    ScaledProduct,
    jacobian,
    jacobian_product,
    log_singular_values,
    split_growth,
)
from bptt.flow.norms import product_norms
from bptt.flow.regulariser import OmegaTerm, omega
from bptt.flow.rtrl import RTRL
from bptt.flow.tangents import jvp, vjp

__all__ = [
    "RTRL",
    "GradientFlow",
    "Growth",
    "LyapunovSpectrum",
    "OmegaTerm",
    "ScaledProduct",
    "gradient_flow",
    "horizon",
    "jacobian",
    "jacobian_product",
    "jvp",
    "log_singular_values",
    "lyapunov_exponents",
    "omega",
    "product_norms",
    "split_growth",
    "vjp",
]
