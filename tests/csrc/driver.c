/* The kernels, the plan and the pool at work, walking through time as _kernels.pyx does
 * (layer.inc.h), on random shapes, for every ISA of this machine and both types.
 *
 *     driver DRAWS ULPS [ISA]
 *
 * Each shape is checked against plain loops in double (check.inc.h), an activation
 * within ULPS; has the same bits on 1 to 4 threads, whatever they share; z, dx and dz0
 * of a sequence the same alone and in a batch; and survives an interrupt. Exit code 1
 * if anything is wrong. */
#include "activation.h"
#include "dispatch.h"
#include "plan.h"
#include "pool.h"
#include "simd.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_THREADS 4

static double ulps;

static double uniform(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double)(state >> 11) * 0x1p-53;
}

static ptrdiff_t below(double high)
{
    return (ptrdiff_t)(uniform() * high);
}

static uint64_t fold(uint64_t f, const void *p, size_t bytes)
{
    const unsigned char *c = p;
    for (size_t i = 0; i < bytes; i++)
        f = (f ^ c[i]) * 1099511628211u;
    return f;
}

typedef struct shape {
    ptrdiff_t T, B, I, H;
    int activation;
    ptrdiff_t chunks; /* 0: as planned */
    unsigned variant; /* what is absent, transposed, made of token ids */
} shape;

static void print_shape(const shape *s)
{
    printf("T=%td B=%td I=%td H=%td activation %d, %td chunks, variant %u:", s->T, s->B,
           s->I, s->H, s->activation, s->chunks, s->variant);
}

/* A sum with a bound of its error. */
typedef struct sum {
    double value, error;
} sum;

static sum *new_sums(ptrdiff_t n)
{
    sum *p = calloc((size_t)n, sizeof *p);
    if (!p)
        exit(2);
    return p;
}

/* s += factor x, rounded by eps of the term for all the additions it takes part in. */
static void add(sum *s, double factor, sum x, double eps)
{
    s->value += factor * x.value;
    s->error += fabs(factor) * (x.error + eps * fabs(x.value));
}

static int within(const char *what, double got, sum s)
{
    if (fabs(got - s.value) <= s.error)
        return 1;
    printf("%s: %.17g is not within %.2g of %.17g\n", what, got, s.error, s.value);
    return 0;
}

/* How many units there are: those for certain, and those that may be. */
typedef struct count {
    int32_t low, high;
} count;

static int counted(const char *what, int32_t got, count c)
{
    if (c.low <= got && got <= c.high)
        return 1;
    printf("%s: %d is not within %d .. %d\n", what, got, c.low, c.high);
    return 0;
}

static double sigma(int activation, double a, double alpha, double beta)
{
    switch (activation) {
    case BPTT_SIGMOID:
        return 1 / (1 + exp(-a));
    case BPTT_TANH:
        return tanh(a);
    case BPTT_RELU:
        return a > 0 ? a : 0;
    case BPTT_LEAKY_RELU:
        return a >= 0 ? a : alpha * a;
    case BPTT_ELU:
        return a >= 0 ? a : alpha * expm1(a);
    case BPTT_SOFTPLUS:
        return fmax(a, 0) + log1p(exp(-fabs(a)));
    case BPTT_SOFTSIGN:
        return a / (1 + fabs(a));
    case BPTT_HARD_SIGMOID:
        return fmax(0, fmin(1, alpha * a + beta));
    case BPTT_SCALED_TANH:
        return alpha * tanh(beta * a);
    case BPTT_THRESHOLDED_RELU:
        return a >= alpha ? a : 0;
    case BPTT_AFFINE:
        return alpha * a + beta;
    default:
        return a;
    }
}

/* sigma'(a), from z = sigma(a). */
static double dsigma(int activation, double z, double alpha, double beta)
{
    switch (activation) {
    case BPTT_SIGMOID:
        return z * (1 - z);
    case BPTT_TANH:
        return 1 - z * z;
    case BPTT_RELU:
    case BPTT_THRESHOLDED_RELU:
        return z > 0;
    case BPTT_LEAKY_RELU:
        return z > 0 ? 1 : alpha;
    case BPTT_ELU:
        return z > 0 ? 1 : z + alpha;
    case BPTT_SOFTPLUS:
        return -expm1(-z);
    case BPTT_SOFTSIGN:
        return (1 - fabs(z)) * (1 - fabs(z));
    case BPTT_HARD_SIGMOID:
        return z > 0 && z < 1 ? alpha : 0;
    case BPTT_SCALED_TANH:
        return beta * (alpha - z * z / alpha);
    case BPTT_AFFINE:
        return alpha;
    default:
        return 1;
    }
}

#define REAL_BITS 32
#include "layer.inc.h"
#include "check.inc.h"
#undef REAL_BITS
#define REAL_BITS 64
#include "layer.inc.h"
#include "check.inc.h"
#undef REAL_BITS

/* Small ones, so that there can be many; now and then one that is long, one that is
 * wide, a single row in each of its ways. */
static shape draw(int i)
{
    shape s = {1 + below(30), 1 + below(17), 1 + below(67), 1 + below(67), 0, 0, 0};
    if (i % 4 == 1)
        s.B = 1;
    if (i % 24 == 7)
        s.T = 2, s.I = 1 + below(20), s.H = 600 + below(300);
    if (i % 24 == 13)
        s.T = 40, s.B = 1, s.I = 9, s.H = 200 + below(100);
    if (i % 24 == 19)
        s.T = 550 + below(200), s.B = 1 + below(3), s.I = 1 + below(9),
        s.H = 1 + below(40);
    s.activation = i % BPTT_ACTIVATION_COUNT;
    s.chunks = i % 3 ? 1 + below((double)(s.T < 6 ? s.T : 6)) : 0;
    s.variant = (unsigned)below(840);
    return s;
}

int main(int argc, char **argv)
{
    const int draws = argc > 2 ? atoi(argv[1]) : 0;
    int failures = 0;
    const bptt_isa *isa;
    ulps = argc > 2 ? atof(argv[2]) : 0;
    if (draws < 1 || ulps <= 0 || (argc > 3 && !bptt_isa_find(argv[3]))) {
        fprintf(stderr, "usage: driver DRAWS ULPS [ISA]\n");
        return 2;
    }
    for (int i = 0; (isa = bptt_isa_at(i)) != NULL; i++) {
        if (!isa->supported() || (argc > 3 && strcmp(argv[3], isa->name) != 0))
            continue;
        for (int j = 0; j < draws; j++) {
            shape s = draw(j);
            failures += check_shape_f32(isa->f32, isa->name, &s);
            failures += check_shape_f64(isa->f64, isa->name, &s);
        }
        printf("%s: %d shapes\n", isa->name, draws);
    }
    printf("%d failures\n", failures);
    return failures != 0;
}
