/* preload.h - the call that a library for LD_PRELOAD stands in front of. */
#ifndef LAMINA_PRELOAD_H
#define LAMINA_PRELOAD_H

#include <dlfcn.h>

/* Within a function of that name: real.function is the one behind it. dlsym gives an object
 * pointer; a union makes a function of it. */
#define REAL(name)                                                                                 \
    static union {                                                                                 \
        void *object;                                                                              \
        __typeof__(&(name)) function;                                                              \
    } real;                                                                                        \
    if (!real.object) real.object = dlsym(RTLD_NEXT, #name)

#endif
