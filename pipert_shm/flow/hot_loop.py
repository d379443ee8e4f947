"""Calls of `main_logic` that C makes, one after the other, with no Python of ours between them: see csrc/hot/loop.c."""

from __future__ import annotations

import threading

from pipert_shm import binding
from pipert_shm.data import Meta
from pipert_shm.flow.context import Context
from pipert_shm.flow.gathering import Gathering
from pipert_shm.flow.pacing import Pacing
from pipert_shm.flow.payload_log import PayloadLog
from pipert_shm.routine import Role

# After these receipts the message that was in hand before still is.
NOTHING_CAME = frozenset({binding.NOTICE, binding.TIMED_OUT, binding.CLOSED, binding.DRAINED})
PASSED_OVER = 32  # calls that are made in Python after one that C could not make: the next ones are mostly like it


class HotLoop:
    """Makes calls as long as arrays come and go, and nothing else happens. The routine's thread only.

    Attributes:
        is_source: whether the routine is a source.
    """

    def __init__(self, context: Context, gathering: Gathering, pacing: Pacing, payload_log: PayloadLog) -> None:
        plan = context.plan
        self.is_source = plan.role is Role.SOURCE
        self._context = context
        self._hot = context.port.hot
        self._logic = plan.logic
        self._routine = plan.routine
        self._origin = plan.origin
        self._outbox = context.outbox
        self._gathering = gathering
        self._pacing = pacing
        self._payload_log = payload_log
        self._passed_over = 0
        self._thread = 0

    def ring(self) -> int | None:
        """The ring for messages, which `run` takes; None where the next call must be made in Python."""
        if self._passed_over:
            self._passed_over -= 1
            return None
        if self._pacing.auto or self._payload_log.on:
            return None
        return self._outbox.ring if self.is_source or self._gathering.is_bare else None

    def run(self, ring: int) -> int:
        """Makes calls until Python has something to do. Returns an outcome: see csrc/hot/hot.h.

        :raises BaseException: what `main_logic` raised.
        """
        hot, routine, pacing = self._hot, self._routine, self._pacing
        hot.meta = before = routine.meta
        self._thread = threading.get_ident()
        routine._pshm_look, routine._pshm_replaced = self._look, hot.come_back
        routine._pshm_meta = routine._pshm_metas = None
        try:
            outcome: int = hot.run(self._logic, self.is_source, ring, pacing.interval_ns, pacing.turn_ns)
        except BaseException:
            self._put(self._meta())
            raise
        finally:
            pacing.turn_ns = hot.turn_ns
        if outcome == binding.FOUND and hot.status not in NOTHING_CAME:
            self._put(hot.meta or before)
            if not hot.calls:
                self._passed_over = PASSED_OVER
        else:
            self._put(self._meta())
            if outcome == binding.RESULT and hot.calls == 1:
                self._passed_over = PASSED_OVER
        return outcome

    def _put(self, meta: Meta) -> None:
        self._routine._pshm_meta, self._routine._pshm_metas = meta, None

    def _look(self) -> Meta:
        return self._meta(keep=threading.get_ident() == self._thread)

    def _meta(self, *, keep: bool = True) -> Meta:
        """The meta of the message in hand, made when somebody first looks at it.

        :param keep: whether others who look get the same. On another thread than the routine's the message may be another one
            by now.
        """
        hot = self._hot
        meta: Meta | None = hot.meta
        if meta is None:
            names, origin = self._context.names, self._origin
            meta = Meta(names, origin, hot.sequence) if self.is_source else Meta.received(names, origin, hot.raw())
            if keep:
                hot.meta = meta
        return meta
