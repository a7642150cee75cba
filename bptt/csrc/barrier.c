/* Each thread counts how often it has come, and looks at the counts of the others. */
#if !defined(_WIN32) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* clock and yield under -std=c11 */
#endif
#include "waiting.h"

#include <math.h>

#if defined(_MSC_VER)
#define THREAD_LOCAL __declspec(thread)
#else
#define THREAD_LOCAL _Thread_local
#endif

double bptt_seconds(void)
{
#if defined(_WIN32)
    LARGE_INTEGER ticks, rate;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&rate);
    return (double)ticks.QuadPart / (double)rate.QuadPart;
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#endif
}

static THREAD_LOCAL double longest_wait;

void bptt_wait_note(const waiting *w)
{
    double seconds = waited(w);
    if (seconds > longest_wait)
        longest_wait = seconds;
}

double bptt_wait_longest(void)
{
    return longest_wait;
}

void bptt_wait_is(double seconds)
{
    longest_wait = seconds;
}

void bptt_wait_forget(void)
{
    longest_wait = 0;
}

void bptt_barrier_arrive(bptt_barrier *barrier, int tid)
{
    counter_store(&barrier->of[tid].passed, counter_load(&barrier->of[tid].passed) + 1);
}

int bptt_barrier_await_until(bptt_barrier *barrier, int tid, int nthreads, double end)
{
    long passed = counter_load(&barrier->of[tid].passed);
    for (int i = 0; i < nthreads; i++) {
        waiting w = {0};
        while (counter_load(&barrier->of[i].passed) < passed) {
            back_off(&w);
            if (w.turns > SPINS && bptt_seconds() > end)
                return 0;
        }
        bptt_wait_note(&w);
    }
    return 1;
}

void bptt_barrier_await(bptt_barrier *barrier, int tid, int nthreads)
{
    (void)bptt_barrier_await_until(barrier, tid, nthreads, HUGE_VAL);
}

void bptt_barrier_wait(bptt_barrier *barrier, int tid, int nthreads)
{
    bptt_barrier_arrive(barrier, tid);
    bptt_barrier_await(barrier, tid, nthreads);
}

void bptt_barrier_stop(bptt_barrier *barrier, ptrdiff_t turn)
{
    counter_store(&barrier->stopped, (long)turn);
}

int bptt_barrier_stopped(bptt_barrier *barrier, ptrdiff_t turn)
{
    return counter_load(&barrier->stopped) == (long)turn;
}
