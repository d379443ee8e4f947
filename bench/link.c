/* A link between two network namespaces with a delay, losses and a rate, for kernels without netem.
 *
 *   link PID PID DELAY_MS LOSS_PERCENT RATE_MBIT QUEUE_MS
 *
 * Each process stands for its namespace, in which a device `link0` is made. Packets of 1500 bytes; a queue before each direction
 * holds what the rate sends in QUEUE_MS, and what comes while it is full is lost. A rate of 0 is none. It says "up", and ends when
 * its standard input does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { MTU = 1500, HELD = 1 << 14, BURST = 32 };

struct packet {
    uint64_t due_ns;
    size_t length;
    unsigned char bytes[MTU];
};

/* What goes one way: taken from one device, given to the other one when it is due. */
struct way {
    int from, to;
    struct packet *held;
    uint64_t first, end;   /* of those held, modulo HELD */
    uint64_t free_at_ns;   /* when the link has sent what was taken */
};

static double delay_ns, loss, ns_per_byte, queue_ns;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int device_in(const char *pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/ns/net", pid);
    int space = open(path, O_RDONLY | O_CLOEXEC);
    if (space < 0 || setns(space, CLONE_NEWNET))
        fail(path);
    close(space);
    int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq wanted = {.ifr_name = "link0", .ifr_flags = IFF_TUN | IFF_NO_PI};
    if (device < 0 || ioctl(device, TUNSETIFF, &wanted))
        fail("/dev/net/tun");
    return device;
}

static void take(struct way *way, uint64_t now)
{
    for (int n = 0; n < BURST; n++) {
        unsigned char bytes[MTU];
        ssize_t length = read(way->from, bytes, sizeof bytes);
        if (length <= 0)
            return;
        uint64_t begins = way->free_at_ns > now ? way->free_at_ns : now;
        int is_full = way->end - way->first == HELD || (ns_per_byte > 0 && (double)(begins - now) > queue_ns);
        if (is_full || drand48() < loss)
            continue;
        way->free_at_ns = begins + (uint64_t)(ns_per_byte * (double)length);
        struct packet *packet = &way->held[way->end++ % HELD];
        packet->due_ns = way->free_at_ns + (uint64_t)delay_ns;
        packet->length = (size_t)length;
        memcpy(packet->bytes, bytes, packet->length);
    }
}

/* Returns when the next one is due; UINT64_MAX for none. */
static uint64_t give(struct way *way, uint64_t now)
{
    for (; way->first < way->end; way->first++) {
        struct packet *packet = &way->held[way->first % HELD];
        if (packet->due_ns > now)
            return packet->due_ns;
        if (write(way->to, packet->bytes, packet->length) < 0 && errno != EIO && errno != EAGAIN)
            fail("write"); /* EIO: the device is down, and what it gets is lost */
    }
    return UINT64_MAX;
}

int main(int count, char **words)
{
    if (count != 7) {
        fprintf(stderr, "usage: link PID PID DELAY_MS LOSS_PERCENT RATE_MBIT QUEUE_MS\n");
        return 2;
    }
    delay_ns = atof(words[3]) * 1e6;
    loss = atof(words[4]) / 100;
    ns_per_byte = atof(words[5]) > 0 ? 8000 / atof(words[5]) : 0;
    queue_ns = atof(words[6]) * 1e6;
    srand48(20);
    int a = device_in(words[1]), b = device_in(words[2]);
    struct way ways[2] = {{.from = a, .to = b}, {.from = b, .to = a}};
    for (int n = 0; n < 2; n++)
        if (!(ways[n].held = malloc(HELD * sizeof *ways[n].held)))
            fail("malloc");
    puts("up");
    fflush(stdout);
    for (;;) {
        uint64_t now = now_ns(), next = UINT64_MAX;
        for (int n = 0; n < 2; n++) {
            take(&ways[n], now);
            uint64_t due = give(&ways[n], now);
            next = due < next ? due : next;
        }
        now = now_ns();
        uint64_t wait = next == UINT64_MAX ? 1000000000u : next > now ? next - now : 0;
        struct timespec patience = {.tv_sec = (time_t)(wait / 1000000000u), .tv_nsec = (long)(wait % 1000000000u)};
        struct pollfd ends[3] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
        if (ppoll(ends, 3, &patience, NULL) > 0 && ends[2].revents)
            return 0;
    }
}
