/* The pool by itself: calls of any number of threads, with any patience with those that
 * come late or answer late and any pause before them, and from two threads of the
 * program at once.
 *
 *     calls CALLS
 *
 * In each call a body must run once for each tid below the number that it is told and
 * that the call returns, all at the same time. Exit code 1 if anything is wrong. */
#define _POSIX_C_SOURCE 199309L
#include "dispatch.h"
#include "pool.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pthread.h>
#include <time.h>

#define MOST_THREADS 5

/* The kernels' table is not needed here. */
unsigned bptt_ftz_begin(void)
{
    return 0;
}

void bptt_ftz_end(unsigned saved)
{
    (void)saved;
}

typedef struct call {
    bptt_barrier barrier;
    int n[MOST_THREADS];
    int runs[MOST_THREADS];
    int seen[MOST_THREADS]; /* how many had begun when this one had met all others */
} call;

typedef struct caller {
    uint64_t state;
    int calls, failures, together;
} caller;

static void body(void *ctx, int tid, int n)
{
    call *c = ctx;
    c->runs[tid]++;
    c->n[tid] = n;
    if (n > 1)
        bptt_barrier_wait(&c->barrier, tid, n);
    for (int i = 0; i < n; i++)
        c->seen[tid] += c->runs[i];
}

static uint32_t below(caller *me, uint32_t high)
{
    me->state = me->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(me->state >> 33) % high;
}

static int wrong(const call *c, int n, int nthreads)
{
    int faults = n < 1 || n > nthreads;
    for (int i = 0; i < MOST_THREADS; i++)
        if (i < n)
            faults += c->runs[i] != 1 || c->n[i] != n || c->seen[i] != n;
        else
            faults += c->runs[i] != 0;
    return faults;
}

static void *make_calls(void *ctx)
{
    static const double patience[] = {0, 2e-6, 5e-5, 1, HUGE_VAL};
    static const double answer[] = {0, 1.5e-7, 1e-6, HUGE_VAL};
    caller *me = ctx;
    for (int i = 0; i < me->calls; i++) {
        int nthreads = 1 + (int)below(me, MOST_THREADS);
        call c;
        memset(&c, 0, sizeof c);
        if (below(me, 2) == 0)
            nanosleep(&(struct timespec){0, 1000 * (long)below(me, 1000)}, NULL);
        int n = bptt_pool_run(body, &c, nthreads, patience[below(me, 5)],
                              answer[below(me, 4)]);
        me->together += n > 1;
        if (wrong(&c, n, nthreads) && me->failures++ < 5)
            printf("call %d: %d threads of %d\n", i, n, nthreads);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    const int calls = argc > 1 ? atoi(argv[1]) : 0;
    caller alone = {1, calls, 0, 0}, both[] = {{2, calls, 0, 0}, {3, calls, 0, 0}};
    pthread_t other;
    if (calls < 1) {
        fprintf(stderr, "usage: calls CALLS\n");
        return 2;
    }
    make_calls(&alone);
    if (pthread_create(&other, NULL, make_calls, &both[1]) != 0)
        return 2;
    make_calls(&both[0]);
    pthread_join(other, NULL);
    int failures = alone.failures + both[0].failures + both[1].failures;
    printf("%d calls, %d of them on several threads, %d failures\n", 3 * calls,
           alone.together + both[0].together + both[1].together, failures);
    return failures != 0 || alone.together == 0;
}
