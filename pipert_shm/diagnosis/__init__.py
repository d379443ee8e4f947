"""What slows a pipe down, and what can be done about it?

Two looks at a pipe's counters, some seconds apart, become a list of findings, in words. Nothing of the pipe is touched.
"""

from pipert_shm.diagnosis.diagnose import diagnose
from pipert_shm.diagnosis.finding import Finding
from pipert_shm.diagnosis.moment import Moment, Ring, take

__all__ = ["Finding", "Moment", "Ring", "diagnose", "take"]
