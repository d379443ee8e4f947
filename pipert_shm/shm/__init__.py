"""What lies in shared memory?

Segments, rings and their slots, the heads of messages, states, counters, and the listing that `pipert-shm ls` shows.
"""
