/* tokenizer.h - text to tokens and back, from the vocabulary inside a GGUF file.
 *
 * Two models: byte-level BPE (`tokenizer.ggml.model` = gpt2) with the pre-tokenizer that
 * `tokenizer.ggml.pre` names, and SPM merging by score with byte fallback (= llama). An unknown
 * name is the user's fault, never a guess. A tokenizer is used by one thread at a time.
 */
#ifndef LAMINA_TOKENIZER_H
#define LAMINA_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "gguf.h"

struct tokenizer;

/* A growing list of tokens; zero-initialise, release with free(ids.id). */
struct token_list {
    int32_t *id;
    size_t n, capacity;
};

/* Build from the vocabulary of `gguf`, which must stay open as long as the tokenizer. */
bool tokenizer_open(struct tokenizer **tokenizer, const struct gguf *gguf, struct fault *fault);
/* Of a model that has no vocabulary: token 17 is written <17>, none is special or ends a generation,
 * and there is no text to encode. */
void tokenizer_open_numbers(struct tokenizer **tokenizer, int n_tokens);
void tokenizer_close(struct tokenizer *tokenizer);

int tokenizer_n_tokens(const struct tokenizer *tokenizer);

/* Append the tokens of `n_bytes` of UTF-8 text (U+0000 included) to `list`. With `parse_special`
 * control tokens written in the text are recognised, else they are ordinary text; user-defined
 * tokens always are recognised (they are part of how a vocabulary spells text: runs of spaces,
 * missing letters). No BOS or EOS is added. Text is composed (NFC) first where the model family's
 * own tokenizer does that (qwen2). A byte that no token stands for is dropped. False with a fault,
 * and `list` as it was, when the text is not valid UTF-8, is over 512 MiB, has more than 16 MiB
 * without a place to cut it, has thousands of combining marks on one letter, or a regular
 * expression ran into its limits. */
bool tokenizer_encode(struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                      bool parse_special, struct token_list *list, struct fault *fault);

/* BOS id when the model file asks for one to be added, else -1; likewise EOS appended to prompts.
 */
int32_t tokenizer_bos(const struct tokenizer *tokenizer);
int32_t tokenizer_eos_appended(const struct tokenizer *tokenizer);

/* Ids that end a generation; *n of them, a view: the file's eos, eot and eom ids. Where the file
 * has no eot key also the control tokens written <|eot_id|>, <|im_end|>, <end_of_turn> and <|end|>,
 * and where it has no eom key <|eom_id|>. <|endoftext|> is never inferred: it separates documents
 * in training, models answer past it (SmolLM2's file declares <|im_end|> only), and where it does
 * end a generation the file says so (eos of base models); a request can name it in stop_token_ids.
 */
const int32_t *tokenizer_stop_ids(const struct tokenizer *tokenizer, size_t *n);

/* True for control and unknown tokens and the declared bos, eos, eot, eom, which
 * skip_special_tokens leaves out of the text. */
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id);

/* The bytes of one token as it stands in running text, a view valid until tokenizer_close. They
 * need not be whole UTF-8 characters. Control tokens give their written form; an id that is no
 * token gives none. */
const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, size_t *n_bytes);

/* Joins pieces into valid UTF-8 as tokens come: an incomplete character is held back until it is
 * whole; the longest beginning of a character that cannot be completed becomes one U+FFFD, as does
 * a byte that begins none. Zero-initialise; text_stream_close releases. */
struct text_stream {
    char *text; /* valid UTF-8 so far, NUL-terminated */
    size_t n_bytes, capacity;
    char held[4]; /* the beginning of a character */
    int n_held;
    bool skip_special; /* leave control tokens out */
    bool started;      /* SPM: the first piece loses the space that encoding put before the text;
                          set it beforehand where the text continues a prompt */
};
void text_stream_push(struct text_stream *stream, const struct tokenizer *tokenizer, int32_t id);
/* No more tokens will come: what is held back becomes U+FFFD. */
void text_stream_end(struct text_stream *stream);
void text_stream_close(struct text_stream *stream);

#endif
