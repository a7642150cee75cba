/* The vector functions of each ISA as array functions, for the tests to call. */
#ifndef ISA_FUNCTIONS_H
#define ISA_FUNCTIONS_H

#include <stddef.h>

enum { TANH, SIGMOID, EXP, EXPM1, ELU, SOFTPLUS, FUNCTIONS };
#define FUNCTION_NAMES {"tanh", "sigmoid", "exp", "expm1", "elu", "softplus"}

/* apply:          dst[i] = f(src[i])
 * sigma, dsigma:  v_sigma and v_dsigma of a code, n a multiple of every VLEN
 * simd:           every operation of the vocabulary against scalar code, and its part
 *                 vectors in a page between two guards; returns failures */
#define ISA_FUNCTIONS(name, real)                                                 \
    struct name {                                                                 \
        const char *isa;                                                          \
        void (*apply)(int f, real *dst, const real *src, ptrdiff_t n);            \
        void (*sigma)(int code, real *dst, const real *src, ptrdiff_t n, real a,  \
                      real b);                                                    \
        void (*dsigma)(int code, real *dst, const real *src, ptrdiff_t n, real a, \
                       real b);                                                   \
        int (*simd)(char *page, ptrdiff_t page_size);                             \
    }
ISA_FUNCTIONS(functions_f32, float);
ISA_FUNCTIONS(functions_f64, double);

/* Best first; the last is the base text with one lane, as compilers without vectors see
 * it. Where base has no FMA both have the same bits. */
#if defined(__x86_64__)
#define ISAS 4
#else
#define ISAS 2
#endif
extern const struct functions_f32 *const isas_f32[ISAS];
extern const struct functions_f64 *const isas_f64[ISAS];

/* Whether this machine can run the k-th. */
int isa_runs(int k);

#endif
