/* All algorithm texts for one type (REAL_BITS) and one ISA, and the table of them.
 * Expects the vocabulary, TILE_ROWS and ISA (the suffix of the table's name). */
#include "activation.inc.h"
#include "tile.inc.h"
#include "row.inc.h"
#include "gemm.inc.h"
#include "record.inc.h"
#include "narrow.inc.h"
#include "step.inc.h"
#include "flow.inc.h"
#include "pack.inc.h"
#include "orthonormalise.inc.h"

const NAME(bptt_kernels) SIMD_CAT(NAME(bptt_kernels), _, ISA) = {
    VLEN,          PANEL,       TILE_ROWS,     pack,          unpack,
    gemm,          outer_tiles, gemm_outer,    sum_rows,      step_forward,
    step_backward, walks,       walk_forward,  walk_backward, state_backward,
    gather,        scatter,     flow_backward, flow_record,   orthonormalise,
};
