/* bell: nobody sleeps while there is work, through deaths, recoveries and sweeps.
 *
 *     U ==ring==> S --> C
 *
 * S sends PU messages to C on a lossless wire, so it sleeps when the queue is
 * full. With -DSLOT the first message holds the only slot of U's ring, and U
 * sleeps until that is free. S and C have a routine's thread and a control
 * thread each, die KS and KC times between any two steps, and are buried and
 * started again by the launcher L.
 *
 * Shown, when all has come to rest: C does not sleep while a queue that it reads
 * has a message, while there is an incarnation to drain, or a command to obey; S
 * does not sleep while its queue has room; U does not sleep while its slot is
 * free; every message was taken, except for what S died with; and each
 * incarnation is live or swept.
 *
 * Every load, store, CAS and system call on a bell, a queue index or the slot's
 * holder bit is a step. Abstracted:
 * - Cells, eviction and the order of messages: queue.pml, messages.pml.
 * - A thread's private work, and the launcher's, between two such steps.
 * - Time-outs of waits: here only a wake ends a wait, so that a lost wake shows.
 * - A futex word is one bit: whether it has moved since the waiter read it.
 * - Memory is sequentially consistent, as the code asks for on these words.
 */
#ifndef CAP
#define CAP 1
#endif
#ifndef PU
#define PU 2
#endif
#ifndef KS
#define KS 0
#endif
#ifndef KC
#define KC 0
#endif
#define RECS (1 + KS)           /* incarnations: one for each life of S */
#define NONE 15
#define UNUSED 0
#define LIVE 1
#define SDEAD 2
#define SWEPT 3
#define DEAD 0
#define ALIVE 1
#define DOWN 2
#ifdef FAILS
#define SFAILED true            /* S is not started again */
#else
#define SFAILED false
#endif

#define BS 0                    /* the bells */
#define BC 1
#define BU 2
bool waiting[3]; bool asleep[3]; bool moved[3]; bool notice;
byte h[RECS]; byte t[RECS]; byte st[RECS];
byte my; bool mutex;            /* S: its incarnation; pshm_port.sending */
byte att, pend; bool lease;     /* C: incarnations to read; those that are on their way; U's slot leased */
byte unswept, ask, ans, add;    /* L: sweeps asked for; receiver_died, recovered, add_in (as bits) */
#ifdef SLOT
bool slot = 1;
#else
bool slot = 0;                  /* U has nothing to wait for */
#endif
byte slotrec, slotidx = NONE;   /* the slot's bit is whose, and where its message stands: NONE in S's hand */
byte n = 1; bool udone; byte alive[2]; byte kills[2];
byte begun[2], stopped[2];      /* threads of S, of C */

inline wake(b) { asleep[b] = 0 }
#ifdef B_NOBUMP
#define RINGALWAYS(b) wake(b)
#else
#ifdef B_WAKEFIRST
#define RINGALWAYS(b) wake(b); moved[b] = 1
#else
#define RINGALWAYS(b) moved[b] = 1; wake(b)
#endif
#endif
/* After publishing: asks the flag, which only the waiter writes. */
#define RING(b) f = waiting[b]; if :: f -> f = 0; RINGALWAYS(b) :: else fi
/* Wakes C's thread, no matter what it sleeps in. */
#ifdef B_RINGFIRST
#define NOTIFY RINGALWAYS(BC); notice = 1
#else
#define NOTIFY notice = 1; RINGALWAYS(BC)
#endif
#define ARM(b) waiting[b] = 1; moved[b] = 0
/* The kernel compares the word and sleeps in one step. */
#define WAIT(b) d_step { if :: !moved[b] -> asleep[b] = 1 :: else fi }; d_step { !asleep[b] -> waiting[b] = 0 }

/* No unread message, and none in S's hands, is behind the slot's bit. */
#define TAKEN(r) (slot && slotrec == r && slotidx != NONE && slotidx < h[r])
/* The same when S is dead, and has nothing in its hands. */
#define LEFT(r) (slot && slotrec == r && (slotidx == NONE || slotidx < h[r]))
#ifdef B_SWEEPNORING
#define FREED skip
#else
#define FREED RING(BU)
#endif

/* ---- S ------------------------------------------------------------------ */

proctype S() {
  byte x; bool f;
again:
  { do
    :: n <= PU ->
       d_step { !mutex -> mutex = 1; x = h[my] };
       if
       :: d_step { t[my] - x < CAP -> if :: n == 1 -> slotidx = t[my] :: else fi; t[my] = t[my] + 1; n++; x = 0 };
          RING(BC);
          mutex = 0
       :: d_step { t[my] - x >= CAP -> x = 0; mutex = 0 };
          ARM(BS);
          x = h[my];
          if
          :: t[my] - x < CAP -> x = 0; waiting[BS] = 0
          :: t[my] - x >= CAP -> x = 0; WAIT(BS)
          fi
       fi
    od
  } unless { alive[0] == DEAD };
  d_step { x = 0; f = 0; stopped[0]++ };
  d_step { alive[0] == ALIVE -> begun[0]++ }; goto again
}
/* Its control thread: sweeps what its dead receiver had taken, sends held off. */
proctype SControl() {
  bool f;
again:
  { do
    :: d_step { ask > 0 && !mutex -> mutex = 1; f = TAKEN(my); if :: f -> slot = 0 :: else fi };
       if :: f -> f = 0; FREED :: else fi;
       d_step { mutex = 0; ask--; ans++ }
    od
  } unless { alive[0] == DEAD };
  d_step { f = 0; stopped[0]++ };
  d_step { alive[0] == ALIVE -> begun[0]++ }; goto again
}

/* ---- C ------------------------------------------------------------------ */

#define IN(r) (att & (1 << (r)))
#ifdef B_POPNORING
#define POPPED skip
#else
#define POPPED RING(BS)
#endif
#ifdef B_LEASENORING
#define ENDED skip
#else
#define ENDED RING(BU)
#endif
#define POP(r) :: !notice && IN(r) && h[r] != t[r] -> \
  d_step { h[r] = h[r] + 1; if :: slot && slotrec == r && slotidx == h[r] - 1 -> lease = 1 :: else fi }; \
  POPPED; \
  if :: lease -> d_step { slot = 0; lease = 0 }; ENDED :: else fi
/* Its routine's thread drains what a dead sender left, and sweeps. */
#define DRAIN(r) :: d_step { !notice && IN(r) && st[r] == SDEAD && h[r] == t[r] -> f = (slot && slotrec == r); if :: f -> slot = 0 :: else fi; att = att & ~(1 << (r)) }; \
  if :: f -> f = 0; FREED :: else fi; \
  st[r] = SWEPT
/* The look: dead or not, head, tail, in this order. */
#define LOOK(r) if :: IN(r) -> if :: st[r] == SDEAD -> f = 1 :: else fi; x = h[r]; if :: x != t[r] -> f = 1 :: else fi; x = 0 :: else fi
#define NOTHING(r) ((r) >= RECS || !IN(r) || (h[(r) % RECS] == t[(r) % RECS] && st[(r) % RECS] != SDEAD))
#if RECS > 1
#define ALSO(X) X(0) X(1)
#define LOOKS LOOK(0); LOOK(1)
#else
#define ALSO(X) X(0)
#define LOOKS LOOK(0)
#endif

proctype C() {
  byte x; bool f;
again:
  { do
#ifdef B_COMMANDSFIRST
    :: notice -> d_step { att = att | pend; pend = 0 }; notice = 0
#else
    :: notice -> notice = 0; d_step { att = att | pend; pend = 0 }
#endif
    ALSO(POP)
    ALSO(DRAIN)
    :: !notice && NOTHING(0) && NOTHING(1) ->
       ARM(BC);
       LOOKS;
       if :: notice -> f = 1 :: else fi;
       if :: f -> f = 0; waiting[BC] = 0 :: else -> WAIT(BC) fi
    od
  } unless { alive[1] == DEAD };
  d_step { x = 0; f = 0; stopped[1]++ };
  d_step { alive[1] == ALIVE -> begun[1]++ }; goto again
}
/* Its control thread: one more incarnation. */
proctype CControl() {
again:
  { do
    :: d_step { add -> pend = pend | add; add = 0 };
#ifndef B_ADDNORING
       NOTIFY
#else
       skip
#endif
    od
  } unless { alive[1] == DEAD };
  stopped[1]++;
  d_step { alive[1] == ALIVE -> begun[1]++ }; goto again
}

/* ---- U, a producer that waits for its slot ------------------------------ */

proctype U() {
  bool f;
  do
  :: !slot -> break
  :: slot ->
     ARM(BU);
     f = slot;
     if :: !f -> waiting[BU] = 0 :: else -> f = 0; WAIT(BU) fi
  od;
  udone = 1
}

/* ---- L ------------------------------------------------------------------ */

inline attach(r) { if :: alive[1] == ALIVE -> add = add | (1 << (r)) :: else fi }
#ifdef B_DEATHNOTTOLD
#define TELL skip
#else
#define TELL RINGALWAYS(BC)
#endif
/* A process may have died between what it published and its ring: the launcher
 * rings in its place, all that may wait for it. */
#ifdef B_DEATHNORING
#define DEATHRING skip
#else
#define DEATHRING RINGALWAYS(BS); RINGALWAYS(BU)
#endif
inline takeup() { d_step { f = LEFT(i); if :: f -> slot = 0 :: else fi }; if :: f -> f = 0; FREED :: else fi }

proctype L() {
  byte i; bool f;
  do
  /* S is dead: its last words; sender-dead; what it was asked for and did not do */
  :: d_step { stopped[0] == 2 ->
       do :: ans > 0 -> ans--; unswept--; if :: unswept == 0 -> attach(my) :: else fi :: else -> break od;
       ask = 0; mutex = 0; asleep[0] = 0; i = my;
       if :: n == 1 -> n = 2 :: else fi };
     st[i] = SDEAD;
     if :: unswept > 0 -> takeup(); d_step { unswept = 0; attach(i) } :: else fi;
     TELL;
     DEATHRING;
     d_step { i = 0; stopped[0] = 0; alive[0] = DOWN }
  /* C is dead: the sender sweeps, or the launcher for one that is dead */
  :: d_step { stopped[1] == 2 -> att = 0; pend = 0; add = 0; lease = 0; notice = 0; asleep[1] = 0; i = 0 };
     do
     :: i < RECS && st[i] == LIVE && alive[0] != DOWN -> d_step { unswept++; ask++; i++ }
     :: i < RECS && ((st[i] == LIVE && alive[0] == DOWN) || st[i] == SDEAD) -> takeup(); i++
     :: i < RECS && (st[i] == UNUSED || st[i] == SWEPT) -> i++
     :: i >= RECS -> break
     od;
     DEATHRING;
     d_step { i = 0; stopped[1] = 0; alive[1] = DOWN }
  :: d_step { ans > 0 -> ans--; unswept--; if :: unswept == 0 -> attach(my) :: else fi }
  :: d_step { alive[0] == DOWN && !SFAILED && my + 1 < RECS -> my++; st[my] = LIVE; attach(my); alive[0] = ALIVE }
  :: d_step { alive[1] == DOWN -> alive[1] = ALIVE; i = 0;
       do :: i < RECS -> if :: st[i] == SDEAD || (st[i] == LIVE && unswept == 0) -> pend = pend | (1 << i) :: else fi; i++ :: else -> break od;
       att = pend; pend = 0; i = 0 }
  od
}
proctype Env() {
  byte i;
  do
  :: d_step { kills[0] > 0 && begun[0] == 2 -> kills[0]--; alive[0] = DEAD; begun[0] = 0 }
  :: d_step { kills[1] > 0 && begun[1] == 2 -> kills[1]--; alive[1] = DEAD; begun[1] = 0 }
  :: d_step { kills[0] || kills[1] -> kills[0] = 0; kills[1] = 0 }
  :: timeout -> break
  od;
  skip;
  d_step {
    assert(udone && !slot && !notice && !pend && unswept == 0);
    assert(n > PU || SFAILED);
    assert(alive[1] == ALIVE);
    do :: i < RECS -> assert((st[i] == LIVE && h[i] == t[i]) || st[i] == SWEPT || st[i] == UNUSED); i++ :: else -> break od;
    i = 0
  }
}
init { atomic {
  kills[0] = KS; kills[1] = KC; begun[0] = 2; begun[1] = 2; alive[0] = ALIVE; alive[1] = ALIVE; st[0] = LIVE; att = 1;
  run S(); run SControl(); run C(); run CControl(); run U(); run L(); run Env()
} }
