"""Where did a frame's time go? Traces of a running pipe, for Perfetto.

What the processes note is described in csrc/trace.h, and read by parent/tracing.py. Here it becomes a timeline (timeline.py),
and that a file (perfetto_file.py).
"""
