"""PipeRT2's logger, with only the import changed: the records of all flows arrive in it."""

from __future__ import annotations

from conftest import RunScript
from seed_scripts import COUNTING, ended_well


def test_all_records_arrive_in_the_logger_that_was_given(run_script: RunScript) -> None:
    script = run_script(
        """
import logging, os, sys
from pipert_shm import DestinationRoutine, EndOfStream, MiddleRoutine, Pipe, SourceRoutine, START_EVENT_NAME, Wire

class Keep(logging.Handler):
    records = []
    def emit(self, record):
        assert os.getpid() == PARENT
        self.records.append(record)

PARENT = os.getpid()
logger = logging.getLogger("MyPipe")
logger.setLevel(logging.INFO)
logger.addHandler(Keep())

class Source(SourceRoutine):
    number = 0
    def main_logic(self):
        self.number += 1
        if self.number > 20:
            raise EndOfStream
        self._logger.info("sending %d", self.number)
        self._logger.debug("not at this level")
        return self.number

class Middle(MiddleRoutine):
    def main_logic(self, data):
        if data == 7:
            raise ValueError("seven")
        try:
            return 1 / (data - 8)
        except ZeroDivisionError:
            self._logger.exception("eight")

class Destination(DestinationRoutine):
    def cleanup(self):
        self._logger.warning("cleaned up")
    def main_logic(self, data):
        pass

pipe = Pipe(logger=logger, policy="block")
source, middle, destination = Source("source"), Middle("middle"), Destination("destination")
pipe.create_flow("one", False, source, middle)
pipe.create_flow("two", False, destination)
pipe.link(Wire(source, middle), Wire(middle, destination))
pipe.build()
pipe.notify_event(START_EVENT_NAME)
pipe.join()

by_name = {}
for record in Keep.records:
    by_name.setdefault(record.name, []).append(record)
assert sorted(by_name) == ["MyPipe.one.middle", "MyPipe.one.source", "MyPipe.two.destination"], sorted(by_name)
assert [r.getMessage() for r in by_name["MyPipe.one.source"]] == [f"sending {n}" for n in range(1, 21)]
assert all(r.levelname == "INFO" and r.process != PARENT and r.funcName == "main_logic" for r in by_name["MyPipe.one.source"])
seven, eight = by_name["MyPipe.one.middle"]
formatter = logging.Formatter("%(levelname)s %(message)s")
assert seven.getMessage() == "routine 'middle' of flow 'one': main_logic failed on message 6: ValueError: seven"
assert seven.sequence == 6
assert 'raise ValueError("seven")' in formatter.format(seven)
assert "ZeroDivisionError: division by zero" in formatter.format(eight)
assert formatter.format(eight).startswith("ERROR eight")
assert [r.getMessage() for r in by_name["MyPipe.two.destination"]] == ["cleaned up"]
assert all(stats.logs_lost == 0 for stats in pipe.statistics().routines.values())
"""
    )
    ended_well(script)


def test_records_of_a_flood_are_lost_and_counted_rather_than_waited_for(run_script: RunScript) -> None:
    script = run_script(
        """
import logging, threading
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, SourceRoutine, START_EVENT_NAME

go_on = threading.Event()

class Slow(logging.Handler):
    count = 0
    def emit(self, record):
        go_on.wait()
        Slow.count += 1

logger = logging.getLogger("Flood")
logger.setLevel(logging.INFO)
logger.addHandler(Slow())

class Source(SourceRoutine):
    def main_logic(self):
        for n in range(5000):
            self._logger.info("x" * 1000)
        raise EndOfStream

class Destination(DestinationRoutine):
    def main_logic(self, data):
        pass

pipe = Pipe(logger=logger)
pipe.create_flow("flow", True, Source("source"), Destination("destination"))
pipe.build()
pipe.notify_event(START_EVENT_NAME)
while pipe.statistics().routines["source"].state != "ended":
    pass
go_on.set()
pipe.join()
lost = pipe.statistics().routines["source"].logs_lost
assert lost > 0
assert lost + Slow.count == 5000, (lost, Slow.count)
"""
    )
    ended_well(script)


def test_a_log_handler_that_raises_does_not_stop_the_records(run_script: RunScript) -> None:
    script = run_script(
        COUNTING
        + """
class Raises(logging.Handler):
    def emit(self, record):
        if record.getMessage() == "2":
            raise RuntimeError("a bad handler")

class Says(DestinationRoutine):
    def main_logic(self, data):
        self._logger.info("%d", data)

logging.getLogger("Pipe").addHandler(Raises())
run(Count(until=3), Says("says"))
"""
    )
    lines = ended_well(script).lines
    assert [line for line in lines if line.startswith("Pipe.flow.says")][-1] == "Pipe.flow.says INFO 3"
    assert "Pipe ERROR a log handler failed" in lines
    assert "RuntimeError: a bad handler" in lines
