/* The ordered table of ISAs, the tests behind it, and the machine's properties. */
#include "dispatch.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#define X86 1
#include <immintrin.h>
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#else
#define X86 0
#if !defined(_WIN32)
#include <unistd.h>
#endif
#endif

#if X86

typedef struct registers {
    uint32_t a, b, c, d;
} registers;

static registers cpuid(uint32_t leaf, uint32_t sub)
{
    registers r = {0, 0, 0, 0};
#if defined(_MSC_VER) && !defined(__clang__)
    int out[4];
    __cpuid(out, (int)(leaf & 0x80000000u));
    if ((uint32_t)out[0] >= leaf) {
        __cpuidex(out, (int)leaf, (int)sub);
        r = (registers){(uint32_t)out[0], (uint32_t)out[1], (uint32_t)out[2],
                        (uint32_t)out[3]};
    }
#else
    if (!__get_cpuid_count(leaf, sub, &r.a, &r.b, &r.c, &r.d))
        r = (registers){0, 0, 0, 0};
#endif
    return r;
}

/* The register state the operating system saves: it must agree to the wide registers.
 */
static uint64_t xcr0(void)
{
    if (!(cpuid(1, 0).c >> 27 & 1))
        return 0;
#if defined(_MSC_VER) && !defined(__clang__)
    return _xgetbv(0);
#else
    uint32_t lo, hi;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
#endif
}

static int all(uint64_t bits, uint64_t wanted)
{
    return (bits & wanted) == wanted;
}

#define BIT(n) (UINT64_C(1) << (n))

static int has_avx2(void)
{
    return all(xcr0(), BIT(1) | BIT(2))             /* XMM, YMM */
           && all(cpuid(1, 0).c, BIT(12) | BIT(28)) /* FMA, AVX */
           && all(cpuid(7, 0).b, BIT(5));           /* AVX2 */
}

static int has_avx512(void)
{
    return has_avx2() && all(xcr0(), BIT(5) | BIT(6) | BIT(7)) /* masks, ZMM */
           &&
           all(cpuid(7, 0).b, BIT(16) | BIT(17) | BIT(30) | BIT(31)); /* F DQ BW VL */
}

#endif

static int has_base(void)
{
    return 1;
}

#define ROW(isa) {#isa, has_##isa, &bptt_kernels_f32_##isa, &bptt_kernels_f64_##isa}

static const bptt_isa isas[] = {
#if X86
    ROW(avx512),
    ROW(avx2),
#endif
    ROW(base),
};

const bptt_isa *bptt_isa_at(int i)
{
    int n = (int)(sizeof isas / sizeof isas[0]);
    return i >= 0 && i < n ? &isas[i] : NULL;
}

const bptt_isa *bptt_isa_find(const char *name)
{
    int any = name == NULL || *name == '\0';
    const bptt_isa *isa;
    for (int i = 0; (isa = bptt_isa_at(i)) != NULL; i++) {
        if ((any || strcmp(name, isa->name) == 0) && isa->supported())
            return isa;
    }
    return NULL;
}

ptrdiff_t bptt_cache_size(int level)
{
#if X86
    /* Deterministic cache parameters: Intel's leaf, then AMD's of the same layout. */
    for (int vendor = 0; vendor < 2; vendor++) {
        for (uint32_t i = 0; i < 16; i++) {
            registers r = cpuid(vendor ? 0x8000001Du : 4u, i);
            uint32_t type = r.a & 31;
            if (type == 0)
                break;
            if (type != 2 && (int)(r.a >> 5 & 7) == level) /* not instructions */
                return (ptrdiff_t)((r.b >> 22) + 1) * ((r.b >> 12 & 1023) + 1) *
                       ((r.b & 4095) + 1) * ((ptrdiff_t)r.c + 1);
        }
    }
#elif defined(_SC_LEVEL1_DCACHE_SIZE)
    static const int names[] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE,
                                _SC_LEVEL3_CACHE_SIZE};
    if (level >= 1 && level <= 3) {
        long size = sysconf(names[level - 1]);
        return size > 0 ? (ptrdiff_t)size : 0;
    }
#endif
    (void)level;
    return 0;
}

const char *bptt_compiler(void)
{
#if defined(__clang__) || defined(__GNUC__)
    return __VERSION__[0] >= '0' && __VERSION__[0] <= '9' ? "gcc " __VERSION__
                                                          : __VERSION__;
#elif defined(_MSC_VER)
    return "MSVC";
#else
    return "unknown";
#endif
}

/* Flush results (FTZ) and operands (DAZ): vanishing gradients make denormals by design,
 * and each costs a hundred cycles or more. */
#define MXCSR_FTZ_DAZ 0x8040u
#define FPCR_FZ       0x1000000u

unsigned bptt_ftz_state(void)
{
#if X86
    return _mm_getcsr();
#elif defined(__aarch64__) && defined(__GNUC__)
    uint64_t state;
    __asm__ volatile("mrs %0, fpcr" : "=r"(state));
    return (unsigned)state;
#else
    return 0;
#endif
}

unsigned bptt_ftz_begin(void)
{
    unsigned saved = bptt_ftz_state();
#if X86
    bptt_ftz_end(saved | MXCSR_FTZ_DAZ);
#elif defined(__aarch64__) && defined(__GNUC__)
    bptt_ftz_end(saved | FPCR_FZ);
#endif
    return saved;
}

void bptt_ftz_end(unsigned saved)
{
#if X86
    _mm_setcsr(saved);
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)saved));
#else
    (void)saved;
#endif
}
