/* Threads: a pool that runs one body on n threads, and the barrier they meet at. */
#ifndef BPTT_POOL_H
#define BPTT_POOL_H

#include <stddef.h>

#define BPTT_MAX_THREADS 64
/* Bytes of a cache line: each thread has one of its own to write to. */
#define BPTT_LINE 64

#if defined(_MSC_VER) && !defined(__clang__)
typedef volatile long
    bptt_counter; /* ordered as acquire and release under /volatile:ms */
#else
#include <stdatomic.h>
typedef atomic_long bptt_counter;
#endif

typedef struct bptt_barrier { /* all zero before first use */
    bptt_counter stopped;
    char pad[BPTT_LINE - sizeof(bptt_counter)];
    struct {
        bptt_counter passed;
        char pad[BPTT_LINE - sizeof(bptt_counter)];
    } of[BPTT_MAX_THREADS];
} bptt_barrier;

/* Says that this thread has come, and goes on. */
void bptt_barrier_arrive(bptt_barrier *barrier, int tid);

/* Returns once all n threads have come as often as this one. What a thread wrote before
 * it came is seen by all after this. Spins, then yields, then naps. */
void bptt_barrier_await(bptt_barrier *barrier, int tid, int nthreads);

/* The same up to a time of `bptt_seconds`; returns whether all have come. */
int bptt_barrier_await_until(bptt_barrier *barrier, int tid, int nthreads, double end);

/* Arrives and awaits. */
void bptt_barrier_wait(bptt_barrier *barrier, int tid, int nthreads);

/* The longest wait of this thread in the call it is in, in seconds; and what it is to
 * be taken for, where it was for one that had more to do. */
double bptt_wait_longest(void);
void bptt_wait_is(double seconds);

/* One thread says in which turn of a loop, counted from 1, all are to stop; each asks
 * after the barrier of that turn. */
void bptt_barrier_stop(bptt_barrier *barrier, ptrdiff_t turn);
int bptt_barrier_stopped(bptt_barrier *barrier, ptrdiff_t turn);

/* A clock that never goes back. */
double bptt_seconds(void);

typedef void bptt_body(void *ctx, int tid, int nthreads);

/* body(ctx, tid, n) on n threads, this one being tid 0; returns n when all have come
 * back. n is at most nthreads, and a body must be right for any n: who has not come
 * `patience` seconds after the call is left out, and who can be nowhere but on the
 * caller's processor; all are where one takes longer than `answer` seconds from a
 * question to the answer. Not so if more threads are asked for than there are
 * processors. All are, too, when the pool is at work for another caller. Denormals are
 * flushed inside. Workers outlive the call and do not outlive a fork. */
int bptt_pool_run(bptt_body *body, void *ctx, int nthreads, double patience,
                  double answer);

#endif
