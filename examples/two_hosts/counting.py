"""Classes for program.py. Each host that runs one of them has this file in the working directory of its agent."""

from pipert_shm import MiddleRoutine, SourceRoutine


class Count(SourceRoutine):
    """Counts, some times a second."""

    def __init__(self, name: str | None = None, *, fps: float = 20) -> None:
        super().__init__(name)
        self.set_const_fps(fps)

    def main_logic(self) -> int:
        return self.meta.sequence


class Times(MiddleRoutine):
    """Multiplies."""

    def __init__(self, name: str | None = None, *, by: int) -> None:
        super().__init__(name)
        self.by = by

    def main_logic(self, number: int) -> tuple[int, int]:
        return number, number * self.by
