/* The vocabulary of simd.h on each ISA; simd_ops.inc.h has the checks. */
#define _DEFAULT_SOURCE 1
#include "isa_functions.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int main(void)
{
    int failures = 0;
    ptrdiff_t size = sysconf(_SC_PAGESIZE);
    char *guarded =
        mmap(NULL, (size_t)(3 * size), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (guarded == MAP_FAILED ||
        mprotect(guarded + size, (size_t)size, PROT_READ | PROT_WRITE))
        return 2;
    for (int k = 0; k < ISAS; k++) {
        if (!isa_runs(k))
            continue;
        failures += isas_f32[k]->simd(guarded + size, size);
        failures += isas_f64[k]->simd(guarded + size, size);
        printf("%s: %d failures so far\n", isas_f32[k]->isa, failures);
    }
    return failures != 0;
}
