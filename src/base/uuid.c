/* uuid.c - random names. See uuid.h. */
#include "uuid.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

bool uuid_make(char uuid[UUID_BYTES], struct fault *fault) {
    unsigned char byte[16];
    if (getrandom(byte, sizeof byte, 0) != (ssize_t)sizeof byte)
        return fault_world(fault, "no random numbers: %s", strerror(errno));
    byte[6] = (unsigned char)((byte[6] & 0x0f) | 0x40); /* version */
    byte[8] = (unsigned char)((byte[8] & 0x3f) | 0x80); /* variant */
    char *at = uuid;
    for (size_t place = 0; place < sizeof byte; place++) {
        if (place == 4 || place == 6 || place == 8 || place == 10) *at++ = '-';
        at += sprintf(at, "%02x", byte[place]);
    }
    return true;
}
