/* How a thread waits for another: it spins, then yields, then naps. For barrier.c and
 * pool.c, which define _GNU_SOURCE for it. */
#ifndef BPTT_WAITING_H
#define BPTT_WAITING_H

#include "pool.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#define thread_yield() SwitchToThread()
#define thread_nap()   Sleep(1)
#else
#include <sched.h>
#include <time.h>
#define thread_yield() sched_yield()
#define thread_nap()   nanosleep(&(struct timespec){0, 50000}, NULL)
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define counter_load(c)             (*(c))
#define counter_store(c, value)     ((void)_InterlockedExchange(c, value))
#define counter_swap(c, value)      _InterlockedExchange(c, value)
#define counter_change(c, from, to) (_InterlockedCompareExchange(c, to, from) == (from))
#else
#define counter_load(c)         atomic_load_explicit(c, memory_order_acquire)
#define counter_store(c, value) atomic_store_explicit(c, value, memory_order_release)
#define counter_swap(c, value)  atomic_exchange(c, value)
#define counter_change(c, from, to) atomic_compare_exchange_strong(c, &(long){from}, to)
#endif

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define relax() _mm_pause()
#elif defined(__aarch64__) && defined(__GNUC__)
#define relax() __asm__ volatile("yield")
#else
#define relax() ((void)0)
#endif

/* Turns of a waiting loop: some microseconds of spinning, then the processor is offered
 * to others, for the thread that is waited for may need this very one, then naps. */
#define SPINS  200
#define YIELDS 5000

typedef struct waiting { /* all zero when it begins */
    int turns;
    double since;
} waiting;

static inline void back_off(waiting *w)
{
    if (w->turns < SPINS) {
        relax();
    } else if (w->turns < SPINS + YIELDS) {
        if (w->turns == SPINS)
            w->since = bptt_seconds();
        thread_yield();
    } else {
        thread_nap();
    }
    w->turns += w->turns < SPINS + YIELDS;
}

/* The seconds of it, but for the first few microseconds. */
static inline double waited(const waiting *w)
{
    return w->turns > SPINS ? bptt_seconds() - w->since : 0;
}

/* The longest wait of this thread, at barriers or noted, since it was last forgotten.
 */
void bptt_wait_note(const waiting *w);
void bptt_wait_forget(void);

#endif
