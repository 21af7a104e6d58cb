#!/usr/bin/env python3
"""Writes gptq_{3,8}bit.safetensors: GPTQ's packing at 3 and 8 bits as GPTQModel 7.7.0 does it. Needs gptqmodel, torch,
safetensors.

"q.codes" uint8 [K, N] and "q.zeros" uint8 [G, N] are random; "ref.*" is what PackableQuantLinear.pack_original made of them
and of "ref.scales": qweight, qzeros (version 2), and at 8 bits "ref.qzeros_v1" (version 1: every zero less one). At 3 bits
version 1 is not used here: a zero may lie across two words, and readers differ in how they add the one.
"""

import pathlib

import numpy as np
import torch
from gptqmodel.nn_modules.qlinear import PackableQuantLinear
from gptqmodel.utils.model_dequant import _correct_gptq_v1_qzeros, _revert_gptq_v1_qzeros_correction
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
K, N, GROUP = 128, 64, 32


class Packer(torch.nn.Module):
    pack_dtype_bits, planar = 32, False
    pack_np_math_dtype, pack_np_dtype, pack_dtype = np.uint32, np.int32, torch.int32
    pack_original = PackableQuantLinear.pack_original

    def __init__(self, bits):
        super().__init__()
        self.bits, self.maxq, self.pack_factor, self.bias = bits, 2**bits - 1, 32 // bits, None


def main():
    for bits in (3, 8):
        rng = np.random.default_rng(bits)
        codes = rng.integers(0, 2**bits, (K, N)).astype(np.uint8)
        zeros = rng.integers(1, 2**bits, (K // GROUP, N)).astype(np.uint8)
        scales = rng.choice([0.25, 0.5, 1.0, 2.0], (K // GROUP, N)).astype(np.float16)
        groups = np.arange(K, dtype=np.int32) // GROUP
        weight = (codes.astype(np.float32) - zeros[groups]) * scales[groups].astype(np.float32)
        linear = torch.nn.Linear(K, N, bias=False)
        linear.weight.data = torch.from_numpy(weight.T.copy())
        packer = Packer(bits)
        packer.pack_original(
            linear,
            torch.from_numpy(scales.T.astype(np.float32)),
            torch.from_numpy(zeros.T.astype(np.float32)),
            torch.from_numpy(groups),
        )
        tensors = {
            "q.codes": codes,
            "q.zeros": zeros,
            "ref.scales": packer.scales.numpy(),
            "ref.g_idx": packer.g_idx.numpy(),
            "ref.qweight": packer.qweight.numpy(),
            "ref.qzeros_v2": packer.qzeros.numpy(),
        }
        if bits == 8:
            v1 = _revert_gptq_v1_qzeros_correction(packer.qzeros, bits)
            assert torch.equal(_correct_gptq_v1_qzeros(v1, bits), packer.qzeros)
            assert torch.equal(v1 + 0x01010101, packer.qzeros)  # as its loader adds
            tensors["ref.qzeros_v1"] = v1.numpy()
        save_file(tensors, HERE / f"gptq_{bits}bit.safetensors", {"group_size": str(GROUP)})


if __name__ == "__main__":
    main()
