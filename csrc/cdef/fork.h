/* See csrc/fork.h. */
#define PSHM_GUARDED ...

bool pshm_guard(int fd);
void pshm_unguard(int fd);
