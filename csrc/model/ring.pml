/* ring: payload slots, incarnations of edges, deaths and recoveries.
 *
 *     S --e--> M --f--> C        with -DDIAMOND also  S --g--> C
 *
 * S owns a ring of N slots and sends frames; M forwards them by reference; C
 * holds up to LC of them. Any of S, M, C may die between any two steps (KS, KM,
 * KC times) and is buried and started again by the launcher L, which may die
 * too (KL=1).
 *
 * Shown: no slot is allocated while it is held, queued or in flight; a
 * descriptor in a queue has its bit; every hold and drop finds its own
 * generation, and a drop its own bit unless a sweep has it; a bit that is given
 * to a new incarnation is clear in every slot of every ring, and nobody uses it
 * any more; a ring is not unlinked while anything names it; at rest after any
 * deaths every slot is free, every incarnation live or swept, every ring of a
 * dead process gone.
 *
 * A step (d_step) is one access to shared memory that others can see, with the
 * private work around it. Abstracted:
 * - A CAS loop is its successful round.
 * - Push, pop and eviction are a step each: queue.pml has them in single
 *   accesses and shows that a cell belongs to whoever moves the head.
 * - A message is its payload's descriptor: messages.pml has the message slots.
 * - Nobody sleeps here: bell.pml has that.
 * - A process is one loop. Its threads exclude each other by pshm_port.sending
 *   (the holds of a send, its pushes, a recovery) and by the lease lock (pop and
 *   lease, end of a lease, sweep of one slot); sections in any order are what
 *   the loop's free choice gives.
 * - An incarnation's record and its bit are one thing, since `swept` frees both.
 * - A control message is a counter that the launcher or a flow finds set.
 */
#ifndef N
#define N 2             /* slots of a ring */
#endif
#ifndef CAP
#define CAP 1           /* cells of a queue, 1 or 2 */
#endif
#ifndef F
#define F 2             /* frames */
#endif
#ifdef B_NOSPARE
#define SPARE 0
#endif
#ifndef SPARE
#define SPARE 1         /* bits beyond one per edge */
#endif
#ifndef KS
#define KS 0            /* deaths */
#endif
#ifndef KM
#define KM 0
#endif
#ifndef KC
#define KC 0
#endif
#ifndef KL
#define KL 0
#endif
#ifndef LC
#define LC 1            /* leases that C may have, 1 or 2 */
#endif
#ifndef FAIL
#define FAIL 0          /* 1 << process: its last death is for good */
#endif
#ifdef DIAMOND
#define NE 3
#else
#define NE 2
#endif
#define REC (NE + SPARE)
#define RINGS (1 + KS)
#define SLOTS (N * RINGS)       /* 7 at the most; one more stands for a ring that no edge here reaches */
#define NONE 15

#define E 0
#define FF 1
#define G 2
#define SND(e) ((e) == FF -> 1 : 0)
#define RCV(e) ((e) == E -> 1 : 2)

#define FREE 0          /* never used, or swept */
#define LIVE 1
#define SDEAD 2         /* sender dead: its receiver drains it, then sweeps */

#define DEAD 0
#define ALIVE 1
#define DOWN 2          /* dead and buried */

byte gen[SLOTS]; byte holders[SLOTS + 1];
byte st[REC]; byte edge[REC]; byte qn[REC]; byte cell[REC * CAP];
bool ended[NE];         /* its receiver takes no more */
bool removed;           /* e is unlinked: nothing more is sent on it */
byte alive[3]; byte kills[4]; bool failed[3]; byte ring; byte gone; byte fr; bool over;
byte unswept[REC];      /* L: sweeps that the sender was asked for */
byte ask[REC]; byte ans[REC]; bool giveup[REC]; /* control messages: receiver_died, recovered, receiver_failed */
byte se = NONE, sg = NONE, si = NONE;           /* S: outgoing incarnations; one in recovery */
byte sd, sp, so;                                /*    frame in hand, phase of its send, edges that it still goes to */
byte mf = NONE, mh, mr, md, mp, mi = NONE;      /* M: outgoing; lease and its incarnation; unsent, phase; in recovery */
byte min, mx = NONE;                            /*    incoming incarnations as bits; in sweep */
byte ch[2], cr[2], ce[2];                       /* C: leases, their incarnations; 1 ended, 2 dropped */
byte cin, cx = NONE, linger;                    /*    incoming; in sweep; swept when the last lease ends */
byte cp, cpr;

/* descriptor {slot:3 | generation:5}, never 0 */
#define SL(d) ((d) & 7)
#define GN(d) ((d) >> 3)
#define BIT(r) (2 << (r))
#define ON(set, r) (((set) >> (r)) & 1)
#define HELD(s, r) (holders[s] & BIT(r))
#define NAMED(s, r) ((qn[r] > 0 && SL(cell[(r) * CAP]) == s) || (qn[r] > 1 && SL(cell[(r) * CAP + CAP - 1]) == s))

inline clear(s, r) {
  assert(!NAMED(s, r));                                 /* a descriptor in a queue has its bit */
  holders[s] = holders[s] & ~BIT(r)
}
inline drop(d, r) {
  assert(gen[SL(d)] == GN(d) && HELD(SL(d), r));        /* its own bit, its own generation */
  clear(SL(d), r)
}
inline hold(d, r) {
  assert(gen[SL(d)] == GN(d) && holders[SL(d)] != 0 && !HELD(SL(d), r));
  holders[SL(d)] = holders[SL(d)] | BIT(r)
}
inline push(r, d) {
  assert(gen[SL(d)] == GN(d) && HELD(SL(d), r));
  cell[(r) * CAP + qn[r]] = d; qn[r]++
}
inline pop(r, d) {
  assert(qn[r] > 0);
  d = cell[(r) * CAP]; cell[(r) * CAP] = cell[(r) * CAP + CAP - 1]; qn[r]--;
  cell[(r) * CAP + qn[r]] = 0
}
inline received(d, r) {
  assert(!(gone & (1 << (SL(d) / N))) && gen[SL(d)] == GN(d) && HELD(SL(d), r))
}
inline swept(r) { assert(qn[r] == 0); st[r] = FREE; edge[r] = 0 }

/* Death at this point, as an alternative to the step that stands here. */
#define DIE(p, forget) d_step { kills[p] > 0 -> kills[p]--; alive[p] = DEAD; forget }; goto dead
#define DIE_S DIE(0, se = NONE; sg = NONE; si = NONE; sd = 0; sp = 0; so = 0; x = 0; s = 0; twice = 0)
#define DIE_M DIE(1, mf = NONE; mh = 0; mr = 0; md = 0; mp = 0; mi = NONE; min = 0; mx = NONE; x = 0; s = 0; t = 0)
#define DIE_C DIE(2, FORGET(0); FORGET(1); cp = 0; cpr = 0; cin = 0; cx = NONE; linger = 0; s = 0; t = 0; opened = 0)
#define FORGET(l) ch[l] = 0; cr[l] = 0; ce[l] = 0
#define STEP_S(x) if :: d_step { x } :: DIE_S fi
#define STEP_M(x) if :: d_step { x } :: DIE_M fi

#if REC > 2
#define R2(X) X(2)
#else
#define R2(X)
#endif
#if REC > 3
#define R3(X) X(3)
#else
#define R3(X)
#endif
#if REC > 4
#define R4(X) X(4)
#else
#define R4(X)
#endif
#define EACH(X) X(0) X(1) R2(X) R3(X) R4(X)

/* ---- the sender's part -------------------------------------------------- */

/* Push, evicting the oldest where the queue is full: head first, then its bits.
 * A receiver that has ended gets nothing. */
#ifdef B_EVICTDROP
#define EVICT(r) x = cell[(r) * CAP]; drop(x, r)
#define EVICTED(r) if :: qn[r] == CAP -> pop(r, x) :: else fi; x = 0
#else
#define EVICT(r) pop(r, x)
#define EVICTED(r) drop(x, r); x = 0
#endif
#define SERVE(STEP, e, r, d) \
  if \
  :: ON(so, e) -> \
     STEP(if :: ended[e] -> x = 1 :: else -> if :: qn[r] < CAP -> push(r, d) :: else -> EVICT(r) fi fi); \
     if \
     :: x == 0 \
     :: x == 1 -> STEP(drop(d, r); x = 0) \
     :: x > 1 -> STEP(EVICTED(r)); STEP(push(r, d)) \
     fi \
  :: else \
  fi

/* A dead receiver, as the launcher asks: the queue goes on for the next one.
 * Sweeps what no unread message names and what is not in hand, sends held off;
 * then reports. A receiver that does not come back: takes back what is unread,
 * first. */
#ifdef B_SWEEPQUEUED
#define UNREAD(s, r) false
#else
#define UNREAD(s, r) NAMED(s, r)
#endif
#ifdef B_NOUNSENT
#define UNSENT(s, d, out) false
#else
#define UNSENT(s, d, out) (out && SL(d) == s)
#endif
#ifdef B_ALLRINGS
#define SWEEPS (SLOTS + 1)
#else
#define SWEEPS SLOTS
#endif
#define SWEEP(DEATH, i, d, out, done) \
  do \
  :: d_step { s < SWEEPS -> if :: HELD(s, i) && !UNREAD(s, i) && !UNSENT(s, d, out) -> clear(s, i) :: else fi; s++ } \
  :: d_step { s >= SWEEPS -> done; i = NONE; s = 0 }; break \
  :: DEATH \
  od
#ifdef B_UNLINKEDLOST           /* the sender forgets an edge that was unlinked */
#define SWEEPABLE(my) !(removed && my == se)
#else
#define SWEEPABLE(my) true
#endif
#define RECOVER(STEP, DEATH, my, i, d, out) \
  :: d_step { my != NONE && ask[my] > 0 && SWEEPABLE(my) -> i = my }; \
     SWEEP(DEATH, i, d, out, ask[i]--; ans[i]++) \
  :: d_step { my != NONE && giveup[my] && SWEEPABLE(my) -> i = my; giveup[my] = 0 }; \
     do \
     :: qn[i] > 0 -> STEP(pop(i, x)); STEP(drop(x, i); x = 0) \
     :: qn[i] == 0 -> break \
     od; \
     SWEEP(DEATH, i, d, out, skip)

/* No slot is allocated while it is held, queued or in flight. */
inline take(s) {
  assert(!(mh && SL(mh) == s) && !(md && SL(md) == s) && !(ch[0] && !ce[0] && SL(ch[0]) == s) && !(ch[1] && !ce[1] && SL(ch[1]) == s));
  i = 0;
  do :: i < REC -> assert(st[i] == FREE || !NAMED(s, i)); i++ :: else -> break od;
  i = 0;
  gen[s]++; holders[s] = 1; sd = s + 8 * gen[s]; fr++
}
#define TAKE(k) :: d_step { sd == 0 && fr < F && N > k && holders[(ring * N + k) % SLOTS] == 0 -> take(ring * N + k) }
#define NOSLOT (holders[ring * N] && (N < 2 || holders[(ring * N + 1) % SLOTS]) && (N < 3 || holders[(ring * N + 2) % SLOTS]))

proctype S() {
  byte x, s, i; bool twice;
again:
  do
  :: DIE_S
  RECOVER(STEP_S, DIE_S, se, si, sd, ON(so, E))
#ifdef B_UNLINKEDLOST
  :: d_step { se != NONE && ask[se] > 0 && removed -> ask[se]--; ans[se]++ }
  :: d_step { se != NONE && giveup[se] && removed -> giveup[se] = 0 }
#endif
#ifdef DIAMOND
  RECOVER(STEP_S, DIE_S, sg, si, sd, ON(so, G))
#endif
#ifdef UNLINK
  :: d_step { sd == 0 && !removed -> removed = 1 }
#endif
  TAKE(0) TAKE(1) TAKE(2)
  /* short of slots: evicts its oldest unread frame, or drops this one */
  :: sd == 0 && fr < F && NOSLOT && !removed && qn[se] > 0 ->
     STEP_S(if :: qn[se] > 0 -> EVICT(se) :: else fi);
     if :: x -> STEP_S(EVICTED(se)) :: else fi
  :: d_step { sd == 0 && fr < F && NOSLOT -> fr++ }
#ifdef B_PUSHFIRST
  :: sd -> STEP_S(push(se, sd)); STEP_S(hold(sd, se)); STEP_S(holders[SL(sd)] = holders[SL(sd)] & ~1; sd = 0)
#else
  /* a send: holds; end of the own lease; pushes */
  :: sd && sp == 0 ->
     if :: !removed && !ended[E] && !HELD(SL(sd), se) -> STEP_S(hold(sd, se); so = 1 << E) :: else fi;
#ifdef B_NOMUTEX                /* before the post is known to the recovery */
     if RECOVER(STEP_S, DIE_S, se, si, sd, false) :: skip fi;
#endif
#ifdef DIAMOND
     if :: !ended[G] -> STEP_S(hold(sd, sg); so = so | (1 << G)) :: else fi;
#endif
     sp = 1
  :: sp == 1 ->
#ifdef RESEND                   /* S keeps the slot and sends it a second time */
     if :: !twice -> sp = 2
        :: twice -> STEP_S(holders[SL(sd)] = holders[SL(sd)] & ~1; sp = 2)
     fi
#else
     STEP_S(holders[SL(sd)] = holders[SL(sd)] & ~1; sp = 2)
#endif
  :: sp == 2 ->
     SERVE(STEP_S, E, se, sd);
#ifdef DIAMOND
     SERVE(STEP_S, G, sg, sd);
#endif
#ifdef RESEND
     d_step { sp = 0; so = 0; if :: twice -> twice = 0; sd = 0 :: else -> twice = 1 fi }
#else
     d_step { sd = 0; sp = 0; so = 0 }
#endif
#endif
  od;
dead:
  alive[0] == ALIVE -> goto again
}

/* ---- the receiver's part ------------------------------------------------ */

#ifdef B_NODRAIN
#define DRAINED(r) true
#else
#define DRAINED(r) (qn[r] == 0)
#endif

/* M has one thread that matters: it receives, forwards, drains and sweeps. */
#define POP_M(r) :: d_step { mh == 0 && mp == 0 && mx == NONE && ON(min, r) && edge[r] == E && qn[r] > 0 -> \
  pop(r, mh); mr = r; received(mh, r) }
#define DRAIN_M(r) :: d_step { mh == 0 && mp == 0 && mx == NONE && ON(min, r) && st[r] == SDEAD && edge[r] == E && DRAINED(r) -> mx = r }

proctype M() {
  byte x, s, t;
again:
  do
  :: DIE_M
  RECOVER(STEP_M, DIE_M, mf, mi, md, mp > 0)
#ifdef B_ENDSWEEP
  :: over -> do
     :: d_step { t < SLOTS -> if :: HELD(t, mf) -> clear(t, mf) :: else fi; t++ }
     :: d_step { t >= SLOTS -> t = 0 }; break
     od
#endif
  EACH(POP_M)
  /* nothing to send to; or f holds that slot, and the message is copied */
  :: d_step { mh && mp == 0 && (ended[FF] || HELD(SL(mh), mf)) -> drop(mh, mr); mh = 0; mr = 0 }
#ifdef B_DROPFIRST
  :: mh && mp == 0 -> STEP_M(drop(mh, mr); md = mh; mh = 0; mr = 0); STEP_M(hold(md, mf)); mp = 2
#else
  :: d_step { mh && mp == 0 && !ended[FF] && !HELD(SL(mh), mf) -> hold(mh, mf); md = mh; mp = 1 }
  :: d_step { mp == 1 -> drop(mh, mr); mh = 0; mr = 0; mp = 2 }
#endif
  :: mp == 2 ->
     if
     :: HELD(SL(md), mf) ->
        STEP_M(if :: ended[FF] -> x = 1 :: else -> if :: qn[mf] < CAP -> push(mf, md); md = 0; mp = 0 :: else -> EVICT(mf) fi fi);
        if
        :: x == 0
        :: x == 1 -> STEP_M(drop(md, mf); md = 0; mp = 0; x = 0)
        :: x > 1 -> STEP_M(EVICTED(mf)); STEP_M(push(mf, md); md = 0; mp = 0)
        fi
     fi
  EACH(DRAIN_M)
  :: d_step { mx != NONE && t < SLOTS -> if :: HELD(t, mx) -> clear(t, mx) :: else fi; t++ }
  :: d_step { mx != NONE && t >= SLOTS -> min = min & ~(1 << mx); swept(mx); mx = NONE; t = 0 }
  od;
dead:
  alive[1] == ALIVE -> goto again
}

/* C's views end on any thread, also while its routine's thread sweeps: the
 * lease ends under the lock, the bit is dropped after it, and only then the
 * slot counts as given back. */
#define COUNTED(l, r) (ch[l] && cr[l] == r)
#ifdef B_ACKEARLY
#define BORROWED(r) false
#else
#ifdef B_UNCOUNTFIRST
#define BORROWED(r) ((COUNTED(0, r) && !ce[0]) || (COUNTED(1, r) && !ce[1]))
#else
#define BORROWED(r) (COUNTED(0, r) || COUNTED(1, r))
#endif
#endif
#ifdef B_LEASE
#define LEASED(k) false
#else
#define LEASED(k) ((COUNTED(0, cx) && !ce[0] && SL(ch[0]) == k) || (COUNTED(1, cx) && !ce[1] && SL(ch[1]) == k))
#endif
#ifdef B_OPENEDRINGS
#define OPENED(d) opened = opened | (1 << (SL(d) / N))
#define KNOWN(s) ON(opened, (s) / N)
#else
#define OPENED(d) skip
#define KNOWN(s) true
#endif
inline settle(r) {      /* the last lease of an incarnation that was swept otherwise */
  if :: ON(linger, r) && !BORROWED(r) -> linger = linger & ~(1 << r); swept(r) :: else fi
}
#ifdef B_TAKEWINDOW             /* another thread than the one that pops drains and sweeps */
#define IDLE true
#define POP_C(r) :: d_step { cp == 0 && ON(cin, r) && edge[r] != E && qn[r] > 0 && ch[0] == 0 -> pop(r, cp); cpr = r; received(cp, r) }
#else
#define IDLE (cx == NONE)
#define POP1_C(r, l) :: d_step { LC > l && ch[l] == 0 && (l == 0 || ch[0]) && cx == NONE && ON(cin, r) && edge[r] != E && qn[r] > 0 -> \
  pop(r, ch[l]); cr[l] = r; OPENED(ch[l]); received(ch[l], r) }
#define POP_C(r) POP1_C(r, 0) POP1_C(r, 1)
#endif
#define DRAIN_C(r) :: d_step { cx == NONE && IDLE && ON(cin, r) && st[r] == SDEAD && edge[r] != E && DRAINED(r) -> cx = r }
#define END_C(l) \
  :: d_step { ch[l] && ce[l] == 0 -> assert(gen[SL(ch[l])] == GN(ch[l]) && HELD(SL(ch[l]), cr[l])); ce[l] = 1 } \
  :: d_step { ce[l] == 1 -> if :: gen[SL(ch[l])] == GN(ch[l]) && HELD(SL(ch[l]), cr[l]) -> clear(SL(ch[l]), cr[l]) :: else fi; ce[l] = 2 } \
  :: d_step { ce[l] == 2 -> s = cr[l]; ch[l] = 0; cr[l] = 0; ce[l] = 0; settle(s); s = 0 }

proctype C() {
  byte s, t, opened;
again:
  do
  :: DIE_C
  EACH(POP_C)
#ifdef B_TAKEWINDOW
  :: d_step { cp -> received(cp, cpr); ch[0] = cp; cr[0] = cpr; cp = 0; cpr = 0 }
#endif
#ifndef HOARD           /* else user code keeps this view for good */
  END_C(0)
#endif
#if LC > 1
  END_C(1)
#endif
  EACH(DRAIN_C)
  :: d_step { cx != NONE && t < SLOTS -> if :: HELD(t, cx) && !LEASED(t) && KNOWN(t) -> clear(t, cx) :: else fi; t++ }
  :: d_step { cx != NONE && t >= SLOTS -> cin = cin & ~(1 << cx); linger = linger | (1 << cx); settle(cx); cx = NONE; t = 0 }
  od;
dead:
  alive[2] == ALIVE -> goto again
}

/* ---- the launcher ------------------------------------------------------- */

/* When the launcher is dead, each process ends by itself, at any point. */
#define DIE_L d_step { kills[3] > 0 -> over = 1; i = 0; s = 0; kills[0] = 1; kills[1] = 1; kills[2] = 1; kills[3] = 0 }; goto dead
#define STEP_L(x) if :: d_step { x } :: DIE_L fi

/* The next receiver may read it, if it is up. */
inline attach(r) {
  if
  :: edge[r] == E && alive[1] == ALIVE -> min = min | (1 << r)
  :: edge[r] != E && alive[2] == ALIVE -> cin = cin | (1 << r)
  :: else
  fi
}
inline recovered(r) {
  unswept[r]--;
#ifdef B_FIRSTANSWER
  attach(r)
#else
  if :: unswept[r] == 0 -> attach(r) :: else fi
#endif
}
/* For a dead sender: what it would have done. Unread messages are kept. */
#define SWEEPUNREAD(r) \
  do \
  :: d_step { s < SLOTS -> if :: HELD(s, r) && !UNREAD(s, r) -> clear(s, r) :: else fi; s++ } \
  :: d_step { s >= SLOTS -> s = 0; unswept[r] = 0 }; break \
  :: DIE_L \
  od
/* Nobody will drain it. */
#define GIVEUP(r) \
  STEP_L(qn[r] = 0; cell[(r) * CAP] = 0; cell[(r) * CAP + CAP - 1] = 0); \
  do \
  :: d_step { s < SLOTS -> if :: HELD(s, r) -> clear(s, r) :: else fi; s++ } \
  :: d_step { s >= SLOTS -> s = 0; unswept[r] = 0; swept(r) }; break \
  :: DIE_L \
  od
#ifdef B_RECYCLE
#define MARKED FREE
#define MARKS cell[i * CAP] = 0; cell[i * CAP + CAP - 1] = 0; qn[i] = 0; edge[i] = 0
#else
#define MARKED SDEAD
#define MARKS skip
#endif
#ifdef B_ASKLOST
#define UNANSWERED(r) false
#else
#define UNANSWERED(r) (unswept[r] > 0)
#endif
#define OUTOF(r, p) (st[r] != FREE && SND(edge[r]) == p)
#define INTO(r, p) (st[r] != FREE && RCV(edge[r]) == p)
#ifdef B_TWOSWEEPERS
#define SENDERACTS(r) false
#else
#define SENDERACTS(r) (st[r] == LIVE && alive[SND(edge[r])] != DOWN)
#endif
#ifdef B_FAILLEAK
#define UNDRAINED(r) false
#else
#define UNDRAINED(r) (st[r] == SDEAD)
#endif

/* All that a death asks for, before the process is started again. */
#define BURY(p) :: alive[p] == DEAD -> \
  d_step { i = 0; do :: i < REC -> \
      if :: OUTOF(i, p) -> do :: ans[i] > 0 -> ans[i]--; recovered(i) :: else -> break od; ask[i] = 0; giveup[i] = 0 :: else fi; i++ \
    :: else -> break od; i = 0 }; \
  if :: p == 0 -> do :: s < N -> STEP_L(holders[ring * N + s] = holders[ring * N + s] & ~1; s++) :: else -> s = 0; break od :: else fi; \
  do \
  :: i < REC && OUTOF(i, p) -> \
     if :: st[i] == LIVE -> STEP_L(st[i] = MARKED; MARKS) :: else fi; \
     if :: UNANSWERED(i) -> SWEEPUNREAD(i); STEP_L(attach(i)) :: else fi; \
     if :: st[i] != FREE && failed[RCV(edge[i])] -> GIVEUP(i) :: else fi; \
     i++ \
  :: i < REC && !OUTOF(i, p) -> i++ \
  :: i >= REC -> i = 0; break \
  od; \
  do \
  :: i < REC && INTO(i, p) -> \
     if :: SENDERACTS(i) -> STEP_L(unswept[i]++; ask[i]++) :: else -> SWEEPUNREAD(i) fi; \
     i++ \
  :: i < REC && !INTO(i, p) -> i++ \
  :: i >= REC -> i = 0; break \
  od; \
  alive[p] = DOWN; \
  if \
  :: ON(FAIL, p) && kills[p] == 0 -> \
     d_step { failed[p] = 1; if :: p == 1 -> ended[E] = 1 :: p == 2 -> ended[FF] = 1; ENDED_G :: else fi }; \
     do \
     :: i < REC && OUTOF(i, p) && failed[RCV(edge[i])] -> GIVEUP(i); i++ \
     :: i < REC && INTO(i, p) && (alive[SND(edge[i])] == DOWN || UNDRAINED(i)) -> GIVEUP(i); i++ \
     :: i < REC && INTO(i, p) && alive[SND(edge[i])] != DOWN && st[i] == LIVE -> STEP_L(giveup[i] = 1; i++) \
     :: i < REC && INTO(i, p) && alive[SND(edge[i])] != DOWN && st[i] == SDEAD && !UNDRAINED(i) -> i++ \
     :: i < REC && !INTO(i, p) && !(OUTOF(i, p) && failed[RCV(edge[i])]) -> i++ \
     :: i >= REC -> i = 0; break \
     od \
  :: else \
  fi
#ifdef DIAMOND
#define ENDED_G ended[G] = 1
#else
#define ENDED_G skip
#endif

/* A bit goes to a new incarnation only when it is clear everywhere and unused. */
inline open(e, my) {
  i = 0; do :: st[i] != FREE -> i++ :: else -> break od;
  s = 0; do :: s < SLOTS -> assert(!HELD(s, i)); s++ :: else -> break od; s = 0;
  assert(qn[i] == 0 && se != i && sg != i && si != i && mf != i && mi != i && mx != i && cx != i && !(cp && cpr == i));
  assert(!(mh && mr == i) && !COUNTED(0, i) && !COUNTED(1, i) && !ON(min, i) && !ON(cin, i) && !ON(linger, i));
  assert(unswept[i] == 0 && ask[i] == 0 && ans[i] == 0);
  st[i] = LIVE; edge[i] = e; my = i; attach(i); i = 0
}
#define ISFREE(r) + (st[r] == FREE)
#define FREEBITS (0 EACH(ISFREE))
#define LACKBITS ((alive[0] == DOWN && !failed[0] && FREEBITS < NE - 1 - removed) || (alive[1] == DOWN && !failed[1] && FREEBITS < 1))
#define YIELDS(r) || (st[r] == SDEAD && alive[RCV(edge[r])] == DOWN)
#ifdef B_ATTACHEARLY
#define FIT(r) true
#else
#define FIT(r) (unswept[r] == 0)
#endif
inline attachall(p) {
  i = 0; do :: i < REC -> if :: INTO(i, p) && FIT(i) -> attach(i) :: else fi; i++ :: else -> break od; i = 0
}
#define RECOVERED(r) :: d_step { ans[r] > 0 -> ans[r]--; recovered(r) }

/* A retired ring goes when no slot of it is held. */
inline retire(k) {
  gone = gone | (1 << k);
  i = 0; do :: i < REC -> s = k * N;
    do :: s < (k + 1) * N -> assert(!NAMED(s, i) || st[i] == FREE); s++ :: else -> break od; i++
  :: else -> break od; i = 0; s = 0;
  assert(!(mh && SL(mh) / N == k) && !(md && SL(md) / N == k) && !(ch[0] && !ce[0] && SL(ch[0]) / N == k) && !(ch[1] && !ce[1] && SL(ch[1]) / N == k))
}
#define UNHELD(k) (!holders[(k) * N] && (N < 2 || !holders[((k) * N + 1) % SLOTS]) && (N < 3 || !holders[((k) * N + 2) % SLOTS]))

proctype L() {
  byte i, s;
  do
  :: DIE_L
#ifdef B_RESTARTEARLY
  :: d_step { alive[1] == DEAD && FREEBITS > 0 -> alive[1] = ALIVE; attachall(1); open(FF, mf) };
     do
     :: d_step { i < REC -> if :: OUTOF(i, 1) && i != mf && st[i] == LIVE -> st[i] = SDEAD :: else fi; i++ }
     :: d_step { i >= REC -> i = 0 }; break
     od
#endif
  BURY(0)
  BURY(1)
  BURY(2)
  EACH(RECOVERED)
#ifndef B_NOYIELD
  /* no bit for a restart: what waits for a receiver that is down is given up */
  :: d_step { LACKBITS && (false EACH(YIELDS)) -> i = 0; do :: !(false YIELDS(i)) -> i++ :: else -> break od; s = 0 };
     GIVEUP(i); i = 0
#endif
  :: d_step { alive[0] == DOWN && !failed[0] && FREEBITS >= NE - 1 - removed -> ring++; alive[0] = ALIVE;
       if :: !removed -> open(E, se) :: else fi;
#ifdef DIAMOND
       open(G, sg)
#endif
     }
  :: d_step { alive[1] == DOWN && !failed[1] && FREEBITS >= 1 -> alive[1] = ALIVE; attachall(1); open(FF, mf) }
  :: d_step { alive[2] == DOWN && !failed[2] -> alive[2] = ALIVE; attachall(2) }
#if KS > 0
#ifdef B_RETIREEARLY
  :: d_step { !(gone & 1) && (ring > 0 || alive[0] == DOWN) -> retire(0) }
#else
  :: d_step { !(gone & 1) && (ring > 0 || alive[0] == DOWN) && UNHELD(0) -> retire(0) }
#endif
#endif
  od;
dead:
#ifndef B_CLEANEARLY
  alive[0] != ALIVE && alive[1] != ALIVE && alive[2] != ALIVE;
#endif
  gone = 255      /* the parent, or the next start, finds the pipe's lock free and removes the segments */
}

#ifdef HOARD
#define HOARDED(s) (ch[0] && SL(ch[0]) == s && holders[s] == BIT(cr[0]))
#define HOARDS(r) (ch[0] && cr[0] == r)
#else
#define HOARDED(s) false
#define HOARDS(r) false
#endif
proctype Monitor() {
  byte i;
  do
  :: d_step { kills[0] || kills[1] || kills[2] || kills[3] -> kills[0] = 0; kills[1] = 0; kills[2] = 0; kills[3] = 0 }
  :: timeout -> break
  od;
  skip;
  d_step {
    if
    :: over
    :: else ->
       assert(fr == F || failed[0]);
       i = 0; do :: i < 3 -> assert(alive[i] == ALIVE || failed[i]); i++ :: else -> break od;
       i = 0; do :: i < SLOTS -> assert((gone & (1 << (i / N))) || holders[i] == 0 || HOARDED(i)); i++ :: else -> break od;
       i = 0; do :: i < REC -> assert((st[i] != SDEAD || HOARDS(i)) && qn[i] == 0 && unswept[i] == 0); i++ :: else -> break od;
       assert(ring == 0 || (gone & 1))
    fi;
    assert(holders[SLOTS] == 255)
  }
}

init { atomic {
  byte i, s;
  kills[0] = KS; kills[1] = KM; kills[2] = KC; kills[3] = KL;
  holders[SLOTS] = 255;
  do :: i < 3 -> alive[i] = ALIVE; i++ :: else -> break od; i = 0;
  open(E, se); open(FF, mf);
#ifdef DIAMOND
  open(G, sg);
#endif
  run S(); run M(); run C(); run L(); run Monitor()
} }
