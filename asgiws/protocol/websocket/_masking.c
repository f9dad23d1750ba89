/* Unmasking of WebSocket payloads (RFC 6455 section 5.3), the one per-byte loop that Python has no primitive for.
 * Limited API, so that one build serves every Python from 3.11 on; free-threaded ones have none, and get a build of
 * their own (.ci/build_backend.py). asgiws/protocol/websocket/masking.py says when it is used. */

#define PY_SSIZE_T_CLEAN
#include <pyconfig.h>
#ifndef Py_GIL_DISABLED
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>
#include <stdint.h>
#include <string.h>

static PyObject *
unmask(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    char *data, *key, *out;
    Py_ssize_t size, key_size, start, stop, length, at;
    uint32_t word;
    uint64_t key64;
    PyObject *result;

    (void)module;
    if (count != 4) {
        PyErr_Format(PyExc_TypeError, "unmask(data, start, stop, key), got %zd arguments", count);
        return NULL;
    }
    start = PyLong_AsSsize_t(args[1]);
    stop = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred() || PyBytes_AsStringAndSize(args[0], &data, &size) < 0
        || PyBytes_AsStringAndSize(args[3], &key, &key_size) < 0)
        return NULL;
    if (start < 0 || stop < start || stop > size || key_size != 4) {
        PyErr_SetString(PyExc_ValueError, "unmask: 0 <= start <= stop <= len(data) and a key of 4 bytes");
        return NULL;
    }
    length = stop - start;
    result = PyBytes_FromStringAndSize(NULL, length);
    if (result == NULL)
        return NULL;
    out = PyBytes_AsString(result); /* not AsStringAndSize without a size: it refuses zero bytes */
    if (out == NULL) {
        Py_DECREF(result);
        return NULL;
    }
    data += start;
    memcpy(&word, key, 4);
    key64 = ((uint64_t)word << 32) | word; /* both halves are equal, so byte order does not matter */
    for (at = 0; at + 8 <= length; at += 8) {
        uint64_t piece;
        memcpy(&piece, data + at, 8);
        piece ^= key64;
        memcpy(out + at, &piece, 8);
    }
    for (; at < length; at++)
        out[at] = data[at] ^ key[at & 3];
    return result;
}

static PyMethodDef methods[] = {
    {"unmask", (PyCFunction)(void (*)(void))unmask, METH_FASTCALL,
     "unmask(data, start, stop, key)\n--\n\nReturn data[start:stop] exclusive-ored with the 4 bytes of key in turn."},
    {NULL, NULL, 0, NULL},
};

/* It has no state: an import need not switch the GIL on (Python 3.13 and newer), and interpreters may share nothing. */
static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_masking", "Unmasking of WebSocket payloads in C.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__masking(void)
{
    return PyModuleDef_Init(&module);
}
