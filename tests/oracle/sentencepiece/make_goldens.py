#!/usr/bin/env python3
"""Train a small SentencePiece BPE model, write its vocabulary as GGUF and tokenise test texts with it.

    make_goldens.py ../../../LICENSE vocabulary.gguf sentencepiece.jsonl   (needs PyPI: sentencepiece, gguf)

Expected ids come from the sentencepiece library, one call for each stretch between added tokens:
like the fast tokenizers and llama.cpp, lamina puts the leading space before every such stretch.
"""
import io
import json
import random
import re
import sys

import sentencepiece
from gguf import GGUFWriter

CONTROL = ["<|user|>", "<|end|>"]
USER = ["<sep>", "<se", "\n\n"]
NORMAL, UNKNOWN, CONTROL_TYPE, USER_TYPE, BYTE = 1, 2, 3, 4, 6

TEXTS = [
    "", " ", "  ", "   ", "a", " a", "a ", "the license", " the license", "  the  license  ", "Permission is hereby granted",
    "You may reproduce and distribute copies of the Work", "\n", "\n\n", "a\n\nb", "\t\ttabs", "line\nline\r\n",
    "caf\u00e9 na\u00efve", "\u4f60\u597d", "\U0001f680 up", "\u2581", "a\u2581b", "\u2581\u2581x", "a\u0000b", "\u00df\u00e9\u00df", "<0x41>", "<unk>", "<s>x</s>",
    "<|user|>hello<|end|>", "<|user|> hello <|end|> x", "<sep>", "a<sep>b", "a <sep> b", "<se", "<sepa", "<<sep>>", "x<|user|", "1234567890",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "........................", "e\u0301", "\ufeff", "\u3000x",
]


def train(corpus):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus.split("\n")),
        model_writer=model,
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        control_symbols=CONTROL,
        user_defined_symbols=USER,
        num_threads=1,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def token_type(model, number):
    if model.is_unknown(number):
        return UNKNOWN
    if model.is_control(number):
        return CONTROL_TYPE
    if model.is_byte(number):
        return BYTE
    return USER_TYPE if model.id_to_piece(number) in USER else NORMAL


def write_vocabulary(model, path):
    numbers = range(model.get_piece_size())
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([model.id_to_piece(number) for number in numbers])
    writer.add_token_scores([model.get_score(number) for number in numbers])
    writer.add_token_types([token_type(model, number) for number in numbers])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def encode(model, text, parse_special):
    added = USER + (CONTROL + ["<unk>", "<s>", "</s>"] if parse_special else [])
    added.sort(key=len, reverse=True)
    ids = []
    for part in re.split("(" + "|".join(map(re.escape, added)) + ")", text):
        if part in added:
            ids.append(model.piece_to_id(part))
        elif part:
            ids += model.encode(part)
    return ids


def random_texts(corpus, count):
    pick = random.Random(5)
    words = corpus.split(" ")
    pool = words[:400] + TEXTS + [" ", "  ", "\n", "\u00e4", "\u6c49"]
    for _ in range(count):
        joint = pick.choice(["", " ", "  "])
        yield joint.join(pick.choice(pool) for _ in range(pick.randrange(2, 9)))


def main():
    corpus = open(sys.argv[1], encoding="utf-8").read()
    model = train(corpus)
    write_vocabulary(model, sys.argv[2])
    with open(sys.argv[3], "w", encoding="ascii") as file:
        for text in TEXTS + list(random_texts(corpus, 60)):
            for parse_special in (False, True):
                ids = encode(model, text, parse_special)
                line = {"text": text, "parse_special": parse_special, "ids": ids}
                file.write(json.dumps(line, separators=(",", ":")) + "\n")


main()
