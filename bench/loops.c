/* The control between two Pythons: loops in C that call a function of Python at each end.
 *
 * Between them a queue of two numbers, a word to sleep on, and one bit per frame that says
 * that a receiver holds it. No library that calls Python at both ends can do much less, so
 * what it takes is Python, NumPy and the kernel. There is one receiver, frames lie ready,
 * and nothing is checked, counted or survived.
 *
 * Compiled and called by controls.py, with the GIL.
 */
#define PY_SSIZE_T_CLEAN
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <Python.h>
#include <numpy/arrayobject.h>

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000
#define FRAMES 6
#define DEPTH 2

/* In memory that both processes map; all 0 at first. */
typedef struct channel {
    _Alignas(64) _Atomic uint32_t word;
    _Atomic uint32_t asleep;
    _Atomic uint32_t over;
    _Alignas(64) _Atomic uint64_t pushed;
    _Alignas(64) _Atomic uint64_t popped;
    _Alignas(64) _Atomic uint32_t number[DEPTH];
    _Alignas(64) _Atomic uint32_t held[FRAMES];
} channel;

/* Frame k lies `stride` * k bytes behind `base`. */
typedef struct frames {
    char *base;
    int64_t stride;
    int64_t shape[FRAMES][3];
} frames;

int loops_begin(void) {
    import_array1(-1);
    return 0;
}

static void wake(channel *c) {
    if (atomic_load(&c->asleep) == 0) return;
    atomic_fetch_add(&c->word, 1);
    syscall(SYS_futex, &c->word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void sleep_until(int64_t due_ns) {
    struct timespec due = {.tv_sec = due_ns / NS_PER_S, .tv_nsec = due_ns % NS_PER_S};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) != 0) continue;
}

/* Once a period, what main_logic returns: a frame; None at a tick that is skipped; an exception ends it. */
PyObject *loops_send(channel *c, const frames *f, int64_t period_ns, PyObject *main_logic) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t due = (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
    for (;;) {
        due += period_ns;
        Py_BEGIN_ALLOW_THREADS
        sleep_until(due);
        Py_END_ALLOW_THREADS
        PyObject *frame = PyObject_CallNoArgs(main_logic);
        if (frame == NULL) break;
        if (frame != Py_None) {
            uint32_t number = (uint32_t)((PyArray_BYTES((PyArrayObject *)frame) - f->base) / f->stride);
            uint64_t at = atomic_load(&c->pushed);
            if (at - atomic_load(&c->popped) < DEPTH) {
                atomic_fetch_or(&c->held[number], 2);
                atomic_store(&c->number[at % DEPTH], number);
                atomic_store(&c->pushed, at + 1);
                wake(c);
            }
        }
        Py_DECREF(frame);
    }
    atomic_store(&c->over, 1);
    wake(c);
    return NULL;
}

static void let_go(PyObject *lease) {
    atomic_fetch_and((_Atomic uint32_t *)PyCapsule_GetPointer(lease, NULL), ~2u);
}

static PyObject *array_of(channel *c, const frames *f, uint32_t number) {
    npy_intp shape[3];
    for (int k = 0; k < 3; k++) shape[k] = f->shape[number][k];
    PyObject *array = PyArray_NewFromDescr(&PyArray_Type, PyArray_DescrFromType(NPY_UINT8), 3, shape, NULL,
                                           f->base + number * f->stride, 0, NULL);
    PyObject *lease = PyCapsule_New((void *)&c->held[number], NULL, let_go);
    if (array == NULL || lease == NULL || PyArray_SetBaseObject((PyArrayObject *)array, lease) < 0) Py_FatalError("memory");
    return array;
}

static void sleep_while_empty(channel *c) {
    atomic_store(&c->asleep, 1);
    uint32_t word = atomic_load(&c->word);
    if (atomic_load(&c->popped) == atomic_load(&c->pushed) && !atomic_load(&c->over))
        syscall(SYS_futex, &c->word, FUTEX_WAIT, word, NULL, NULL, 0);
    atomic_store(&c->asleep, 0);
}

/* Calls main_logic with each frame, until the sender is over. */
PyObject *loops_receive(channel *c, const frames *f, PyObject *main_logic) {
    for (;;) {
        uint64_t at = atomic_load(&c->popped);
        if (at == atomic_load(&c->pushed)) {
            if (atomic_load(&c->over)) Py_RETURN_NONE;
            Py_BEGIN_ALLOW_THREADS
            sleep_while_empty(c);
            Py_END_ALLOW_THREADS
            continue;
        }
        uint32_t number = atomic_load(&c->number[at % DEPTH]);
        atomic_store(&c->popped, at + 1);
        PyObject *frame = array_of(c, f, number);
        PyObject *result = PyObject_CallOneArg(main_logic, frame);
        Py_DECREF(frame);
        if (result == NULL) return NULL;
        Py_DECREF(result);
    }
}
