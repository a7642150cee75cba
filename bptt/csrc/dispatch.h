/* Which kernels this machine can run, and what it is like. */
#ifndef BPTT_DISPATCH_H
#define BPTT_DISPATCH_H

#include "kernels.h"

extern const bptt_kernels_f32 bptt_kernels_f32_avx512, bptt_kernels_f32_avx2,
    bptt_kernels_f32_base;
extern const bptt_kernels_f64 bptt_kernels_f64_avx512, bptt_kernels_f64_avx2,
    bptt_kernels_f64_base;

typedef struct bptt_isa {
    const char *name;
    int (*supported)(void);
    const bptt_kernels_f32 *f32;
    const bptt_kernels_f64 *f64;
} bptt_isa;

/* The i-th ISA that was built in, best first; NULL past the end. */
const bptt_isa *bptt_isa_at(int i);

/* The ISA of that name; NULL or "" asks for the best one the machine supports. NULL if
 * there is none of that name or the machine does not support it. */
const bptt_isa *bptt_isa_find(const char *name);

/* Bytes of a data cache, level 1..3, as one core sees it; 0 if unknown. */
ptrdiff_t bptt_cache_size(int level);

/* What compiled this. */
const char *bptt_compiler(void);

/* Denormals are zero, in operands and results, until bptt_ftz_end(bptt_ftz_begin()).
 * bptt_ftz_state() tells how they are treated now, for bptt_ftz_end as well. */
unsigned bptt_ftz_begin(void);
unsigned bptt_ftz_state(void);
void bptt_ftz_end(unsigned saved);

#endif
