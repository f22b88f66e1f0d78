/* In place of Python's own pyconfig.h where the extension is compiled for another system: Python's
   is made for one: Linux's asks for sys/select.h, Debian's for a file of its architecture. */

#ifndef Py_PYCONFIG_H
#define Py_PYCONFIG_H
#define SIZEOF_LONG __SIZEOF_LONG__
#define SIZEOF_LONG_LONG __SIZEOF_LONG_LONG__
#define SIZEOF_SIZE_T __SIZEOF_SIZE_T__
#define SIZEOF_VOID_P __SIZEOF_POINTER__
#define SIZEOF_WCHAR_T __SIZEOF_WCHAR_T__
#endif
