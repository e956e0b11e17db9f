/* Gives pseudo-terminals modem-control lines, and a plain file the reports of a CM108, for any
   program that is started with it:

     cc -shared -fPIC -O2 -o shim.so lines_shim.c -ldl
     LINES_SHIM=directory LD_PRELOAD=./shim.so program

   Lines of /dev/pts/N are in directory/N.out (what the program set) and directory/N.in (what the
   test set), each one int of TIOCM bits. A file directory/hidraw takes output reports, its input
   report is the file directory/hidraw.in. A symbolic link directory/gpiochip to /dev/null is a GPIO
   chip with version 2 of the kernel's interface (linux/gpio.h): the values of its lines are in
   directory/gpio, one octet each, and directory/gpio.flags has the flags of the last request. What the kernel does when the last descriptor closes
   (dropping both lines under HUPCL) is not imitated. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int path_of(int fd, char *path, size_t size)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, size - 1);
    if (n < 0)
        return 0;
    path[n] = 0;
    return 1;
}

static int lines(const char *terminal, const char *which)
{
    char name[512];
    snprintf(name, sizeof name, "%s/%s.%s", getenv("LINES_SHIM"), terminal, which);
    return open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
}

static int load(const char *terminal, const char *which)
{
    int value = 0, fd = lines(terminal, which);
    if (fd < 0 || pread(fd, &value, sizeof value, 0) != sizeof value)
        value = 0;
    close(fd);
    return value;
}

static int gpio_file(const char *which)
{
    char name[512];
    snprintf(name, sizeof name, "%s/%s", getenv("LINES_SHIM"), which);
    return open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
}

static int gpio_request(struct gpio_v2_line_request *wanted)
{
    /* The descriptor of a request is one of the file of values; its place tells the line. */
    int fd = gpio_file("gpio"), flags = gpio_file("gpio.flags");
    if (pwrite(flags, &wanted->config.flags, 8, 0) != 8)
        return -1;
    close(flags);
    lseek(fd, wanted->offsets[0], SEEK_SET);
    int low = (wanted->config.flags & GPIO_V2_LINE_FLAG_ACTIVE_LOW) != 0;
    char value = (char)low;
    for (unsigned i = 0; i < wanted->config.num_attrs; i++)
        if (wanted->config.attrs[i].attr.id == GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES)
            value = (char)((wanted->config.attrs[i].attr.values & 1) ^ low);
    if ((wanted->config.flags & GPIO_V2_LINE_FLAG_OUTPUT)
        && pwrite(fd, &value, 1, wanted->offsets[0]) != 1)
        return -1;
    wanted->fd = fd;
    return 0;
}

static int gpio_values(int fd, unsigned long request, struct gpio_v2_line_values *wanted)
{
    unsigned long long flags = 0;
    char value = 0;
    int from = gpio_file("gpio.flags");
    if (pread(from, &flags, 8, 0) != 8)
        flags = 0;
    close(from);
    int low = (flags & GPIO_V2_LINE_FLAG_ACTIVE_LOW) != 0;
    off_t at = lseek(fd, 0, SEEK_CUR);
    if (request == GPIO_V2_LINE_SET_VALUES_IOCTL) {
        value = (char)((wanted->bits & 1) ^ low);
        return pwrite(fd, &value, 1, at) == 1 ? 0 : -1;
    }
    if (pread(fd, &value, 1, at) != 1)
        value = 0;
    wanted->bits = (unsigned)(value ^ low) & 1u;
    return 0;
}

char *realpath(const char *path, char *out)
{
    static char *(*real)(const char *, char *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "realpath");
    if (getenv("LINES_SHIM") && !strncmp(path, "/sys/dev/char/", 14))
        return out ? strcpy(out, "/sys/bus/gpio") : strdup("/sys/bus/gpio");
    return real(path, out);
}

int ioctl(int fd, unsigned long request, ...)
{
    static int (*real)(int, unsigned long, void *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "ioctl");
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    const char *directory = getenv("LINES_SHIM");
    char path[512];
    request &= 0xffffffffu; /* some callers hold it in an int */
    if (!directory || !path_of(fd, path, sizeof path))
        return real(fd, request, argument);
    if (request == GPIO_GET_CHIPINFO_IOCTL) {
        struct gpiochip_info info = {"shim", "shim", 8};
        *(struct gpiochip_info *)argument = info;
        return 0;
    }
    if (request == GPIO_V2_GET_LINE_IOCTL)
        return gpio_request(argument);
    if (request == GPIO_V2_GET_LINEINFO_IOCTL)
        return 0;
    if (request == GPIO_V2_LINE_SET_VALUES_IOCTL || request == GPIO_V2_LINE_GET_VALUES_IOCTL)
        return gpio_values(fd, request, argument);
    if ((request & 0xffffu) == 0x480a && !strncmp(path, directory, strlen(directory))) {
        char in[600];
        snprintf(in, sizeof in, "%s.in", path);
        int from = open(in, O_RDONLY | O_CLOEXEC);
        if (from < 0)
            return -1;
        ssize_t n = pread(from, (char *)argument + 1, 4, 0);
        close(from);
        return (int)n + 1;
    }
    if (strncmp(path, "/dev/pts/", 9) || (request != TIOCMGET && request != TIOCMSET
        && request != TIOCMBIS && request != TIOCMBIC))
        return real(fd, request, argument);
    const int outputs = TIOCM_DTR | TIOCM_RTS;
    const char *terminal = path + 9;
    int out = load(terminal, "out");
    if (request == TIOCMGET) {
        *(int *)argument = (out & outputs) | (load(terminal, "in") & ~outputs);
        return 0;
    }
    int bits = *(int *)argument & outputs;
    out = request == TIOCMSET ? bits : request == TIOCMBIS ? out | bits : out & ~bits;
    int to = lines(terminal, "out");
    int failed = to < 0 || pwrite(to, &out, sizeof out, 0) != sizeof out;
    close(to);
    return failed ? -1 : 0;
}
