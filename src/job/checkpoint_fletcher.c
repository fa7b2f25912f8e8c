/* checkpoint_fletcher.c - the sums of fletcher32, eight words at a time. See checkpoint_fletcher.h.
 *
 * Lane l sums words l, l + 8, ... (a) and that sum after each of them (b). After m words a lane,
 * word 8 k + l has been in the second sum 8 (m - k) - l times, so that sum is 8 b - l a over all
 * lanes, and 8 m times the first sum of what came before. 360 words a lane are the most that b can
 * take: 65535 * 360 * 361 / 2 < 2^32. Words are taken as the host has them: swapping the bytes of
 * all words multiplies both sums by 256 modulo 65535, which swaps their bytes too.
 */
#include "checkpoint_fletcher.h"

#include "check.h"

enum { LANES = 8, MOST_WORDS = 360 /* of a lane */ };

static uint64_t fold(uint64_t sum) {
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static uint32_t swap(uint64_t sum) {
    return (uint32_t)((sum & 0xff) << 8 | sum >> 8);
}

uint32_t fletcher32(const void *bytes, size_t n_bytes) {
    REQUIRE(n_bytes % (LANES * sizeof(uint16_t)) == 0, "a checksum of %zu bytes", n_bytes);
    const uint16_t *word = bytes;
    size_t n_left = n_bytes / (LANES * sizeof(uint16_t)); /* of a lane */
    uint64_t first = 0, second = 0;
    while (n_left > 0) {
        size_t n = n_left < MOST_WORDS ? n_left : MOST_WORDS;
        uint32_t a[LANES] = {0}, b[LANES] = {0};
        for (size_t at = 0; at < n; at++, word += LANES) {
            for (int lane = 0; lane < LANES; lane++) {
                a[lane] += word[lane];
                b[lane] += a[lane];
            }
        }
        second += first * (LANES * n);
        for (int lane = 0; lane < LANES; lane++) {
            first += a[lane];
            second += (uint64_t)LANES * b[lane] - (uint64_t)lane * a[lane];
        }
        first = fold(first);
        second = fold(second);
        n_left -= n;
    }
    return swap(second) << 16 | swap(first);
}
