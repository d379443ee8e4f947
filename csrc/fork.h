/* fork: what a forked child may keep of its parent.
 *
 * A child inherits the mappings, but none of the holder bits are its own. Handlers of
 * pthread_atfork therefore mark every table of the parent as foreign in the child; leases
 * through a foreign table are neither taken nor ended. The child opens tables of its own.
 *
 * The handlers also close file descriptors that a child must not have, such as the
 * launcher's ends of channels: a peer sees the end of a channel only when the last copy
 * is closed. They hold the mutex of the tables across the fork, since a mutex that
 * another thread holds would stay locked in the child.
 */
#ifndef PSHM_FORK_H
#define PSHM_FORK_H

#include <stdbool.h>

#define PSHM_GUARDED 65536u /* the most file descriptors that are kept out of children */

/* Closes `fd` in every child that is forked from now on. Any thread. Returns false when
 * PSHM_GUARDED are guarded already. */
bool pshm_guard(int fd);

/* Takes that back. Any thread, before it closes `fd`. */
void pshm_unguard(int fd);

#endif
