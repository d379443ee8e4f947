#include "hot.h"

/* Gives buffers on a part of a slot that this process holds. Its end ends the hold. */
typedef struct lease {
    PyObject_HEAD void *address;
    Py_ssize_t bytes;
    bool writable;
} lease;

static PyTypeObject *type;

static void lease_dealloc(PyObject *self) {
    PyTypeObject *its = Py_TYPE(self);
    pshm_release(((lease *)self)->address); /* knows a forked child, which holds nothing */
    ((freefunc)PyType_GetSlot(its, Py_tp_free))(self);
    Py_DECREF(its);
}

/* NumPy asks for a writable buffer before it makes an array writable, and is refused. */
static int lease_buffer(PyObject *self, Py_buffer *view, int flags) {
    lease *own = (lease *)self;
    return PyBuffer_FillInfo(view, self, own->address, own->bytes, !own->writable, flags);
}

static PyType_Slot slots[] = {
    {Py_tp_doc, "A buffer on a slot of shared memory, which is held while any view of it lives."},
    {Py_tp_dealloc, lease_dealloc},
    {Py_bf_getbuffer, lease_buffer},
    {0, NULL},
};
static PyType_Spec spec = {
    .name = "pipert_shm._hot.Lease",
    .basicsize = sizeof(lease),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

bool pshm_lease_ready(PyObject *module) {
    type = (PyTypeObject *)PyType_FromSpec(&spec);
    return type != NULL && PyModule_AddObjectRef(module, "Lease", (PyObject *)type) == 0;
}

PyObject *pshm_lease_new(void *address, Py_ssize_t bytes, bool writable) {
    lease *own = (lease *)PyType_GenericAlloc(type, 0);
    if (own == NULL) {
        pshm_release(address);
        return NULL;
    }
    own->address = address;
    own->bytes = bytes;
    own->writable = writable;
    return (PyObject *)own;
}

PyObject *pshm_array_on(const pshm_form *form, void *address, PyObject *owner, bool writable) {
    Py_INCREF(form->dtype); /* which the next call takes, in any case */
    PyObject *array = PyArray_NewFromDescr(&PyArray_Type, (PyArray_Descr *)form->dtype,
                                           form->axes, form->length, NULL, address,
                                           writable ? NPY_ARRAY_WRITEABLE : 0, NULL);
    if (array == NULL) {
        Py_DECREF(owner);
        return NULL;
    }
    PyArray_UpdateFlags((PyArrayObject *)array, NPY_ARRAY_ALIGNED);
    if (PyArray_SetBaseObject((PyArrayObject *)array, owner) < 0) { /* takes it in any case */
        Py_DECREF(array);
        return NULL;
    }
    return array;
}

PyObject *pshm_lease_array(const pshm_form *form, void *address, Py_ssize_t bytes,
                           bool writable) {
    PyObject *own = pshm_lease_new(address, bytes, writable);
    return own == NULL ? NULL : pshm_array_on(form, address, own, writable);
}

void *pshm_lease_memory(PyObject *object, Py_ssize_t *bytes) {
    if (Py_TYPE(object) != type) return NULL;
    *bytes = ((lease *)object)->bytes;
    return ((lease *)object)->address;
}

bool pshm_form_set(pshm_form *form, PyObject *shape, PyObject *dtype) {
    Py_ssize_t axes = PyTuple_Size(shape);
    if (axes < 0 || !PyArray_DescrCheck(dtype) || axes > PSHM_HOT_AXES) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "not a dtype, or too many dimensions");
        return false;
    }
    pshm_form read = {.dtype = dtype, .axes = (int)axes};
    read.bytes = (uint64_t)PyDataType_ELSIZE((PyArray_Descr *)dtype);
    for (Py_ssize_t k = 0; k < axes; k++) {
        Py_ssize_t length = PyLong_AsSsize_t(PyTuple_GetItem(shape, k));
        if (length < 0) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a negative length");
            return false;
        }
        read.length[k] = length;
        read.bytes *= (uint64_t)length;
    }
    PyObject *before = form->dtype;
    Py_INCREF(dtype);
    *form = read;
    Py_XDECREF(before);
    return true;
}
