/* See csrc/queue.h. */
#define PSHM_CELLS ...

typedef struct { ...; } pshm_queue_words;
void pshm_queue_format(pshm_queue_words *words);

typedef struct { ...; } pshm_queue;
uint32_t pshm_queue_cells(uint32_t capacity);
uint32_t pshm_queue_depth(const pshm_queue *queue);
void pshm_queue_close(pshm_queue *queue);
void pshm_queue_reopen(pshm_queue *queue);
