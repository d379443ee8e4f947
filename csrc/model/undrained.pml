/* undrained: what a receiver leaves of dead senders is taken back while it lives.
 *
 *     M --f--> C
 *
 * M dies KM times. C may stand still at any point for as long as it takes, and goes
 * on. The launcher L takes back whatever it likes of dead senders, and starts M
 * again when it has a record and a bit, which are two things here: the bit of an
 * incarnation that was given up goes to another, while C still looks at its record.
 * C hears of incarnations by messages, which may be old. C may die, too (KC).
 *
 * Shown: no slot is allocated while C has it or a queue names it; a bit that is
 * given to an incarnation is set nowhere, and C clears only bits of its own; C never
 * takes a message of an incarnation that it was not told of, takes them in order,
 * and none twice; M always gets a bit, where C keeps no slot for good; at rest
 * every slot is free, and every record but the live one.
 *
 * Abstracted: a message is its payload; push, pop and eviction are a step each;
 * nobody sleeps; and the sweep of a living sender for a dead receiver is a step of
 * L: ring.pml, messages.pml, queue.pml and bell.pml have these.
 */
#ifndef N
#define N 2             /* slots */
#endif
#ifndef F
#define F 3             /* frames */
#endif
#ifndef REC
#define REC 2           /* records */
#endif
#ifndef NB
#define NB 2            /* holder bits */
#endif
#ifndef KM
#define KM 1
#endif
#ifndef KC
#define KC 0
#endif
#define NONE 15

#define FREE 0
#define LIVE 1
#define SDEAD 2
#define SWEEPING 3
#define TAKING 4
#define GIVENUP 5

#define UNCLAIMED 0
#define CLAIMED 1
#define WITHDRAWN 2

#define DEAD 0
#define ALIVE 1
#define DOWN 2

byte gen[N]; byte holders[N]; byte val[N];
byte st[REC]; byte bit_[REC]; byte life[REC]; byte claim[REC]; byte qd[REC];    /* qd: the queue's one cell */
byte alive[2]; byte kills[2]; byte fr; byte lives;
chan told = [KM + 2] of { byte, byte };
byte mf = NONE, md, mp;                         /* M: incarnation, frame in hand, phase */
byte cin; byte cbit[REC]; byte cborn[REC];      /* C: what it reads, by which bit */
byte ch, cr = NONE, cx = NONE, cs, ct;          /*    lease; what it drains, phase and slot of that */
bool linger; byte lr; byte lastc;

#define SL(d) ((d) & 3)
#define GN(d) ((d) >> 2)
#define BIT(b) (2 << (b))
#define ON(set, r) (((set) >> (r)) & 1)
#define HELD(s, b) (holders[s] & BIT(b))
#define NAMED(s, b) ((qd[0] && bit_[0] == b && SL(qd[0]) == s) || (qd[1] && bit_[1] == b && SL(qd[1]) == s) || \
                     (REC > 2 && qd[REC - 1] && bit_[REC - 1] == b && SL(qd[REC - 1]) == s))

inline clear(s, b) { assert(!NAMED(s, b)); holders[s] = holders[s] & ~BIT(b) }
inline drop(d, b) { assert(gen[SL(d)] == GN(d) && HELD(SL(d), b)); clear(SL(d), b) }

#define DIE_M d_step { kills[0] > 0 -> kills[0]--; alive[0] = DEAD; md = 0; mp = 0; mf = NONE }; goto dead
#define FORGET_C cin = 0; ch = 0; cr = NONE; cx = NONE; cs = 0; ct = 0; linger = 0; lr = 0
#define DIE_C d_step { kills[1] > 0 -> kills[1]--; alive[1] = DEAD; FORGET_C }; goto dead

#define ALLOC(k) :: d_step { N > k && md == 0 && fr < F && holders[k] == 0 -> \
  assert(!(ch && SL(ch) == k) && !(qd[0] && SL(qd[0]) == k) && !(qd[1] && SL(qd[1]) == k) && !(qd[REC - 1] && SL(qd[REC - 1]) == k)); \
  gen[k]++; holders[k] = 1; fr++; val[k] = fr; md = k + 4 * gen[k]; mp = 1 }

proctype M() {
again:
  do
  :: DIE_M
  ALLOC(0) ALLOC(1)
  :: d_step { mp == 1 -> assert(!HELD(SL(md), bit_[mf])); holders[SL(md)] = holders[SL(md)] | BIT(bit_[mf]); mp = 2 }
  :: d_step { mp == 2 -> holders[SL(md)] = holders[SL(md)] & ~1; mp = 3 }
  :: d_step { mp == 3 && qd[mf] == 0 -> qd[mf] = md; md = 0; mp = 0 }
  od;
dead:
  alive[0] == ALIVE -> goto again
}

/* Behind an earlier incarnation of the edge that is not drained. */
#define EARLIER(q, r) ((q) < REC && (q) != (r) && ON(cin, (q) % REC) && cborn[(q) % REC] < cborn[r])
#define BEHIND(r) (EARLIER(0, r) || EARLIER(1, r) || EARLIER(2, r))
#define IDLE(r) (cx == NONE && !linger && ON(cin, r) && !BEHIND(r))
#define POP(r) :: d_step { REC > r && IDLE(r % REC) && qd[r % REC] && ch == 0 -> ch = qd[r % REC]; qd[r % REC] = 0; cr = r % REC; \
  assert(gen[SL(ch)] == GN(ch) && HELD(SL(ch), cbit[cr])); \
  assert(val[SL(ch)] > lastc); lastc = val[SL(ch)] }
/* asked whether the sender is dead; then the look, and the sweep if nobody else took it up */
#define LOOK(r) :: d_step { REC > r && IDLE(r % REC) && (st[r % REC] == SDEAD || st[r % REC] == GIVENUP) -> cx = r % REC; cs = 1 }
inline gone(r) { cin = cin & ~(1 << r); linger = 1; lr = r }
inline settle() { if :: linger && !(ch && cr == lr) -> linger = 0; st[lr] = FREE :: else fi }
#ifdef B_NOLIFE         /* attaches to what the record is by now */
#define IS_TOLD(r, l) true
#else
#define IS_TOLD(r, l) (life[r] == l && claim[r] == UNCLAIMED)
#endif
#ifdef B_NOCLAIM        /* attaches, and does not say so */
#define CLAIM(r) skip
#else
#define CLAIM(r) claim[r] = CLAIMED
#endif

proctype C() {
  byte r, l;
again:
  do
  :: DIE_C
  :: d_step { told ? r, l ->
       if :: IS_TOLD(r, l) -> assert(!ON(cin, r)); CLAIM(r); cin = cin | (1 << r); cbit[r] = bit_[r]; cborn[r] = l
          :: else fi; r = 0; l = 0 }
  POP(0) POP(1) POP(2)
  LOOK(0) LOOK(1) LOOK(2)
  :: d_step { cs == 1 && qd[cx] -> cs = 0; cx = NONE }          /* not drained yet */
  :: d_step { cs == 1 && qd[cx] == 0 ->
       if
#ifdef B_NOTURN         /* sweeps by what it saw when it looked */
       :: st[cx] == SDEAD || st[cx] == TAKING -> cs = 2
#else
       :: st[cx] == SDEAD -> st[cx] = SWEEPING; cs = 2
       :: st[cx] == TAKING -> cs = 0; cx = NONE
#endif
#ifdef B_SWEEPSGIVENUP
       :: st[cx] == GIVENUP -> cs = 2
#else
       :: st[cx] == GIVENUP -> gone(cx); settle(); cs = 0; cx = NONE
#endif
       :: else -> assert(false)                                 /* its record is another's */
       fi }
  :: d_step { cs == 2 && ct < N -> if :: HELD(ct, cbit[cx]) && !(ch && cr == cx && SL(ch) == ct) -> clear(ct, cbit[cx]) :: else fi; ct++ }
  :: d_step { cs == 2 && ct >= N -> ct = 0; gone(cx); settle(); cs = 0; cx = NONE }
  :: d_step { ch -> drop(ch, cbit[cr]); ch = 0; cr = NONE; settle() }
  od;
dead:
  alive[1] == ALIVE -> goto again
}

/* ---- the launcher ------------------------------------------------------- */

#define HASBIT(r, b) ((r) < REC && st[(r) % REC] != FREE && st[(r) % REC] != GIVENUP && bit_[(r) % REC] == b)
#define BITFREE(b) ((b) < NB && !HASBIT(0, b) && !HASBIT(1, b) && !HASBIT(2, b))
#define ANYBIT (BITFREE(0) || BITFREE(1))
#define ANYREC (st[0] == FREE || st[1] == FREE || st[REC - 1] == FREE)
inline open() {
  i = 0; do :: st[i] != FREE -> i++ :: else -> break od;
  if :: BITFREE(0) -> bit_[i] = 0 :: else -> bit_[i] = 1 fi;
  s = 0; do :: s < N -> assert(!HELD(s, bit_[i])); s++ :: else -> break od; s = 0;
  assert(qd[i] == 0 && cx != i && !(ch && cr == i) && !(linger && lr == i));
#ifndef B_RECORDFREED
  assert(!ON(cin, i));
#endif
  lives++; life[i] = lives; claim[i] = UNCLAIMED; st[i] = LIVE; mf = i;
  if :: alive[1] == ALIVE -> told ! i, lives :: else fi;
  i = 0
}
#define TAKE(r) :: REC > r && st[r % REC] == SDEAD -> t = r % REC

proctype L() {
  byte i, s, t = NONE;
  do
  :: d_step { alive[0] == DEAD -> s = 0; do :: s < N -> holders[s] = holders[s] & ~1; s++ :: else -> break od; s = 0 };
     do
     :: d_step { i < REC && st[i] == LIVE -> st[i] = SDEAD; i++ }
     :: i < REC && st[i] != LIVE -> i++
     :: d_step { i >= REC -> i = 0; alive[0] = DOWN }; break
     od
  :: d_step { alive[0] == DOWN && ANYBIT && ANYREC && t == NONE -> alive[0] = ALIVE; open() }
  /* takes one back: of nobody that has attached; or message by message, and then looks for the bit */
  :: atomic { t == NONE && (st[0] == SDEAD || st[1] == SDEAD || st[REC - 1] == SDEAD) ->
       if TAKE(0) TAKE(1) TAKE(2) fi; st[t] = TAKING };
     if
     :: d_step { claim[t] == UNCLAIMED -> claim[t] = WITHDRAWN; qd[t] = 0 };
        do
        :: d_step { s < N -> holders[s] = holders[s] & ~BIT(bit_[t]); s++ }
        :: d_step { s >= N -> s = 0; st[t] = FREE; t = NONE }; break
        od
     :: d_step { claim[t] != UNCLAIMED -> skip };
        do
        :: d_step { qd[t] -> i = qd[t]; qd[t] = 0 }; d_step { drop(i, bit_[t]); i = 0 }
        :: qd[t] == 0 -> break
        od;
#ifndef B_HELDBIT
        do
        :: d_step { s < N && !HELD(s, bit_[t]) -> s++ }
        :: d_step { s < N && HELD(s, bit_[t]) -> s = 0; st[t] = SDEAD; t = NONE }; break
        :: d_step { s >= N -> s = 0;
#else
        do
        :: d_step { true ->
#endif
#ifdef B_RECORDFREED
           st[t] = FREE;
#else
           st[t] = GIVENUP;
#endif
           t = NONE }; break
        od
     fi
  /* C is dead: who is alive sweeps for it, in one step; what it had claimed is the next one's */
  :: d_step { alive[1] == DEAD && t == NONE && alive[0] != DEAD ->
       i = 0;
       do
       :: i < REC ->
          if
          :: st[i] == GIVENUP -> st[i] = FREE
          :: st[i] != FREE && st[i] != GIVENUP ->
             s = 0;
             do
             :: s < N -> if :: HELD(s, bit_[i]) && !NAMED(s, bit_[i]) && !(mf == i && md && SL(md) == s) -> clear(s, bit_[i]) :: else fi; s++
             :: else -> break
             od; s = 0;
             claim[i] = UNCLAIMED;
             if :: st[i] == SWEEPING -> st[i] = SDEAD :: else fi
          :: else
          fi; i++
       :: else -> break
       od; i = 0;
       alive[1] = DOWN;
       do :: nempty(told) -> told ? i, s :: empty(told) -> break od; i = 0; s = 0 }
  :: d_step { alive[1] == DOWN -> alive[1] = ALIVE; s = 0;
       do
       :: s <= lives ->
          i = 0; do :: i < REC -> if :: st[i] != FREE && st[i] != GIVENUP && life[i] == s -> told ! i, s :: else fi; i++ :: else -> break od;
          s++
       :: else -> break
       od; i = 0; s = 0 }
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
    i = 0; do :: i < N -> assert(holders[i] == 0); i++ :: else -> break od;
    i = 0; do :: i < REC -> assert(qd[i] == 0 && (st[i] == FREE || (st[i] == LIVE && mf == i))); i++ :: else -> break od
  }
}

init { atomic {
  byte i, s;
  kills[0] = KM; kills[1] = KC; alive[0] = ALIVE; alive[1] = ALIVE;
  open();
  run M(); run C(); run L(); run Monitor()
} }
