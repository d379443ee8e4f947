/* hot: what a frame passes on its way through a routine, without Python of ours.
 *
 *     lease.c    a Python object that keeps a slot, and arrays on it
 *     give.c     sends an array that lies in a slot
 *     within.c   hands one to routines of the same flow, and takes it there
 *     names.c    what stands for an array or a class in a pickle, and back
 *     pickled.c  whole messages that pickle makes, and reads
 *     loop.c     receives, calls main_logic and sends, until Python has something to do
 *     path.c     the Python type `HotPath`
 *     module.c   the module
 *
 * It is a second Python module in the same shared object as the cffi binding of the core, so
 * that there is one copy of the core's state and its functions are called directly. It keeps
 * to the stable ABI of Python 3.11. Everything here is called with the GIL.
 *
 * The GIL is kept where nothing sleeps: to let go of it and take it back would cost more than
 * the rest, and a busy thread might keep it for milliseconds.
 */
#ifndef PSHM_HOT_H
#define PSHM_HOT_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL pshm_numpy_api
#ifndef PSHM_HOT_MODULE
#define NO_IMPORT_ARRAY
#endif
#include <Python.h>
#ifdef Py_GIL_DISABLED
#error "pipert_shm does not run on a free-threaded Python: what stands here relies on the GIL"
#endif
#include <numpy/arrayobject.h>
#include <string.h>

#include "../pshm.h"

#define PSHM_HOT_AXES 8    /* the most dimensions of a layout: a description has room for 7 */
#define PSHM_HOT_LAYOUTS 8 /* that a sender remembers */
#define PSHM_HOT_HOP 24    /* bytes of a hop: routine, sent and received in ns */
#define PSHM_HOT_HOPS 16   /* the most of a message */
#define PSHM_HOT_STAMP 32  /* bytes of what a head says of the picture and its time */

/* The kinds of a message, and marks on them: as in shm/head.py. */
#define PSHM_KIND_PICKLE 0x0u
#define PSHM_KIND_ARRAY 0x1u
#define PSHM_KIND_TICKETED 0x100u
#define PSHM_KIND_STAMPED 0x400u

/* An array's dtype and shape; dtype is NULL while this place is unused. */
typedef struct pshm_form {
    PyObject *dtype;
    int axes;
    npy_intp length[PSHM_HOT_AXES];
    uint64_t bytes;
    PyObject *layout;                /* of a form that is pickled: the same as `text`, as bytes */
    uint64_t learnt;                 /* and in which dump it was learnt */
    uint32_t text_bytes;             /* of a form that is sent: */
    uint8_t text[PSHM_LAYOUT_BYTES]; /* how a message describes it */
} pshm_form;

/* What comes of an array that is to be sent, where it is not pshm_status. */
enum {
    PSHM_HOT_ELSEWHERE = -1,
    PSHM_HOT_UNKNOWN = -2, /* it has no description yet */
    PSHM_HOT_REFUSED = -3  /* Python could not make a message of it: `error` */
};

/* Why a loop came back: Python has something to do. */
enum {
    PSHM_LOOP_FOUND,   /* a receipt gave `status`: no array of a known form, or none at all */
    PSHM_LOOP_NOTICE,  /* the routine is wanted elsewhere, and has nothing in hand */
    PSHM_LOOP_RESULT,  /* `result` is not what is sent here */
    PSHM_LOOP_SENT,    /* a send gave `status`, which is not PSHM_OK */
    PSHM_LOOP_REFUSED, /* no message could be made of `result`: `error` */
    PSHM_LOOP_STRAY    /* main_logic has forked, and this is the child */
};

/* One message on its way out, as pshm_port_send takes it. */
typedef struct pshm_outgoing {
    uint64_t sequence;
    uint64_t captured_ns;
    uint32_t origin;
    uint32_t kind;
    uint32_t head;
    uint32_t bytes;
    uint8_t body[PSHM_MESSAGE_BYTES];
} pshm_outgoing;

typedef struct pshm_hot_path {
    PyObject_HEAD PyObject *owners; /* of the three that follow */
    pshm_port *port;
    pshm_delivery *delivery;
    pshm_post *post;

    uint64_t outs;    /* the edges that messages go to; 0: none */
    PyObject *within; /* of edges that stay in the flow: a list of what waits on each, by token */
    uint64_t token;   /* of the last message that was made for the flow */
    uint64_t threshold; /* bytes from which on an array is sent by reference */
    uint32_t ring;      /* for messages */
    bool source;
    uint64_t interval_ns; /* from call to call; 0: as soon as possible */
    uint64_t turn_ns;     /* when the last call was due; 0: there was none */

    pshm_form in[PSHM_LAYOUTS]; /* by the index that the delivery gave the layout */
    pshm_form out[PSHM_HOT_LAYOUTS];
    uint32_t learnt;               /* how many of `out` were learnt so far */
    uint64_t max_age_ns[PSHM_INS]; /* by place */
    PyObject *waiting[PSHM_INS]; /* by place: what waits on it, by token, if it is of the flow */

    /* encode(head, payload) -> (kind, body, …): Python's way, which may refuse; or NULL. */
    PyObject *encode;
    /* decode(kind, body, head bytes, buffers) -> payload; or NULL. */
    PyObject *decode;
    PyObject *error; /* what one of them raised */

    /* What pickles, here, a payload that `encode` would pickle; `dump` is NULL where nothing
     * does: */
    PyObject *dump, *clear_memo; /* of a pickler */
    PyObject *pieces;            /* a list that it appends what it writes to */
    PyObject *registered, *live; /* what copyreg knew when it was made, and what it knows now */
    PyObject *finish;            /* finish(head) -> as encode: of what was dumped */
    PyObject *refuse;            /* refuse(payload, error) -> the error to tell */
    PyObject *loader, *stream;   /* classes: an unpickler, and what it reads from */
    PyObject *named, *unnamed;   /* by id: (array, name) of those that were pickled, unpickled */
    PyObject *loading;           /* the slots of the message that is being unpickled; borrowed */

    /* of the payload that is being pickled: */
    pshm_post *pickled_post;
    uint64_t pickled_outs, pickled_threshold;
    PyObject *table; /* a list, with an entry for each buffer */
    pshm_form pickled[PSHM_HOT_LAYOUTS];
    uint32_t pickled_learnt;
    uint64_t dumps;

    pshm_outgoing outgoing;
    PyObject *meta;    /* of the message in hand, if anybody has looked at it */
    PyObject *payload; /* what main_logic was called with when it raised */
    PyObject *result;
    int status;
    uint64_t calls;    /* of main_logic in this loop that did not raise */
    uint64_t sequence; /* of the message that a source makes, or made last */
    bool stale; /* the routine has obeyed commands in a call: what the loop was told is old */
} pshm_hot_path;

/* ---- lease.c --------------------------------------------------------------------------- */

/* Makes the type of leases; false with an exception. */
bool pshm_lease_ready(PyObject *module);

/* A lease on [address, address + bytes), which is the Python object's from now on: where it
 * can't be made, it ends at once. NULL with an exception. */
PyObject *pshm_lease_new(void *address, Py_ssize_t bytes, bool writable);

/* An array of this form at `address`, on a lease of `bytes` which is its own from now on. Its
 * last view ends that. One that is not writable never becomes so. NULL with an exception. */
PyObject *pshm_lease_array(const pshm_form *form, void *address, Py_ssize_t bytes, bool writable);

/* The same on memory that belongs to `owner`, which is the array's own from now on. */
PyObject *pshm_array_on(const pshm_form *form, void *address, PyObject *owner, bool writable);

/* Where a lease's memory is, and its bytes; NULL where the object is none. */
void *pshm_lease_memory(PyObject *object, Py_ssize_t *bytes);

/* Whether an array, which is C-contiguous, has this form. */
static inline bool pshm_form_matches(const pshm_form *form, PyArrayObject *array) {
    return form->dtype == (PyObject *)PyArray_DESCR(array) && form->axes == PyArray_NDIM(array) &&
           (form->axes == 0 || /* then DIMS is NULL, which memcmp must not get */
            memcmp(form->length, PyArray_DIMS(array),
                   (size_t)form->axes * sizeof form->length[0]) == 0);
}

/* Reads a form; false with an exception when its dimensions are too many. `form` is unused
 * before, or is overwritten. */
bool pshm_form_set(pshm_form *form, PyObject *shape, PyObject *dtype);

/* ---- give.c ---------------------------------------------------------------------------- */

/* Makes the names of attributes; false with an exception. */
bool pshm_give_ready(void);

/* Fills the head of hot->outgoing from a Meta. False with an exception. */
bool pshm_hot_head_of(pshm_hot_path *hot, PyObject *meta);

/* Fills it for the message in hand, which nobody has looked at. False when that message's own
 * head is damaged. */
bool pshm_hot_head_in_hand(pshm_hot_path *hot);

/* Makes an array the payload of hot->outgoing, whose head must be there: its slot becomes the
 * post's, and the array read-only. Let go of the array before you send it: the receiver may
 * then be the slot's only holder. Returns PSHM_OK; or PSHM_HOT_ELSEWHERE where it has to be
 * sent otherwise, PSHM_HOT_UNKNOWN where its form has no description yet: then nothing is
 * done. */
int pshm_hot_refer(pshm_hot_path *hot, PyObject *payload);

/* Sends hot->outgoing, which is the result of so many received messages. Returns a status of
 * pshm_port_send. It lets go of the GIL only where it has to wait. */
int pshm_hot_send(pshm_hot_path *hot, uint32_t handled);

/* ---- within.c -------------------------------------------------------------------------- */

/* A read-only array on the slot of this one, which becomes read-only, too. NULL without an
 * exception where it does not lie in one slot that is held here, without gaps; NULL with one
 * where memory is short. */
PyObject *pshm_hot_share(pshm_hot_path *hot, PyObject *array);

/* Puts an array, with the head of hot->outgoing, where the receivers in the flow will look for
 * it. Let go of the array then. Returns PSHM_OK or, with nothing done, PSHM_HOT_ELSEWHERE. */
int pshm_hot_lay_out(pshm_hot_path *hot, PyObject *payload);

/* Tells them. Returns a status of pshm_port_hand_over; lets go of the GIL. */
int pshm_hot_hand_over(pshm_hot_path *hot, uint32_t handled);

/* Copies the head of a message that came from the flow to the delivery, from the bytes that it
 * waited with. False where they are no such head. */
bool pshm_hot_adopt(pshm_hot_path *hot, PyObject *head);

/* The array of the message in hand, where a routine of the flow has laid one out and it is not
 * too old; its head goes to the delivery. NULL without an exception: this is for Python. */
PyObject *pshm_hot_pick_up(pshm_hot_path *hot);

/* An array on its way to wherever the messages go: pshm_hot_lay_out or pshm_hot_refer. Let go of
 * the array, and then tell the receivers: pshm_hot_hand_over or pshm_hot_send. */
static inline int pshm_hot_place(pshm_hot_path *hot, PyObject *payload) {
    return hot->within != NULL ? pshm_hot_lay_out(hot, payload) : pshm_hot_refer(hot, payload);
}
static inline int pshm_hot_tell(pshm_hot_path *hot, uint32_t handled) {
    return hot->within != NULL ? pshm_hot_hand_over(hot, handled) : pshm_hot_send(hot, handled);
}

/* ---- names.c ---------------------------------------------------------------------------- */

/* What stands in a pickle for an array or a class of the payload that is being pickled; None for
 * what pickle is to take as it does. NULL with an exception. */
PyObject *pshm_hot_name(pshm_hot_path *hot, PyObject *thing);

/* What that name, in the message that is being unpickled, stands for. NULL with an exception. */
PyObject *pshm_hot_named(pshm_hot_path *hot, PyObject *name);

/* Lets go of the arrays that have got a name, or were found by one. */
static inline void pshm_hot_forget(PyObject *arrays) {
    if (PyDict_Size(arrays) != 0) PyDict_Clear(arrays);
}

/* An array on a buffer, read-only for good. NULL with an exception, also where the buffer is too
 * small for it. */
PyObject *pshm_array_at(PyObject *buffer, PyObject *offset, PyObject *layout);

/* Sets Python's functions (name of a class or None, class of a name, read_layout, and what makes
 * arrays that pshm_array_at does not). False with an exception. */
bool pshm_pickled_ready(PyObject *functions);

/* ---- pickled.c ------------------------------------------------------------------------- */

/* Makes any payload the payload of hot->outgoing, whose head must be there, with hot->encode.
 * The post has its slots then. PSHM_OK, or PSHM_HOT_REFUSED with hot->error: then the post has
 * none. */
int pshm_hot_pack(pshm_hot_path *hot, PyObject *payload);

/* The payload of the pickled message in hand, with hot->decode. NULL without an exception: it
 * is for Python; where hot->error is set, that is why. */
PyObject *pshm_hot_unpack(pshm_hot_path *hot);

/* ---- loop.c ---------------------------------------------------------------------------- */

/* Whether the routine's thread is wanted elsewhere. */
static inline bool pshm_hot_noticed(pshm_hot_path *hot) {
    return atomic_load_explicit(&hot->port->notice, memory_order_seq_cst) != 0;
}

/* Whether the message in hand is older than its wire allows. */
static inline bool pshm_hot_expired(const pshm_hot_path *hot) {
    const pshm_delivery *delivery = hot->delivery;
    return pshm_age(delivery->received_ns, delivery->captured_ns) >
           hot->max_age_ns[delivery->place];
}

/* The array in hand, after a receipt that gave `status` of at least PSHM_ARRAY. NULL with an
 * exception; its lease has ended then. */
PyObject *pshm_hot_take(pshm_hot_path *hot, int status);

/* Goes on until Python has something to do: PSHM_LOOP_… . -1 with an exception, which is
 * main_logic's if hot->calls and `payload` say so. */
int pshm_hot_loop(pshm_hot_path *hot, PyObject *main_logic);

/* ---- path.c ----------------------------------------------------------------------------- */

/* The type `HotPath`; NULL with an exception. */
PyObject *pshm_path_type(void);

#endif
