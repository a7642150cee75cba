/* Workers wait for their turn, first spinning, for the next call of a training loop
 * comes soon, then asleep. Each has a line of its own to be called and to answer on, so
 * that a worker that is not wanted for a job never looks at it.
 */
#if !defined(_WIN32) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* clock, yield and signal masks under -std=c11 */
#endif
#include "pool.h"

#include "dispatch.h"

#include <math.h>
#include <string.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
typedef SRWLOCK lock_type;
typedef CONDITION_VARIABLE signal_type;
#define LOCK_INIT         SRWLOCK_INIT
#define SIGNAL_INIT       CONDITION_VARIABLE_INIT
#define lock_take(l)      AcquireSRWLockExclusive(l)
#define lock_give(l)      ReleaseSRWLockExclusive(l)
#define signal_wait(s, l) SleepConditionVariableSRW(s, l, INFINITE, 0)
#define signal_all(s)     WakeAllConditionVariable(s)
#define thread_yield()    SwitchToThread()
#define thread_nap()      Sleep(1)
#else
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
typedef pthread_mutex_t lock_type;
typedef pthread_cond_t signal_type;
#define LOCK_INIT         PTHREAD_MUTEX_INITIALIZER
#define SIGNAL_INIT       PTHREAD_COND_INITIALIZER
#define lock_take(l)      pthread_mutex_lock(l)
#define lock_give(l)      pthread_mutex_unlock(l)
#define signal_wait(s, l) pthread_cond_wait(s, l)
#define signal_all(s)     pthread_cond_broadcast(s)
#define thread_yield()    sched_yield()
#define thread_nap()      nanosleep(&(struct timespec){0, 50000}, NULL)
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define counter_load(c)         (*(c))
#define counter_store(c, value) ((void)_InterlockedExchange(c, value))
#define counter_swap(c, value)  _InterlockedExchange(c, value)
#else
#define counter_load(c)         atomic_load_explicit(c, memory_order_acquire)
#define counter_store(c, value) atomic_store_explicit(c, value, memory_order_release)
#define counter_swap(c, value)  atomic_exchange(c, value)
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
/* Turns that an idle worker spins for the next call, about 50 us, before it sleeps. */
#define IDLE_SPINS 4000

static void back_off(int *turns)
{
    if (*turns < SPINS)
        relax();
    else if (*turns < SPINS + YIELDS)
        thread_yield();
    else
        thread_nap();
    *turns += *turns < SPINS + YIELDS;
}

void bptt_barrier_arrive(bptt_barrier *barrier, int tid)
{
    counter_store(&barrier->of[tid].passed, counter_load(&barrier->of[tid].passed) + 1);
}

int bptt_barrier_await_until(bptt_barrier *barrier, int tid, int nthreads, double end)
{
    long passed = counter_load(&barrier->of[tid].passed);
    for (int i = 0; i < nthreads; i++) {
        int turns = 0;
        while (counter_load(&barrier->of[i].passed) < passed) {
            if (turns >= SPINS && bptt_seconds() > end)
                return 0;
            back_off(&turns);
        }
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

/* A call flips `called`, the answer makes `answered` equal to it: a count would
 * overflow where a long has 32 bits. */
typedef struct worker {
    bptt_counter called, answered;
    char pad[2 * BPTT_LINE - 2 * sizeof(bptt_counter)];
} worker;

static struct pool {
    bptt_counter busy;
    lock_type lock;
    signal_type wake;
    int asleep; /* workers waiting for `wake`; under the lock */
    int size;   /* workers there are */
    bptt_body *body;
    void *ctx;
    int nthreads;
    worker workers[BPTT_MAX_THREADS];
} pool = {.lock = LOCK_INIT, .wake = SIGNAL_INIT};

static void run_body(int tid)
{
    unsigned saved = bptt_ftz_begin();
    pool.body(pool.ctx, tid, pool.nthreads);
    bptt_ftz_end(saved);
}

static void work(worker *me)
{
    for (long turn = 1;; turn = !turn) {
        for (int i = 0; i < IDLE_SPINS && counter_load(&me->called) != turn; i++)
            relax();
        if (counter_load(&me->called) != turn) {
            lock_take(&pool.lock);
            pool.asleep++;
            while (counter_load(&me->called) != turn)
                signal_wait(&pool.wake, &pool.lock);
            pool.asleep--;
            lock_give(&pool.lock);
        }
        run_body((int)(me - pool.workers) + 1);
        counter_store(&me->answered, turn);
    }
}

#if defined(_WIN32)

static DWORD WINAPI worker_main(LPVOID me)
{
    work(me);
    return 0;
}

static int worker_start(worker *me)
{
    HANDLE handle = CreateThread(NULL, 0, worker_main, me, 0, NULL);
    if (handle)
        CloseHandle(handle);
    return handle != NULL;
}

static void watch_forks(void)
{
}

#else

static void *worker_main(void *me)
{
    work(me);
    return NULL;
}

/* Signals are for the threads of the program, not for ours. */
static int worker_start(worker *me)
{
    pthread_t thread;
    sigset_t every, before;
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    int error = pthread_create(&thread, NULL, worker_main, me);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0)
        pthread_detach(thread);
    return error == 0;
}

/* Only the forking thread lives on in the child, so the child has an empty pool.
 * Nothing is done in the parent: joining threads there is how others hang. */
static void forget_workers(void)
{
    static const struct pool empty = {.lock = LOCK_INIT, .wake = SIGNAL_INIT};
    memcpy(&pool, &empty, sizeof pool);
}

static void watch_forks(void)
{
    static int watching;
    if (!watching)
        watching = pthread_atfork(NULL, NULL, forget_workers) == 0;
}

#endif

int bptt_pool_run(bptt_body *body, void *ctx, int nthreads)
{
    int n = nthreads < BPTT_MAX_THREADS ? nthreads : BPTT_MAX_THREADS;
    if (n <= 1 || counter_swap(&pool.busy, 1) != 0) {
        unsigned saved = bptt_ftz_begin();
        body(ctx, 0, 1);
        bptt_ftz_end(saved);
        return 1;
    }
    watch_forks();
    while (pool.size < n - 1) {
        worker *me = &pool.workers[pool.size];
        counter_store(&me->called, 0);
        counter_store(&me->answered, 0);
        if (!worker_start(me))
            break;
        pool.size++;
    }
    n = pool.size + 1 < n ? pool.size + 1 : n;

    pool.body = body;
    pool.ctx = ctx;
    pool.nthreads = n;
    lock_take(&pool.lock);
    for (int i = 0; i < n - 1; i++)
        counter_store(&pool.workers[i].called, !counter_load(&pool.workers[i].called));
    if (pool.asleep)
        signal_all(&pool.wake);
    lock_give(&pool.lock);

    run_body(0);
    for (int i = 0; i < n - 1; i++) {
        int turns = 0;
        long turn = counter_load(&pool.workers[i].called);
        while (counter_load(&pool.workers[i].answered) != turn)
            back_off(&turns);
    }
    counter_store(&pool.busy, 0);
    return n;
}
