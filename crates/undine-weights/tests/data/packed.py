"""Writes packed.safetensors and packed.json: small matrices in other programs' packings, and what each weight is.

    pip install "mlx[cpu]" compressed-tensors torch numpy && python packed.py

MLX and compressed-tensors pack with their own libraries. GPTQ and AWQ do so here, from the layouts that both publish: their
libraries want a GPU. `expected` is the packing's arithmetic on the unpacked numbers, in f32.
"""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import save_file

HERE = Path(__file__).parent
ROWS, COLS = 32, 128
rng = np.random.default_rng(14)
tensors, cases = {}, []


def weights():
    return (rng.standard_normal((ROWS, COLS)) * 0.05).astype(np.float32)


def case(name, config, parts, expected, becomes):
    for part, value in parts.items():
        value = torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
        tensors[f"{name}.{part}"] = value
    tensors[f"{name}.expected"] = torch.from_numpy(np.ascontiguousarray(expected.astype(np.float32)))
    cases.append({"name": name, "config": config, "becomes": becomes})


def from_mlx(array):
    kinds = {mx.bfloat16: torch.bfloat16, mx.float16: torch.float16, mx.float32: torch.float32}
    if array.dtype in kinds:
        return torch.from_numpy(np.array(array.astype(mx.float32))).to(kinds[array.dtype])
    return torch.from_numpy(np.array(array))


def mlx(name, bits, group, dtype, becomes):
    packed, scales, biases = mx.quantize(mx.array(weights()).astype(dtype), group_size=group, bits=bits)
    ones, zeros = mx.ones(scales.shape), mx.zeros(scales.shape)
    codes = np.array(mx.dequantize(packed, ones, zeros, group_size=group, bits=bits))
    spread = lambda v: np.repeat(np.array(v.astype(mx.float32)), group, axis=1)
    expected = spread(scales) * codes.astype(np.float32) + spread(biases)
    parts = {"weight": from_mlx(packed), "scales": from_mlx(scales), "biases": from_mlx(biases)}
    case(name, {"quantization": {"group_size": group, "bits": bits}}, parts, expected, becomes)


def mlx_float(name, mode, group, bits, becomes):
    packed, scales = mx.quantize(mx.array(weights()), group_size=group, bits=bits, mode=mode)
    expected = np.array(mx.dequantize(packed, scales, group_size=group, bits=bits, mode=mode, dtype=mx.float32))
    config = {"quantization": {"group_size": group, "bits": bits, "mode": mode}}
    case(name, config, {"weight": from_mlx(packed), "scales": from_mlx(scales)}, expected, becomes)


def integers(bits, group, symmetric):
    """Codes, zero points and f16 scales of groups: `rows x cols`, `rows x groups`."""
    w = weights().reshape(ROWS, COLS // group, group)
    top = (1 << bits) - 1
    if symmetric:
        scale = np.abs(w).max(-1) / (top / 2)
        zero = np.full(scale.shape, 1 << (bits - 1))
    else:
        scale = (w.max(-1) - w.min(-1)) / top
        zero = np.clip(np.round(-w.min(-1) / scale), 1, top).astype(int)
    scale = scale.astype(np.float16)
    codes = np.clip(np.round(w / scale[..., None].astype(np.float32)) + zero[..., None], 0, top).astype(int)
    return codes.reshape(ROWS, COLS), zero, scale


def value(codes, zero, scale, group_of):
    return scale.astype(np.float32)[:, group_of] * (codes - zero[:, group_of]).astype(np.float32)


def down(numbers, bits):
    """Packs each column into 32-bit words, the lowest bits first."""
    stream = (numbers.T[:, :, None] >> np.arange(bits) & 1).reshape(numbers.shape[1], -1).astype(np.uint8)
    words = np.packbits(stream, axis=1, bitorder="little").view("<i4")
    return words.T.astype(np.int32)


def gptq(name, bits, group, symmetric, order, version, becomes):
    codes, zero, scale = integers(bits, group, symmetric)
    group_of = np.arange(COLS) // group
    if order:
        columns = rng.permutation(COLS)
        codes, group_of = codes[:, columns], group_of[columns]
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order, "sym": symmetric}
    if version == 2:
        config["checkpoint_format"] = "gptq_v2"
    stored = zero - (1 if version == 1 else 0)
    parts = {
        "qweight": down(codes.T, bits),
        # Along the rows of the matrix: words of a group lie side by side.
        "qzeros": down(stored, bits).T,
        "scales": scale.T,
        "g_idx": group_of.astype(np.int32),
    }
    case(name, {"quantization_config": config}, parts, value(codes, zero, scale, group_of), becomes)


def awq(name, group, becomes):
    codes, zero, scale = integers(4, group, False)
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def pack(numbers):
        eights = numbers.T.reshape(numbers.shape[1], ROWS // 8, 8)[:, :, order].astype(np.int64)
        return (eights << (4 * np.arange(8))).sum(-1).astype(np.uint32).view(np.int32)

    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    parts = {"qweight": pack(codes), "qzeros": pack(zero), "scales": scale.T}
    case(name, {"quantization_config": config}, parts, value(codes, zero, scale, np.arange(COLS) // group), becomes)


def compressed(name, bits, group, symmetric, dtype, becomes):
    codes, zero, scale = integers(bits, group, symmetric)
    scale = torch.from_numpy(scale).to(dtype)
    half = 1 << (bits - 1)
    parts = {
        "weight_packed": pack_to_int32(torch.from_numpy(codes - half).to(torch.int8), bits),
        "weight_scale": scale,
        "weight_shape": torch.tensor([ROWS, COLS]),
    }
    if not symmetric:
        parts["weight_zero_point"] = pack_to_int32(torch.from_numpy(zero - half).to(torch.int8), bits, packed_dim=0)
    expected = value(codes, zero, scale.float().numpy(), np.arange(COLS) // group)
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    case(name, {"quantization_config": config}, parts, expected, becomes)


def int8(name, becomes):
    codes, zero, scale = integers(8, COLS, True)
    scale = torch.from_numpy(scale).to(torch.bfloat16)
    parts = {"weight": torch.from_numpy(codes - 128).to(torch.int8), "weight_scale": scale}
    config = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    expected = scale.float().numpy() * (codes - 128).astype(np.float32)
    case(name, {"quantization_config": config}, parts, expected, becomes)


def fp8(name, suffix, shape, config, becomes, power_of_two=False):
    w = torch.from_numpy(weights())
    high, wide = ROWS // shape[0], COLS // shape[1]
    blocks = w.reshape(shape[0], high, shape[1], wide)
    scale = blocks.abs().amax((1, 3)) / 448
    if power_of_two:
        scale = 2 ** torch.ceil(torch.log2(scale))
    codes = (blocks / scale[:, None, :, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
    expected = (codes.float() * scale[:, None, :, None]).reshape(ROWS, COLS).numpy()
    scale = scale.reshape(()) if shape == (1, 1) else scale
    parts = {"weight": codes.reshape(ROWS, COLS), f"weight_{suffix}": scale}
    case(name, {"quantization_config": {"quant_method": "fp8", **config}}, parts, expected, becomes)


def nvfp4(name, becomes):
    levels = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    codes = rng.integers(0, 16, (ROWS, COLS))
    scale = torch.from_numpy(rng.uniform(1, 300, (ROWS, COLS // 16)).astype(np.float32)).to(torch.float8_e4m3fn)
    factor = np.float32(7.3e-5)
    parts = {
        "weight": (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8),
        "weight_scale": scale,
        "weight_scale_2": torch.tensor(factor),
    }
    expected = factor * np.repeat(scale.float().numpy(), 16, axis=1) * levels[codes]
    case(name, {"quantization_config": {"quant_method": "modelopt"}}, parts, expected, becomes)


for bits, becomes in [(2, "Q4_1"), (3, "Q4_1"), (4, "Q4_1"), (5, "Q5_1"), (6, "F16"), (8, "F16")]:
    mlx(f"mlx{bits}", bits, 64, mx.bfloat16, becomes)
mlx("mlx4_32", 4, 32, mx.float16, "Q4_1")
mlx("mlx4_f32", 4, 64, mx.float32, "F16")
mlx_float("mlx_mxfp4", "mxfp4", 32, 4, "MXFP4")
mlx_float("mlx_nvfp4", "nvfp4", 16, 4, "NVFP4")
mlx_float("mlx_mxfp8", "mxfp8", 32, 8, "BF16")
gptq("gptq4", 4, 32, True, False, 1, "Q4_0")
gptq("gptq4_v2", 4, 128, True, False, 2, "Q4_0")
gptq("gptq4_zeros", 4, 64, False, False, 1, "Q5_0")
gptq("gptq4_order", 4, 64, True, True, 1, "F16")
gptq("gptq8", 8, 128, True, False, 1, "Q8_0")
gptq("gptq3", 3, 128, True, False, 1, "Q4_0")
awq("awq", 64, "Q5_0")
compressed("w4a16", 4, 32, True, torch.bfloat16, "Q4_0")
compressed("w4a16_zeros", 4, 64, False, torch.float16, "Q5_0")
compressed("w8a16", 8, COLS, True, torch.bfloat16, "Q8_0")
int8("w8a8", "Q8_0")
fp8("fp8_tensor", "scale", (1, 1), {}, "F16")
fp8("fp8_rows", "scale", (ROWS, 1), {}, "F16")
fp8("fp8_blocks", "scale_inv", (2, 2), {"weight_block_size": [16, 64]}, "F16")
fp8("fp8_powers", "scale", (ROWS, 1), {}, "BF16", power_of_two=True)
nvfp4("nvfp4", "F16")

save_file(tensors, HERE / "packed.safetensors")
(HERE / "packed.json").write_text(json.dumps(cases, indent=1) + "\n")
