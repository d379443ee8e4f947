/* layout: arrays that Python need not decode.
 *
 * Most messages carry one array, laid out as the last one was. Python decodes the first of
 * them and teaches the delivery its layout. From then on a message with the same
 * description is recognised in C, and pshm_port_receive returns which layout it has.
 *
 *     index = pshm_delivery_learn(&delivery, kind, text, bytes, array_bytes);
 *     status = pshm_port_receive(port, &delivery, timeout_ns);
 *     if (status >= PSHM_ARRAY) {
 *         layout = pshm_array_layout(status);      // `index`
 *         head = pshm_array_head(status);          // bytes of the body's head
 *         ...                                      // the array is at delivery.address[0]
 *     }
 */
#ifndef PSHM_LAYOUT_H
#define PSHM_LAYOUT_H

#include "port.h"

#define PSHM_LAYOUTS 8u        /* that a delivery knows at a time */
#define PSHM_LAYOUT_BYTES 128u /* of the longest description */
#define PSHM_HEAD_SHIFT 16     /* a status {head:15 | PSHM_ARRAY + layout:16} */
#define PSHM_STATUS_MASK ((1 << PSHM_HEAD_SHIFT) - 1)

/* How an array lies in its slot, described by Python. */
typedef struct pshm_layout {
    uint32_t kind;
    uint32_t bytes;       /* of the text; 0 while this place is unused */
    uint64_t array_bytes; /* from the array's beginning */
    uint8_t text[PSHM_LAYOUT_BYTES];
} pshm_layout;

static inline uint32_t pshm_array_layout(int status) {
    return ((uint32_t)status & PSHM_STATUS_MASK) - PSHM_ARRAY;
}
static inline uint32_t pshm_array_head(int status) {
    return (uint32_t)status >> PSHM_HEAD_SHIFT;
}

struct pshm_delivery;

/* Learns a layout, in the place of the one that was learnt longest ago: from now on an
 * array of this kind whose body ends with `text` is recognised. The receiver's thread.
 * Returns the layout's index; PSHM_LAYOUTS, with nothing done, when the text is empty or
 * too long. */
uint32_t pshm_delivery_learn(struct pshm_delivery *delivery, uint32_t kind, const void *text,
                             uint32_t bytes, uint64_t array_bytes);

/* Recognises a message that was just received. The receiver's thread. If it is an array
 * alone, within its receiver's share and of a known layout, returns PSHM_ARRAY + the
 * layout's index | the head's bytes << PSHM_HEAD_SHIFT. Then address[0] is where the array
 * begins; the lease is the caller's, and `slots` is 0. Else returns PSHM_OK. */
int pshm_delivery_recognise(struct pshm_delivery *delivery);

#endif
