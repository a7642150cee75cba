/* v_sigma and v_dsigma of every code, on each ISA and type:
 *
 *     test_activation ULPS
 *
 * sigma against its formula, sigma' against the difference quotient of the formula, NaN
 * and infinities; and one lane against several. Exit code 1 if anything is wrong. */
#include "activation.h"
#include "isa_functions.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N     4096
#define ALPHA 0.3
#define BETA  0.7
/* Of the difference quotient; its error is of the order of H^2 in long double, which
 * some systems have no more precise than double. */
#define H          1e-5L
#define SLOPE_EASE 1e-9

static double ulps;

static long double formula(int code, long double a, long double alpha, long double beta)
{
    switch (code) {
    case BPTT_SIGMOID:
        return 1 / (1 + expl(-a));
    case BPTT_TANH:
        return tanhl(a);
    case BPTT_RELU:
        return a > 0 ? a : 0;
    case BPTT_LEAKY_RELU:
        return a >= 0 ? a : alpha * a;
    case BPTT_ELU:
        return a >= 0 ? a : alpha * expm1l(a);
    case BPTT_SOFTPLUS:
        return fmaxl(a, 0) + log1pl(expl(-fabsl(a)));
    case BPTT_SOFTSIGN:
        return isinf(a) ? copysignl(1, a) : a / (1 + fabsl(a));
    case BPTT_HARD_SIGMOID:
        return fmaxl(0, fminl(1, alpha * a + beta));
    case BPTT_SCALED_TANH:
        return alpha * tanhl(beta * a);
    case BPTT_THRESHOLDED_RELU:
        return a >= alpha ? a : 0;
    case BPTT_AFFINE:
        return alpha * a + beta;
    default:
        return a;
    }
}

/* Inputs step over [-6, 6], missing the kinks. */
static double input(int i)
{
    return (i - N / 2 + 0.25) * 12 / N;
}

/* Errors are measured in ULP of the larger of the operands and 1; of the slopes of
 * twice that, for z itself is rounded. */
#define TEST(real, isas, epsilon)                                                    \
    static int test_##real(int k, int code)                                          \
    {                                                                                \
        static real a[N], z[N], d[N];                                                \
        const real alpha = (real)ALPHA, beta = (real)BETA;                           \
        const long double p = alpha, q = beta;                                       \
        double worst = 0, worst_d = 0;                                               \
        int wrong = 0;                                                               \
        for (int i = 0; i < N; i++)                                                  \
            a[i] = (real)input(i);                                                   \
        isas[k]->sigma(code, z, a, N, alpha, beta);                                  \
        isas[k]->dsigma(code, d, z, N, alpha, beta);                                 \
        for (int i = 0; i < N; i++) {                                                \
            long double x = a[i], unit = (epsilon) * (1 + fabsl(x));                 \
            long double slope =                                                      \
                (formula(code, x + H, p, q) - formula(code, x - H, p, q)) / (2 * H); \
            double e = (double)(fabsl(z[i] - formula(code, x, p, q)) / unit);        \
            double f = (double)(fabsl(d[i] - slope) / (2 * unit + SLOPE_EASE));      \
            worst = e <= worst ? worst : e;                                          \
            worst_d = f <= worst_d ? worst_d : f;                                    \
            a[i] = i % 3 == 0   ? (real)NAN                                          \
                   : i % 3 == 1 ? (real)INFINITY                                     \
                                : (real) - INFINITY;                                 \
        }                                                                            \
        isas[k]->sigma(code, z, a, N, alpha, beta);                                  \
        isas[k]->dsigma(code, d, z, N, alpha, beta);                                 \
        for (int i = 0; i < N; i++) {                                                \
            int constant = code == BPTT_IDENTITY || code == BPTT_AFFINE;             \
            if (isnan(a[i]))                                                         \
                wrong += !isnan(z[i]) || (!isnan(d[i]) && !constant);                \
            else                                                                     \
                wrong += z[i] != (real)formula(code, a[i], p, q);                    \
        }                                                                            \
        if (worst <= ulps && worst_d <= ulps && wrong == 0)                          \
            return 0;                                                                \
        printf(                                                                      \
            "%s %s code %d: %g ULP, the slope %g, NaN or infinity wrong %d times\n", \
            isas[k]->isa, #real, code, worst, worst_d, wrong);                       \
        return 1;                                                                    \
    }

/* The last two ISAs are one text, in vectors and in single lanes. */
#define TEST_LANES(real, isas)                                  \
    static int test_lanes_##real(int f)                         \
    {                                                           \
        static real a[N], y[N], z[N];                           \
        for (int i = 0; i < N; i++)                             \
            a[i] = (real)(input(i) * input(i) * input(i));      \
        isas[ISAS - 2]->apply(f, y, a, N);                      \
        isas[ISAS - 1]->apply(f, z, a, N);                      \
        if (memcmp(y, z, sizeof y) == 0)                        \
            return 0;                                           \
        printf("%s function %d: one lane differs\n", #real, f); \
        return 1;                                               \
    }

TEST(float, isas_f32, 0x1p-23L)
TEST(double, isas_f64, 0x1p-52L)
#if !defined(__aarch64__) /* where base has FMA and a single lane has not */
TEST_LANES(float, isas_f32)
TEST_LANES(double, isas_f64)
#endif

int main(int argc, char **argv)
{
    int failures = 0;
    ulps = argc > 1 ? atof(argv[1]) : 0;
    for (int k = 0; k < ISAS; k++)
        for (int code = 0; isa_runs(k) && code < BPTT_ACTIVATION_COUNT; code++)
            failures += test_float(k, code) + test_double(k, code);
#if !defined(__aarch64__)
    for (int f = 0; f < FUNCTIONS; f++)
        failures += test_lanes_float(f) + test_lanes_double(f);
#endif
    printf("%d failures\n", failures);
    return failures != 0;
}
