/* pshm: the C core, all of it, from the bottom up.
 *
 * A header includes only headers that stand above it in this list. The one exception is
 * policy.h, whose numbers control.h needs.
 *
 *     points          places where the tests kill a process
 *     ring            slots in shared memory, and who holds them
 *     queue           cells from one sender to one receiver
 *     bell            one thread sleeps, others ring
 *     counters        words that are counted in
 *     trace           what a process did, while somebody traces its pipe
 *
 *     control         the segment that all processes share: flows, routines, edges
 *     ring_table      which rings exist, and what memory they take
 *     edge            one process's handle on an edge
 *     tickets         what is still to come from replicas
 *
 *     process         what one process has of one pipe
 *     mapping         the rings that it has mapped
 *     lease           the slots that it holds
 *     fork            what a forked child may keep of that
 *
 *     message         how a message lies in its slot
 *     port            a routine's end of all its edges: port.c, port_trace.c
 *     policy          what happens when there is no room
 *     send            a message on its way out: reserve.c, spread.c, send.c
 *     layout          arrays that Python need not decode
 *     receive         a message on its way in
 *     recover         what to do about what a dead process held
 *
 * Names: pshm_<structure>_<verb>. Each declaration says what the function does, who may call
 * it and when, which memory order it relies on or gives where that matters, and how it
 * progresses: wait-free (a bounded number of steps), lock-free (some caller gets on), or by
 * a mutex of this process. Those that may sleep say so.
 */
#ifndef PSHM_H
#define PSHM_H

#include "bell.h"
#include "control.h"
#include "counters.h"
#include "edge.h"
#include "fork.h"
#include "handing.h"
#include "layout.h"
#include "lease.h"
#include "mapping.h"
#include "message.h"
#include "policy.h"
#include "port.h"
#include "process.h"
#include "queue.h"
#include "receive.h"
#include "recover.h"
#include "ring.h"
#include "ring_table.h"
#include "send.h"
#include "tickets.h"
#include "trace.h"

#endif
