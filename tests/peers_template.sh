#!/bin/sh
# Chat template texts as their makers publish them are recognised, those we have no renderer for are
# refused, and so is one whose BOS token the vocabulary does not have. peers_sdist.sh says where the
# texts come from.
#
#   peers_template.sh PROGRAM CACHE
#
# Exit 0: all as expected; 1: one is not; 77: the archive cannot be had.
set -u
program=$1 cache=$2
# shellcheck source=tests/peers_sdist.sh
. "$(dirname "$0")/peers_sdist.sh"

n_wrong=0
expect() { # NAME VOCABULARY TEMPLATE|-
    template=$3
    [ "$template" = - ] || template=$models/templates/$template.jinja
    if output=$("$program" "$models/ggml-vocab-$2.gguf" "$template" "$1"); then
        printf '%-20s %-12s %s\n' "$1" "$2" "$3"
    else
        n_wrong=$((n_wrong + 1))
        printf '%-20s %-12s %s: WRONG: %s\n' "$1" "$2" "$3" "$output"
    fi
}

expect phi3-mini phi-3 -
expect qwen2-beta qwen2 -
expect none command-r -
expect none gpt-2 -
expect qwen2.5 qwen2 Qwen-Qwen2.5-7B-Instruct
expect qwen3 qwen2 Qwen-Qwen3-0.6B
expect llama3.1 llama-bpe meta-llama-Llama-3.1-8B-Instruct
expect llama3.1 llama-bpe meta-llama-Llama-3.2-3B-Instruct
expect llama3.1 llama-bpe meta-llama-Llama-3.3-70B-Instruct
expect none llama-spm meta-llama-Llama-3.1-8B-Instruct
expect phi3 phi-3 microsoft-Phi-3.5-mini-instruct
expect none llama-spm microsoft-Phi-3.5-mini-instruct
expect mistral-v3-tekken llama-spm mistralai-Mistral-Nemo-Instruct-2407
expect mistral-v7-tekken llama-spm Mistral-Small-3.2-24B-Instruct-2506
expect none llama-spm google-gemma-2-2b-it
expect none qwen2 Qwen3-Coder
echo "$n_wrong wrong"
[ $n_wrong -eq 0 ]
