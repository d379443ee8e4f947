#include <string.h>

#include "hot.h"

/* A layout that was met, and what it means. */
typedef struct known_layout {
    PyObject *text;
    pshm_form form;
} known_layout;

#define KNOWN_LAYOUTS 16

static PyObject *array_at, *read_layout, *array_elsewhere;
static known_layout known[KNOWN_LAYOUTS];
static uint32_t met;

/* ---- arrays in what is pickled --------------------------------------------------------- */

/* How pickle takes an array: what to call, and with what. Takes over `where`. */
static PyObject *reduced(PyObject *where, uint64_t offset, const pshm_form *form) {
    if (where == NULL) return NULL;
    return Py_BuildValue("O(NKO)", array_at, where, (unsigned long long)offset, form->layout);
}

static const pshm_form *form_of(const pshm_hot_path *hot, PyArrayObject *array) {
    for (uint32_t k = 0; k < PSHM_HOT_LAYOUTS; k++)
        if (hot->pickled[k].layout != NULL && pshm_form_matches(&hot->pickled[k], array))
            return &hot->pickled[k];
    return NULL;
}

static PyObject *reduce_large(pshm_hot_path *hot, PyArrayObject *array, const pshm_form *form) {
    uint64_t reference = pshm_port_refer(hot->port, hot->pickled_post, hot->pickled_outs,
                                         PyArray_DATA(array), form->bytes);
    if (reference == PSHM_NO_SLOT) return NULL;
    PyObject *entry = Py_BuildValue("III", pshm_reference_index(reference), 0u, 0u);
    bool noted = entry != NULL && PyList_Append(hot->table, entry) == 0;
    Py_XDECREF(entry);
    if (!noted) return NULL;
    PyArray_CLEARFLAGS(array, NPY_ARRAY_WRITEABLE);
    Py_INCREF(hot->marker);
    return reduced(hot->marker, pshm_reference_offset(reference), form);
}

PyObject *pshm_hot_reduce(pshm_hot_path *hot, PyObject *payload) {
    PyArrayObject *array = (PyArrayObject *)payload;
    const pshm_form *form = NULL;
    PyObject *done = NULL;
    if (PyArray_CheckExact(payload) && PyArray_IS_C_CONTIGUOUS(array)) form = form_of(hot, array);
    if (form != NULL && form->bytes != 0 && form->bytes < hot->pickled_threshold)
        return reduced(PyBytes_FromStringAndSize(PyArray_BYTES(array), (Py_ssize_t)form->bytes),
                       0, form);
    if (form != NULL && form->bytes != 0) done = reduce_large(hot, array, form);
    if (done != NULL || PyErr_Occurred()) return done;
    return PyObject_CallFunctionObjArgs(hot->reduce_elsewhere, payload, NULL);
}

/* ---- and when it is unpickled ---------------------------------------------------------- */

static const pshm_form *look_up(PyObject *text) {
    Py_ssize_t size = PyBytes_Size(text);
    for (uint32_t k = 0; k < KNOWN_LAYOUTS && known[k].text != NULL; k++)
        if (PyBytes_Size(known[k].text) == size &&
            memcmp(PyBytes_AsString(known[k].text), PyBytes_AsString(text), (size_t)size) == 0)
            return &known[k].form;
    return NULL;
}

/* Reads a layout with Python, and remembers it. NULL without an exception where the array has
 * gaps, which is for Python. */
static const pshm_form *learn(PyObject *text) {
    PyObject *meaning = PyObject_CallFunctionObjArgs(read_layout, text, NULL);
    PyObject *shape, *strides, *dtype, *elements;
    pshm_form form = {.dtype = NULL};
    if (meaning == NULL ||
        !PyArg_ParseTuple(meaning, "OOOO", &shape, &strides, &dtype, &elements) ||
        strides != Py_None || PyTuple_Size(shape) > PSHM_HOT_AXES ||
        !pshm_form_set(&form, shape, dtype)) {
        Py_XDECREF(meaning);
        return NULL;
    }
    Py_DECREF(meaning);
    known_layout *place = &known[met++ % KNOWN_LAYOUTS];
    PyObject *before = place->text, *dtype_before = place->form.dtype;
    Py_INCREF(text);
    place->text = text;
    place->form = form;
    Py_XDECREF(before);
    Py_XDECREF(dtype_before);
    return &place->form;
}

PyObject *pshm_array_at(PyObject *buffer, PyObject *offset, PyObject *text) {
    const pshm_form *form = PyBytes_CheckExact(text) ? look_up(text) : NULL;
    if (form == NULL && PyBytes_CheckExact(text)) form = learn(text);
    if (PyErr_Occurred()) return NULL;
    char *start = NULL;
    Py_ssize_t room = 0;
    if (PyBytes_CheckExact(buffer))
        PyBytes_AsStringAndSize(buffer, &start, &room);
    else
        start = pshm_lease_memory(buffer, &room);
    if (form == NULL || start == NULL)
        return PyObject_CallFunctionObjArgs(array_elsewhere, buffer, offset, text, NULL);
    uint64_t from = PyLong_AsUnsignedLongLong(offset);
    if (PyErr_Occurred()) return NULL;
    if (from > (uint64_t)room || form->bytes > (uint64_t)room - from) {
        PyErr_SetString(PyExc_ValueError, "an array that is larger than its buffer");
        return NULL;
    }
    Py_INCREF(buffer);
    return pshm_array_on(form, start + from, buffer, false);
}

void pshm_pickled_ready(PyObject *function, PyObject *read, PyObject *elsewhere) {
    PyObject *before[] = {array_at, read_layout, array_elsewhere};
    array_at = Py_NewRef(function);
    read_layout = Py_NewRef(read);
    array_elsewhere = Py_NewRef(elsewhere);
    for (int k = 0; k < 3; k++) Py_XDECREF(before[k]);
}

/* ---- whole messages -------------------------------------------------------------------- */

/* Keeps the exception that is set, for Python. */
static void keep_error(pshm_hot_path *hot) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    Py_XDECREF(hot->error);
    hot->error = value;
}

int pshm_hot_pack(pshm_hot_path *hot, PyObject *payload) {
    pshm_outgoing *out = &hot->outgoing;
    char *bytes = NULL;
    Py_ssize_t size = 0;
    unsigned kind = 0;
    PyObject *head = PyBytes_FromStringAndSize((const char *)out->body, (Py_ssize_t)out->head);
    PyObject *made =
        head == NULL ? NULL : PyObject_CallFunctionObjArgs(hot->encode, head, payload, NULL);
    Py_XDECREF(head);
    if (made == NULL || !PyArg_ParseTuple(made, "Iy#|O", &kind, &bytes, &size, &head) ||
        size > (Py_ssize_t)sizeof out->body) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "more than a message can carry");
        Py_XDECREF(made);
        keep_error(hot);
        return PSHM_HOT_REFUSED;
    }
    memcpy(out->body, bytes, (size_t)size);
    out->bytes = (uint32_t)size;
    out->kind = (out->kind & ~PSHM_KIND_ARRAY) | kind;
    Py_DECREF(made);
    return PSHM_OK;
}

/* A lease for each slot of the delivery, whose own these are from now on. */
static PyObject *take_slots(pshm_delivery *delivery) {
    uint32_t slots = delivery->slots;
    PyObject *buffers = PyList_New(0);
    if (buffers == NULL) return NULL;
    for (uint32_t k = 0; k < slots; k++) {
        PyObject *own =
            pshm_lease_new(delivery->address[k], (Py_ssize_t)delivery->slot_bytes[k], false);
        delivery->slots--; /* it has ended, or the object ends it */
        if (own == NULL || PyList_Append(buffers, own) < 0) {
            Py_XDECREF(own);
            for (uint32_t j = k + 1; j < slots; j++)
                delivery->slot[j - k - 1] = delivery->slot[j];
            Py_DECREF(buffers);
            return NULL;
        }
        Py_DECREF(own);
    }
    return buffers;
}

PyObject *pshm_hot_unpack(pshm_hot_path *hot) {
    pshm_delivery *delivery = hot->delivery;
    uint32_t kind = delivery->kind & ~PSHM_KIND_STAMPED;
    if (hot->decode == NULL || kind != PSHM_KIND_PICKLE ||
        (delivery->over_cap && delivery->slots != 0) || pshm_hot_expired(hot))
        return NULL;
    PyObject *buffers = take_slots(delivery), *payload = NULL;
    if (buffers != NULL)
        payload =
            PyObject_CallFunction(hot->decode, "Iy#IO", kind, (const char *)delivery->body,
                                  (Py_ssize_t)delivery->body_bytes, delivery->head, buffers);
    Py_XDECREF(buffers);
    if (payload == NULL) keep_error(hot);
    return payload;
}
