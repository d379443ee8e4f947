"""The launcher: the process that forks the flows, orders events, and sees to it when flows die.

The parent forks it at `build()`; it holds the routine objects as they were then, so routines need not pickle, and it has one
thread, so a flow is never forked from a process with threads. What the kernel says is what counts: a flow is dead when its
pidfd says so, and everyone ends when the channel to whom they obey is closed.

    loop         the process: its parts, its tables of messages, and the loop
    watch        descriptors and moments that it waits for
    peers        channels to the parent, the flows and fork servers; what waits for those who do not read
    roster       the flows and routines that there are
    supervisor   births and deaths of flows, restarts         hangs   routines that do not come back
    overheard    what libraries in the flows write to standard error
    recovery     what a death means for the memory
    lifecycle    starts, stops, events, the end
    rewiring     wires that come and go       links, incarnations   which wires and which lives of them there are
    taps         edges to the parent
    extension    later builds                 fork_server           the process that forks their flows
"""
