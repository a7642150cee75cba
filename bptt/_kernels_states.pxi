# Back from steps to the states they start from: the end of `backward` by itself.

class _NoActivation:
    code, alpha, beta = IDENTITY, 0.0, 0.0


_NO_ACTIVATION = _NoActivation()


def state_backward(V, da, dz):
    """Run back from steps to the states they start from: dz = da V^T."""
    cdef _Call call = _Call()
    if not len(da):
        return
    call.activation, call.backward = _NO_ACTIVATION, True
    if dz.itemsize == sizeof(float):
        _state_backward[float](call, V, da, dz)
    else:
        _state_backward[double](call, V, da, dz)
    walk(call)


cdef int _state_backward(
    _Call call,
    const real[:, :] V,                 # (H, H)         IN
    const real[:, ::1] da,              # (R, H)         IN
    real[:, ::1] dz,                    # (R, H)         OUT
) except -1:
    cdef Layer *l = &call.layer
    # One step of R rows, without the step.
    point_at_weights(l, V, V, 1, da.shape[0])
    l.da_first, l.dz0, l.may_block = <void *> &da[0, 0], &dz[0, 0], True
    if real is float:
        call.body = states_f32
    else:
        call.body = states_f64
    return 0


cdef void states_f32(void *layer, int tid, int n) noexcept nogil:
    states_loop(<Layer *> layer, _isa.f32, tid, n)


cdef void states_f64(void *layer, int tid, int n) noexcept nogil:
    states_loop(<Layer *> layer, _isa.f64, tid, n)


cdef void states_loop(Layer *l, const Kernels *k, int tid, int n) noexcept nogil:
    cdef Py_ssize_t B = l.B, H = l.H, P = k.panel
    cdef Share mine = share_gemm(B, H, P, k.tile_rows, tid, n)
    pack_matrix(l, k, H, H, l.V, l.V_h, l.V_i, l.packed_V, H * P, tid, n)
    pack_matrix(l, k, B, H, l.da_first, H, 1, l.packed_state, l.state_panel, tid, n)
    meet(l, tid, n)
    states_backward(l, k, &mine, l.packed_state, tid)
