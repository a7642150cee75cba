/* The ISAs under test, best first. */
#include "isa_functions.h"

#if defined(__x86_64__)
extern const struct functions_f32 avx512_f32, avx2_f32;
extern const struct functions_f64 avx512_f64, avx2_f64;
#endif
extern const struct functions_f32 base_f32, scalar_f32;
extern const struct functions_f64 base_f64, scalar_f64;

const struct functions_f32 *const isas_f32[ISAS] = {
#if defined(__x86_64__)
    &avx512_f32,
    &avx2_f32,
#endif
    &base_f32,
    &scalar_f32,
};
const struct functions_f64 *const isas_f64[ISAS] = {
#if defined(__x86_64__)
    &avx512_f64,
    &avx2_f64,
#endif
    &base_f64,
    &scalar_f64,
};

int isa_runs(int k)
{
#if defined(__x86_64__)
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (k == 0)
        return avx2 && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (k == 1)
        return avx2;
#endif
    return k < ISAS;
}
