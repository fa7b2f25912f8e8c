/* checkpoint_fletcher.h - the checksum that HDF5's fletcher32 filter puts behind a chunk.
 *
 * Two sums over big-endian words of 16 bits, modulo 65535: of the words, and of that sum after each
 * word. HDF5's own takes word by word, which is slower than a disk; this one takes eight at a time.
 */
#ifndef LAMINA_CHECKPOINT_FLETCHER_H
#define LAMINA_CHECKPOINT_FLETCHER_H

#include <stddef.h>
#include <stdint.h>

enum { FLETCHER_BYTES = 4 };

/* Of `n_bytes`, a multiple of 16, aligned to 2. Little-endian in a file. */
uint32_t fletcher32(const void *bytes, size_t n_bytes);

#endif
