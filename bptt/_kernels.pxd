"""What `_kernels.pyx` takes from C, and the layer its functions work on."""

from libc.stdint cimport int32_t, int64_t


cdef extern from "activation.h" nogil:
    int IDENTITY "BPTT_IDENTITY"

cdef extern from "pool.h" nogil:
    ctypedef struct Barrier "bptt_barrier":
        pass

cdef extern from "kernels.h" nogil:
    ctypedef struct Share "bptt_share":
        Py_ssize_t r0, r1, u0, u1
        Barrier *others
        int tid, n

    ctypedef struct Flow "bptt_flow":
        double clip_norm, clip_value

    ctypedef struct Record "bptt_record":
        double threshold
        Py_ssize_t row, apart, stride
        void *squares
        double *norms
        int32_t *counts
        void *dead

    ctypedef struct Cell "bptt_cell":
        Py_ssize_t B, H, z_row, g_row, z_step, g_step
        const void *V
        int activation
        double alpha, beta

    # Their types stand in kernels.h, where the C compiler checks the calls.
    ctypedef void (*kernel)(...) noexcept nogil

    ctypedef struct Kernels32 "bptt_kernels_f32":
        Py_ssize_t panel, tile_rows
        kernel pack, unpack, gemm, gemm_outer, sum_rows, gather, scatter
        kernel step_forward, step_backward, state_backward, flow_backward
        kernel walk_forward, walk_backward
        bint (*walks)(const Cell *cell) noexcept nogil
        kernel flow_record, orthonormalise
        Py_ssize_t (*outer_tiles)(Py_ssize_t M) noexcept nogil

    ctypedef struct Kernels64 "bptt_kernels_f64":
        Py_ssize_t panel, tile_rows
        kernel pack, unpack, gemm, gemm_outer, sum_rows, gather, scatter
        kernel step_forward, step_backward, state_backward, flow_backward
        kernel walk_forward, walk_backward
        bint (*walks)(const Cell *cell) noexcept nogil
        kernel flow_record, orthonormalise
        Py_ssize_t (*outer_tiles)(Py_ssize_t M) noexcept nogil

    void fetch "bptt_fetch"(const void *p, Py_ssize_t bytes)
    Py_ssize_t panels_of "bptt_panels"(Py_ssize_t N, Py_ssize_t panel)
    Py_ssize_t row_tiles "bptt_row_tiles"(Py_ssize_t R, Py_ssize_t tile_rows)
    Py_ssize_t split "bptt_split"(Py_ssize_t size, Py_ssize_t i, Py_ssize_t n)

cdef extern from "plan.h" nogil:
    int ROWS "BPTT_ROWS", COLUMNS "BPTT_COLUMNS", PIPELINE "BPTT_PIPELINE"
    ctypedef struct Plan "bptt_plan":
        Py_ssize_t chunks, steps
        Py_ssize_t room[2]
        int threads, split
        double patience, answer
    double patience_for "bptt_patience"(double products)
    Plan make_plan "bptt_plan_make"(
        Py_ssize_t T, Py_ssize_t B, Py_ssize_t I, Py_ssize_t H,
        Py_ssize_t itemsize, Py_ssize_t panel, Py_ssize_t tile_rows, int threads)
    bint plan_halves "bptt_plan_halves"(Py_ssize_t B, Py_ssize_t H)
    bint plan_side_by_side "bptt_plan_side_by_side"(
        Py_ssize_t B, Py_ssize_t H, double work, int threads)
    Share share_step "bptt_share_step"(
        const Plan *plan, Py_ssize_t B, Py_ssize_t H,
        Py_ssize_t panel, Py_ssize_t tile_rows, int tid, int n)
    Share share_gemm "bptt_share_gemm"(
        Py_ssize_t R, Py_ssize_t N,
        Py_ssize_t panel, Py_ssize_t tile_rows, int tid, int n)

ctypedef void (*Body)(void *ctx, int tid, int n) noexcept nogil

cdef extern from "pool.h" nogil:
    void arrive "bptt_barrier_arrive"(Barrier *barrier, int tid)
    void wait_for "bptt_barrier_await"(Barrier *barrier, int tid, int n)
    bint wait_until "bptt_barrier_await_until"(
        Barrier *barrier, int tid, int n, double end)
    void barrier_wait "bptt_barrier_wait"(Barrier *barrier, int tid, int n)
    void stop_at "bptt_barrier_stop"(Barrier *barrier, Py_ssize_t turn)
    bint stopped_at "bptt_barrier_stopped"(Barrier *barrier, Py_ssize_t turn)
    int run_on_threads "bptt_pool_run"(
        Body body, void *ctx, int threads, double patience, double answer)
    double seconds "bptt_seconds"()
    double longest_wait "bptt_wait_longest"()
    void wait_is "bptt_wait_is"(double seconds)

cdef extern from "dispatch.h" nogil:
    ctypedef struct Isa "bptt_isa":
        const char *name
        const Kernels32 *f32
        const Kernels64 *f64
    const Isa *isa_at "bptt_isa_at"(int i)
    const Isa *isa_find "bptt_isa_find"(const char *name)
    Py_ssize_t cache_size "bptt_cache_size"(int level)
    const char *compiler "bptt_compiler"()
    unsigned int ftz_state "bptt_ftz_state"()
    void ftz_end "bptt_ftz_end"(unsigned int saved)

cdef extern from "Python.h":
    # Declared without its exception, which is to stay set until the call returns.
    int PyErr_CheckSignals() noexcept


ctypedef fused real:
    float
    double

ctypedef fused Kernels:
    Kernels32
    Kernels64

# A layer, as the threads of one call share it.
cdef struct Layer:
    Py_ssize_t T, B, I, H
    const void *x                # (T, B, I), or NULL
    const Py_ssize_t *ids        # (T, B), where x is NULL
    const void *W                # (I, H), element (i, h) at W[i * W_i + h * W_h]
    const void *V                # (H, H), likewise
    const void *b                # (H), or NULL
    void *z                      # (T + 1, B, H)
    const void *dz               # (T, B, H), or NULL
    const void *dz_last          # (B, H), or NULL; in place of dz[T-1]
    void *dW
    void *dV
    void *db                     # or NULL
    void *dz0
    void *dx                     # or NULL
    Py_ssize_t W_i, W_h, V_i, V_h, itemsize, panel
    # Reals from one row to the next
    Py_ssize_t x_row, z_row, dz_row, dx_row
    # and from one step to the next, of which each has as many rows
    Py_ssize_t x_step, ids_step, dz_step, dx_step
    bint back                    # x, z and dx stand in memory from the last step on
    bint half                    # these are the rows of a half of the batch
    bint may_halve
    bint may_block               # it has no layout, nor have others of its run
    int halves                   # of a batch whose gradients are summed apart, or 1
    Py_ssize_t chunk_panel, state_panel  # reals from one panel to the next
    Py_ssize_t apart            # rows of the packed state between those of two threads
    # The layout, see _parts.py
    const Py_ssize_t *offsets    # (T + 1), or NULL
    const Py_ssize_t *restarts   # (n_restarts, 3)
    const void *starts
    void *da_starts              # (n_restarts, H), or NULL
    const Py_ssize_t *ends       # (n_ends, 3); dz_last is then looked up
    Py_ssize_t n_restarts, n_ends
    const Py_ssize_t *place      # row of x, dz, dx for each cell, or NULL
    const Py_ssize_t *z_place    # row of z
    const Py_ssize_t *x_rows     # where each cell's row is, or NULL
    const Py_ssize_t *dz_rows
    const Py_ssize_t *first      # (B), rows of starts; or NULL: z begins with them
    # The segment
    Py_ssize_t steps             # of a chunk; 0 where the call is the run
    bint add
    bint carries                 # the sums of both halves, which are not added
    void *other_dW               # of the second half
    void *other_dV
    void *other_db
    int64_t *other_dead
    const void *da_next          # (next_rows, H), or NULL
    Py_ssize_t next_rows
    void *da_first               # (B, H), or NULL
    # The flow of the error
    bint clips
    Flow flow
    double *norms                # one for each cell, or NULL, as the next two
    int32_t *saturated
    Py_ssize_t record_row, record_step  # from one to the next in these
    int64_t *dead                # (H)
    Record record                # of a chunk, or where threads share rows of a step
    Py_ssize_t dead_stride
    Cell cell
    Plan plan
    Barrier barrier
    Barrier *both                # of this layer and one beside it, or NULL
    void *packed_V               # forward V, backward V^T
    void *packed_W               # forward W, backward W^T
    void *packed_x               # of a chunk
    void *packed_z               # of a chunk
    void *packed_da              # of a chunk, or of two
    void *packed_dV[2]           # sums over chunks, of each half
    void *packed_dW[2]
    void *packed_state           # forward z, backward da: of the last two steps
    void *step_dz                # (B, H): dz[t], where it is not taken as it stands
    void *cells_dx               # of a chunk, where dx has a place for each cell
    void *cells_z                # of a chunk, or of two, where z has
    void *dead_now               # of a chunk, for each thread
    int64_t *dead_sums
    bint main_thread             # where Python's signals are handled
    bint interrupted
    bint takes_long              # a chunk, so that it is cut into lots
    double watched               # when signals were last looked for
    unsigned int outside         # what a call found of how to treat denormals
