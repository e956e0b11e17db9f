"""Pairs of bound UDP sockets for RTP and RTCP, opened in one call without socket objects."""

cdef extern from *:
    r"""
    #include <arpa/inet.h>
    #include <errno.h>
    #include <net/if.h>
    #include <netinet/in.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <unistd.h>

    static int cp_address(struct sockaddr_storage *a, const char *ip)
    {
        struct sockaddr_in *in4 = (struct sockaddr_in *)a;
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)a;
        char plain[INET6_ADDRSTRLEN];
        const char *scope = strchr(ip, '%');
        size_t n = scope ? (size_t)(scope - ip) : strlen(ip);
        memset(a, 0, sizeof(*a));
        if (inet_pton(AF_INET, ip, &in4->sin_addr) == 1) {
            in4->sin_family = AF_INET;
            return 0;
        }
        if (n >= sizeof(plain))
            return EINVAL;
        memcpy(plain, ip, n);
        plain[n] = 0;
        if (inet_pton(AF_INET6, plain, &in6->sin6_addr) != 1)
            return EINVAL;
        in6->sin6_family = AF_INET6;
        if (scope && (in6->sin6_scope_id = if_nametoindex(scope + 1)) == 0)
            return ENODEV;
        return 0;
    }

    static int cp_open(struct sockaddr_storage *a, int port, int tos, int ttl, int *fd)
    {
        struct sockaddr_in *in4 = (struct sockaddr_in *)a;
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)a;
        int six = a->ss_family == AF_INET6, one = 1, failed = 0;
        int s = socket(a->ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        *fd = s;
        if (s < 0)
            return errno;
        if (six) {
            failed |= setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
            failed |= setsockopt(s, IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof(tos));
            failed |= setsockopt(s, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, &ttl, sizeof(ttl));
            in6->sin6_port = htons((uint16_t)port);
        } else {
            failed |= setsockopt(s, IPPROTO_IP, IP_TOS, &tos, sizeof(tos));
            failed |= setsockopt(s, IPPROTO_IP, IP_MULTICAST_TTL, &ttl, sizeof(ttl));
            /* 0.x.x.x is no interface: the routes choose it then. */
            if ((ntohl(in4->sin_addr.s_addr) >> 24) != 0)
                failed |= setsockopt(s, IPPROTO_IP, IP_MULTICAST_IF, &in4->sin_addr,
                                     sizeof(in4->sin_addr));
            in4->sin_port = htons((uint16_t)port);
        }
        if (failed)
            return errno;
        if (bind(s, (struct sockaddr *)a, six ? sizeof(*in6) : sizeof(*in4)) < 0)
            return errno;
        return 0;
    }

    static int cp_open_pair(const char *ip, int port, int tos, int ttl, int *fds)
    {
        struct sockaddr_storage a;
        int i, error = cp_address(&a, ip);
        fds[0] = fds[1] = -1;
        for (i = 0; i < 2 && !error; i++)
            error = cp_open(&a, port + i, tos, ttl, &fds[i]);
        if (error)
            for (i = 0; i < 2; i++)
                if (fds[i] >= 0)
                    close(fds[i]);
        return error;
    }
    """
    int cp_open_pair(const char *ip, int port, int tos, int ttl, int *fds) nogil


def open_pair(str ip, int port, int tos, int multicast_ttl):
    """Descriptors of two non-blocking UDP sockets bound to `port` and the one above it.

    Raises `OSError` with what the system says.
    """
    cdef int fds[2]
    cdef bytes where = ip.encode()
    cdef int error = cp_open_pair(where, port, tos, multicast_ttl, fds)
    if error:
        import os
        raise OSError(error, os.strerror(error))
    return fds[0], fds[1]
