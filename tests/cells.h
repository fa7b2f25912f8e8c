/* cells.h - configurations as cells of a product of factors, and small sets of them that hold every
 * pair of values. */
#ifndef LAMINA_CELLS_H
#define LAMINA_CELLS_H

#include <stdbool.h>
#include <string.h>

enum { CELL_FACTORS = 9, CELL_MAX_VALUES = 8 };

struct cell {
    int value[CELL_FACTORS]; /* index among the factor's values */
};

struct cells {
    int n_values[CELL_FACTORS];
    bool (*possible)(const struct cell *cell);
};

/* The possible cell number `number` and beyond: moves *cell to it and *number behind it. False at
 * the end. The last factor runs fastest. */
static inline bool cells_next(const struct cells *cells, int *number, struct cell *cell) {
    int n_cells = 1;
    for (int factor = 0; factor < CELL_FACTORS; factor++)
        n_cells *= cells->n_values[factor];
    while (*number < n_cells) {
        int rest = (*number)++;
        for (int factor = CELL_FACTORS - 1; factor >= 0; factor--) {
            cell->value[factor] = rest % cells->n_values[factor];
            rest /= cells->n_values[factor];
        }
        if (cells->possible(cell)) return true;
    }
    return false;
}

/* Pairs of values of two factors, each known by its flag. */
struct cell_pairs {
    bool seen[CELL_FACTORS][CELL_MAX_VALUES][CELL_FACTORS][CELL_MAX_VALUES];
};

/* Pairs in `cell` that are not seen yet. */
static inline int cell_pairs_new(const struct cell_pairs *pairs, const struct cell *cell) {
    int n = 0;
    for (int a = 0; a < CELL_FACTORS; a++)
        for (int b = 0; b < a; b++)
            n += !pairs->seen[a][cell->value[a]][b][cell->value[b]];
    return n;
}

static inline void cell_pairs_mark(struct cell_pairs *pairs, const struct cell *cell) {
    for (int a = 0; a < CELL_FACTORS; a++)
        for (int b = 0; b < a; b++)
            pairs->seen[a][cell->value[a]][b][cell->value[b]] = true;
}

/* Every possible cell into `list` of room for `most`; returns how many there are. */
static inline int cells_all(const struct cells *cells, struct cell *list, int most) {
    struct cell cell;
    int n = 0;
    for (int number = 0; n < most && cells_next(cells, &number, &cell);)
        list[n++] = cell;
    return n;
}

/* A small set in which every pair of values stands that some possible cell has: the cell with the
 * most new pairs, again and again. */
static inline int cells_pairwise(const struct cells *cells, struct cell *list, int most) {
    struct cell_pairs pairs;
    memset(&pairs, 0, sizeof pairs);
    for (int n = 0; n < most; n++) {
        struct cell cell;
        int best = 0;
        for (int number = 0; cells_next(cells, &number, &cell);) {
            int n_new = cell_pairs_new(&pairs, &cell);
            if (n_new <= best) continue;
            best = n_new;
            list[n] = cell;
        }
        if (best == 0) return n;
        cell_pairs_mark(&pairs, &list[n]);
    }
    return most;
}

#endif
