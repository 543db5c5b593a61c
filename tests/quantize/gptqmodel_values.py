"""Writes gptqmodel_7.7.0.npz: what GPTQModel makes of one matrix. Run in an environment of its own that has it.

Usage: python gptqmodel_values.py CASE.npz gptqmodel_7.7.0.npz; CASE holds ``weight`` (O, I) and ``inputs`` (N, I).
"""

from __future__ import annotations

import sys

import numpy as np
import torch

SETTINGS = {
    "int4-g128-asym": {"bits": 4, "group_size": 128},
    "int3-channel-asym": {"bits": 3, "group_size": -1},
    "int4-g128-asym_static": {"bits": 4, "group_size": 128, "static_groups": True},
    "int4-g32-asym": {"bits": 4, "group_size": 32},
}


def values(weight: torch.Tensor, inputs: torch.Tensor, **settings: object) -> np.ndarray:
    """The weight (O, I) after GPTQModel's GPTQ on ``inputs`` (N, I)."""
    from gptqmodel.quantization.config import QuantizeConfig
    from gptqmodel.quantization.gptq import GPTQ

    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = weight.clone()
    config = QuantizeConfig(sym=False, desc_act=False, act_group_aware=False, damp_percent=0.01, **settings)
    gptq = GPTQ(linear, qcfg=config)
    gptq.quantizer.configure(perchannel=True)
    gptq.add_batch(inputs.unsqueeze(0), linear(inputs.unsqueeze(0)))
    return gptq.quantize()[0].detach().float().numpy()


if __name__ == "__main__":
    case = np.load(sys.argv[1])
    weight, inputs = (torch.from_numpy(case[name]) for name in ("weight", "inputs"))
    np.savez_compressed(
        sys.argv[2], **{name: values(weight, inputs, **each) for name, each in SETTINGS.items()}
    )
