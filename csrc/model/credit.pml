/* credit: the protocol of a wire between two hosts (pipert_shm/hosts/protocol.py).
 *
 *     S ==messages, hellos==> R
 *       <==acknowledgements==
 *
 * S sends messages 0 to PU - 1 to R, at most W under way. S and R die KS and KR
 * times between any two steps, and are started anew; the link is cut KL times,
 * which loses any part of what is under way, each way (with -DDOUBLES a message may
 * also come twice). Lossless, or with -DDROP it drops.
 *
 * R takes a message, pushes it on both of its wires, in any order, lets go of it, and
 * acknowledges; it may die between any two of these.
 *
 * Shown: messages are pushed on each wire in order, none twice; lossless: one that is
 * passed over was with an S that died, and each wire gets the same; S never has more than W that are not acknowledged, and R
 * keeps no more than that; when all has come to rest, S has sent everything, and
 * nothing is left unacknowledged: the credit is back. Without deaths and cuts it
 * asks three times at the most.
 *
 * Abstracted:
 * - Clocks, and the size of the window: W is a constant.
 * - Time-outs: S asks again only when nothing else can happen (`timeout`).
 * - The link keeps the order of what it does not lose, as TCP within a connection
 *   does. The tests of protocol.py reorder, too.
 * - Contents, so nobody would notice a number that stands for two messages.
 * - Whether a message is on a wire is known after R's death, as csrc/handing.h has it; the
 *   crash points prove that. Only R writes its place, so it and the hand are one word.
 */
#ifndef PU
#define PU 3
#endif
#ifndef W
#define W 2
#endif
#ifndef KS
#define KS 0
#endif
#ifndef KR
#define KR 0
#endif
#ifndef KL
#define KL 0
#endif
#define LEN 4                   /* of the link, each way */
#define HELLO 0
#define MSG 1

chan there = [LEN] of { bit, byte, byte, byte, byte };  /* kind, epoch, base, number or the question's number, - */
chan back = [LEN] of { bit, byte, byte, byte, byte, bit, byte };
/* is an answer, receiver, epoch, accepted, consumed, has a gap, the question's number */

/* S. What outlives its process: the epoch and the next number. */
byte epoch = 1, next, first;    /* first: of this epoch */
byte base, cursor, peer, asked, question;  /* asked: of the hello, cursor + 1; 0 for none */
bool greet = 1; byte heldfrom;  /* what it has: heldfrom .. next - 1, without what is forgotten */
bool has[PU + 1]; byte under;   /* under: how many it has, and the receiver of an S before it: elsewhere */
byte elsewhere;
bool dead[PU + 1];              /* numbers that an S had when it died */

/* R. What outlives its process: place, hand, and what is on the wires. */
byte me = 1, known, accepted, consumed; bool gaptold, gap, owes, owesanswer; byte echo;
bool keeps[PU + 1]; byte kept;
byte kills[3];
byte tries;                     /* time-outs since anything else happened */
byte place; bit hand;           /* one after the last that was taken; it may not be on all wires */
byte inhand, pushed;            /* the message in hand, + 1; where this R has pushed it */
byte last[2];                   /* of each wire: one after the last that was pushed */

#ifdef B_NOWINDOW
#define ROOM (W + 1)
#else
#define ROOM W
#endif
#ifdef B_NOTELSEWHERE
#define ELSEWHERE 0
#else
#define ELSEWHERE (elsewhere > c -> elsewhere - c : 0)
#endif
#ifdef H_STALEHELLO
#define STALE(e) false
#else
#define STALE(e) (e < known)
#endif

inline release(n) {
  x = 0;
  do :: x < n && x < PU -> if :: has[x] -> has[x] = 0; under--; tries = 0 :: else fi; x++ :: else -> break od; x = 0
}
inline lowest(to) {
  to = 0;
  do :: to < next && !has[to] -> to++ :: else -> break od
}
inline settle() {
  if :: kept == 0 && !inhand -> consumed = accepted :: else fi
}
#ifdef B_PUSHESAGAIN
#define HAS(e) (pushed & (1 << e))
#else
#define HAS(e) (last[e] >= inhand)
#endif
inline push(e) {
  assert(inhand > last[e]);         /* in order, none twice */
#ifndef DROP
  do :: last[e] < inhand - 1 -> assert(dead[last[e]]); last[e]++ :: else -> break od;
#endif
  last[e] = inhand; pushed = pushed | (1 << e)
}
inline giveup(n) {
  if :: n > accepted ->
#ifndef DROP
        x = accepted;
        do :: x < n -> assert(dead[x]); x++ :: else -> break od; x = 0;
#endif
        accepted = n; gaptold = 0
     :: else fi;
  settle()
}

proctype S() {
  byte x, r, e, a, c, q, b; bit ans, g;
  do
  /* takes a message of its pipe */
  :: d_step { next < PU && peer && under + elsewhere < ROOM -> has[next] = 1; under++; next++ };
     assert(under <= W)
  /* says hello */
  :: d_step { greet && nfull(there) -> greet = 0; question++; asked = cursor + 1; lowest(b) };
     there!HELLO(epoch, b, question, 0); b = 0
  /* sends what is next */
  :: d_step { peer && cursor < next && nfull(there) ->
       if :: has[cursor] -> q = 1 :: else -> q = 0 fi; lowest(b); a = cursor; cursor++ };
     if :: q -> there!MSG(epoch, b, a, 0) :: else fi;
     q = 0; a = 0; b = 0
  /* hears */
  :: back?ans(r, e, a, c, g, q) -> d_step {
       if
       :: e != epoch -> if :: !asked -> greet = 1 :: else fi
       :: e == epoch && !(ans && asked && q == question) && r != peer -> if :: !asked -> greet = 1 :: else fi
       :: else ->
#ifdef B_RELEASEACCEPTED
          release(a);
#else
          release(c);
#endif
          elsewhere = (a < first -> a : first); elsewhere = ELSEWHERE;
          if
          :: ans && asked && q == question ->
             b = (r != peer); peer = r; if :: b -> tries = 0 :: else fi;
#ifdef DROP
             if
             :: b -> release(PU); cursor = next
             :: else ->               /* sent before the hello, and not there: lost */
#ifndef B_NOTFORGOTTEN
                x = a;
                do :: x < asked - 1 -> if :: has[x] -> has[x] = 0; under-- :: else fi; x++ :: else -> break od; x = 0
#else
                skip
#endif
             fi;
#else
#ifndef B_NORESEND
             if :: b || a < asked - 1 -> if :: a < cursor -> cursor = a :: else fi :: else fi;
#endif
#endif
             asked = 0; b = 0
          :: else ->
#ifndef DROP
             if :: g && a < cursor -> cursor = a :: else fi
#else
             skip
#endif
          fi;
          if :: cursor < a -> cursor = a :: else fi
       fi; r = 0; e = 0; a = 0; c = 0; ans = 0; g = 0; q = 0
     }
  /* its process dies, and another one begins */
  :: d_step { kills[0] < KS -> kills[0]++; x = 0;
       do :: x < PU -> if :: has[x] -> dead[x] = 1; has[x] = 0 :: else fi; x++ :: else -> break od; x = 0;
       under = 0;
#ifndef H_SAMEEPOCH
       epoch++;
#endif
       cursor = next; first = next; elsewhere = 0; peer = 0; asked = 0; greet = 1; tries = 0 }
  /* nothing has come for too long */
  :: timeout ->
#ifndef B_NOASKING
     if :: under || elsewhere || !peer -> greet = 1; tries++; assert(tries < 4) :: else -> break fi
#else
     break
#endif
  od;
  skip;
  d_step {
    assert(next == PU);
    assert(under == 0);
    assert(kept == 0 && !inhand);
#ifndef DROP
    for (x : 0 .. PU - 1) { assert(dead[x] || (last[0] > x && last[1] > x)) }
#endif
  }
}

proctype R() {
  byte x, e, b, n; bit k; byte z;
end:
  do
  :: there?k(e, b, n, z) -> d_step {
       if
       :: k == HELLO && STALE(e) -> skip
       :: k == HELLO && !STALE(e) -> known = e; gaptold = 0; giveup(b); owesanswer = 1; echo = n
       :: k == MSG && e != known -> if :: e > known -> owes = 1 :: else fi
       :: k == MSG && e == known ->
          giveup(b);
          if
#ifdef B_TAKESAGAIN
          :: n < accepted && !keeps[n] -> keeps[n] = 1; kept++
          :: n < accepted && keeps[n] -> owes = 1
#else
          :: n < accepted -> owes = 1
#endif
#ifndef DROP
#ifndef B_TAKESLATER
          :: n > accepted -> if :: !gaptold -> gaptold = 1; gap = 1; owes = 1 :: else fi
          :: n == accepted ->
#else
          :: n >= accepted ->
#endif
#else
          :: n >= accepted ->
             x = 0;                   /* what it has no room for */
             do :: kept >= W -> if :: keeps[x] -> keeps[x] = 0; kept-- :: else fi; x++ :: else -> break od; x = 0;
#endif
             keeps[n] = 1; kept++; accepted = n + 1; gaptold = 0;
             assert(kept <= W)
          fi
       fi; e = 0; b = 0; n = 0; k = 0 }
  /* takes one in hand */
  :: d_step { kept > 0 && !inhand ->
       x = 0;
       do :: !keeps[x] -> x++ :: else -> break od;
       keeps[x] = 0; kept--;
       inhand = x + 1; pushed = 0;
#ifndef B_CONSUMEDNOTKEPT
       place = inhand;
#endif
#ifndef B_HANDNOTNOTED
       hand = 1;
#endif
#ifdef B_ACKSINHAND
       consumed = inhand; owes = 1;
#endif
       x = 0 }
  /* pushes it on a wire */
  :: d_step { inhand && !HAS(0) -> push(0) }
  :: d_step { inhand && !HAS(1) -> push(1) }
  /* lets go of it */
  :: d_step { inhand && HAS(0) && HAS(1) ->
       hand = 0; consumed = inhand; inhand = 0; settle(); owes = 1 }
  /* acknowledges */
  :: atomic { owesanswer && nfull(back) -> owesanswer = 0; back!1(me, known, accepted, consumed, gap, echo); gap = 0 }
  :: atomic { owes && !owesanswer && nfull(back) -> owes = 0; back!0(me, known, accepted, consumed, gap, 0); gap = 0 }
  /* its process dies, and another one begins, where the one before was; S sees its token */
  :: d_step { kills[1] < KR -> kills[1]++; me++; x = 0;
       do :: x < PU -> keeps[x] = 0; x++ :: else -> break od; x = 0;
       kept = 0; known = 0;
#ifdef B_FROMACCEPTED
       place = accepted;
#endif
#ifdef B_ONEWIRE
       if :: hand && last[0] < place -> place-- :: else fi;
#else
       if :: hand && (last[0] < place || last[1] < place) -> place-- :: else fi;
#endif
       hand = 0; inhand = 0; pushed = 0; consumed = place;
       accepted = consumed; gaptold = 0; gap = 0; owes = 0; owesanswer = 0; echo = 0; tries = 0;
#ifndef B_NOTOKEN
       greet = 1
#else
       skip
#endif
     }
  od
}

/* Cuts the link: anything that is under way may be lost. */
proctype L() {
  bit k; byte a, b, c, d; bit g; byte q;
  do
  :: kills[2] < KL -> atomic {
       kills[2]++; tries = 0;
       do
       :: nempty(there) -> there?k(a, b, c, d)
       :: nempty(back) -> back?k(a, b, c, d, g, q)
       :: break
       od; k = 0; a = 0; b = 0; c = 0; d = 0; g = 0; q = 0 }
#ifdef DOUBLES
  :: d_step { len(there) == 1 -> there?k(a, b, c, d); there!k(a, b, c, d); there!k(a, b, c, d);
       k = 0; a = 0; b = 0; c = 0; d = 0 }; break
#endif
  :: break
  od
}

init { atomic { run S(); run R(); run L() } }
