#include "layout.h"

#include <string.h>

#include "receive.h"

uint32_t pshm_delivery_learn(pshm_delivery *delivery, uint32_t kind, const void *text,
                             uint32_t bytes, uint64_t array_bytes) {
    if (bytes == 0 || bytes > PSHM_LAYOUT_BYTES) return PSHM_LAYOUTS;
    uint32_t index = delivery->learnt++ % PSHM_LAYOUTS;
    pshm_layout *layout = &delivery->layout[index];
    layout->kind = kind;
    layout->bytes = bytes;
    layout->array_bytes = array_bytes;
    memcpy(layout->text, text, bytes);
    return index;
}

/* The body is {head | offset of the array in its slot:64 | text}. */
int pshm_delivery_recognise(pshm_delivery *delivery) {
    uint64_t offset, before = (uint64_t)delivery->head + sizeof offset;
    if (delivery->slots != 1 || delivery->over_cap || before > delivery->body_bytes)
        return PSHM_OK;
    const uint8_t *text = delivery->body + before;
    for (uint32_t k = 0; k < PSHM_LAYOUTS; k++) {
        const pshm_layout *layout = &delivery->layout[k];
        if (layout->bytes == 0) break;
        if (layout->bytes != delivery->body_bytes - before || layout->kind != delivery->kind ||
            memcmp(layout->text, text, layout->bytes) != 0)
            continue;
        memcpy(&offset, delivery->body + delivery->head, sizeof offset);
        uint64_t room = delivery->slot_bytes[0];
        if (offset > room || layout->array_bytes > room - offset) break;
        delivery->address[0] = (uint8_t *)delivery->address[0] + offset;
        delivery->slots = 0;
        return (int)(PSHM_ARRAY + k) | (int)delivery->head << PSHM_HEAD_SHIFT;
    }
    return PSHM_OK;
}
