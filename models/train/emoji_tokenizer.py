#!/usr/bin/env python3
"""Trains the byte-pair vocabulary of emoji-sd on all captions, English and Korean, and writes it as CLIP's.

    emoji_tokenizer.py DATA OUT       DATA: captions.tsv and noto-png72.tar; OUT: the model's folder
"""
import json, os, sys

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

import emoji_data as data

SIZE, LENGTH = 3000, 32
START, END = "<|startoftext|>", "<|endoftext|>"
# As in CLIP, whose pre-tokenizer has this expression.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def main():
    source, out = sys.argv[1:]
    texts = []
    for emoji in data.load(source):
        texts += [emoji.name, emoji.korean] + emoji.keywords + emoji.korean_keywords
    for variant in range(data.VARIANTS):
        for korean in (False, True):
            texts += [data.decorate("x", variant, korean)] * 40
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=SIZE, end_of_word_suffix="</w>", initial_alphabet=bytes_,
                                  special_tokens=[], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    # CLIP's order: the bytes, the bytes that end a word, one token a merge, the marks.
    merges = merges[: SIZE - 2 * len(bytes_) - 2]
    tokens = bytes_ + [byte + "</w>" for byte in bytes_] + [a + b for a, b in merges] + [START, END]
    assert len(set(tokens)) == len(tokens), "two merges make one token"
    folder = os.path.join(out, "tokenizer")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "vocab.json"), "w") as f:
        json.dump({token: i for i, token in enumerate(tokens)}, f, ensure_ascii=False, separators=(",", ":"))
    with open(os.path.join(folder, "merges.txt"), "w") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    with open(os.path.join(folder, "special_tokens_map.json"), "w") as f:
        json.dump({"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}, f, indent=1)
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump({"tokenizer_class": "CLIPTokenizer", "add_prefix_space": False, "do_lower_case": True,
                   "model_max_length": LENGTH, "bos_token": START, "eos_token": END, "pad_token": END,
                   "unk_token": END}, f, indent=1)
    print(f"{len(tokens)} tokens, {len(merges)} merges")


main()
