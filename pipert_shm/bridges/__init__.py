"""Which other systems can watch and control a pipe? zerorpc clients, and a PipeRT-Cockpit."""
