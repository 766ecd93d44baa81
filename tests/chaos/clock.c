/* A wall clock that can be stepped, for a process that preloads this library (LD_PRELOAD).

   CLOCK_STEP_FILE names a file of eight bytes: by how many seconds the clock is off. Only the wall clock is: monotonic
   clocks never step, and a wait until a time of the wall clock is moved to the true clock, which the kernel goes by. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define A_WALL_CLOCK 1000000000 /* seconds; a monotonic clock shows fewer */

static volatile const int64_t *step;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_cond_clockwait)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
static int (*real_mutex_timedlock)(pthread_mutex_t *, const struct timespec *);
static int (*real_sem_timedwait)(sem_t *, const struct timespec *);
static int (*real_sem_clockwait)(sem_t *, clockid_t, const struct timespec *);
static int (*real_cnd_timedwait)(cnd_t *, mtx_t *, const struct timespec *);
static int (*real_mtx_timedlock)(mtx_t *, const struct timespec *);

__attribute__((constructor)) static void prepare(void)
{
    const char *path = getenv("CLOCK_STEP_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_cond_clockwait = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
    real_mutex_timedlock = dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
    real_sem_timedwait = dlsym(RTLD_NEXT, "sem_timedwait");
    real_sem_clockwait = dlsym(RTLD_NEXT, "sem_clockwait");
    real_cnd_timedwait = dlsym(RTLD_NEXT, "cnd_timedwait");
    real_mtx_timedlock = dlsym(RTLD_NEXT, "mtx_timedlock");
    /* The default of dlsym() may be an older version with another layout. */
    real_cond_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real_cond_timedwait)
        real_cond_timedwait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    if (file < 0)
        return;
    void *page = mmap(NULL, sizeof *step, PROT_READ, MAP_SHARED, file, 0);
    step = page == MAP_FAILED ? NULL : page;
    close(file);
}

static int64_t seconds_off(void) { return step ? *step : 0; }

static struct timespec true_time(const struct timespec *time)
{
    struct timespec moved = *time;
    if (moved.tv_sec > A_WALL_CLOCK)
        moved.tv_sec -= seconds_off();
    return moved;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    if (!real_clock_gettime) /* before the constructor */
        real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real_clock_gettime(clock, time);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += seconds_off();
    return failed;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *time, int base)
{
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, time) ? base : 0;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until)
{
    struct timespec moved = true_time(until);
    return real_cond_timedwait(condition, mutex, &moved);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until)
{
    struct timespec moved = true_time(until);
    return real_sem_timedwait(semaphore, &moved);
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until)
{
    struct timespec moved = true_time(until); /* of a monotonic clock: the same */
    return real_cond_clockwait(condition, mutex, clock, &moved);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until)
{
    struct timespec moved = true_time(until);
    return real_mutex_timedlock(mutex, &moved);
}

int sem_clockwait(sem_t *restrict semaphore, clockid_t clock, const struct timespec *restrict until)
{
    struct timespec moved = true_time(until); /* of a monotonic clock: the same */
    return real_sem_clockwait(semaphore, clock, &moved);
}

/* The C library's own calls do not come by here: these do not end in those above. */

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until)
{
    struct timespec moved = true_time(until);
    return real_cnd_timedwait(condition, mutex, &moved);
}

int mtx_timedlock(mtx_t *restrict mutex, const struct timespec *restrict until)
{
    struct timespec moved = true_time(until);
    return real_mtx_timedlock(mutex, &moved);
}
