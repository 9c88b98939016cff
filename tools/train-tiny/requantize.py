#!/usr/bin/env python3
"""tools/train-tiny/requantize.py F16.gguf QUANTIZED.gguf --out OUT.gguf: the quantized file again, by llama.cpp's quantizer.

Every tensor of QUANTIZED.gguf keeps its place and type; its values are those of F16.gguf, quantized by the `libgguf` package,
which is llama.cpp's reference code. The two files then differ in nothing but who quantized.
"""

import argparse
from pathlib import Path

import gguf
import libgguf
import numpy as np


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("plain", type=Path)
    args.add_argument("quantized", type=Path)
    args.add_argument("--out", type=Path, required=True)
    args = args.parse_args()
    out = bytearray(args.quantized.read_bytes())
    plain = {tensor.name: tensor for tensor in gguf.GGUFReader(args.plain).tensors}
    count = 0
    for tensor in gguf.GGUFReader(args.quantized).tensors:
        if tensor.tensor_type == gguf.GGMLQuantizationType.F32:
            continue
        source = plain[tensor.name]
        rows = gguf.quants.dequantize(source.data, source.tensor_type).astype(np.float32)
        data = libgguf.quantize_rows(np.ascontiguousarray(rows), int(tensor.tensor_type)).tobytes()
        if len(data) != tensor.n_bytes:
            raise SystemExit(f"{tensor.name}: {len(data)} bytes quantized, {tensor.n_bytes} in {args.quantized}")
        out[tensor.data_offset : tensor.data_offset + len(data)] = data
        count += 1
    args.out.write_bytes(out)
    print(f"{args.out}: {count} matrices quantized by libgguf")


if __name__ == "__main__":
    main()
