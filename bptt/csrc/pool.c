/* Workers wait for their turn, first spinning, for the next call of a training loop
 * comes soon, then asleep. A kernel may wake them late, or on the caller's processor,
 * where the two would take turns and both be slower than one alone: so a call begins
 * with those that say in time that they have come. Nor do processors read at the same
 * speed what another one has written: of a virtual machine that can change from one
 * second to the next. So now and then one is asked for nothing but an answer.
 */
#if !defined(_WIN32) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* processors and signal masks under -std=c11 */
#endif
#include "dispatch.h"
#include "waiting.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#if defined(_WIN32)
typedef SRWLOCK lock_type;
typedef CONDITION_VARIABLE signal_type;
#define LOCK_INIT         SRWLOCK_INIT
#define SIGNAL_INIT       CONDITION_VARIABLE_INIT
#define lock_take(l)      AcquireSRWLockExclusive(l)
#define lock_give(l)      ReleaseSRWLockExclusive(l)
#define signal_wait(s, l) SleepConditionVariableSRW(s, l, INFINITE, 0)
#define signal_all(s)     WakeAllConditionVariable(s)
#else
#include <pthread.h>
#include <signal.h>
typedef pthread_mutex_t lock_type;
typedef pthread_cond_t signal_type;
#define LOCK_INIT         PTHREAD_MUTEX_INITIALIZER
#define SIGNAL_INIT       PTHREAD_COND_INITIALIZER
#define lock_take(l)      pthread_mutex_lock(l)
#define lock_give(l)      pthread_mutex_unlock(l)
#define signal_wait(s, l) pthread_cond_wait(s, l)
#define signal_all(s)     pthread_cond_broadcast(s)
#endif

/* Turns that an idle worker spins for the next call, about 200 us, before it sleeps. */
#define IDLE_SPINS 16000
/* A wait of so many seconds that is so great a part of its call is for a thread that
 * others keep from running. */
#define LONG_WAIT      5e-4
#define LONG_WAIT_PART .25
/* After one the next calls go on alone, first as long as it was. If another follows
 * within so many times as long, for twice as many times as before, and at most 16. */
#define SOON       8
#define ALONE_MOST 16
/* Seconds after which a worker is asked again, and the best of so many times counts of
 * so many answers. */
#define ASK_AGAIN .01
#define TIMES     4
#define ANSWERS   4

/* What a worker is about. The caller says CALLED, then AT_WORK or, if the call goes on
 * without this one, IDLE; the worker says COME, and IDLE when it is done. */
enum { IDLE, CALLED, COME, AT_WORK };

typedef struct worker {
    bptt_counter state;
    int tid;
    char pad[2 * BPTT_LINE - sizeof(bptt_counter) - sizeof(int)];
    bptt_counter answered; /* the last question */
    char pad_answered[2 * BPTT_LINE - sizeof(bptt_counter)];
} worker;

static struct pool {
    bptt_counter busy;
    bptt_counter caller_on; /* a processor to keep off, or -1 */
    lock_type lock;
    signal_type wake;
    int asleep; /* workers waiting for `wake`; under the lock */
    int called; /* how many the last call was for; under the lock */
    int size;   /* workers there are */
    bptt_body *body;
    void *ctx;
    int nthreads;
    double alone_until; /* the clock, until when no worker is called */
    int alone_times;    /* how often the last long wait goes into that time */
    double answer;      /* seconds from a question to the answer, at best */
    double asked;       /* the clock then */
    char pad[BPTT_LINE];
    bptt_counter question;
    char pad_question[2 * BPTT_LINE - sizeof(bptt_counter)];
    worker workers[BPTT_MAX_THREADS];
} pool = {.lock = LOCK_INIT, .wake = SIGNAL_INIT};

#if defined(__linux__)

/* How many processors this thread may use. */
static int processors(void)
{
    cpu_set_t all;
    return sched_getaffinity(0, sizeof all, &all) == 0 ? CPU_COUNT(&all) : INT_MAX;
}

/* Whether this thread is on another processor than that one, or could go to another. */
static int keep_off(int processor)
{
    cpu_set_t all, others;
    if (processor < 0 || sched_getcpu() != processor)
        return 1;
    if (sched_getaffinity(0, sizeof all, &all) != 0)
        return 0;
    others = all;
    CPU_CLR((size_t)processor, &others);
    return sched_setaffinity(0, sizeof others, &others) == 0 &&
           sched_setaffinity(0, sizeof all, &all) == 0 && sched_getcpu() != processor;
}

#else
#define processors()        INT_MAX
#define sched_getcpu()      (-1)
#define keep_off(processor) ((void)(processor), 1)
#endif

static void run_body(int tid)
{
    unsigned saved = bptt_ftz_begin();
    pool.body(pool.ctx, tid, pool.nthreads);
    bptt_ftz_end(saved);
}

/* One that is woken too late for a call is awake for the next. */
static void wait_for_a_call(worker *me)
{
    for (;;) {
        for (int i = 0; i < IDLE_SPINS; i++) {
            if (counter_load(&me->state) == CALLED)
                return;
            relax();
        }
        lock_take(&pool.lock);
        pool.asleep++;
        do {
            if (counter_load(&me->state) != CALLED)
                signal_wait(&pool.wake, &pool.lock);
        } while (me - pool.workers >= pool.called);
        pool.asleep--;
        lock_give(&pool.lock);
    }
}

/* Answers what the caller asks until it says what to do. */
static void answer(worker *me)
{
    for (waiting w = {0}; counter_load(&me->state) == COME;) {
        const long question = counter_load(&pool.question);
        if (counter_load(&me->answered) != question)
            counter_store(&me->answered, question);
        else
            back_off(&w);
    }
}

static void work(worker *me)
{
    for (;;) {
        wait_for_a_call(me);
        int stays = keep_off((int)counter_load(&pool.caller_on));
        if (!counter_change(&me->state, CALLED, stays ? COME : IDLE))
            continue; /* too late */
        answer(me);
        if (counter_load(&me->state) == AT_WORK) {
            run_body(me->tid);
            counter_store(&me->state, IDLE);
        }
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

static void start_workers(int count)
{
    watch_forks();
    while (pool.size < count) {
        worker *me = &pool.workers[pool.size];
        counter_store(&me->state, IDLE);
        if (!worker_start(me))
            break;
        pool.size++;
    }
}

static void call_workers(int count)
{
    lock_take(&pool.lock);
    pool.called = count;
    for (int i = 0; i < count; i++)
        counter_store(&pool.workers[i].state, CALLED);
    if (pool.asleep)
        signal_all(&pool.wake);
    lock_give(&pool.lock);
}

/* Number those who come before the clock says `until`, from 1; return how many threads
 * there are then. */
static int gather_workers(int count, double until)
{
    int n = 1;
    for (int i = 0; i < count; i++) {
        worker *other = &pool.workers[i];
        for (waiting w = {0}; counter_load(&other->state) == CALLED;) {
            back_off(&w);
            if (w.turns > SPINS && bptt_seconds() > until)
                break;
        }
        counter_change(&other->state, CALLED, IDLE);
        other->tid = counter_load(&other->state) == COME ? n++ : 0;
    }
    return n;
}

/* The seconds until one that has come answers. */
static double ask(const worker *other)
{
    double best = HUGE_VAL;
    for (int i = 0; i < TIMES; i++) {
        const double asked = bptt_seconds();
        for (int j = 0; j < ANSWERS; j++) {
            const long question = counter_load(&pool.question) + 1;
            counter_store(&pool.question, question);
            for (waiting w = {0}; counter_load(&other->answered) != question;)
                back_off(&w);
        }
        const double each = (bptt_seconds() - asked) / ANSWERS;
        best = each < best ? each : best;
    }
    return best;
}

/* Whether those that have come answer too late; they are sent away then. */
static int are_slow(int count, double now, double answer)
{
    if (now - pool.asked >= ASK_AGAIN) {
        const worker *other = pool.workers;
        while (other->tid != 1)
            other++;
        pool.answer = ask(other);
        pool.asked = now;
    }
    if (pool.answer <= answer)
        return 0;
    for (int i = 0; i < count; i++)
        if (pool.workers[i].tid)
            counter_store(&pool.workers[i].state, IDLE);
    return 1;
}

static void run_together(bptt_body *body, void *ctx, int n, int count)
{
    pool.body = body;
    pool.ctx = ctx;
    pool.nthreads = n;
    bptt_wait_forget();
    for (int i = 0; i < count; i++)
        if (pool.workers[i].tid)
            counter_store(&pool.workers[i].state, AT_WORK);
    run_body(0);
    for (int i = 0; i < count; i++) {
        waiting w = {0};
        while (pool.workers[i].tid && counter_load(&pool.workers[i].state) == AT_WORK)
            back_off(&w);
        bptt_wait_note(&w);
    }
}

static int run_alone(bptt_body *body, void *ctx)
{
    unsigned saved = bptt_ftz_begin();
    body(ctx, 0, 1);
    bptt_ftz_end(saved);
    return 1;
}

/* After a call that waited long, which ends now. */
static void go_on_alone(double now)
{
    const double wait = bptt_wait_longest();
    const int again = now - pool.alone_until < SOON * wait;
    const int times = again ? 2 * pool.alone_times : 1;
    pool.alone_times = times < ALONE_MOST ? times : ALONE_MOST;
    pool.alone_until = now + pool.alone_times * wait;
}

int bptt_pool_run(bptt_body *body, void *ctx, int nthreads, double patience,
                  double answer)
{
    int count = (nthreads < BPTT_MAX_THREADS ? nthreads : BPTT_MAX_THREADS) - 1;
    if (count < 1 || counter_swap(&pool.busy, 1) != 0)
        return run_alone(body, ctx);
    const int crowded = count >= processors();
    const double called = bptt_seconds();
    const int slow = pool.answer > answer && called - pool.asked < ASK_AGAIN;
    int n = 1;
    if (crowded || (called >= pool.alone_until && !slow)) {
        start_workers(count);
        count = pool.size < count ? pool.size : count;
        counter_store(&pool.caller_on, crowded ? -1 : sched_getcpu());
        call_workers(count);
        n = gather_workers(count, crowded ? HUGE_VAL : called + patience);
        if (n > 1 && !crowded && are_slow(count, called, answer))
            n = 1;
    }
    if (n == 1) {
        run_alone(body, ctx);
    } else {
        const double begun = bptt_seconds();
        run_together(body, ctx, n, count);
        const double ended = bptt_seconds();
        const double part = bptt_wait_longest() / (ended - begun);
        if (!crowded && bptt_wait_longest() > LONG_WAIT && part > LONG_WAIT_PART)
            go_on_alone(ended);
    }
    counter_store(&pool.busy, 0);
    return n;
}
