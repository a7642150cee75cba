"""The recurrence over time, compiled: `_reference.py`, function by function.

The arithmetic of a step is C, in csrc/; here are the loops over time, without the GIL.
Arguments come checked and contiguous from `recurrence.py`.
"""

import numpy as np

ctypedef fused real:
    float
    double

cdef extern from "step.h" nogil:
    void step_forward_f32 "bptt_step_forward_f32"(
        Py_ssize_t B, Py_ssize_t I, Py_ssize_t H,
        const float *x, const Py_ssize_t *ids,
        const float *W, const float *V, const float *b,
        const float *z_prev, float *z,
        int code, float alpha, float beta)
    void step_forward_f64 "bptt_step_forward_f64"(
        Py_ssize_t B, Py_ssize_t I, Py_ssize_t H,
        const double *x, const Py_ssize_t *ids,
        const double *W, const double *V, const double *b,
        const double *z_prev, double *z,
        int code, double alpha, double beta)
    void step_backward_f32 "bptt_step_backward_f32"(
        Py_ssize_t B, Py_ssize_t I, Py_ssize_t H,
        const float *x, const Py_ssize_t *ids,
        const float *Wt, const float *Vt,
        const float *z_prev, const float *z, const float *dz,
        float *e, float *da,
        float *dW, float *dV, float *db, float *dx,
        int code, float alpha, float beta)
    void step_backward_f64 "bptt_step_backward_f64"(
        Py_ssize_t B, Py_ssize_t I, Py_ssize_t H,
        const double *x, const Py_ssize_t *ids,
        const double *Wt, const double *Vt,
        const double *z_prev, const double *z, const double *dz,
        double *e, double *da,
        double *dW, double *dV, double *db, double *dx,
        int code, double alpha, double beta)


def forward(x, W, V, b, z, activation):
    """Run the layer: z[t] = sigma(x[t] W + z[t-1] V + b)."""
    features, ids = (x, None) if x.ndim == 3 else (None, x)
    if z.dtype == np.float32:
        _forward[float](features, ids, W, V, b, z, activation)
    else:
        _forward[double](features, ids, W, V, b, z, activation)


def backward(x, W, V, z, activation, dz, dz_last, dW, dV, db, dz0, dx):
    """Run the layer backwards: all gradients, from dz and dz_last."""
    features, ids = (x, None) if x.ndim == 3 else (None, x)
    Vt = np.ascontiguousarray(V.T)
    Wt = None if dx is None else np.ascontiguousarray(W.T)
    da = np.empty_like(dz0)
    dz0[...] = 0 if dz_last is None else dz_last
    for gradient in (dW, dV, db):
        if gradient is not None:
            gradient[...] = 0
    if z.dtype == np.float32:
        _backward[float](
            features, ids, Wt, Vt, z, activation, dz, dz0, da, dW, dV, db, dx)
    else:
        _backward[double](
            features, ids, Wt, Vt, z, activation, dz, dz0, da, dW, dV, db, dx)


cdef void _forward(
    const real[:, :, ::1] x,            # (T, B, I)      IN, or None
    const Py_ssize_t[:, ::1] ids,       # (T, B)         IN, or None
    const real[:, ::1] W,               # (I, H)         IN
    const real[:, ::1] V,               # (H, H)         IN
    const real[::1] b,                  # (H)            IN, or None
    real[:, :, ::1] z,                  # (T + 1, B, H)  IN z[0], OUT z[1..T]
    activation,
):
    cdef Py_ssize_t T = z.shape[0] - 1, B = z.shape[1]
    cdef Py_ssize_t I = W.shape[0], H = W.shape[1], t
    cdef int code = activation.code
    cdef real alpha = activation.alpha, beta = activation.beta
    cdef const real *b_ = NULL if b is None else &b[0]
    cdef const real *x_t = NULL
    cdef const Py_ssize_t *ids_t = NULL

    if T == 0 or B == 0:
        return
    with nogil:
        for t in range(1, T + 1):
            if x is not None:
                x_t = &x[t - 1, 0, 0]
            else:
                ids_t = &ids[t - 1, 0]
            if real is float:
                step_forward_f32(
                    B, I, H, x_t, ids_t, &W[0, 0], &V[0, 0], b_,
                    &z[t - 1, 0, 0], &z[t, 0, 0], code, alpha, beta)
            else:
                step_forward_f64(
                    B, I, H, x_t, ids_t, &W[0, 0], &V[0, 0], b_,
                    &z[t - 1, 0, 0], &z[t, 0, 0], code, alpha, beta)


cdef void _backward(
    const real[:, :, ::1] x,            # (T, B, I)      IN, or None
    const Py_ssize_t[:, ::1] ids,       # (T, B)         IN, or None
    const real[:, ::1] Wt,              # (H, I)         IN, with dx
    const real[:, ::1] Vt,              # (H, H)         IN
    const real[:, :, ::1] z,            # (T + 1, B, H)  IN
    activation,
    const real[:, :, ::1] dz,           # (T, B, H)      IN, or None
    real[:, ::1] e,                     # (B, H)         IN dz_last, OUT dz0
    real[:, ::1] da,                    # (B, H)         scratch
    real[:, ::1] dW,                    # (I, H)         IN 0, OUT
    real[:, ::1] dV,                    # (H, H)         IN 0, OUT
    real[::1] db,                       # (H)            IN 0, OUT, or None
    real[:, :, ::1] dx,                 # (T, B, I)      OUT, or None
):
    cdef Py_ssize_t T = z.shape[0] - 1, B = z.shape[1]
    cdef Py_ssize_t I = dW.shape[0], H = dW.shape[1], t
    cdef int code = activation.code
    cdef real alpha = activation.alpha, beta = activation.beta
    cdef const real *x_t = NULL
    cdef const Py_ssize_t *ids_t = NULL
    cdef const real *dz_t = NULL
    cdef const real *Wt_ = NULL if Wt is None else &Wt[0, 0]
    cdef real *db_ = NULL if db is None else &db[0]
    cdef real *dx_t = NULL

    if T == 0 or B == 0:
        return
    with nogil:
        for t in range(T, 0, -1):
            if x is not None:
                x_t = &x[t - 1, 0, 0]
            else:
                ids_t = &ids[t - 1, 0]
            if dz is not None:
                dz_t = &dz[t - 1, 0, 0]
            if dx is not None:
                dx_t = &dx[t - 1, 0, 0]
            if real is float:
                step_backward_f32(
                    B, I, H, x_t, ids_t, Wt_, &Vt[0, 0],
                    &z[t - 1, 0, 0], &z[t, 0, 0], dz_t, &e[0, 0], &da[0, 0],
                    &dW[0, 0], &dV[0, 0], db_, dx_t, code, alpha, beta)
            else:
                step_backward_f64(
                    B, I, H, x_t, ids_t, Wt_, &Vt[0, 0],
                    &z[t - 1, 0, 0], &z[t, 0, 0], dz_t, &e[0, 0], &da[0, 0],
                    &dW[0, 0], &dV[0, 0], db_, dx_t, code, alpha, beta)
