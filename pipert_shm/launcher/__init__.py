"""The launcher: the process that forks the flows, orders events, and restarts flows that die.

The parent forks it at `build()`. It holds the routine objects as they were then, so routines need not pickle. It has one
thread, so a flow is never forked from a process with threads. It relies on what the kernel says: a flow is dead when its pidfd
says so, and each process ends when the channel that its orders come by is closed.

    loop         the process: its parts, its tables of messages, and the loop
    parent       the channel to the parent, and the requests that come by it
    watch        descriptors and moments that the loop waits for
    peers        channels that never block, with a queue for messages that find no room
    roster       the flows and routines of the pipe
    starts       how a flow gets a process            deaths        what follows when it dies
    restarts     when a flow is restarted             supervisor    what is done by the clock
    hangs        routines that do not return          flow_stderr   what libraries in the flows write to standard error
    recovery     clearing the memory that dead flows used
    lifecycle    starts, stops, events, the end
    rewiring     wires that come and go               link_checks   whether two routines may be linked
    edge_table   the edges of the running pipe        incarnations  their incarnations, and the bits of these
    taps         edges to the parent
    extension    later builds                         removal       flows that are removed
    footprint    how much shared memory a pipe gets
    fork_server  the launcher's end of a fork server  fork_server_process  that process
"""
