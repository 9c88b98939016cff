#!/usr/bin/env python3
"""tools/synthetic-gguf.py models/SPEC.toml OUT.gguf [--seed N] [--rope-factors] [--layers N]: a model file that was never trained.

Shapes, tensor types and hyperparameters are exactly those of the spec (architectures llama, qwen2 and qwen3), so that the
file loads as the model's own does; the weights are random, of the size that keeps activations of order one, and what the
model says is noise. Meant for timing loads: the tokenizer is a whole byte-level one, every token of which is reached by
merges (275,000 of them for the 128,256 tokens of Llama 3, which has 280,000). --rope-factors adds the tensor of Llama 3.1's
stretched positions. Equal arguments give equal bytes. Needs Python 3.11 or later and nothing else.
"""

import argparse, itertools, math, random, struct, sys, tomllib

# ggml's number of each type, elements and bytes of a block.
TYPES = {"f32": (0, 1, 4), "q5_0": (6, 32, 22), "q8_0": (8, 32, 34), "q4_k": (12, 256, 144), "q6_k": (14, 256, 210)}
# GGUF's numbers of value types.
U32, I32, F32, BOOL, STR, ARRAY = 4, 5, 6, 7, 8, 9
NORMAL, CONTROL = 1, 3
ALIGNMENT = 32
# A tensor repeats this many random blocks: a prime, so that no two rows of a real shape are alike.
POOL_BLOCKS = 4099
POOL_VALUES = 8191
# At least so many bytes go out at a time.
WRITE_BYTES = 8 << 20
# Tokens at the end of a vocabulary that are no text.
N_CONTROL = 256
PRE = {"llama": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2"}


def byte_alphabet():
    """The characters that stand for bytes in byte-level vocabularies: visible ones of Latin-1 for themselves, U+0100 on for the rest."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = (byte for byte in range(256) if byte not in visible)
    places = {byte: chr(byte) for byte in visible} | {byte: chr(0x100 + i) for i, byte in enumerate(hidden)}
    return [places[byte] for byte in range(256)]


def vocabulary(n_tokens):
    """Tokens, their types and merges: bytes; syllables of two letters; everything that one to three syllables spell; words of
    four until the vocabulary is full; tokens that are no text. A token is made by every pair of tokens that spell it."""
    n_control = min(N_CONTROL, n_tokens // 8)
    left = n_tokens - n_control - 256
    if left < 3:
        sys.exit(f"error: vocab_size = {n_tokens}, but at least 300 are needed for bytes, a few syllables and an end token")
    # As many syllables as leave a sixth of the vocabulary for longer words.
    n = next(n for n in itertools.count(1) if (n + 1) + (n + 1) ** 2 + (n + 1) ** 3 > left * 5 / 6)
    syllables = ["".join(pair) for pair in itertools.product("bdfghjklmnprstvwz", "aeiouy")][:n]
    words = ("".join(word) for length in (2, 3, 4, 5) for word in itertools.product(syllables, repeat=length))
    words = list(itertools.islice(words, left - len(syllables)))
    tokens = byte_alphabet() + syllables + words
    known = set(tokens)
    merges = [f"{syllable[0]} {syllable[1]}" for syllable in syllables]
    for word in words:
        cuts = ((word[:at], word[at:]) for at in range(2, len(word), 2))
        merges += [f"{left} {right}" for left, right in cuts if left in known and right in known]
    named = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    named += [f"<|reserved_special_token_{i}|>" for i in range(n_control - len(named))]
    types = [NORMAL] * len(tokens) + [CONTROL] * len(named)
    first = len(tokens)
    return tokens + named, types, merges, (first, first + 1)


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key, kind, value):
    """One key and its value; an array is told by the type of its elements in a list."""
    if isinstance(kind, list):
        (element,) = kind
        head = struct.pack("<IIQ", ARRAY, element, len(value))
        body = b"".join(map(text, value)) if element == STR else struct.pack(f"<{len(value)}i", *value)
        return text(key) + head + body
    plain = {U32: lambda v: struct.pack("<I", v), F32: lambda v: struct.pack("<f", v), BOOL: lambda v: struct.pack("<B", v), STR: text}
    return text(key) + struct.pack("<I", kind) + plain[kind](value)


def metadata(spec):
    """The entries of the file and how many there are."""
    arch = spec["architecture"]
    tokens, types, merges, (bos, eos) = vocabulary(spec["vocab_size"])
    entries = [
        ("general.architecture", STR, arch),
        ("general.name", STR, f"random weights in the shapes of {spec['name']}"),
        (f"{arch}.context_length", U32, spec["context"]),
        (f"{arch}.embedding_length", U32, spec["dim"]),
        (f"{arch}.block_count", U32, spec["n_layers"]),
        (f"{arch}.feed_forward_length", U32, spec["hidden_dim"]),
        (f"{arch}.attention.head_count", U32, spec["n_heads"]),
        (f"{arch}.attention.head_count_kv", U32, spec["n_kv_heads"]),
        (f"{arch}.attention.key_length", U32, spec["head_dim"]),
        (f"{arch}.attention.value_length", U32, spec["head_dim"]),
        (f"{arch}.attention.layer_norm_rms_epsilon", F32, spec["norm_eps"]),
        (f"{arch}.rope.freq_base", F32, spec["rope_base"]),
        ("tokenizer.ggml.model", STR, "gpt2"),
        ("tokenizer.ggml.pre", STR, PRE[arch]),
        ("tokenizer.ggml.tokens", [STR], tokens),
        ("tokenizer.ggml.token_type", [I32], types),
        ("tokenizer.ggml.merges", [STR], merges),
        ("tokenizer.ggml.bos_token_id", U32, bos),
        ("tokenizer.ggml.eos_token_id", U32, eos),
        ("tokenizer.ggml.add_bos_token", BOOL, arch == "llama"),
    ]
    return len(entries), b"".join(entry(*one) for one in entries)


def tensors(spec, rope_factors):
    """Name, shape with the row's length first, type, and what the values are: their mean and standard deviation."""
    dim, hidden, layers = spec["dim"], spec["hidden_dim"], spec["n_layers"]
    q_dim, kv_dim = spec["n_heads"] * spec["head_dim"], spec["n_kv_heads"] * spec["head_dim"]

    def matrix(role, shape, layer=None, deviation=None):
        kind = spec["types"].get(role)
        if isinstance(kind, dict):
            kind = next((other for other, where in kind.items() if other != "default" and layer in where), kind["default"])
        if kind not in TYPES:
            sys.exit(f"error: types.{role} = {kind!r}, but one of {', '.join(TYPES)} is wanted")
        name = f"{role}.weight" if layer is None else f"blk.{layer}.{role}.weight"
        return name, shape, kind, (0.0, deviation or shape[0] ** -0.5)

    def vector(name, n, mean, deviation):
        return name, [n], "f32", (mean, deviation)

    # The residual stream starts at order one; a head that shares the matrix would see enormous logits.
    yield matrix("token_embd", [dim, spec["vocab_size"]], deviation=None if spec["tied_head"] else 1.0)
    if rope_factors:
        yield vector("rope_freqs.weight", spec["head_dim"] // 2, 4.5, 2.0)
    for layer in range(layers):
        block = f"blk.{layer}."
        yield vector(block + "attn_norm.weight", dim, 1.0, 0.1)
        for role, n in (("attn_q", q_dim), ("attn_k", kv_dim), ("attn_v", kv_dim)):
            yield matrix(role, [dim, n], layer)
            if spec["qkv_bias"]:
                yield vector(f"{block}{role}.bias", n, 0.0, 0.05)
        if spec.get("qk_norm"):
            yield vector(block + "attn_q_norm.weight", spec["head_dim"], 1.0, 0.1)
            yield vector(block + "attn_k_norm.weight", spec["head_dim"], 1.0, 0.1)
        yield matrix("attn_output", [q_dim, dim], layer)
        yield vector(block + "ffn_norm.weight", dim, 1.0, 0.1)
        yield matrix("ffn_gate", [dim, hidden], layer)
        yield matrix("ffn_up", [dim, hidden], layer)
        yield matrix("ffn_down", [hidden, dim], layer)
    yield vector("output_norm.weight", dim, 1.0, 0.1)
    if not spec["tied_head"]:
        yield matrix("output", [dim, spec["vocab_size"]])


def half(value):
    return struct.pack("<e", value)


def spread_of(levels):
    """Standard deviation of a uniform choice of so many neighbouring integers."""
    return math.sqrt((levels * levels - 1) / 12)


def pool(kind, mean, deviation, rng):
    """Random blocks whose quants are uniform and whose scales give the values that deviation, a quarter more or less."""
    if kind == "f32":
        width = deviation * math.sqrt(12)
        return struct.pack(f"<{POOL_VALUES}f", *(mean + (rng.random() - 0.5) * width for _ in range(POOL_VALUES)))
    size = TYPES[kind][2]
    raw = bytearray(rng.randbytes(size * POOL_BLOCKS))
    for at in range(0, len(raw), size):
        varied = deviation * (0.75 + 0.5 * rng.random())
        if kind == "q4_k":
            # Scales and minima of 6 bits; a minimum counts for the quants' mean, so that values lie around zero.
            square, variance, middle = 63 * 127 / 6, 341.25, 7.5
            d = varied / math.sqrt(square * spread_of(16) ** 2 + 2 * variance * middle * middle)
            raw[at : at + 4] = half(d) + half(d * middle)
        elif kind == "q6_k":
            # Scales from -32 to 31, so that d stays a normal number.
            for i in range(at + 192, at + 208):
                raw[i] = (raw[i] & 63) - 32 & 255
            raw[at + 208 : at + 210] = half(varied / (spread_of(64) * spread_of(64)))
        else:
            raw[at : at + 2] = half(varied / spread_of({"q5_0": 32, "q8_0": 256}[kind]))
    return bytes(raw)


def n_bytes(shape, kind):
    _, elements, size = TYPES[kind]
    if shape[0] % elements:
        sys.exit(f"error: rows of {shape[0]} values do not come in blocks of {elements} ({kind})")
    return math.prod(shape) // elements * size


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("spec")
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, help="fewer layers than the spec has; no compiled kernels fit then")
    parser.add_argument("--rope-factors", action="store_true")
    args = parser.parse_args()
    with open(args.spec, "rb") as file:
        spec = tomllib.load(file)
    if spec["architecture"] not in PRE or "sliding" in spec or spec.get("rope_scale", 1.0) != 1.0:
        sys.exit(f"error: {args.spec}: of {spec['architecture']}, this writes only plain {', '.join(PRE)} models")
    spec["n_layers"] = args.layers or spec["n_layers"]

    table = [(*tensor, n_bytes(tensor[1], tensor[2])) for tensor in tensors(spec, args.rope_factors)]
    infos, offset = [], 0
    for name, shape, kind, _, size in table:
        infos.append(text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, TYPES[kind][0], offset))
        offset = (offset + size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    n_entries, entries = metadata(spec)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(table), n_entries) + entries + b"".join(infos)

    rng = random.Random(args.seed)
    pools = {}
    with open(args.out, "wb") as out:
        out.write(head + bytes(-len(head) % ALIGNMENT))
        for _, _, kind, values, size in table:
            if (kind, values) not in pools:
                once = pool(kind, *values, rng)
                pools[kind, values] = memoryview(once * max(1, WRITE_BYTES // len(once)))
            repeated = pools[kind, values]
            for at in range(0, size, len(repeated)):
                out.write(repeated[: size - at])
            out.write(bytes(-size % ALIGNMENT))
    print(f"{args.out}: {len(table)} tensors, {offset} bytes of weights, {len(head)} of metadata")


main()
