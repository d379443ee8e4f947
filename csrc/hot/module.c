#define PSHM_HOT_MODULE
#include "hot.h"

/* array(address, shape, dtype): a writable array in a slot of one's own, at its beginning. */
static PyObject *array(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *address, *shape, *dtype;
    pshm_form form = {.dtype = NULL};
    if (!PyArg_ParseTuple(arguments, "OO!O", &address, &PyTuple_Type, &shape, &dtype))
        return NULL;
    void *at = PyLong_AsVoidPtr(address);
    if (PyErr_Occurred()) return NULL;
    if (!pshm_form_set(&form, shape, dtype)) {
        pshm_release(at);
        return NULL;
    }
    PyObject *made = pshm_lease_array(&form, at, (Py_ssize_t)form.bytes, true);
    Py_DECREF(form.dtype);
    return made;
}

/* lease(address, bytes, writable) */
static PyObject *lease(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *address;
    Py_ssize_t bytes;
    int writable;
    if (!PyArg_ParseTuple(arguments, "Onp", &address, &bytes, &writable)) return NULL;
    void *at = PyLong_AsVoidPtr(address);
    if (PyErr_Occurred()) return NULL;
    if (bytes < 0) {
        pshm_release(at);
        PyErr_SetString(PyExc_ValueError, "a negative length");
        return NULL;
    }
    return pshm_lease_new(at, bytes, writable != 0);
}

/* array_at(buffer, offset, layout) */
static PyObject *array_at(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    if (count == 3) return pshm_array_at(arguments[0], arguments[1], arguments[2]);
    PyErr_SetString(PyExc_TypeError, "three arguments are wanted");
    return NULL;
}

static PyObject *pickle_rules(PyObject *module, PyObject *functions) {
    (void)module;
    if (!pshm_pickled_ready(functions)) return NULL;
    Py_RETURN_NONE;
}

/* trace(kind, detail, routine, other, origin, sequence, began_ns, ended_ns) */
static PyObject *trace(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned kind, detail, origin;
    unsigned short routine, other;
    unsigned long long sequence, began_ns, ended_ns;
    if (!PyArg_ParseTuple(arguments, "IIHHIKKK", &kind, &detail, &routine, &other, &origin,
                          &sequence, &began_ns, &ended_ns))
        return NULL;
    pshm_trace_event event = {.time_ns = ended_ns != 0 ? ended_ns : pshm_now(),
                              .began_ns = began_ns,
                              .sequence = sequence,
                              .kind = kind,
                              .detail = detail,
                              .routine = routine,
                              .other = other,
                              .origin = origin};
    pshm_trace_note(&event);
    Py_RETURN_NONE;
}

/* ---- a context that does nothing --------------------------------------------------------- */

static PyObject *enter(PyObject *self, PyObject *none) {
    (void)self;
    (void)none;
    Py_RETURN_NONE;
}

static PyObject *leave(PyObject *self, PyObject *const *error, Py_ssize_t count) {
    (void)self;
    (void)error;
    (void)count;
    Py_RETURN_NONE;
}

static PyMethodDef no_span_methods[] = {
    {"__enter__", enter, METH_NOARGS, "Does nothing."},
    {"__exit__", (PyCFunction)(void (*)(void))leave, METH_FASTCALL, "Does nothing."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot no_span_slots[] = {
    {Py_tp_doc, "A context that does nothing: a span while nobody traces."},
    {Py_tp_methods, no_span_methods},
    {0, NULL},
};
static PyType_Spec no_span = {
    .name = "pipert_shm._hot.NoSpan",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = no_span_slots,
};

static PyMethodDef functions[] = {
    {"trace", trace, METH_VARARGS,
     "trace(kind, detail, routine, other, origin, sequence, began_ns, ended_ns): notes an "
     "event."},
    {"array_at", (PyCFunction)(void (*)(void))array_at, METH_FASTCALL,
     "array_at(buffer, offset, layout): an array on a buffer, read-only for good."},
    {"pickle_rules", pickle_rules, METH_VARARGS,
     "pickle_rules(name_of_class, class_of_name, read_layout, array_at): Python's part."},
    {"array", array, METH_VARARGS, "array(address, shape, dtype): an array on a new lease."},
    {"lease", lease, METH_VARARGS,
     "lease(address, bytes, writable): a Lease, which ends itself."},
    {NULL, NULL, 0, NULL},
};
static const struct {
    const char *name;
    int value;
} constants[] = {
    {"AXES", PSHM_HOT_AXES},
    {"UNKNOWN", PSHM_HOT_UNKNOWN},
    {"FOUND", PSHM_LOOP_FOUND},
    {"NOTICED", PSHM_LOOP_NOTICE},
    {"RESULT", PSHM_LOOP_RESULT},
    {"SENT", PSHM_LOOP_SENT},
    {"REFUSED", PSHM_LOOP_REFUSED},
    {"KIND_ARRAY", PSHM_KIND_ARRAY},
    {"KIND_TICKETED", PSHM_KIND_TICKETED},
    {"KIND_STAMPED", PSHM_KIND_STAMPED},
};

/* One state for the process, as the core has. */
static bool is_main_interpreter(void) {
    return PyInterpreterState_GetID(PyInterpreterState_Get()) == 0;
}

/* In phases, so that it runs in each interpreter that wants the module, and can refuse. */
static int fill(PyObject *made) {
    if (!is_main_interpreter()) {
        PyErr_SetString(
            PyExc_ImportError,
            "pipert_shm runs in a process's main interpreter, not in a subinterpreter");
        return -1;
    }
    import_array1(-1);
    if (!pshm_lease_ready(made) || !pshm_give_ready()) return -1;
    PyObject *type = pshm_path_type();
    int added = type == NULL ? -1 : PyModule_AddObjectRef(made, "HotPath", type);
    Py_XDECREF(type);
    PyObject *context = PyType_FromSpec(&no_span);
    if (added == 0) added = context == NULL ? -1 : PyModule_AddObjectRef(made, "NoSpan", context);
    Py_XDECREF(context);
    for (size_t k = 0; added == 0 && k < sizeof constants / sizeof constants[0]; k++)
        added = PyModule_AddIntConstant(made, constants[k].name, constants[k].value);
    return added;
}

static PyModuleDef_Slot phases[] = {
    {Py_mod_exec, (void *)fill},
    {0, NULL},
};
static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "pipert_shm._hot", NULL, 0, functions, phases, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__hot(void) {
    return PyModuleDef_Init(&module);
}
