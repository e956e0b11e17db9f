/* Faults of the disk and of the wall clock, as one process sees them; loaded with LD_PRELOAD.
 *
 * The file that FAULTS_FILE names is shared with the bench and says what is wrong at the moment:
 * see `struct state`. Nothing else on the machine is touched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

struct state {
    int64_t ahead_ns;   /* of the wall clock, before the true one */
    int64_t slew_ns;    /* more of it for each true second since `since_ns` */
    int64_t since_ns;   /* CLOCK_MONOTONIC */
    uint64_t device;    /* st_dev of the volume that hangs; 0: none */
    uint64_t refuses;   /* st_dev of the volume that takes nothing any more (EROFS); 0: none */
    uint64_t waited;    /* writes and syncs that hung */
    uint64_t loop;      /* those of the first thread, the event loop's */
};

static struct state none, *state = &none;
static int (*real_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULTS_FILE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    if (fd < 0)
        return;
    void *p = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p != MAP_FAILED)
        state = p;
    close(fd);
}

/* -- the clock -- */

int clock_gettime(clockid_t clock, struct timespec *at)
{
    if (!real_gettime)
        real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real_gettime(clock, at);
    if (done || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return done;
    int64_t more = state->ahead_ns;
    if (state->slew_ns) {
        struct timespec now;
        real_gettime(CLOCK_MONOTONIC, &now);
        double s = (now.tv_sec * 1000000000LL + now.tv_nsec - state->since_ns) / 1e9;
        more += (int64_t)(s * (double)state->slew_ns);
    }
    int64_t ns = at->tv_sec * 1000000000LL + at->tv_nsec + more;
    at->tv_sec = ns / 1000000000LL;
    at->tv_nsec = ns % 1000000000LL;
    return 0;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}

/* -- the disk -- */

static int on(const uint64_t *device, int fd)
{
    struct stat of;
    uint64_t which = __atomic_load_n(device, __ATOMIC_ACQUIRE);
    return which && fstat(fd, &of) == 0 && S_ISREG(of.st_mode) && of.st_dev == which;
}

/* Whether the disk takes it; first waits for a disk that hangs. */
static int taken(int fd)
{
    int before = errno;
    if (on(&state->device, fd)) {
        __atomic_fetch_add(&state->waited, 1, __ATOMIC_RELAXED);
        if (gettid() == getpid())
            __atomic_fetch_add(&state->loop, 1, __ATOMIC_RELAXED);
        while (on(&state->device, fd))
            usleep(10000);
    }
    int refused = on(&state->refuses, fd);
    errno = refused ? EROFS : before;
    return !refused;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = dlsym(RTLD_NEXT, #name)

int fsync(int fd)
{
    REAL(fsync);
    return taken(fd) ? real(fd) : -1;
}

int fdatasync(int fd)
{
    REAL(fdatasync);
    return taken(fd) ? real(fd) : -1;
}

ssize_t write(int fd, const void *p, size_t n)
{
    REAL(write);
    return taken(fd) ? real(fd, p, n) : -1;
}

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at)
{
    REAL(pwrite64);
    return taken(fd) ? real(fd, p, n, at) : -1;
}
