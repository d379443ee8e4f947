"""Attaching to the part of a pipe that another host runs."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any, NoReturn

from pipert_shm.agents.asking import Asker
from pipert_shm.agents.counts import heard
from pipert_shm.agents.names import EVERY, divided, version
from pipert_shm.agents.reaching import hub_from
from pipert_shm.agents.remote_tap import FrameCodec, RemoteTap
from pipert_shm.errors import PayloadError, PipeStateError, RemoteRefusal, shown
from pipert_shm.events import KILL_EVENT_NAME, check_event_name, checked_flow_routines
from pipert_shm.routine import Routine
from pipert_shm.statistics import PipeStatistics

AGAIN_S = 0.5  # after which a pipe that is not there yet is looked for again
END_S = 200.0  # that the end of a pipe may take


class RemotePipe:
    """The part of a pipe that another host runs: `attach("yard@edge-1", hub=…)` gives it. A context manager.

    The agent of that host does what is asked, and answers. Methods may be called from any thread, but not from a process that
    was forked from this one. A process that has had one can't fork flows with `RemoteSender` or `RemoteReceiver` afterwards:
    build such a pipe first.

    Attributes:
        name: `PIPE@HOST`.
        host: the name of the host.
    """

    def __init__(self, name: str, hub: str, timeout: float | None) -> None:
        parts = divided(name)
        if parts is None or parts[1] == EVERY:
            raise ValueError(f"with hub=, attach() takes PIPE@HOST, such as 'yard@edge-1', not {shown(name)}")
        self.name, (self._pipe, self.host) = name, parts
        self._taps: weakref.WeakSet[RemoteTap] = weakref.WeakSet()
        self._closed = False
        self._asker = Asker(hub_from(hub))
        try:
            self._await_it(timeout)
        except BaseException:
            self.close()
            raise

    def _await_it(self, timeout: float | None) -> None:
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (why_not := self._why_not()) and time.monotonic() < deadline:
            time.sleep(AGAIN_S)
        if why_not:
            raise RemoteRefusal(why_not)

    def _why_not(self) -> str:
        """Why it is not there; empty if it is.

        :raises PipeStateError: when the versions differ.
        """
        try:
            about = self._asker.ask(self.host, "about").value
        except RemoteRefusal as error:
            return str(error)
        if self._pipe not in about["pipes"]:
            return f"host {self.host} runs no part of a pipe {self._pipe!r}; it runs: {', '.join(about['pipes']) or 'none'}"
        if about["version"] != version():
            raise PipeStateError(f"host {self.host} has pipert_shm {about['version']}, this one {version()}: use the same")
        return ""

    def __repr__(self) -> str:
        return f"RemotePipe({self.name!r}{', detached' if self._closed else ''})"

    def __enter__(self) -> RemotePipe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def structure(self) -> dict[str, list[Any]]:
        """The routines with their flows and events, as `Pipe.get_pipe_structure` gives them.

        :raises RemoteRefusal: when the host does not answer, or the pipe does not run.
        """
        structure: dict[str, list[Any]] = self._ask("structure").value
        return structure

    def statistics(self) -> PipeStatistics:
        """The counters of every routine, wire and flow, as `Pipe.statistics` gives them. `time_s` is by that host's clock.

        :raises RemoteRefusal: when the host does not answer, or the pipe does not run.
        """
        return heard(self._ask("counts").value)

    def tap(self, routine: Routine | str, *, codec: FrameCodec = "none") -> RemoteTap:
        """An iterator over the newest outputs of a routine.

        A host has 8 of them for all programs of other hosts.

        :param codec: how pictures go: `none` (as they are), `jpeg` or `zstd`; see docs/hosts.md.
        :raises RemoteRefusal: when the host does not answer, there is no such routine, it does not run or sends nothing, or
            there is no place left.
        :raises ValueError: when there is no such codec.
        """
        self._require_usable()
        name = routine if isinstance(routine, str) else routine.name
        tap = RemoteTap(self._asker, self.host, self._pipe, name, codec)
        self._taps.add(tap)
        return tap

    def notify_event(
        self,
        event_name: str,
        specific_flow_routines: dict[str, Iterable[str]] | None = None,
        specific_routine: str | None = None,
        **event_parameters: Any,
    ) -> None:
        """Notifies routines of an event, as `Pipe.notify_event` does. Returns when it is on its way.

        After a `kill` for all, the pipe has ended, and its agent forgets it.

        :param event_parameters: what JSON can say.
        :raises RemoteRefusal: when the host does not answer, or refuses: there is no such event, say.
        :raises PayloadError: when a parameter can't go to another host.
        """
        check_event_name(event_name)
        flow_routines = checked_flow_routines(specific_flow_routines)
        try:
            is_plain = json.loads(json.dumps(event_parameters)) == event_parameters
        except (TypeError, ValueError):
            is_plain = False
        if not is_plain:
            reason = "they go to another host as JSON: give numbers, texts, and lists and dicts of those"
            raise PayloadError("", "", reason, what=f"the parameters of event {event_name!r}")
        if event_name == KILL_EVENT_NAME and specific_routine is None and not flow_routines:
            self._ask("remove", END_S)
            return
        self._ask("notify", event=event_name, routine=specific_routine, flow_routines=flow_routines, arguments=event_parameters)

    def source(self, *_: object, **__: object) -> NoReturn:
        """Is not to be had from another host.

        :raises PipeStateError: always: use a wire, which has a policy and promises.
        """
        raise PipeStateError(
            f"source() is for pipes of this host: a pipe gets what {self.name} sends by a wire, in a file with a section "
            "`hosts`, or by RemoteSender and RemoteReceiver"
        )

    def _ask(self, kind: str, patience: float = 30.0, **question: Any) -> Any:
        self._require_usable()
        return self._asker.ask(self.host, kind, patience=patience, pipe=self._pipe, **question)

    def _require_usable(self) -> None:
        if self._closed:
            raise PipeStateError(f"this process is detached from {self.name}")

    def close(self) -> None:
        """Ends all taps, and detaches. Arrays that were read stay valid."""
        if not self._closed:
            self._closed = True
            for tap in list(self._taps):
                tap.close()
            self._asker.close()
