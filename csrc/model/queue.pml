/* queue: the bounded queue with eviction, and its bell, in single accesses.
 *
 * NQ senders, each with a queue of its own, to one receiver that sleeps on one
 * bell. A sender that finds its queue full evicts the oldest cell (drop_oldest)
 * or sleeps until there is room (-DBLOCK). Sender 0 may die at any step
 * (-DDIES); the launcher then tells the receiver.
 *
 * Shown: a cell belongs to exactly one end, the one that moves the head; the
 * receiver takes what was pushed, in order, none twice; a sender needs at most
 * two attempts to push; at rest, nobody sleeps while a message, room or a
 * notice waits for it.
 *
 * A step is one load, store, CAS or system call, as in queue.c and bell.c.
 * Abstracted: indexes do not wrap (64 bits in the code); memory is sequentially
 * consistent (the code's weaker orders are argued for in its comments and
 * tried under ThreadSanitizer); a futex word is one bit: whether it has moved
 * since the waiter read it.
 */
#ifndef CAP
#define CAP 1
#endif
#ifndef PU
#define PU 2            /* messages of a sender */
#endif
#ifndef NQ
#define NQ 2
#endif
#define C_ NQ           /* the receiver's bell; sender q has bell q */
byte head[NQ]; byte tail[NQ]; byte cell[NQ * CAP];
byte fate[NQ * (PU + 1)];       /* 1 pushed, 2 taken or evicted */
byte last[NQ];
bool waiting[NQ + 1]; bool asleep[NQ + 1]; bool moved[NQ + 1];
bool notice; bool killed; bool dead; bool done[NQ];

#define AT(q, i) cell[(q) * CAP + (i) % CAP]
#define FATE(q, n) fate[(q) * (PU + 1) + (n)]

#ifdef B_NOBUMP
#define RINGALWAYS(b) asleep[b] = 0
#else
#define RINGALWAYS(b) moved[b] = 1; asleep[b] = 0
#endif
#ifdef B_CLEARFLAG
#define RING(b) f = waiting[b]; waiting[b] = 0; if :: f -> f = 0; RINGALWAYS(b) :: else fi
#else
#define RING(b) f = waiting[b]; if :: f -> f = 0; RINGALWAYS(b) :: else fi
#endif
#ifdef B_WORDAFTERLOOK
#define ARM(b) waiting[b] = 1
#define LOOKED(b) moved[b] = 0
#else
#ifdef B_FLAGAFTERLOOK
#define ARM(b) moved[b] = 0
#define LOOKED(b) waiting[b] = 1
#else
#ifdef H_WORDBEFOREFLAG
#define ARM(b) moved[b] = 0; waiting[b] = 1
#else
#define ARM(b) waiting[b] = 1; moved[b] = 0
#endif
#define LOOKED(b) skip
#endif
#endif
#define WAIT(b) LOOKED(b); d_step { if :: !moved[b] -> asleep[b] = 1 :: else fi }; d_step { !asleep[b] -> waiting[b] = 0 }

/* Takes the oldest cell into d; 0 if the queue is empty. Both ends. */
#ifdef B_PLAINHEAD
#define CAS(q) d_step { head[q] = x + 1; f = 1 }
#else
#define CAS(q) d_step { f = (head[q] == x); if :: f -> head[q] = x + 1 :: else fi }
#endif
inline pop(q) {
  x = head[q];
  do
  :: d_step { x == tail[q] -> d = 0; x = 0 }; break
  :: x != tail[q] ->
     d = AT(q, x);
     CAS(q);
     if :: f -> d_step { assert(FATE(q, d) == 1); FATE(q, d) = 2; f = 0; x = 0 }; break
        :: else -> x = head[q]
     fi
  od
}

proctype S(byte q) {
  byte x, d, n = 1, tries; bool f;
  { do
  :: n > PU -> break
  :: n <= PU ->
#ifdef B_FLAGBEFORETAIL
     f = waiting[C_];
#endif
     x = head[q];
     if
     :: tail[q] - x < CAP ->
#ifdef B_TAILFIRST
          d_step { FATE(q, n) = 1; tail[q] = tail[q] + 1 };
          AT(q, tail[q] - 1) = n;
#else
          AT(q, tail[q]) = n;
          d_step { FATE(q, n) = 1; tail[q] = tail[q] + 1; x = 0 };
#endif
          d_step { n++; tries = 0; x = 0 };
#ifdef B_FLAGBEFORETAIL
          if :: f -> f = 0; RINGALWAYS(C_) :: else fi
#else
          RING(C_)
#endif
     :: else ->
#ifdef BLOCK
          x = 0;
          ARM(q);
          x = head[q];
          if :: d_step { tail[q] - x < CAP -> x = 0; waiting[q] = 0 } :: d_step { tail[q] - x >= CAP -> x = 0 }; WAIT(q) fi
#else
          d_step { tries++; assert(tries < 2); x = 0 };
          pop(q); d = 0
#endif
     fi
  od } unless { q == 0 && killed };
  skip;
  d_step {
    x = 0; d = 0; tries = 0; f = 0; n = 0;
    if :: q == 0 && killed -> killed = 0; dead = 1; asleep[0] = 0 :: else fi;
    done[q] = 1
  }
}
proctype Kill() {
  if :: !done[0] -> killed = 1 :: skip fi;
  killed == 0 || done[0];
  killed = 0
}

proctype C() {
  byte x, d, q; bool f;
  do
  :: notice -> notice = 0
  :: !notice ->
     q = 0;
     do
     :: q < NQ -> pop(q); if :: d -> break :: else -> q++ fi
     :: q >= NQ -> break
     od;
     if
     :: d ->
        d_step { assert(d > last[q]); last[q] = d; d = 0 };
#ifdef BLOCK
#ifndef B_POPNORING
        RING(q);
#endif
#endif
        q = 0
     :: else ->
        ARM(C_);
#ifndef B_NOLOOK
        q = 0;
        do
        :: q < NQ -> x = head[q]; if :: x != tail[q] -> f = 1 :: else fi; x = 0; q++
        :: q >= NQ -> break
        od;
        if :: notice -> f = 1 :: else fi;
#endif
        q = 0;
        if :: f -> f = 0; waiting[C_] = 0 :: else -> WAIT(C_) fi
     fi
  od
}

/* The launcher: publishes its notice, then rings without asking the flag. */
proctype L() {
  dead;
#ifdef B_RINGFIRST
  RINGALWAYS(C_); notice = 1
#else
  notice = 1
#ifndef B_NONOTICERING
  ; RINGALWAYS(C_)
#endif
#endif
}

proctype Monitor() {
  byte q;
  timeout;
  skip;
  d_step {
    assert(!notice);
    q = 0;
    do
    :: q < NQ -> assert(head[q] == tail[q] && done[q]); q++
    :: else -> break
    od; q = 0
  }
}

init { atomic {
  byte q;
  do :: q < NQ -> run S(q); q++ :: else -> break od;
#ifdef DIES
  run Kill();
#endif
  run C(); run L(); run Monitor()
} }
