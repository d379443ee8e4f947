#include "process.h"

#include <pthread.h>
#include <stdlib.h>

#include "mapping.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pshm_process *processes;

void pshm_process_hold_still(void) {
    pthread_mutex_lock(&lock);
}

void pshm_process_go_on(void) {
    pthread_mutex_unlock(&lock);
}

pshm_process *pshm_process_first(void) {
    return processes;
}

void pshm_process_disown_all(void) {
    for (pshm_process *p = processes; p != NULL; p = p->next) p->foreign = true;
}

pshm_process *pshm_process_open(void *memory, uint64_t bytes) {
    pshm_process *process = calloc(1, sizeof *process);
    if (process == NULL) return NULL;
    if (!pshm_control_attach(&process->control, memory, bytes)) {
        free(process);
        return NULL;
    }
    size_t incarnations = (size_t)process->control.incarnations + 1;
    process->borrowed = calloc(incarnations, sizeof *process->borrowed);
    process->lingering = calloc(incarnations, sizeof *process->lingering);
    if (process->borrowed == NULL || process->lingering == NULL) {
        free(process->borrowed);
        free(process->lingering);
        free(process);
        return NULL;
    }
    pthread_mutex_lock(&lock);
    process->next = processes;
    processes = process;
    pthread_mutex_unlock(&lock);
    return process;
}

static bool is_leased(const pshm_process *process) {
    for (uint32_t r = 0; r < process->places; r++)
        if (process->mapping[r] != NULL && pshm_mapping_leases(process->mapping[r]) != 0)
            return true;
    return false;
}

bool pshm_process_close(pshm_process *process) {
    pthread_mutex_lock(&lock);
    if (!process->foreign && is_leased(process)) {
        pthread_mutex_unlock(&lock);
        return false;
    }
    for (pshm_process **p = &processes; *p != NULL; p = &(*p)->next) {
        if (*p != process) continue;
        *p = process->next;
        break;
    }
    for (uint32_t r = 0; r < PSHM_RINGS; r++)
        if (process->mapping[r] != NULL) pshm_process_unmap(process, r);
    pthread_mutex_unlock(&lock);
    free(process->borrowed);
    free(process->lingering);
    free(process);
    return true;
}
