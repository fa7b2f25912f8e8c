/* plain_elements.h - f32, f16 and bf16 from their definitions, in double: what they are worth, and
 * which is nearest. Nothing is taken from quant.c. */
#ifndef LAMINA_PLAIN_ELEMENTS_H
#define LAMINA_PLAIN_ELEMENTS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "device.h"

/* Bits behind the point of a number in [1, 2), and the exponent of the largest numbers. */
struct plain_element {
    int n_fraction, most_exponent;
};
static inline struct plain_element plain_element(enum element element) {
    return element == ELEMENT_F32   ? (struct plain_element){23, 127}
           : element == ELEMENT_F16 ? (struct plain_element){10, 15}
                                    : (struct plain_element){7, 127};
}

/* Sign, exponent, fraction: (-1)^s 2^(e - bias) (1 + f), or 2^(1 - bias) f below the normals. */
static inline double plain_value(enum element element, uint32_t bits) {
    struct plain_element as = plain_element(element);
    int n_exponent = 8 * (int)element_bytes(element) - 1 - as.n_fraction;
    int exponent = (int)(bits >> as.n_fraction) & ((1 << n_exponent) - 1);
    double fraction = ldexp(bits & ((1u << as.n_fraction) - 1), -as.n_fraction);
    double sign = bits >> (8 * (int)element_bytes(element) - 1) ? -1 : 1;
    if (exponent == (1 << n_exponent) - 1) return fraction != 0 ? NAN : sign * INFINITY;
    return exponent ? sign * ldexp(1 + fraction, exponent - as.most_exponent)
                    : sign * ldexp(fraction, 1 - as.most_exponent);
}

/* The nearest number that the element has, of two the even one. */
static inline double plain_nearest(enum element element, double x) {
    struct plain_element as = plain_element(element);
    int exponent, least = 1 - as.most_exponent;
    if (x == 0 || !isfinite(x)) return x;
    frexp(x, &exponent); /* |x| in [2^(exponent - 1), 2^exponent) */
    double unit = ldexp(1, (exponent - 1 > least ? exponent - 1 : least) - as.n_fraction);
    double nearest = copysign(rint(fabs(x) / unit) * unit, x);
    return fabs(nearest) >= ldexp(1, as.most_exponent + 1) ? copysign(INFINITY, x) : nearest;
}

static inline uint32_t plain_bits_at(enum element element, const void *data, size_t at) {
    uint32_t word = 0;
    size_t size = element_bytes(element);
    memcpy(&word, (const unsigned char *)data + at * size, size);
    return word;
}

static inline bool plain_same(double a, double b) {
    return isnan(a) ? isnan(b) : a == b && !signbit(a) == !signbit(b);
}

#endif
