"""What does `build()` decide?

It turns routines and wires into a checked plan: edges, holder bits, queue and ring sizes. No memory or process is made here.
"""
