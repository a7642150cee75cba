/* Errors of the vector functions in ULP, on each ISA of this machine:
 *
 *     test_ulp STEP POINTS FUNCTION=BOUND...
 *
 * float32 in every STEP-th of the 2^32 inputs against libm in double; float64 in POINTS
 * points of several kinds against libm in long double, where that has more digits. One
 * ULP is the distance of neighbours at the exact result.
 *
 * Besides: NaN, infinities, signed zeros; |tanh| <= 1, tanh and expm1 odd where they
 * must be; tanh takes no step down from any input to the next; the same bits for every
 * lane and part vector. Exit code 1 if anything is violated. */
#include "isa_functions.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK  65536
#define TESTED (ISAS - 1) /* without the single lane: see test_activation.c */

static const char *const names[] = FUNCTION_NAMES;
static double bound[FUNCTIONS]; /* 0: not tested */
static int failures;

struct report {
    double worst, at, down, down_at; /* down: the largest step down, relative */
    long downs, wrong;
};

static void print_report(const char *isa, const char *type, int f,
                         const struct report *r)
{
    printf("%-6s %s %-8s %6.3f ULP at %.17g; steps down: %ld", isa, type, names[f],
           r->worst, r->at, r->downs);
    if (r->downs)
        printf(" (%.2g at %.9g)", r->down, r->down_at);
    if (!(r->worst <= bound[f]) || r->wrong || (f == TANH && r->downs)) {
        failures++;
        printf("  VIOLATION, %ld wrong", r->wrong);
    }
    printf("\n");
    fflush(stdout);
}

static void step_down(struct report *r, double at, double relative)
{
    r->downs++;
    if (fabs(relative) > r->down)
        r->down = fabs(relative), r->down_at = at;
}

static double reference_f32(int f, double x)
{
    switch (f) {
    case TANH:
        return tanh(x);
    case SIGMOID:
        return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x));
    case EXP:
        return exp(x);
    case EXPM1:
        return expm1(x);
    case ELU:
        return x < 0 ? expm1(x) : x;
    default:
        return x < 0 ? log1p(exp(x)) : x + log1p(exp(-x));
    }
}

static long double reference_f64(int f, long double x)
{
    switch (f) {
    case TANH:
        return tanhl(x);
    case SIGMOID:
        return x < 0 ? expl(x) / (1 + expl(x)) : 1 / (1 + expl(-x));
    case EXP:
        return expl(x);
    case EXPM1:
        return expm1l(x);
    case ELU:
        return x < 0 ? expm1l(x) : x;
    default:
        return x < 0 ? log1pl(expl(x)) : x + log1pl(expl(-x));
    }
}

/* The error of a type with so many digits, whose least normal number is 2^(e - 1).
 * Below the normal range the spacing is constant; what is half a spacing beyond the
 * largest number rounds to infinity. */
static double error(double got, long double exact, double largest, int digits, int e)
{
    int exponent;
    if (isnan(exact) || isnan(got))
        return isnan(exact) && isnan(got) ? 0 : INFINITY;
    if (fabsl(exact) >= largest * (1 + ldexpl(1, -digits - 1)))
        return isinf(got) && signbit(got) == signbit(exact) ? 0
               : fabs(got) == largest                       ? 1
                                                            : INFINITY;
    (void)frexpl(exact, &exponent);
    exponent = exponent < e ? e : exponent;
    return isinf(got) ? INFINITY
                      : (double)ldexpl(fabsl(got - exact), digits - exponent);
}

/* The same in double, for 2^32 inputs. */
static double error_f32(float got, double exact)
{
    int exponent;
    if (!(fabs(exact) <= (double)FLT_MAX) || !isfinite(got))
        return error((double)got, exact, (double)FLT_MAX, FLT_MANT_DIG, FLT_MIN_EXP);
    (void)frexp(exact, &exponent);
    exponent = exponent < FLT_MIN_EXP ? FLT_MIN_EXP : exponent;
    return ldexp(fabs((double)got - exact), FLT_MANT_DIG - exponent);
}

/* In the order of the reals: from -inf to -0, then from +0 to +inf, then the NaNs. */
static float ordered(uint32_t k)
{
    const uint32_t negatives = 0x7f800001u;
    uint32_t bits = k < negatives                   ? 0xff800000u - k
                    : k < 2 * negatives             ? k - negatives
                    : k < 2 * negatives + 0x7fffffu ? k - negatives
                                                    : k;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* What holds without any reference. */
static int is_wrong(int f, double x, double y, double opposite)
{
    int wrong = 0;
    if (f == TANH)
        wrong += fabs(y) > 1 || (!isnan(y) && y != -opposite);
    if ((f == TANH || f == EXPM1 || f == ELU) && x == 0)
        wrong += y != 0 || signbit(y) != signbit(x);
    return wrong != 0;
}

static void test_f32(int f, uint32_t step)
{
    static float x[BLOCK], y[BLOCK], opposite[BLOCK], negated[BLOCK];
    static double exact[BLOCK];
    struct report r[TESTED] = {{0}};
    float last[TESTED];
    for (int k = 0; k < TESTED; k++)
        last[k] = -INFINITY;
    for (uint64_t start = 0; start < (uint64_t)1 << 32;) {
        ptrdiff_t n = 0;
        for (; n < BLOCK && start < (uint64_t)1 << 32; n++, start += step) {
            x[n] = ordered((uint32_t)start);
            negated[n] = -x[n];
            exact[n] = reference_f32(f, (double)x[n]);
        }
        for (int k = 0; k < TESTED; k++) {
            if (!isa_runs(k))
                continue;
            isas_f32[k]->apply(f, y, x, n);
            isas_f32[k]->apply(f, opposite, negated, n);
            for (ptrdiff_t i = 0; i < n; i++) {
                double e = error_f32(y[i], exact[i]);
                if (e > r[k].worst)
                    r[k].worst = e, r[k].at = (double)x[i];
                if (y[i] < last[k])
                    step_down(&r[k], (double)x[i], (double)(last[k] / y[i]) - 1);
                last[k] = y[i];
                r[k].wrong +=
                    is_wrong(f, (double)x[i], (double)y[i], (double)opposite[i]);
            }
        }
    }
    for (int k = 0; k < TESTED; k++)
        if (isa_runs(k))
            print_report(isas_f32[k]->isa, "f32", f, &r[k]);
}

static uint64_t random_bits(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545f4914f6cdd1du;
}

static double uniform(double a, double b)
{
    return a + (b - a) * (double)(random_bits() >> 11) * 0x1p-53;
}

static const double special[] = {
    0.0,          -0.0,          INFINITY, -INFINITY, NAN,     DBL_MIN, -DBL_MIN,
    DBL_TRUE_MIN, -DBL_TRUE_MIN, DBL_MAX,  -DBL_MAX,  1e-310,  -1e-310, 1,
    -1,           0.75,          -0.75,    19.0,      20.0,    24.0,    40.0,
    -40.0,        36.7,          -36.7,    709.7827,  709.79,  710.0,   -708.39,
    -744.44,      -745.13,       -745.14,  -746.0,    -747.0,  1e300,   -1e300,
    88.7,         -88.7,         -103.97,  -104.0,    0x1p-27, 0x1p-54};

/* Point i of the sample: runs of 64 neighbours (for monotony), started uniformly where
 * the functions bend, at all exponents, at the seams of tables and reductions. */
static double sample(long i)
{
    static double x;
    const long count = (long)(sizeof special / sizeof *special);
    if (i < count)
        return special[i];
    if (i % 64)
        return x = nextafter(x, INFINITY);
    double sign = random_bits() & 1 ? 1 : -1;
    switch (i / 64 % 6) {
    case 0:
        x = uniform(-2, 2);
        break;
    case 1:
        x = uniform(-40, 40);
        break;
    case 2:
        x = uniform(-750, 712);
        break;
    case 3:
        x = sign * ldexp(uniform(1, 2), (int)uniform(-60, 5));
        break;
    case 4: /* half octaves */
        x = sign * ldexp(random_bits() & 1 ? 1 : 1.5, (int)uniform(-5, 6));
        break;
    default: /* between two n of the reduction */
        x = (floor(uniform(-60, 60)) + 0.5) * 0.69314718055994530942;
        break;
    }
    for (long k = i % 5 == 0 ? 0 : 32; k > 0; k--)
        x = nextafter(x, -INFINITY);
    return x;
}

static void test_f64(int f, long points)
{
    static double x[BLOCK], y[BLOCK], opposite[BLOCK], negated[BLOCK];
    static long double exact[BLOCK];
    struct report r[TESTED] = {{0}};
    for (long start = 0; start < points; start += BLOCK) {
        for (long i = 0; i < BLOCK; i++) {
            x[i] = sample(start + i);
            negated[i] = -x[i];
            exact[i] = reference_f64(f, x[i]);
        }
        for (int k = 0; k < TESTED; k++) {
            if (!isa_runs(k))
                continue;
            isas_f64[k]->apply(f, y, x, BLOCK);
            isas_f64[k]->apply(f, opposite, negated, BLOCK);
            for (long i = 0; i < BLOCK; i++) {
                double e = error(y[i], exact[i], DBL_MAX, DBL_MANT_DIG, DBL_MIN_EXP);
                if (e > r[k].worst)
                    r[k].worst = e, r[k].at = x[i];
                if (i && x[i - 1] < x[i] && y[i] < y[i - 1])
                    step_down(&r[k], x[i], y[i - 1] / y[i] - 1);
                r[k].wrong += is_wrong(f, x[i], y[i], opposite[i]);
            }
        }
    }
    for (int k = 0; k < TESTED; k++)
        if (isa_runs(k))
            print_report(isas_f64[k]->isa, "f64", f, &r[k]);
}

/* Every input at every lane, in whole vectors and in the part at the end of an array.
 */
#define TEST_LANES(real, isas)                                                     \
    static void test_lanes_##real(int f, int k)                                    \
    {                                                                              \
        static real x[512], y[512], z[512];                                        \
        for (int i = 0; i < 512; i++)                                              \
            x[i] = (real)sample(64 * (long)(random_bits() % 100000) + 64);         \
        isas[k]->apply(f, y, x, 512);                                              \
        for (int shift = 0; shift < 33; shift++)                                   \
            for (int n = 0; n < 40; n++) {                                         \
                isas[k]->apply(f, z, x + shift, n);                                \
                if (memcmp(z, y + shift, (size_t)n * sizeof(real)) == 0)           \
                    continue;                                                      \
                printf("%s %s %s: lanes differ\n", isas[k]->isa, #real, names[f]); \
                failures++;                                                        \
            }                                                                      \
    }
TEST_LANES(float, isas_f32)
TEST_LANES(double, isas_f64)

static int read_bound(const char *argument)
{
    const char *value = strchr(argument, '=');
    for (int f = 0; value && f < FUNCTIONS; f++) {
        size_t length = (size_t)(value - argument);
        if (strlen(names[f]) == length && !strncmp(argument, names[f], length))
            return (bound[f] = atof(value + 1)) > 0;
    }
    return 0;
}

int main(int argc, char **argv)
{
    uint32_t step = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
    long points = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
    for (int i = 3; i < argc; i++)
        step = read_bound(argv[i]) ? step : 0;
    if (step == 0 || argc < 4) {
        fprintf(stderr, "usage: test_ulp STEP POINTS FUNCTION=BOUND...\n");
        return 2;
    }
    for (int f = 0; f < FUNCTIONS; f++) {
        if (bound[f] <= 0)
            continue;
        for (int k = 0; k < TESTED; k++)
            if (isa_runs(k))
                test_lanes_float(f, k), test_lanes_double(f, k);
        if (LDBL_MANT_DIG > DBL_MANT_DIG)
            test_f64(f, points);
        test_f32(f, step);
    }
    printf("%d failures\n", failures);
    return failures != 0;
}
