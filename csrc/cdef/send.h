/* See csrc/send.h. */
#define PSHM_OFFSET_BITS ...
#define PSHM_OFFSET_MASK ...

uint32_t pshm_reference_index(uint64_t reference);
uint64_t pshm_reference_offset(uint64_t reference);

typedef struct pshm_post {
    uint64_t outs;
    uint64_t token;
    uint64_t message;
    uint64_t ticket;
    uint32_t offered;
    uint32_t handled;
    uint32_t slots;
    uint64_t slot[...];
    uint64_t sequence;
    uint32_t origin;
    uint32_t lost;
    uint32_t lost_out[...];
    uint64_t lost_token[...];
    ...;
} pshm_post;
int pshm_port_reserve(pshm_port *port, uint64_t outs, uint32_t ring, uint64_t *descriptor, void **address);
uint64_t pshm_port_refer(pshm_port *port, pshm_post *post, uint64_t outs, const void *address, uint64_t bytes);
int pshm_port_send(pshm_port *port, pshm_post *post, uint32_t ring, uint64_t sequence, uint64_t captured_ns,
                   uint32_t origin, uint32_t kind, uint32_t head, const void *body, uint32_t bytes);
int pshm_port_resume(pshm_port *port, pshm_post *post);
void pshm_port_abandon(pshm_port *port, pshm_post *post, uint32_t reason);
uint32_t pshm_port_choose(pshm_port *port, uint64_t outs);
