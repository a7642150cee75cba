/* The arithmetic of the recurrent layer, for float (suffix _f32) and double (_f64).
 *
 * No Python in here. The loop over time is in _kernels.pyx; the meaning of each
 * function is that of its line in _reference.py. Matrices are C-contiguous, rows first,
 * and no output overlaps an input unless it says so.
 */
#ifndef BPTT_STEP_H
#define BPTT_STEP_H

#include <math.h>
#include <stddef.h>
#include <string.h>

/* The codes of the table in activations.py. */
enum {
    BPTT_IDENTITY,
    BPTT_SIGMOID,
    BPTT_TANH,
    BPTT_RELU,
    BPTT_LEAKY_RELU,
    BPTT_ELU,
    BPTT_SOFTPLUS,
    BPTT_SOFTSIGN,
    BPTT_HARD_SIGMOID,
    BPTT_SCALED_TANH,
    BPTT_THRESHOLDED_RELU,
    BPTT_AFFINE
};

#define REAL       float
#define NAME(name) bptt_##name##_f32
#define MATH(name) name##f
#include "step.inc.h"

#define REAL       double
#define NAME(name) bptt_##name##_f64
#define MATH(name) name
#include "step.inc.h"

#endif
