/* For every emulated process: Debian 12's emulator refuses IP_MULTICAST_IF, which the engine sets on
 * each socket and needs for groups alone, which no test here sends to. */
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int setsockopt(int fd, int level, int option, const void *value, socklen_t size)
{
    if (level == IPPROTO_IP && option == IP_MULTICAST_IF)
        return 0;
    return (int)syscall(SYS_setsockopt, fd, level, option, value, size);
}
