/* make_gguf_main.c - the command make_gguf: one random model from the command line.
 *
 *   make_gguf --seed 1 --architecture qwen3 --layers 3 --hidden 256 --heads 8 --kv-heads 2
 *             --head-dim 64 --ffn 512 --vocabulary 1031 --context 2048 --type mix -o FILE.gguf
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "make_gguf.h"

static const char help[] = "make_gguf [options] -o FILE   write a random model for tests\n"
                           "  --seed N             [1]\n"
                           "  --architecture NAME  llama, qwen2 or qwen3 [llama]\n"
                           "  --layers N           [3]\n"
                           "  --hidden N           [200]\n"
                           "  --heads N            [9]\n"
                           "  --kv-heads N         [3]\n"
                           "  --head-dim N         [40]\n"
                           "  --ffn N              [328]\n"
                           "  --vocabulary N       [1031]\n"
                           "  --context N          [2048]\n"
                           "  --type NAME          F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, "
                           "Q4_K, Q5_K, Q6_K or mix [F32]\n"
                           "  --tied               no output.weight\n"
                           "  --rope-factors       rope_freqs.weight as Llama 3 has it\n"
                           "  --alignment N        general.alignment [no such key]\n"
                           "  --split N            into N files [1]\n";

int main(int argc, char **argv) {
    struct make_gguf_wish wish = make_gguf_default();
    struct fault fault = {0};
    const char *path = NULL;
    int *const number[] = {&wish.layers,   &wish.hidden,   &wish.heads,      &wish.kv_heads,
                           &wish.head_dim, &wish.ffn,      &wish.vocabulary, &wish.context,
                           &wish.parts,    &wish.alignment};
    enum { NUMBER = 256, SEED = 300, ARCHITECTURE, TYPE, TIED, FACTORS };
    static const struct option table[] = {
        {"layers", required_argument, NULL, NUMBER},
        {"hidden", required_argument, NULL, NUMBER + 1},
        {"heads", required_argument, NULL, NUMBER + 2},
        {"kv-heads", required_argument, NULL, NUMBER + 3},
        {"head-dim", required_argument, NULL, NUMBER + 4},
        {"ffn", required_argument, NULL, NUMBER + 5},
        {"vocabulary", required_argument, NULL, NUMBER + 6},
        {"context", required_argument, NULL, NUMBER + 7},
        {"split", required_argument, NULL, NUMBER + 8},
        {"alignment", required_argument, NULL, NUMBER + 9},
        {"seed", required_argument, NULL, SEED},
        {"architecture", required_argument, NULL, ARCHITECTURE},
        {"type", required_argument, NULL, TYPE},
        {"tied", no_argument, NULL, TIED},
        {"rope-factors", no_argument, NULL, FACTORS},
        {"output", required_argument, NULL, 'o'},
        {NULL, 0, NULL, 0},
    };
    for (int option; (option = getopt_long(argc, argv, "o:", table, NULL)) != -1;) {
        switch (option) {
        case SEED: wish.seed = strtoull(optarg, NULL, 10); break;
        case ARCHITECTURE: wish.architecture = optarg; break;
        case TYPE: wish.type = optarg; break;
        case TIED: wish.tied = true; break;
        case FACTORS: wish.rope_factors = true; break;
        case 'o': path = optarg; break;
        case '?': fputs(help, stderr); return EXIT_USER;
        default: *number[option - NUMBER] = atoi(optarg); break;
        }
    }
    if (!path || optind != argc) {
        fputs(help, stderr);
        return EXIT_USER;
    }
    if (make_gguf_write(&wish, path, &fault)) return EXIT_DONE;
    fprintf(stderr, "make_gguf: %s\n", fault.text);
    return (int)fault.kind;
}
