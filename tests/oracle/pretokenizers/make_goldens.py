#!/usr/bin/env python3
"""Tokenise test texts with Hugging Face's `tokenizers` under every pre-tokenizer we know.

    make_goldens.py ../smollm2/vocabulary.gguf > pretokenizers.jsonl      (needs PyPI: tokenizers, gguf)

The vocabulary and the merges are SmolLM2's throughout; only normaliser, patterns and ignore_merges
change. The patterns are the ones in the model families' tokenizer.json (`falcon`, `default`: as
llama.cpp has them), run by Oniguruma inside `tokenizers`: an engine that shares nothing with ours.
"""
import json
import random
import sys

from gguf import GGUFReader
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
HIGH, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = r"[^\r\n\p{L}\p{N}]?" + HIGH + "*" + LOW + "+%s|" + r"[^\r\n\p{L}\p{N}]?" + HIGH + "+" + LOW + "*%s|"
TAIL_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
LETTERS = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-"
    "\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b"
    "\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    "\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3"
    "\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d"
    "\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184"
    "\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-"
    "\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)

# name: (patterns, composes to NFC, ignores merges)
FAMILIES = {
    "gpt-2": ([GPT2], False, False),
    "mpt": ([GPT2], True, False),
    "smollm": ([r"\p{N}", GPT2], False, False),
    "command-r": ([r"\p{N}", GPT2], True, False),
    "llama-bpe": ([SUFFIX + WORD + r"\p{N}{1,3}" + TAIL], False, True),
    "dbrx": ([SUFFIX + WORD + r"\p{N}{1,3}" + TAIL], False, False),
    "qwen2": ([SUFFIX + WORD + r"\p{N}" + TAIL], True, False),
    "stablelm2": ([SUFFIX + WORD + r"\p{N}" + TAIL], False, False),
    "qwen35": (
        [
            SUFFIX + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        ],
        False,
        False,
    ),
    "tekken": ([CASED % ("", "") + r"\p{N}" + TAIL_SLASH], False, True),
    "gpt-4o": ([CASED % (SUFFIX + "?", SUFFIX + "?") + r"\p{N}{1,3}" + TAIL_SLASH], False, False),
    "deepseek-llm": (
        [
            r"[\r\n]",
            r"\s?[" + LETTERS + "]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            CJK,
            r"\p{N}+",
        ],
        False,
        False,
    ),
    "deepseek-coder": ([r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"], False, False),
    "deepseek-v3": (
        [
            r"\p{N}{1,3}",
            "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        False,
        False,
    ),
    "falcon": ([r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"], False, False),
    "default": ([r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"], False, False),
}

TEXTS = [
    "Hello world", " Hello  World!  ", "it's IT'S we'Ve i'll'd don\u2019t 'tis x'\u017f",
    "1 12 123 1234 1234567890", "  5   67    890\t1", "a1b22c333d", "\u00bd \u00be\u2153 \u2163 \u2167\u216b \u0663\u0664",
    "3.14 1,000,000 v2.0.1-rc3", "\tif (x):\n\t\treturn y\r\n\r\n# end\n", "a\n\n\nb \n \n c\r\n", "   \n   x", "\n\n", " ", "    ",
    "trailing spaces   ", "mid   \t dle", "nbsp\u00a0here\u00a0\u00a0there", "\u3000wide\u3000\u3000space", "line\u2028sep\u2029para\u0085next",
    "\u180e mongolian\u180evowel \u180e\u180e", "\ufeffbom\ufeff", "zero\u200bwidth\u200d", "!?!... --- ==> $x+=1; a&&b||c ~^|`",
    "path/to/file.c /usr//bin", "http://example.org/a_b?c=d#e", "foo_bar __init__ CamelCaseHTTPServer XMLHttp iPhone ABC",
    "\u01c5ungla \u01c4 \u01c6 \u02b0\u02b1 \u00aa\u00ba", "Stra\u00dfe \u1e9e \u0130stanbul \u0131", "e\u0301 re\u0301sume\u0301 a\u0300a\u0300 \u00e9",
    "\u1100\u1161\u11a8 \uac01 \ud55c\uad6d\uc5b4", "\u5317\u4eac\u6b22\u8fce\u4f60 \u6211\u60f31\u4e2a", "\u3053\u3093\u306b\u3061\u306f\u3001\u30ab\u30bf\u30ab\u30ca\u3002", "\uff21\uff22\uff23\uff11\uff12\uff01\uff1f",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u041c\u0418\u0420", "\u0395\u03bb\u03bb\u03ac\u03b4\u03b1 \u03a9\u2126", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0939\u093f\u0928\u094d\u0926\u0940", "\u0627\u0644\u0639\u0631\u0628\u064a\u0651\u0629 \u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u1780\u17b6\u1793\u17cb\u178f\u17c2", "\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f \u2705", "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea", "\u201cquotes\u201d \u2018x\u2019 \u00abg\u00bb \u2014 \u2026",
    "\u20ac100 \u00a35 \u00a5 \u00b15 \u00d7 \u00f7 \u221a", "x\u00b2 + y\u00b3 = z\u2074", "\u0300\u0301 lone marks", "a\u0000b \u0007", "'''\"\"\"'' ''s", "I'm I'M I\u2019m 's 'S'll",
]


def random_texts(count):
    pick = random.Random(3)
    pool = [piece for text in TEXTS for piece in text.split(" ")] + [" ", "  ", "\n", "\t", "'s", "'LL", "7", "1234"]
    return ["".join(pick.choice(pool) for _ in range(pick.randrange(2, 9))) for _ in range(count)]


def build(vocabulary, merges, patterns, composes, ignores_merges):
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=ignores_merges))
    if composes:
        tokenizer.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits + [level])
    return tokenizer


def main():
    fields = GGUFReader(sys.argv[1]).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"].contents()]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    families = {name: build(vocabulary, merges, *family) for name, family in FAMILIES.items()}
    n_random = int(sys.argv[2]) if len(sys.argv) > 2 else 40
    for text in TEXTS + random_texts(n_random):
        ids = {}
        for name, tokenizer in families.items():
            found = tokenizer.encode(text).ids
            same = next((other for other in ids if ids[other] == found), None)
            ids[name] = same if same else found
        print(json.dumps({"text": text, "ids": ids}, separators=(",", ":")))


main()
