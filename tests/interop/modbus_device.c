/* A Modbus device made of libmodbus, for tests of the master.
 *
 *   modbus_device tcp PORT        PORT 0: a free one
 *   modbus_device rtu DEVICE UNIT
 *
 * 100 of each table, all 0. Prints "port N" or "ready", then "fc F addr A" for each request.
 * Commands on standard input, one a line:
 *   di A V | co A V | ir A V | hr A V    set discrete input, coil, input or holding register
 *   ? co A                               print "co A V"
 *   delay MS                             answer later
 *   mute 1                               read requests and answer none
 *   drop                                 close all connections
 * Ends with standard input.
 */
#include <errno.h>
#include <modbus.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

static modbus_t *bus;
static modbus_mapping_t *map;
static int delay_ms, mute, listener = -1;
static fd_set watched;

static int command(void)
{
    char line[80], table[8];
    int at, value;
    size_t n = 0;

    while (n + 1 < sizeof line) {
        if (read(0, line + n, 1) <= 0)
            return 0;
        if (line[n++] == '\n')
            break;
    }
    line[n] = 0;
    if (sscanf(line, "? co %d", &at) == 1)
        printf("co %d %d\n", at, map->tab_bits[at]);
    else if (sscanf(line, "delay %d", &value) == 1)
        delay_ms = value;
    else if (sscanf(line, "mute %d", &value) == 1)
        mute = value;
    else if (!strncmp(line, "drop", 4)) {
        for (int fd = 3; fd < FD_SETSIZE; fd++)
            if (fd != listener && FD_ISSET(fd, &watched)) {
                close(fd);
                FD_CLR(fd, &watched);
            }
    } else if (sscanf(line, "%7s %d %d", table, &at, &value) == 3 && at >= 0 && at < 100) {
        if (!strcmp(table, "di"))
            map->tab_input_bits[at] = value;
        else if (!strcmp(table, "co"))
            map->tab_bits[at] = value;
        else if (!strcmp(table, "ir"))
            map->tab_input_registers[at] = value;
        else if (!strcmp(table, "hr"))
            map->tab_registers[at] = value;
        printf("set\n");
    }
    return 1;
}

static int serve(void)
{
    uint8_t request[MODBUS_TCP_MAX_ADU_LENGTH];
    int header = modbus_get_header_length(bus), n = modbus_receive(bus, request);

    if (n > 0) {
        printf("fc %d addr %d\n", request[header], request[header + 1] << 8 | request[header + 2]);
        if (mute)
            return 1;
        usleep(delay_ms * 1000);
        modbus_reply(bus, request, n, map);
    }
    return n >= 0 || errno == EMBBADCRC || errno == ETIMEDOUT;
}

int main(int argc, char **argv)
{
    int tcp = argc > 2 && !strcmp(argv[1], "tcp");

    if (argc < 3 + !tcp)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    map = modbus_mapping_new(100, 100, 100, 100);
    FD_SET(0, &watched);
    if (tcp) {
        struct sockaddr_in own;
        socklen_t size = sizeof own;

        bus = modbus_new_tcp("127.0.0.1", atoi(argv[2]));
        if ((listener = modbus_tcp_listen(bus, 8)) < 0) {
            perror("listen");
            return 1;
        }
        getsockname(listener, (struct sockaddr *)&own, &size);
        FD_SET(listener, &watched);
        printf("port %d\n", ntohs(own.sin_port));
    } else {
        bus = modbus_new_rtu(argv[2], 19200, 'N', 8, 1);
        modbus_set_slave(bus, atoi(argv[3]));
        if (modbus_connect(bus) < 0) {
            perror(argv[2]);
            return 1;
        }
        FD_SET(modbus_get_socket(bus), &watched);
        printf("ready\n");
    }
    for (;;) {
        fd_set ready = watched;

        if (select(FD_SETSIZE, &ready, NULL, NULL, NULL) < 0)
            return 1;
        if (FD_ISSET(0, &ready) && !command())
            return 0;
        for (int fd = 1; fd < FD_SETSIZE; fd++) {
            if (!FD_ISSET(fd, &ready) || !FD_ISSET(fd, &watched))
                continue;
            if (fd == listener) {
                int server = listener;

                modbus_tcp_accept(bus, &server);
                FD_SET(modbus_get_socket(bus), &watched);
                continue;
            }
            if (tcp)
                modbus_set_socket(bus, fd);
            if (!serve()) {
                if (!tcp)
                    return 1;
                close(fd);
                FD_CLR(fd, &watched);
            }
        }
    }
}
