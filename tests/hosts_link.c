/* hosts_link: a link between two hosts on one machine, with a delay, losses, a rate and a short queue.
 *
 *   hosts_link FD FD DELAY_US LOSS_PPM BYTES_PER_S QUEUE_BYTES SEED
 *
 * The two descriptors are TUN devices, each of another network namespace: what one of them gives
 * is written to the other. A byte on stdin changes the link: `c` cuts it, `j` joins it; what is
 * under way at a cut is lost. It ends with stdin.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LONGEST 65536
#define S 1000000000ull

typedef struct packet {
    struct packet *next;
    uint64_t due;
    size_t bytes;
    uint8_t data[];
} packet;

typedef struct way {
    int from, to;
    packet *first, **last;
    uint64_t free_at; /* when the wire has sent what was given to it */
} way;

static uint64_t delay_ns, loss_ppm, rate, queue_bytes;
static bool cut;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * S + (uint64_t)t.tv_nsec;
}

static bool is_lost(void) {
    return (uint64_t)(drand48() * 1e6) < loss_ppm;
}

/* Takes one packet of a device. Returns false when there is none. */
static bool take(way *way) {
    static uint8_t data[LONGEST];
    ssize_t got = read(way->from, data, sizeof data);
    if (got <= 0) return false;
    uint64_t at = now(), begin = way->free_at > at ? way->free_at : at;
    uint64_t waiting = (begin - at) * rate / S; /* bytes that the wire has not sent yet */
    if (cut || is_lost() || waiting > queue_bytes) return true;
    way->free_at = begin + (uint64_t)got * S / rate;
    packet *it = malloc(sizeof *it + (size_t)got);
    if (it == NULL) return true;
    it->next = NULL;
    it->due = way->free_at + delay_ns;
    it->bytes = (size_t)got;
    memcpy(it->data, data, (size_t)got);
    *way->last = it;
    way->last = &it->next;
    return true;
}

/* Gives what is due to the other device. Returns when the next one is due. */
static uint64_t give(way *way) {
    while (way->first != NULL && (cut || way->first->due <= now())) {
        packet *it = way->first;
        if (!cut && write(way->to, it->data, it->bytes) < 0 && errno != EINVAL && errno != EIO)
            perror("write");
        way->first = it->next;
        if (way->first == NULL) way->last = &way->first;
        free(it);
    }
    return way->first == NULL ? UINT64_MAX : way->first->due;
}

int main(int count, char **words) {
    if (count != 8) return 2;
    int fd[2] = {atoi(words[1]), atoi(words[2])};
    delay_ns = strtoull(words[3], NULL, 10) * 1000;
    loss_ppm = strtoull(words[4], NULL, 10);
    rate = strtoull(words[5], NULL, 10);
    queue_bytes = strtoull(words[6], NULL, 10);
    srand48(atol(words[7]));
    way ways[2] = {{fd[0], fd[1], NULL, NULL, 0}, {fd[1], fd[0], NULL, NULL, 0}};
    for (int n = 0; n < 2; n++) {
        ways[n].last = &ways[n].first;
        fcntl(fd[n], F_SETFL, O_NONBLOCK);
    }
    for (;;) {
        for (int n = 0; n < 2; n++)
            for (int k = 0; k < 32 && take(&ways[n]); k++) continue;
        uint64_t first = give(&ways[0]), second = give(&ways[1]), at = now();
        uint64_t due = first < second ? first : second, wait = due > at ? due - at : 0;
        if (wait > S) wait = S;
        struct timespec left = {(time_t)(wait / S), (long)(wait % S)};
        struct pollfd polled[] = {{fd[0], POLLIN, 0}, {fd[1], POLLIN, 0}, {0, POLLIN, 0}};
        if (ppoll(polled, 3, &left, NULL) <= 0 || polled[2].revents == 0) continue;
        char word;
        if (read(0, &word, 1) <= 0) return 0;
        cut = word == 'c';
    }
}
