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
