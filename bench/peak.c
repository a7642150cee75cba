// What the machine can do at most: multiply-adds from registers, and reading memory.
//
// Built by bench/native.py into a shared library. One text is included once per type
// and ISA (below, by including this file again); the best ISA the CPU has is taken.

#ifndef REAL

#include <pthread.h>
#include <stddef.h>

typedef struct {
    ptrdiff_t rounds;
    const void *data;
    ptrdiff_t size;
    double sink;
} job;

#if defined(__x86_64__)
#define REAL    float
#define BYTES   64
#define ISA     __attribute__((target("avx512f")))
#define NAME(f) f##_float_avx512
#include "peak.c"
#define BYTES   32
#define ISA     __attribute__((target("avx2,fma")))
#define NAME(f) f##_float_avx2
#include "peak.c"
#undef REAL
#define REAL    double
#define BYTES   64
#define ISA     __attribute__((target("avx512f")))
#define NAME(f) f##_double_avx512
#include "peak.c"
#define BYTES   32
#define ISA     __attribute__((target("avx2,fma")))
#define NAME(f) f##_double_avx2
#include "peak.c"
#undef REAL
#endif

#define REAL  float
#define BYTES 16
#define ISA
#define NAME(f) f##_float_base
#include "peak.c"
#undef REAL
#define REAL  double
#define BYTES 16
#define ISA
#define NAME(f) f##_double_base
#include "peak.c"

typedef struct {
    const char *isa;
    int bytes;
    void *(*fma_float)(void *);
    void *(*fma_double)(void *);
    void *(*read)(void *);
} kernels;

static const kernels TABLE[] = {
#if defined(__x86_64__)
    {"avx512f", 64, fma_float_avx512, fma_double_avx512, read_float_avx512},
    {"avx2", 32, fma_float_avx2, fma_double_avx2, read_float_avx2},
#endif
    {"baseline", 16, fma_float_base, fma_double_base, read_float_base},
};

static const kernels *best(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        return &TABLE[0];
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &TABLE[1];
    return &TABLE[2];
#else
    return &TABLE[0];
#endif
}

const char *peak_isa(void)
{
    return best()->isa;
}

enum { MOST_THREADS = 64 };

// Run one job a thread; returns a number that keeps the work from being removed.
static double run(void *(*body)(void *), job *jobs, int threads)
{
    pthread_t ids[MOST_THREADS];
    int started = 1;
    for (; started < threads; started++)
        if (pthread_create(&ids[started], NULL, body, &jobs[started]))
            break;
    body(&jobs[0]);
    double sink = jobs[0].sink;
    for (int n = 1; n < started; n++) {
        pthread_join(ids[n], NULL);
        sink += jobs[n].sink;
    }
    return started == threads ? sink : -1;
}

// Do `rounds` rounds of multiply-adds on each thread; returns the flops, or 0.
double peak_fma(int threads, int wide, ptrdiff_t rounds, double *sink)
{
    job jobs[MOST_THREADS];
    if (threads < 1 || threads > MOST_THREADS)
        return 0;
    for (int n = 0; n < threads; n++)
        jobs[n] = (job){.rounds = rounds};
    const kernels *k = best();
    *sink = run(wide ? k->fma_double : k->fma_float, jobs, threads);
    const int lanes = k->bytes / (wide ? 8 : 4);
    return 2.0 * 12 * lanes * (double)rounds * threads;
}

// Read an array of `size` bytes, a share a thread; returns the bytes read.
double peak_read(int threads, const char *data, ptrdiff_t size, double *sink)
{
    job jobs[MOST_THREADS];
    if (threads < 1 || threads > MOST_THREADS)
        return 0;
    const ptrdiff_t share = size / threads / 1024 * 1024;
    for (int n = 0; n < threads; n++)
        jobs[n] = (job){.data = data + n * share, .size = share};
    *sink = run(best()->read, jobs, threads);
    return (double)share * threads;
}

#else // the text, for one REAL, BYTES, ISA

typedef REAL NAME(vector) __attribute__((vector_size(BYTES), aligned(8)));

// Twelve independent chains hide the latency of two units of four cycles and more.
ISA static void *NAME(fma)(void *argument)
{
    job *restrict j = argument;
    const ptrdiff_t lanes = BYTES / (ptrdiff_t)sizeof(REAL);
    NAME(vector) acc[12], factor, term;
    for (ptrdiff_t l = 0; l < lanes; l++) {
        factor[l] = (REAL)0.75;
        term[l] = (REAL)0.25;
    }
    for (int n = 0; n < 12; n++)
        acc[n] = term * (REAL)(n + 1);
    // Behind this the compiler knows nothing of the values.
    __asm__ volatile("" : "+m"(factor), "+m"(term));
    NAME(vector) f = factor, t = term;
    NAME(vector) a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
    NAME(vector) a4 = acc[4], a5 = acc[5], a6 = acc[6], a7 = acc[7];
    NAME(vector) a8 = acc[8], a9 = acc[9], a10 = acc[10], a11 = acc[11];
    for (ptrdiff_t r = 0; r < j->rounds; r++) {
        a0 = a0 * f + t, a1 = a1 * f + t, a2 = a2 * f + t, a3 = a3 * f + t;
        a4 = a4 * f + t, a5 = a5 * f + t, a6 = a6 * f + t, a7 = a7 * f + t;
        a8 = a8 * f + t, a9 = a9 * f + t, a10 = a10 * f + t, a11 = a11 * f + t;
    }
    a0 += a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + a10 + a11;
    j->sink = 0;
    for (ptrdiff_t l = 0; l < lanes; l++)
        j->sink += (double)a0[l];
    return NULL;
}

ISA __attribute__((unused)) static void *NAME(read)(void *argument)
{
    job *restrict j = argument;
    const NAME(vector) *p = j->data;
    const ptrdiff_t count = j->size / (ptrdiff_t)sizeof *p;
    NAME(vector) a0 = p[0], a1 = p[1], a2 = p[2], a3 = p[3];
    for (ptrdiff_t n = 4; n + 4 <= count; n += 4)
        a0 += p[n], a1 += p[n + 1], a2 += p[n + 2], a3 += p[n + 3];
    a0 += a1 + a2 + a3;
    j->sink = (double)a0[0];
    return NULL;
}

#undef BYTES
#undef ISA
#undef NAME

#endif
