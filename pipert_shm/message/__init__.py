"""How does a payload become a message, and a message a payload?

The sending side is `outbox`. It has `outgoing` (its wires), `packer` (makes a payload ready, with `encoder` for other processes
and with `hand_over` for its own flow), `posting` (a message on its way out of the port) and `fast_path` (all of that at once,
for arrays in slots). The receiving side is `inbox`, with `decoder`. Both use `layouts` (of arrays), `pickling` and `types`.
"""
