/* messages: message slots, backlogs that outlive either end, lossless wires.
 *
 *     M --f--> C        with -DFAN also  M --g--> D, which never dies
 *
 * A message is a slot of M's message ring (a fresh ring for each life of M),
 * which names one payload slot. M holds the payload by bit 0 when it sends: its
 * producer's bit, or the incoming edge's for a forward; payload slots are used
 * again after M's death, as they are when they belong to a routine upstream.
 * M and C die KM and KC times, between any two steps.
 *
 * Shown, beyond what ring.pml shows and for both kinds of slot: a message's
 * table and payload are whole when they are read; messages are taken in order,
 * none twice, through any deaths; on a lossless wire (-DBLOCK, where M may wait
 * with a message that holds its bits and stands in no queue) every message is
 * taken, but for the one that M died with unsent; the end of the stream is seen
 * after the last message, and never missed; none is counted as lost and taken.
 *
 * Abstracted: as in ring.pml. The sweep of a dead M's bit 0, the work of the
 * routine upstream, is done by the launcher before it restarts M.
 */
#ifndef NP
#define NP 2            /* payload slots */
#endif
#ifndef NM
#define NM 2            /* message slots of a ring */
#endif
#ifndef CAP
#define CAP 1           /* cells of a queue, 1 or 2 */
#endif
#ifndef F
#define F 3             /* messages, 7 at the most */
#endif
#ifndef SPARE
#define SPARE 1
#endif
#ifndef KM
#define KM 0
#endif
#ifndef KC
#define KC 0
#endif
#ifndef LC
#define LC 1            /* leases of C, 1 or 2 */
#endif
#define POOL (1 + SPARE)        /* incarnations of f that can be at a time */
#ifdef FAN
#define REC (POOL + 1)
#define GREC POOL               /* the one of g */
#else
#define REC POOL
#endif
#define MSGS NP                 /* the first message slot */
#define SLOTS (NP + NM * (1 + KM))
#define NONE 15

#define FREE 0
#define LIVE 1
#define SDEAD 2
#define DEAD 0
#define ALIVE 1
#define DOWN 2

byte gen[SLOTS]; byte holders[SLOTS];
byte val[NP];                           /* payload: the number of its message */
byte tab[SLOTS]; byte seq[SLOTS];       /* message: its payload, its number */
byte st[REC]; byte born[REC]; byte qn[REC]; byte cell[REC * CAP];
byte endat[REC];                        /* messages up to the end of the stream; NONE while that goes on */
byte alive[2]; byte kills[2]; byte ring; byte gone; byte fr;
byte unswept[REC]; byte ask[REC]; byte ans[REC];
byte mf = NONE, mi = NONE;              /* M: its incarnation; that in recovery */
byte mp, mm, mq; bool tof, tog, closed; /*    payload; message, phase of its send, edges it goes to; stream ended */
byte cm, cr, ch[2], chr[2], cx = NONE, cin, linger;     /* C: message being read; leases; sweep; as in ring.pml */
byte dm, dh;                            /* D: message being read, lease */
byte taken, lost, lastc;                /* numbers, as bits; the last one taken */

#define SL(d) ((d) & 7)
#define GN(d) ((d) >> 3)
#define BIT(r) (2 << (r))
#define ON(set, r) (((set) >> (r)) & 1)
#define HELD(s, r) (holders[s] & BIT(r))
#define CELL0(r) cell[(r) * CAP]
#define CELL1(r) cell[(r) * CAP + CAP - 1]
/* slot s is a message of queue r, or the payload of one */
#define QUEUED(s, r) ((qn[r] > 0 && (SL(CELL0(r)) == s || SL(tab[SL(CELL0(r))]) == s)) || \
                      (qn[r] > 1 && (SL(CELL1(r)) == s || SL(tab[SL(CELL1(r))]) == s)))
#define INHAND(s) (mm && (SL(mm) == s || SL(tab[SL(mm)]) == s))

inline clear(s, r) {
  assert(!QUEUED(s, r));
  holders[s] = holders[s] & ~BIT(r)
}
inline drop(d, r) {
  assert(gen[SL(d)] == GN(d) && HELD(SL(d), r));
  clear(SL(d), r)
}
inline hold(d, r) {
  assert(gen[SL(d)] == GN(d) && holders[SL(d)] != 0 && !HELD(SL(d), r));
  holders[SL(d)] = holders[SL(d)] | BIT(r)
}
inline push(r, d) {
  assert(gen[SL(d)] == GN(d) && HELD(SL(d), r) && HELD(SL(tab[SL(d)]), r) && qn[r] < CAP);
  cell[(r) * CAP + qn[r]] = d; qn[r]++
}
inline pop(r, d) {
  assert(qn[r] > 0);
  d = CELL0(r); CELL0(r) = CELL1(r); qn[r]--; cell[(r) * CAP + qn[r]] = 0;
  if :: endat[r] != NONE && endat[r] > 0 -> endat[r]-- :: else fi
}
inline swept(r) { assert(qn[r] == 0); st[r] = FREE; endat[r] = NONE; born[r] = 0 }

#define DIE_M d_step { kills[0] > 0 -> kills[0]--; alive[0] = DEAD; FORGET_M }; goto dead
#define DIE_C d_step { kills[1] > 0 -> kills[1]--; alive[1] = DEAD; FORGET_C }; goto dead
#define STEP_M(x) if :: d_step { x } :: DIE_M fi
#define STEP_C(x) if :: d_step { x } :: DIE_C fi
#define FORGET_M \
  if :: mp -> lost = lost | (1 << val[SL(mp)]) :: !mp && mm && tof -> lost = lost | (1 << seq[SL(mm)]) :: else fi; \
  mf = NONE; mi = NONE; mp = 0; mm = 0; mq = 0; tof = 0; tog = 0; closed = 0; y = 0; s = 0
#define FORGET_C cm = 0; cr = 0; ch[0] = 0; ch[1] = 0; chr[0] = 0; chr[1] = 0; cx = NONE; cin = 0; linger = 0; s = 0; t = 0; cend = 0

/* ---- the sender --------------------------------------------------------- */

#define MSLOT(k) (MSGS + ring * NM + k)
inline unnamed(s) {     /* no slot is allocated while it is held, queued or in hand */
  assert(!INHAND(s) && !(cm && SL(cm) == s) && !(ch[0] && SL(ch[0]) == s) && !(ch[1] && SL(ch[1]) == s) && !(dm && SL(dm) == s) && !(dh && SL(dh) == s));
  i = 0;
  do :: i < REC -> assert(st[i] == FREE || !QUEUED(s, i)); i++ :: else -> break od;
  i = 0
}
inline payload(s) { unnamed(s); gen[s]++; holders[s] = 1; fr++; val[s] = fr; mp = s + 8 * gen[s] }
inline message(s) { unnamed(s); gen[s]++; holders[s] = 1; mm = s + 8 * gen[s]; mq = 1 }
#define MESSAGE(k) :: d_step { mp && mq == 0 && NM > k && holders[MSLOT(k) % SLOTS] == 0 -> message(MSLOT(k)) }
#define NOMESSAGE (holders[MSLOT(0)] && (NM < 2 || holders[MSLOT(1) % SLOTS]) && (NM < 3 || holders[MSLOT(2) % SLOTS]))
inline write() { tab[SL(mm)] = mp; seq[SL(mm)] = val[SL(mp)] }

/* Holds of one edge: payload first, then the message (the order does no harm). */
#ifdef H_HOLDMESSAGEFIRST
#define HOLDS(m, p, r) STEP_M(hold(m, r)); STEP_M(hold(p, r))
#else
#define HOLDS(m, p, r) STEP_M(hold(p, r)); STEP_M(hold(m, r))
#endif
#ifdef H_DROPMESSAGEFIRST
#define DROPS(m, r) STEP_M(drop(m, r)); STEP_M(drop(tab[SL(m)], r))
#else
#define DROPS(m, r) STEP_M(drop(tab[SL(m)], r)); STEP_M(drop(m, r))
#endif
/* Eviction: head first, then the bits; the table is read from the slot, which the bit keeps. */
#define EVICT(r) STEP_M(if :: qn[r] > 0 -> pop(r, y); lost = lost | (1 << seq[SL(y)]) :: else fi); \
  if :: y -> DROPS(y, r); y = 0 :: else fi

/* For a dead receiver, with the sends held off: the queue goes on for the next one.
 * Sweeps what no unread message is or names, nor the one that is not pushed. */
#ifdef B_LOSEBACKLOG
#define UNREAD(s, r) false
#else
#ifdef B_SPAREMESSAGESONLY
#define UNREAD(s, r) ((qn[r] > 0 && SL(CELL0(r)) == s) || (qn[r] > 1 && SL(CELL1(r)) == s))
#else
#ifdef B_SPAREFIRSTONLY
#define UNREAD(s, r) (qn[r] > 0 && (SL(CELL0(r)) == s || SL(tab[SL(CELL0(r))]) == s))
#else
#define UNREAD(s, r) QUEUED(s, r)
#endif
#endif
#endif
#ifdef B_NOUNSENT
#define UNSENT(s) false
#else
#define UNSENT(s) (tof && INHAND(s))
#endif

proctype M() {
  byte y, s, i;
again:
  do
  :: DIE_M
  :: d_step { mf != NONE && ask[mf] > 0 -> mi = mf };
     do
     :: d_step { s < SLOTS -> if :: HELD(s, mi) && !UNREAD(s, mi) && !UNSENT(s) -> clear(s, mi) :: else fi; s++ }
     :: d_step { s >= SLOTS -> s = 0; ask[mi]--; ans[mi]++; mi = NONE }; break
     :: DIE_M
     od
  /* a payload to send: fresh, or received from upstream */
  :: d_step { mp == 0 && mm == 0 && fr < F && holders[0] == 0 -> payload(0) }
  :: d_step { mp == 0 && mm == 0 && fr < F && holders[0] && holders[1] == 0 -> payload(1) }
#if NP > 2
  :: d_step { mp == 0 && mm == 0 && fr < F && holders[0] && holders[1] && holders[2] == 0 -> payload(2) }
#endif
  /* a slot for the message, and what stands in it */
  MESSAGE(0) MESSAGE(1) MESSAGE(2)
#ifndef BLOCK
  :: mp && mq == 0 && NOMESSAGE && qn[mf] > 0 -> EVICT(mf)
#endif
#ifdef B_NOTABLE
  :: d_step { mq == 1 -> mq = 2 }
#else
  :: d_step { mq == 1 -> write(); mq = 2 }
#endif
  /* holds, for each edge; one section */
  :: mq == 2 ->
#ifdef B_PRODUCERBEFOREHOLD
     STEP_M(holders[SL(mm)] = holders[SL(mm)] & ~1);
#endif
     HOLDS(mm, mp, mf);
#ifdef FAN
     HOLDS(mm, mp, GREC); tog = 1;
#endif
     d_step { tof = 1; mq = 3 }
  /* the end of the own lease */
  :: d_step { mq == 3 -> holders[SL(mp)] = holders[SL(mp)] & ~1; mp = 0; mq = 4
#ifdef H_PRODUCERFIRST
       ; holders[SL(mm)] = holders[SL(mm)] & ~1
#endif
     }
  /* pushes; a full queue by the policy */
  :: mq == 4 && tof && qn[mf] < CAP -> STEP_M(push(mf, mm); tof = 0)
#ifndef BLOCK
  :: mq == 4 && tof && qn[mf] == CAP -> EVICT(mf)
#endif
#ifdef GIVEUP
  :: mq == 4 && tof && qn[mf] == CAP -> DROPS(mm, mf); STEP_M(lost = lost | (1 << seq[SL(mm)]); tof = 0)
#endif
#ifdef FAN
  :: mq == 4 && tog && qn[GREC] < CAP -> STEP_M(push(GREC, mm); tog = 0)
#endif
  :: d_step { mq == 4 && !tof && !tog ->
#ifndef H_PRODUCERFIRST
       holders[SL(mm)] = holders[SL(mm)] & ~1;
#endif
       mm = 0; mq = 0 }
  /* the end of the stream, once */
#ifdef B_CLOSEEARLY             /* with a message still in hand */
#define SENT true
#else
#define SENT (mm == 0)
#endif
  :: d_step { fr == F && mp == 0 && SENT && mf != NONE && !closed -> endat[mf] = qn[mf]; closed = 1 }
  od;
dead:
  alive[0] == ALIVE -> goto again
}

/* ---- the receiver ------------------------------------------------------- */

#if POOL > 1
#define R1(X) X(1)
#else
#define R1(X)
#endif
#if POOL > 2
#define R2(X) X(2)
#else
#define R2(X)
#endif
#define EACH(X) X(0) R1(X) R2(X)
/* Behind an earlier incarnation of the same edge, until that is drained. */
#define EARLIER(q, r) ((q) < POOL && ON(cin, q) && born[(q) % POOL] < born[r])
#ifdef B_NEWFIRST
#define BEHIND(r) false
#else
#define BEHIND(r) (EARLIER(0, r) || EARLIER(1, r) || EARLIER(2, r))
#endif
#define READ(m, h) \
  assert(gen[SL(m)] == GN(m)); h = tab[SL(m)]; \
  assert(gen[SL(h)] == GN(h) && val[SL(h)] == seq[SL(m)])
inline take(m) {
  assert(!(gone & (1 << ((SL(m) - MSGS) / NM))));
  assert(seq[SL(m)] > lastc);           /* in order, none twice */
  lastc = seq[SL(m)]; taken = taken | (1 << lastc)
}
#define BORROWED(r) ((ch[0] && chr[0] == r) || (ch[1] && chr[1] == r))
#define LEASED(k) ((ch[0] && chr[0] == cx && SL(ch[0]) == k) || (ch[1] && chr[1] == cx && SL(ch[1]) == k))
inline settle(r) { if :: ON(linger, r) && !BORROWED(r) -> linger = linger & ~(1 << r); swept(r) :: else fi }
#define IDLE_C(r) (cm == 0 && cx == NONE && ON(cin, r) && !BEHIND(r))
#define POP_C(r) :: d_step { IDLE_C(r) && qn[r] > 0 && (ch[0] == 0 || (LC > 1 && ch[1] == 0)) -> \
  pop(r, cm); cr = r; take(cm) }
#ifdef B_DEADAFTERLOOK          /* the code asks first: a sender-dead queue is final */
#define DRAIN_C(r) :: IDLE_C(r) && qn[r] == 0 -> if :: d_step { st[r] == SDEAD -> cx = r } :: st[r] != SDEAD fi
#else
#define DRAIN_C(r) :: d_step { IDLE_C(r) && st[r] == SDEAD && qn[r] == 0 -> cx = r }
#endif
#define LEASE if :: ch[0] == 0 -> READ(cm, ch[0]); chr[0] = cr :: else -> READ(cm, ch[1]); chr[1] = cr fi
#define END_C(l) :: d_step { ch[l] -> drop(ch[l], chr[l]); s = chr[l]; ch[l] = 0; chr[l] = 0; settle(s); s = 0 }
/* All was taken up to the end. */
#define FINISHED(r) :: d_step { cm == 0 && cx == NONE && !cend && ON(cin, r) && !BEHIND(r) && st[r] == LIVE && endat[r] == 0 -> \
  assert((taken | lost) == (1 << (F + 1)) - 2); cend = 1 }

proctype C() {
  byte s, t; bool cend;
again:
  do
  :: DIE_C
  EACH(POP_C)
  :: cm ->
#ifdef B_DROPMESSAGEFIRST
     STEP_C(drop(cm, cr)); STEP_C(LEASE; cm = 0; cr = 0)
#else
     STEP_C(LEASE); STEP_C(drop(cm, cr); cm = 0; cr = 0)
#endif
  END_C(0)
#if LC > 1
  END_C(1)
#endif
  EACH(FINISHED)
  EACH(DRAIN_C)
  :: d_step { cx != NONE && t < SLOTS -> if :: HELD(t, cx) && !LEASED(t) -> clear(t, cx) :: else fi; t++ }
  :: d_step { cx != NONE && t >= SLOTS -> cin = cin & ~(1 << cx); linger = linger | (1 << cx); settle(cx); cx = NONE; t = 0 }
  od;
dead:
  alive[1] == ALIVE -> goto again
}

#ifdef FAN
proctype D() {
  byte lastd;
  do
  :: d_step { dm == 0 && dh == 0 && qn[GREC] > 0 -> pop(GREC, dm); assert(seq[SL(dm)] == lastd + 1); lastd++ };
     d_step { READ(dm, dh) };
     d_step { drop(dm, GREC); dm = 0 };
     d_step { assert(gen[SL(dh)] == GN(dh)); drop(dh, GREC); dh = 0 }
  od
}
#endif

/* ---- the launcher ------------------------------------------------------- */

inline attach(r) { if :: alive[1] == ALIVE -> cin = cin | (1 << r) :: else fi }
inline recovered(r) { unswept[r]--; if :: unswept[r] == 0 -> attach(r) :: else fi }
/* For a dead sender. */
#define SWEEPUNREAD(r, done) \
  do \
  :: d_step { s < SLOTS -> if :: HELD(s, r) && !UNREAD(s, r) -> clear(s, r) :: else fi; s++ } \
  :: d_step { s >= SLOTS -> s = 0; unswept[r] = 0; done }; break \
  od
inline open() {
  i = 0; do :: st[i] != FREE -> i++ :: else -> break od;
  s = 0; do :: s < SLOTS -> assert(!HELD(s, i)); s++ :: else -> break od; s = 0;
  assert(qn[i] == 0 && mf != i && mi != i && cx != i && !(cm && cr == i) && !BORROWED(i) && !ON(cin, i) && !ON(linger, i));
  assert(unswept[i] == 0 && ask[i] == 0 && ans[i] == 0);
  st[i] = LIVE; endat[i] = NONE; born[i] = ring; mf = i; attach(i); i = 0
}
#define ISFREE(r) || st[r] == FREE
#define RECOVERED(r) :: d_step { ans[r] > 0 -> ans[r]--; recovered(r) }
#define HELDIN(k) (holders[MSGS + (k) * NM] | holders[MSGS + (k) * NM + NM - 1] | holders[MSGS + (k) * NM + NM / 2])

proctype L() {
  byte i, s;
  do
  /* M is dead: its message ring is retired; its last words; sender-dead; what it was asked for and did not do */
  :: alive[0] == DEAD ->
     d_step { s = MSGS + ring * NM;
       do :: s < MSGS + (ring + 1) * NM -> holders[s] = holders[s] & ~1; s++ :: else -> break od; s = 0;
       i = 0; do :: i < POOL -> do :: ans[i] > 0 -> ans[i]--; recovered(i) :: else -> break od; ask[i] = 0; i++ :: else -> break od; i = 0 };
     do
     :: d_step { i < POOL && st[i] == LIVE -> st[i] = SDEAD };
        if :: unswept[i] > 0 -> SWEEPUNREAD(i, attach(i); i++) :: else -> i++ fi
     :: i < POOL && st[i] != LIVE -> i++
     :: d_step { i >= POOL -> i = 0; alive[0] = DOWN }; break
     od
  /* C is dead: the sender sweeps, or the launcher for one that is dead */
  :: alive[1] == DEAD ->
     do
     :: d_step { i < POOL && st[i] == LIVE && alive[0] != DOWN -> unswept[i]++; ask[i]++; i++ }
     :: i < POOL && st[i] != FREE && !(st[i] == LIVE && alive[0] != DOWN) -> SWEEPUNREAD(i, i++)
     :: i < POOL && st[i] == FREE -> i++
     :: d_step { i >= POOL -> i = 0; alive[1] = DOWN }; break
     od
  EACH(RECOVERED)
  /* bit 0 is swept upstream; then M' with a fresh message ring and incarnation */
  :: alive[0] == DOWN && (false EACH(ISFREE)) ->
     do
     :: d_step { s < NP -> holders[s] = holders[s] & ~1; s++ }
     :: d_step { s >= NP -> s = 0; ring++; alive[0] = ALIVE; open() }; break
     od
#ifdef B_LIVEONLY               /* the next receiver forgets what a dead sender left */
#define FIT(r) (st[r] == LIVE && unswept[r] == 0)
#else
#define FIT(r) (st[r] != FREE && unswept[r] == 0)
#endif
  :: d_step { alive[1] == DOWN -> alive[1] = ALIVE; i = 0;
       do :: i < POOL -> if :: FIT(i) -> attach(i) :: else fi; i++ :: else -> break od; i = 0 }
#if KM > 0
#ifdef B_RETIREEARLY
  :: d_step { !(gone & 1) && (ring > 0 || alive[0] == DOWN) -> gone = gone | 1 }
#else
  :: d_step { !(gone & 1) && (ring > 0 || alive[0] == DOWN) && !HELDIN(0) -> gone = gone | 1 }
#endif
#endif
  od
}

proctype Monitor() {
  byte i;
  do
  :: d_step { kills[0] || kills[1] -> kills[0] = 0; kills[1] = 0 }
  :: timeout -> break
  od;
  skip;
  d_step {
    assert(fr == F && alive[0] == ALIVE && alive[1] == ALIVE);
    i = 0; do :: i < SLOTS -> assert(holders[i] == 0); i++ :: else -> break od;
    i = 0; do :: i < POOL -> assert(st[i] != SDEAD && qn[i] == 0 && unswept[i] == 0 && (st[i] == FREE || endat[i] == 0)); i++ :: else -> break od;
    assert((taken | lost) == (1 << (F + 1)) - 2);       /* each one is accounted for, */
    assert((taken & lost) == 0);                        /* once */
#if KM == 0 && defined(BLOCK) && !defined(GIVEUP)
    assert(lost == 0);
#endif
    assert(ring == 0 || (gone & 1))
  }
}

init { atomic {
  byte i, s;
  kills[0] = KM; kills[1] = KC; alive[0] = ALIVE; alive[1] = ALIVE;
  do :: i < REC -> endat[i] = NONE; i++ :: else -> break od; i = 0;
  open();
#ifdef FAN
  st[GREC] = LIVE; run D();
#endif
  run M(); run C(); run L(); run Monitor()
} }
