/* bench_lengths.c - sequences of different lengths whose total is known. See bench_parts.h.
 *
 * Lengths x between m / N and m * N with density x^(-3/2): many are short and few are long, as in
 * the traces of services, and their mean is m for any N. The quantile of p is m / (c - d p)^2 with
 * c = sqrt N and d = c - 1 / c, and what all below p have together 1 / (d (c - d p)) - 1 / (d c).
 * Sequence k gets what lies between k / n and (k + 1) / n of that, so that the lengths are those of
 * the distribution and not of a draw from it; only their order is drawn.
 */
#include <math.h>

#include "bench_parts.h"

/* Of the total, what the shortest sequences have together that are `part` of all. */
static double share_of(double part, double spread) {
    double c = sqrt(spread), d = c - 1 / c;
    return spread > 1 ? 1 / (d * (c - d * part)) - 1 / (d * c) : part;
}

void bench_lengths(int32_t *length, int n, int mean, int spread, uint64_t seed) {
    double total = (double)n * mean;
    int64_t before = 0;
    for (int at = 0; at < n; at++) {
        int64_t end = llround(total * share_of((at + 1) / (double)n, spread));
        length[at] = (int32_t)(end - before);
        before = end;
    }
    for (int at = n - 1; at > 0; at--) { /* Fisher and Yates, by Knuth's MMIX generator */
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        int other = (int)((seed >> 33) % (uint64_t)(at + 1));
        int32_t kept = length[at];
        length[at] = length[other];
        length[other] = kept;
    }
}
