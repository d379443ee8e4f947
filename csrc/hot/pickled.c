#include <string.h>

#include "hot.h"

/* A layout that was met, and what it means. */
typedef struct known_layout {
    PyObject *text;
    pshm_form form;
} known_layout;

#define KNOWN_LAYOUTS 16

#define MOST_CLASSES 256

/* Functions of Python, and what the first two of them said. */
static PyObject *name_of_class, *class_of_name, *read_layout, *array_elsewhere;
static PyObject *names_of_classes, *classes_of_names;
static known_layout known[KNOWN_LAYOUTS];
static uint32_t met;

/* ---- arrays and classes in what is pickled --------------------------------------------- */

/* One that was learnt in this very dump does not count: the same array may have been pickled in
 * Python's way before, and must not get a name as well. */
static const pshm_form *form_of(const pshm_hot_path *hot, PyArrayObject *array) {
    for (uint32_t k = 0; k < PSHM_HOT_LAYOUTS; k++) {
        const pshm_form *form = &hot->pickled[k];
        if (form->layout != NULL && form->learnt != hot->dumps && pshm_form_matches(form, array))
            return form;
    }
    return NULL;
}

/* (where, offset, layout): where is a slot's number in the message, or the array's bytes. Takes
 * over `where`. */
static PyObject *place_of(PyObject *where, uint64_t offset, const pshm_form *form) {
    if (where == NULL) return NULL;
    return Py_BuildValue("(NKO)", where, (unsigned long long)offset, form->layout);
}

static PyObject *name_array(pshm_hot_path *hot, PyArrayObject *array) {
    const pshm_form *form = PyArray_IS_C_CONTIGUOUS(array) ? form_of(hot, array) : NULL;
    if (form == NULL || form->bytes == 0) Py_RETURN_NONE;
    if (form->bytes < hot->pickled_threshold)
        return place_of(PyBytes_FromStringAndSize(PyArray_BYTES(array), (Py_ssize_t)form->bytes),
                        0, form);
    uint64_t reference = pshm_port_refer(hot->port, hot->pickled_post, hot->pickled_outs,
                                         PyArray_DATA(array), form->bytes);
    if (reference == PSHM_NO_SLOT) Py_RETURN_NONE;
    PyArray_CLEARFLAGS(array, NPY_ARRAY_WRITEABLE);
    return place_of(PyLong_FromUnsignedLong(pshm_reference_index(reference)),
                    pshm_reference_offset(reference), form);
}

/* What stands for an object, of those that were met before: the same object, so that one that is
 * there twice stays one. A new reference; NULL without an exception where it is new. */
static PyObject *met_before(PyObject *met, PyObject *object) {
    PyObject *key = PyLong_FromVoidPtr(object);
    PyObject *pair = key == NULL ? NULL : PyDict_GetItemWithError(met, key);
    Py_XDECREF(key);
    return pair == NULL ? NULL : Py_NewRef(PyTuple_GetItem(pair, 1));
}

/* Notes what stands for it; both live until they are forgotten. Takes over `stands`, and gives it
 * back, or NULL with an exception. */
static PyObject *note(PyObject *met, PyObject *object, PyObject *stands) {
    if (stands == NULL || stands == Py_None) return stands;
    PyObject *key = PyLong_FromVoidPtr(object), *pair = PyTuple_Pack(2, object, stands);
    if (key == NULL || pair == NULL || PyDict_SetItem(met, key, pair) < 0) Py_CLEAR(stands);
    Py_XDECREF(pair);
    Py_XDECREF(key);
    return stands;
}

/* What a function of Python says of a thing, remembered in a dict; a new reference. */
static PyObject *remembered(PyObject *said, PyObject *function, PyObject *thing) {
    PyObject *answer = PyDict_GetItemWithError(said, thing);
    if (answer != NULL) return Py_NewRef(answer);
    if (PyErr_Occurred()) return NULL;
    answer = PyObject_CallFunctionObjArgs(function, thing, NULL);
    if (answer == NULL) return NULL;
    if (PyDict_Size(said) >= MOST_CLASSES) PyDict_Clear(said);
    if (PyDict_SetItem(said, thing, answer) < 0) Py_CLEAR(answer);
    return answer;
}

PyObject *pshm_hot_name(pshm_hot_path *hot, PyObject *thing) {
    if (PyArray_CheckExact(thing)) {
        PyObject *name = met_before(hot->named, thing);
        if (name != NULL || PyErr_Occurred()) return name;
        return note(hot->named, thing, name_array(hot, (PyArrayObject *)thing));
    }
    if (PyType_CheckExact(thing)) return remembered(names_of_classes, name_of_class, thing);
    Py_RETURN_NONE;
}

static PyObject *array_named(const pshm_hot_path *hot, PyObject *name) {
    PyObject *where, *offset, *layout;
    if (!PyTuple_CheckExact(name) || !PyArg_ParseTuple(name, "OOO", &where, &offset, &layout)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "neither an array nor a class");
        return NULL;
    }
    if (PyBytes_CheckExact(where)) return pshm_array_at(where, offset, layout);
    Py_ssize_t index = PyLong_AsSsize_t(where);
    if (index == -1 && PyErr_Occurred()) return NULL;
    if (hot->loading == NULL || index < 0 || index >= PyList_Size(hot->loading)) {
        PyErr_SetString(PyExc_LookupError, "an array in a slot that the message has not");
        return NULL;
    }
    return pshm_array_at(PyList_GetItem(hot->loading, index), offset, layout);
}

PyObject *pshm_hot_named(pshm_hot_path *hot, PyObject *name) {
    if (PyBytes_CheckExact(name)) return remembered(classes_of_names, class_of_name, name);
    PyObject *array = met_before(hot->unnamed, name);
    if (array != NULL || PyErr_Occurred()) return array;
    return note(hot->unnamed, name, array_named(hot, name));
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

/* Reads a layout with Python, and remembers it. NULL without an exception where this is for
 * Python: the array has gaps, or its elements are references, which no memory may hold. */
static const pshm_form *learn(PyObject *text) {
    PyObject *meaning = PyObject_CallFunctionObjArgs(read_layout, text, NULL);
    PyObject *shape, *strides, *dtype, *elements;
    pshm_form form = {.dtype = NULL};
    bool read = meaning != NULL &&
                PyArg_ParseTuple(meaning, "OOOO", &shape, &strides, &dtype, &elements) &&
                strides == Py_None && PyTuple_Size(shape) <= PSHM_HOT_AXES &&
                PyArray_DescrCheck(dtype) && !PyDataType_REFCHK((PyArray_Descr *)dtype) &&
                pshm_form_set(&form, shape, dtype);
    Py_XDECREF(meaning);
    if (!read) return NULL;
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

bool pshm_pickled_ready(PyObject *functions) {
    if (!PyArg_ParseTuple(functions, "OOOO", &name_of_class, &class_of_name, &read_layout,
                          &array_elsewhere))
        return false;
    Py_INCREF(functions); /* for good */
    names_of_classes = PyDict_New();
    classes_of_names = PyDict_New();
    return names_of_classes != NULL && classes_of_names != NULL;
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

/* Makes hot->outgoing of what Python has made, (kind, body, ...), whose own this is now. */
static int use_message(pshm_hot_path *hot, PyObject *made) {
    pshm_outgoing *out = &hot->outgoing;
    char *bytes = NULL;
    Py_ssize_t size = 0;
    unsigned kind = 0;
    PyObject *rest;
    if (made == NULL || !PyArg_ParseTuple(made, "Iy#|O", &kind, &bytes, &size, &rest) ||
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

static PyObject *head_of(const pshm_outgoing *out) {
    return PyBytes_FromStringAndSize((const char *)out->body, (Py_ssize_t)out->head);
}

static int pack_elsewhere(pshm_hot_path *hot, PyObject *payload) {
    PyObject *head = head_of(&hot->outgoing), *made = NULL;
    if (head != NULL) made = PyObject_CallFunctionObjArgs(hot->encode, head, payload, NULL);
    Py_XDECREF(head);
    return use_message(hot, made);
}

static int finish_elsewhere(pshm_hot_path *hot) {
    PyObject *head = head_of(&hot->outgoing), *made = NULL;
    if (head != NULL) made = PyObject_CallFunctionObjArgs(hot->finish, head, NULL);
    Py_XDECREF(head);
    return use_message(hot, made);
}

/* The same as decoder.py's PICKLE_HEAD and BUFFER. */
#define PICKLE_HEAD_BYTES 21
#define ENTRY_BYTES 18

static uint8_t *put(uint8_t *at, const void *value, size_t bytes) {
    memcpy(at, value, bytes);
    return at + bytes;
}

/* The entries of the table; false where one is of a slot that is still to be written. */
static bool put_table(pshm_hot_path *hot, uint8_t **at) {
    const uint64_t whole = 0;
    for (Py_ssize_t k = 0; k < PyList_Size(hot->table); k++) {
        long slot = PyLong_AsLong(PyTuple_GetItem(PyList_GetItem(hot->table, k), 0));
        uint16_t index = (uint16_t)slot;
        if (slot < 0 || slot > UINT16_MAX) return false;
        *at = put(*at, &index, sizeof index);
        *at = put(*at, &whole, sizeof whole);
        *at = put(*at, &whole, sizeof whole);
    }
    return true;
}

/* Bytes that were written; -1 where a piece is no bytes object. */
static Py_ssize_t written(const pshm_hot_path *hot) {
    Py_ssize_t sum = 0;
    for (Py_ssize_t k = 0; k < PyList_Size(hot->pieces); k++) {
        PyObject *piece = PyList_GetItem(hot->pieces, k);
        if (!PyBytes_CheckExact(piece)) return -1;
        sum += PyBytes_Size(piece);
    }
    return sum;
}

/* Makes hot->outgoing of what was dumped; false where it has no room, or a slot is to be
 * written. */
static bool assemble(pshm_hot_path *hot) {
    pshm_outgoing *out = &hot->outgoing;
    uint32_t entries = (uint32_t)PyList_Size(hot->table);
    Py_ssize_t bytes = written(hot);
    if (bytes < 0 || entries > PSHM_MESSAGE_SLOTS) return false;
    uint64_t size = (uint64_t)entries * ENTRY_BYTES + (uint64_t)bytes, offset = 0;
    uint64_t slots = sizeof(uint64_t) * hot->post->slots;
    if (out->head + PICKLE_HEAD_BYTES + size + slots + sizeof(pshm_message) > PSHM_MESSAGE_BYTES)
        return false;
    uint8_t *at = out->body + out->head;
    at = put(at, &entries, sizeof entries);
    at = put(at, &size, sizeof size);
    at = put(at, &offset, sizeof offset);
    *at++ = 0; /* all of it is here */
    if (!put_table(hot, &at)) return false;
    for (Py_ssize_t k = 0; k < PyList_Size(hot->pieces); k++) {
        PyObject *piece = PyList_GetItem(hot->pieces, k);
        at = put(at, PyBytes_AsString(piece), (size_t)PyBytes_Size(piece));
    }
    out->bytes = (uint32_t)(at - out->body);
    out->kind = (out->kind & ~PSHM_KIND_ARRAY) | PSHM_KIND_PICKLE;
    hot->port->record->in_band_bytes += (uint64_t)bytes;
    PyList_SetSlice(hot->pieces, 0, PyList_Size(hot->pieces), NULL);
    return true;
}

/* Dumps a payload; false with an exception. */
static bool dump(pshm_hot_path *hot, PyObject *payload) {
    hot->dumps++;
    hot->pickled_post = hot->post;
    hot->pickled_outs = hot->outs;
    hot->pickled_threshold = hot->threshold;
    if (PyList_SetSlice(hot->table, 0, PyList_Size(hot->table), NULL) < 0) return false;
    PyObject *none = PyObject_CallFunctionObjArgs(hot->dump, payload, NULL);
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *cleared =
        PyObject_CallNoArgs(hot->clear_memo); /* it keeps alive what was pickled */
    if (cleared == NULL) PyErr_Clear();
    pshm_hot_forget(hot->named);
    Py_XDECREF(cleared);
    PyErr_Restore(type, value, traceback);
    Py_XDECREF(none);
    return none != NULL;
}

static int refuse(pshm_hot_path *hot, PyObject *payload) {
    keep_error(hot);
    PyObject *told = PyObject_CallFunctionObjArgs(hot->refuse, payload, hot->error, NULL);
    if (told == NULL) {
        keep_error(hot);
        return PSHM_HOT_REFUSED;
    }
    Py_XDECREF(hot->error);
    hot->error = told;
    return PSHM_HOT_REFUSED;
}

int pshm_hot_pack(pshm_hot_path *hot, PyObject *payload) {
    if (hot->dump == NULL || PyArray_CheckExact(payload)) return pack_elsewhere(hot, payload);
    if (PyObject_RichCompareBool(hot->registered, hot->live, Py_EQ) != 1) {
        PyErr_Clear();
        return pack_elsewhere(hot, payload);
    }
    if (!dump(hot, payload)) return refuse(hot, payload);
    return assemble(hot) ? PSHM_OK : finish_elsewhere(hot);
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

/* The buffers of the pickle in hand, in their order; NULL, mostly without an exception, where
 * that is for Python. */
static PyObject *buffers_of(const uint8_t *table, uint32_t entries, PyObject *slots) {
    PyObject *buffers = PyList_New(0);
    for (uint32_t k = 0; buffers != NULL && k < entries; k++) {
        uint16_t index;
        uint64_t part[2];
        memcpy(&index, table + k * ENTRY_BYTES, sizeof index);
        memcpy(part, table + k * ENTRY_BYTES + sizeof index, sizeof part);
        if (part[1] != 0 || index >= PyList_Size(slots) ||
            PyList_Append(buffers, PyList_GetItem(slots, index)) < 0)
            Py_CLEAR(buffers);
    }
    return buffers;
}

/* The same as decoder.py's `decode` of a pickle that is whole in the body, with whole slots as
 * its buffers. NULL without an exception where it is not such a one. */
static PyObject *load(pshm_hot_path *hot, PyObject *slots) {
    const pshm_delivery *delivery = hot->delivery;
    uint32_t entries, start = delivery->head + PICKLE_HEAD_BYTES;
    uint64_t size;
    if (hot->loader == NULL || start > delivery->body_bytes || delivery->body[start - 1] != 0)
        return NULL;
    memcpy(&entries, delivery->body + delivery->head, sizeof entries);
    memcpy(&size, delivery->body + delivery->head + sizeof entries, sizeof size);
    if (size > delivery->body_bytes - start || entries > PSHM_MESSAGE_SLOTS ||
        entries * ENTRY_BYTES > size)
        return NULL;
    const uint8_t *table = delivery->body + start;
    PyObject *buffers = buffers_of(table, entries, slots);
    if (buffers == NULL) return NULL;
    uint32_t before = entries * ENTRY_BYTES;
    PyObject *payload = NULL, *loader = NULL;
    PyObject *stream = PyObject_CallFunction(hot->stream, "y#", (const char *)table + before,
                                             (Py_ssize_t)(size - before));
    PyObject *arguments = stream == NULL ? NULL : PyTuple_Pack(1, stream);
    PyObject *names = Py_BuildValue("{sO}", "buffers", buffers);
    if (arguments != NULL && names != NULL) loader = PyObject_Call(hot->loader, arguments, names);
    if (loader != NULL) {
        hot->loading = slots;
        payload = PyObject_CallMethod(loader, "load", NULL);
        hot->loading = NULL;
        pshm_hot_forget(hot->unnamed);
    }
    Py_XDECREF(loader);
    Py_XDECREF(names);
    Py_XDECREF(arguments);
    Py_XDECREF(stream);
    Py_DECREF(buffers);
    return payload;
}

PyObject *pshm_hot_unpack(pshm_hot_path *hot) {
    pshm_delivery *delivery = hot->delivery;
    uint32_t kind = delivery->kind & ~PSHM_KIND_STAMPED;
    if (hot->decode == NULL || kind != PSHM_KIND_PICKLE ||
        (delivery->over_cap && delivery->slots != 0) || pshm_hot_expired(hot))
        return NULL;
    PyObject *slots = take_slots(delivery), *payload = NULL;
    if (slots != NULL) payload = load(hot, slots);
    if (slots != NULL && payload == NULL && !PyErr_Occurred())
        payload = PyObject_CallFunction(hot->decode, "Iy#IO", kind, (const char *)delivery->body,
                                        (Py_ssize_t)delivery->body_bytes, delivery->head, slots);
    Py_XDECREF(slots);
    if (payload == NULL) keep_error(hot);
    return payload;
}
