#include "hot.h"

#include <structmember.h>

#include <string.h>

#define NAMED_OBJECTS 20
#define PSHM_HOT_OBJECTS (NAMED_OBJECTS + PSHM_INS + PSHM_LAYOUTS + 3 * PSHM_HOT_LAYOUTS)

/* ---- life ------------------------------------------------------------------------------ */

static PyObject *path_new(PyTypeObject *type, PyObject *arguments, PyObject *names) {
    PyObject *owners, *port, *delivery;
    if (names != NULL || !PyArg_ParseTuple(arguments, "OOO", &owners, &port, &delivery)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "no keywords");
        return NULL;
    }
    pshm_hot_path *hot = (pshm_hot_path *)PyType_GenericAlloc(type, 0);
    if (hot == NULL) return NULL;
    hot->port = PyLong_AsVoidPtr(port);
    if (!PyErr_Occurred()) hot->delivery = PyLong_AsVoidPtr(delivery);
    Py_INCREF(owners);
    hot->owners = owners;
    hot->named = PyDict_New();
    hot->unnamed = PyDict_New();
    for (uint32_t k = 0; k < PSHM_INS; k++) hot->max_age_ns[k] = PSHM_FOREVER;
    if (hot->port == NULL || hot->delivery == NULL) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "no address");
        Py_DECREF(hot);
        return NULL;
    }
    return (PyObject *)hot;
}

/* Every object that a path refers to. */
static void objects_of(pshm_hot_path *hot, PyObject **place[PSHM_HOT_OBJECTS]) {
    PyObject **all[] = {&hot->owners,     &hot->within, &hot->encode,     &hot->decode,
                        &hot->error,      &hot->dump,   &hot->clear_memo, &hot->pieces,
                        &hot->registered, &hot->live,   &hot->finish,     &hot->refuse,
                        &hot->loader,     &hot->stream, &hot->table,      &hot->meta,
                        &hot->payload,    &hot->result, &hot->named,      &hot->unnamed};
    _Static_assert(sizeof all / sizeof all[0] == NAMED_OBJECTS, "all of them");
    size_t count = NAMED_OBJECTS;
    memcpy(place, all, sizeof all);
    for (uint32_t k = 0; k < PSHM_INS; k++) place[count++] = &hot->waiting[k];
    for (uint32_t k = 0; k < PSHM_LAYOUTS; k++) place[count++] = &hot->in[k].dtype;
    for (uint32_t k = 0; k < PSHM_HOT_LAYOUTS; k++) {
        place[count++] = &hot->out[k].dtype;
        place[count++] = &hot->pickled[k].dtype;
        place[count++] = &hot->pickled[k].layout;
    }
}

static int path_traverse(PyObject *self, visitproc visit, void *arg) {
    PyObject **place[PSHM_HOT_OBJECTS];
    objects_of((pshm_hot_path *)self, place);
    for (uint32_t k = 0; k < PSHM_HOT_OBJECTS; k++) Py_VISIT(*place[k]);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int path_clear(PyObject *self) {
    PyObject **place[PSHM_HOT_OBJECTS];
    objects_of((pshm_hot_path *)self, place);
    for (uint32_t k = 0; k < PSHM_HOT_OBJECTS; k++) Py_CLEAR(*place[k]);
    return 0;
}

static void path_dealloc(PyObject *self) {
    PyTypeObject *its = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    path_clear(self);
    ((freefunc)PyType_GetSlot(its, Py_tp_free))(self);
    Py_DECREF(its);
}

/* Puts another object in the place of one; None is NULL here. */
static void replace(PyObject **place, PyObject *object) {
    PyObject *before = *place;
    *place = object == Py_None ? NULL : object;
    Py_XINCREF(*place);
    Py_XDECREF(before);
}

/* ---- receiving ------------------------------------------------------------------------- */

static PyObject *learn(PyObject *self, PyObject *arguments) {
    pshm_hot_path *hot = (pshm_hot_path *)self;
    unsigned index;
    PyObject *shape, *dtype;
    if (!PyArg_ParseTuple(arguments, "IO!O", &index, &PyTuple_Type, &shape, &dtype)) return NULL;
    if (index >= PSHM_LAYOUTS) {
        PyErr_SetString(PyExc_IndexError, "no such layout");
        return NULL;
    }
    if (!pshm_form_set(&hot->in[index], shape, dtype)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *take(PyObject *self, PyObject *status) {
    pshm_hot_path *hot = (pshm_hot_path *)self;
    long value = PyLong_AsLong(status);
    if (value == -1 && PyErr_Occurred()) return NULL;
    uint32_t layout = pshm_array_layout((int)value);
    if (layout >= PSHM_LAYOUTS || hot->in[layout].dtype == NULL) {
        PyErr_SetString(PyExc_LookupError, "no array of a known layout is in hand");
        return NULL;
    }
    return pshm_hot_take(hot, (int)value);
}

/* Copied in one step, with the GIL: no message comes meanwhile. */
static PyObject *raw(PyObject *self, PyObject *none) {
    (void)none;
    const pshm_delivery *delivery = ((pshm_hot_path *)self)->delivery;
    uint32_t head = delivery->head < PSHM_MESSAGE_BYTES ? delivery->head : PSHM_MESSAGE_BYTES;
    return PyBytes_FromStringAndSize((const char *)delivery,
                                     (Py_ssize_t)(offsetof(pshm_delivery, body) + head));
}

/* receive_within(place, messages): a dict by token, or None for a place of another process. */
static PyObject *receive_within(PyObject *self, PyObject *arguments) {
    pshm_hot_path *hot = (pshm_hot_path *)self;
    unsigned place;
    PyObject *messages;
    if (!PyArg_ParseTuple(arguments, "IO", &place, &messages)) return NULL;
    if (place >= PSHM_INS) {
        PyErr_SetString(PyExc_IndexError, "no such place");
        return NULL;
    }
    replace(&hot->waiting[place], messages);
    Py_RETURN_NONE;
}

static PyObject *adopt(PyObject *self, PyObject *head) {
    if (!pshm_hot_adopt((pshm_hot_path *)self, head)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *decode_with(PyObject *self, PyObject *arguments) {
    pshm_hot_path *hot = (pshm_hot_path *)self;
    PyObject *decode, *loader, *stream;
    if (!PyArg_ParseTuple(arguments, "OOO", &decode, &loader, &stream)) return NULL;
    replace(&hot->decode, decode);
    replace(&hot->loader, loader);
    replace(&hot->stream, stream);
    Py_RETURN_NONE;
}

static PyObject *limit_age(PyObject *self, PyObject *arguments) {
    pshm_hot_path *hot = (pshm_hot_path *)self;
    unsigned place;
    unsigned long long limit_ns;
    if (!PyArg_ParseTuple(arguments, "IK", &place, &limit_ns)) return NULL;
    if (place >= PSHM_INS) {
        PyErr_SetString(PyExc_IndexError, "no such place");
        return NULL;
    }
    hot->max_age_ns[place] = limit_ns;
    Py_RETURN_NONE;
}

/* ---- sending --------------------------------------------------------------------------- */

static PyObject *send_on(PyObject *self, PyObject *arguments) {
    pshm_hot_path *hot = (pshm_hot_path *)self;
    PyObject *post, *within, *encode;
    unsigned long long outs, threshold;
    if (!PyArg_ParseTuple(arguments, "OKKOO", &post, &outs, &threshold, &within, &encode))
        return NULL;
    if (within != Py_None && !PyList_Check(within)) {
        PyErr_SetString(PyExc_TypeError, "a list of dicts, or None");
        return NULL;
    }
    hot->post = PyLong_AsVoidPtr(post);
    if (PyErr_Occurred()) return NULL;
    hot->outs = outs;
    hot->threshold = threshold;
    replace(&hot->within, within);
    replace(&hot->encode, encode);
    Py_RETURN_NONE;
}

/* share(array, threshold) -> a read-only array on its slot, or None */
static PyObject *share(PyObject *self, PyObject *arguments) {
    PyObject *array;
    unsigned long long threshold;
    if (!PyArg_ParseTuple(arguments, "OK", &array, &threshold)) return NULL;
    if (!PyArray_CheckExact(array) ||
        (uint64_t)PyArray_NBYTES((PyArrayObject *)array) < threshold)
        Py_RETURN_NONE;
    PyObject *own = pshm_hot_share((pshm_hot_path *)self, array);
    if (own != NULL || PyErr_Occurred()) return own;
    Py_RETURN_NONE;
}

static PyObject *describe(PyObject *self, PyObject *arguments) {
    pshm_hot_path *hot = (pshm_hot_path *)self;
    PyObject *shape, *dtype;
    const char *text;
    Py_ssize_t bytes;
    if (!PyArg_ParseTuple(arguments, "O!Oy#", &PyTuple_Type, &shape, &dtype, &text, &bytes))
        return NULL;
    if (bytes > (Py_ssize_t)PSHM_LAYOUT_BYTES || PyTuple_Size(shape) > PSHM_HOT_AXES)
        Py_RETURN_FALSE;
    pshm_form *form = &hot->out[hot->learnt++ % PSHM_HOT_LAYOUTS];
    if (!pshm_form_set(form, shape, dtype)) return NULL;
    form->text_bytes = (uint32_t)bytes;
    memcpy(form->text, text, (size_t)bytes);
    Py_RETURN_TRUE;
}

/* The object alone in a list, as a reference of one's own; NULL with an exception. */
static PyObject *only_one_of(PyObject *list) {
    PyObject *it = NULL;
    if (PyList_Check(list) && PyList_Size(list) == 1)
        it = PyList_GetItem(list, 0);
    else
        PyErr_SetString(PyExc_TypeError, "a list of one payload is wanted");
    Py_XINCREF(it);
    return it;
}

/* send(payload list, meta, ring, handled) -> status */
static PyObject *send(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    pshm_hot_path *hot = (pshm_hot_path *)self;
    if (count != 4 || hot->post == NULL) {
        PyErr_SetString(PyExc_TypeError, "four arguments are wanted, and send_on before");
        return NULL;
    }
    unsigned long ring = PyLong_AsUnsignedLong(arguments[2]);
    if (PyErr_Occurred()) return NULL;
    unsigned long handled = PyLong_AsUnsignedLong(arguments[3]);
    if (PyErr_Occurred() || !pshm_hot_head_of(hot, arguments[1])) return NULL;
    PyObject *payload = only_one_of(arguments[0]); /* after the meta, which is anybody's code */
    if (payload == NULL) return NULL;
    int status = pshm_hot_place(hot, payload);
    bool taken = status != PSHM_OK || PyList_SetSlice(arguments[0], 0, 1, NULL) == 0;
    Py_DECREF(payload); /* before the send */
    if (!taken) return NULL;
    if (status != PSHM_OK) return PyLong_FromLong(status);
    hot->ring = (uint32_t)ring;
    return PyLong_FromLong(pshm_hot_tell(hot, (uint32_t)handled));
}

/* The last message that was sent here, as the arguments of `binding.Port.send`. */
static PyObject *message(PyObject *self, PyObject *none) {
    (void)none;
    const pshm_hot_path *hot = (const pshm_hot_path *)self;
    const pshm_outgoing *out = &hot->outgoing;
    return Py_BuildValue("IKKIIIy#n", hot->ring, (unsigned long long)out->sequence,
                         (unsigned long long)out->captured_ns, out->origin, out->kind, out->head,
                         (const char *)out->body, (Py_ssize_t)out->bytes, (Py_ssize_t)out->bytes);
}

/* ---- pickling -------------------------------------------------------------------------- */

static PyObject *begin_pickle(PyObject *self, PyObject *arguments) {
    pshm_hot_path *hot = (pshm_hot_path *)self;
    PyObject *post, *table;
    unsigned long long outs, threshold;
    if (!PyArg_ParseTuple(arguments, "OKKO!", &post, &outs, &threshold, &PyList_Type, &table))
        return NULL;
    hot->pickled_post = PyLong_AsVoidPtr(post);
    if (PyErr_Occurred()) return NULL;
    hot->dumps++;
    hot->pickled_outs = outs;
    hot->pickled_threshold = threshold;
    replace(&hot->table, table);
    Py_RETURN_NONE;
}

static PyObject *pickle_by(PyObject *self, PyObject *arguments) {
    pshm_hot_path *hot = (pshm_hot_path *)self;
    PyObject *dump, *clear_memo, *pieces, *registered, *live, *finish, *refuse;
    if (!PyArg_ParseTuple(arguments, "OOO!O!O!OO", &dump, &clear_memo, &PyList_Type, &pieces,
                          &PyDict_Type, &registered, &PyDict_Type, &live, &finish, &refuse))
        return NULL;
    if (hot->table == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "begin_pickle comes first");
        return NULL;
    }
    replace(&hot->clear_memo, clear_memo);
    replace(&hot->pieces, pieces);
    replace(&hot->registered, registered);
    replace(&hot->live, live);
    replace(&hot->finish, finish);
    replace(&hot->refuse, refuse);
    replace(&hot->dump, dump);
    Py_RETURN_NONE;
}

static PyObject *end_pickle(PyObject *self, PyObject *none) {
    (void)none;
    pshm_hot_forget(((pshm_hot_path *)self)->named);
    Py_RETURN_NONE;
}

static PyObject *persistent_id(PyObject *self, PyObject *thing) {
    pshm_hot_path *hot = (pshm_hot_path *)self;
    if (hot->pickled_post == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "nothing is being pickled");
        return NULL;
    }
    return pshm_hot_name(hot, thing);
}

static PyObject *persistent_load(PyObject *self, PyObject *name) {
    return pshm_hot_named((pshm_hot_path *)self, name);
}

static PyObject *pickle_form(PyObject *self, PyObject *arguments) {
    pshm_hot_path *hot = (pshm_hot_path *)self;
    PyObject *shape, *dtype, *layout;
    if (!PyArg_ParseTuple(arguments, "O!OO!", &PyTuple_Type, &shape, &dtype, &PyBytes_Type,
                          &layout))
        return NULL;
    if (PyTuple_Size(shape) > PSHM_HOT_AXES) Py_RETURN_NONE;
    pshm_form form = {.dtype = NULL};
    if (!pshm_form_set(&form, shape, dtype)) return NULL;
    pshm_form *place = &hot->pickled[hot->pickled_learnt++ % PSHM_HOT_LAYOUTS], before = *place;
    Py_INCREF(layout);
    form.layout = layout;
    form.learnt = hot->dumps;
    *place = form;
    Py_XDECREF(before.dtype);
    Py_XDECREF(before.layout);
    Py_RETURN_NONE;
}

/* ---- tracing --------------------------------------------------------------------------- */

/* trace_frame(origin, sequence): the frame of the call that begins. */
static PyObject *trace_frame(PyObject *self, PyObject *arguments) {
    pshm_port *port = ((pshm_hot_path *)self)->port;
    unsigned origin;
    unsigned long long sequence;
    if (!PyArg_ParseTuple(arguments, "IK", &origin, &sequence)) return NULL;
    port->frame_origin = origin;
    port->frame = sequence;
    Py_RETURN_NONE;
}

/* trace(kind, other, began_ns): until now, about that frame. */
static PyObject *trace(PyObject *self, PyObject *arguments) {
    unsigned kind, other;
    unsigned long long began_ns;
    if (!PyArg_ParseTuple(arguments, "IIK", &kind, &other, &began_ns)) return NULL;
    pshm_port_trace_call(((pshm_hot_path *)self)->port, kind, other, began_ns);
    Py_RETURN_NONE;
}

/* ---- the loop -------------------------------------------------------------------------- */

/* run(main_logic, is_source, ring, interval_ns, turn_ns) -> outcome */
static PyObject *run(PyObject *self, PyObject *arguments) {
    pshm_hot_path *hot = (pshm_hot_path *)self;
    PyObject *main_logic;
    int source;
    unsigned ring;
    unsigned long long interval_ns, turn_ns;
    if (!PyArg_ParseTuple(arguments, "OpIKK", &main_logic, &source, &ring, &interval_ns,
                          &turn_ns))
        return NULL;
    hot->source = source != 0;
    hot->ring = ring;
    hot->interval_ns = interval_ns;
    hot->turn_ns = turn_ns;
    int outcome = pshm_hot_loop(hot, main_logic);
    return outcome < 0 ? NULL : PyLong_FromLong(outcome);
}

static PyObject *taken(PyObject **value) {
    PyObject *it = *value;
    *value = NULL;
    if (it != NULL) return it;
    Py_RETURN_NONE;
}

static PyObject *take_payload(PyObject *self, PyObject *none) {
    (void)none;
    return taken(&((pshm_hot_path *)self)->payload);
}

static PyObject *come_back(PyObject *self, PyObject *none) {
    (void)none;
    ((pshm_hot_path *)self)->stale = true;
    Py_RETURN_NONE;
}

static PyObject *take_error(PyObject *self, PyObject *none) {
    (void)none;
    return taken(&((pshm_hot_path *)self)->error);
}

static PyObject *take_result(PyObject *self, PyObject *none) {
    (void)none;
    return taken(&((pshm_hot_path *)self)->result);
}

static PyObject *get_meta(PyObject *self, void *closure) {
    (void)closure;
    PyObject *meta = ((pshm_hot_path *)self)->meta;
    if (meta == NULL) Py_RETURN_NONE;
    Py_INCREF(meta);
    return meta;
}

static int set_meta(PyObject *self, PyObject *meta, void *closure) {
    (void)closure;
    pshm_hot_path *hot = (pshm_hot_path *)self;
    PyObject *before = hot->meta;
    Py_XINCREF(meta);
    hot->meta = meta == Py_None ? NULL : meta;
    if (meta == Py_None) Py_DECREF(meta);
    Py_XDECREF(before);
    return 0;
}

/* ---- the module ------------------------------------------------------------------------ */

static PyMethodDef methods[] = {
    {"learn", learn, METH_VARARGS,
     "learn(index, shape, dtype): what a layout of the delivery is."},
    {"take", take, METH_O, "take(status): the array in hand, read-only for good."},
    {"raw", raw, METH_NOARGS, "raw(): the message in hand, for Meta.received."},
    {"decode_with", decode_with, METH_VARARGS,
     "decode_with(decode, loader, stream): what makes a payload of a pickled message; classes: "
     "an unpickler with `persistent_load`, and what it reads from."},
    {"limit_age", limit_age, METH_VARARGS,
     "limit_age(place, ns): `run` hands over nothing older."},
    {"receive_within", receive_within, METH_VARARGS,
     "receive_within(place, messages): those of the flow that wait there, by token; or None."},
    {"adopt", adopt, METH_O,
     "adopt(head): makes it, of a message from the flow, the head of the message in hand."},
    {"send_on", send_on, METH_VARARGS,
     "send_on(post, outs, threshold, within, encode): where messages go to; within a flow also "
     "what waits there; elsewhere, what makes a message of what is no array in a slot."},
    {"share", share, METH_VARARGS,
     "share(array, threshold): a read-only array on its slot; None where it lies in none."},
    {"describe", describe, METH_VARARGS,
     "describe(shape, dtype, text): how messages say that. Whether there is room for it."},
    {"send", (PyCFunction)(void (*)(void))send, METH_FASTCALL,
     "send([array], meta, ring, handled): takes it out of the list and sends it; a status."},
    {"message", message, METH_NOARGS, "message(): what was sent, as binding.Port.send takes it."},
    {"pickle_form", pickle_form, METH_VARARGS,
     "pickle_form(shape, dtype, layout): of C-contiguous arrays that `persistent_id` knows."},
    {"begin_pickle", begin_pickle, METH_VARARGS,
     "begin_pickle(post, outs, threshold, table): where the next payload goes, and its buffers."},
    {"end_pickle", end_pickle, METH_NOARGS, "end_pickle(): lets go of what was pickled."},
    {"pickle_by", pickle_by, METH_VARARGS,
     "pickle_by(dump, clear_memo, pieces, registered, live, finish, refuse): see hot.h."},
    {"persistent_id", persistent_id, METH_O,
     "persistent_id(thing): a pickler's; of arrays and classes."},
    {"persistent_load", persistent_load, METH_O, "persistent_load(name): an unpickler's."},
    {"run", run, METH_VARARGS,
     "run(main_logic, is_source, ring, interval_ns, turn_ns): calls it until Python is wanted."},
    {"trace_frame", trace_frame, METH_VARARGS,
     "trace_frame(origin, sequence): the frame of the call that begins, for a trace."},
    {"trace", trace, METH_VARARGS,
     "trace(kind, other, began_ns): what the routine did until now, with that frame."},
    {"come_back", come_back, METH_NOARGS,
     "come_back(): `run` ends after the call that is under way."},
    {"take_payload", take_payload, METH_NOARGS, "take_payload(): what the call that raised got."},
    {"take_error", take_error, METH_NOARGS,
     "take_error(): why no message, or no payload, could be made; None: it could."},
    {"take_result", take_result, METH_NOARGS, "take_result(): what is to be sent by Python."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef attributes[] = {
    {"meta", get_meta, set_meta, "Of the message in hand; None while nobody has looked at it.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMemberDef members[] = {
    {"status", T_INT, offsetof(pshm_hot_path, status), READONLY,
     "Of the receipt, or the send, that ended `run`."},
    {"turn_ns", T_ULONGLONG, offsetof(pshm_hot_path, turn_ns), READONLY,
     "When the last call of `run` was due; 0: it had no interval."},
    {"token", T_ULONGLONG, offsetof(pshm_hot_path, token), 0,
     "Of the last message that was made for the flow."},
    {"sequence", T_ULONGLONG, offsetof(pshm_hot_path, sequence), READONLY,
     "Of the message that a source makes, or made last."},
    {"calls", T_ULONGLONG, offsetof(pshm_hot_path, calls), READONLY,
     "Calls in the last `run` that did not raise."},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot slots[] = {
    {Py_tp_doc,
     "HotPath(owners, port, delivery): one routine's port, for arrays that lie in slots."},
    {Py_tp_new, path_new},
    {Py_tp_dealloc, path_dealloc},
    {Py_tp_traverse, path_traverse},
    {Py_tp_clear, path_clear},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {Py_tp_members, members},
    {0, NULL},
};
static PyType_Spec spec = {
    .name = "pipert_shm._hot.HotPath",
    .basicsize = sizeof(pshm_hot_path),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

PyObject *pshm_path_type(void) {
    return PyType_FromSpec(&spec);
}
