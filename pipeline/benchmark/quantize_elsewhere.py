"""Another library's quantization of one checkpoint, timed and evaluated: a program of its own.

It runs in the environment of that library, which may lack everything else, so it imports nothing of this package. Its
argument is a JSON object; it writes one to the file ``answer``: ``seconds`` from the folder to the quantized model in
memory, and ``nll_nats``, the mean loss of that model on the evaluation tokens. Both libraries are asked for what ours
does as nearly as their settings allow: the same grid and calibration tokens, damping 0.01, no reordering of columns.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast


def gptqmodel(call: dict[str, Any], calibration: np.ndarray) -> Any:
    """Finds the scales of groups below 128 columns from weights that its block has not moved yet."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # its loader wants two, and half of two cores is one
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    settings = QuantizeConfig(
        bits=call["bits"],
        group_size=-1 if call["group_size"] is None else call["group_size"],
        sym=call["symmetric"],
        desc_act=False,
        act_group_aware=False,
        damp_percent=0.01,
    )
    model = GPTQModel.load(call["folder"], settings, device=call["device"], backend=BACKEND.TORCH)
    model.quantize(_examples(calibration), batch_size=4)
    with tempfile.TemporaryDirectory(prefix="int4-collapse-") as saved:
        model.save(saved)
        return GPTQModel.load(saved, device=call["device"], backend=BACKEND.TORCH).model


def llmcompressor(call: dict[str, Any], calibration: np.ndarray) -> Any:
    """Its AWQ searches scales only, has no clipping, and needs a mapping of the architecture."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.awq import AWQModifier
    from llmcompressor.modifiers.quantization import GPTQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache

    if call["device"] == "cpu":  # AWQ pins memory for an accelerator, which fails where there is none
        IntermediatesCache.pin_memory = lambda *_: None

    model = AutoModelForCausalLM.from_pretrained(call["folder"], dtype=torch.float32).to(call["device"])
    output = model.get_output_embeddings()
    head = [name for name, module in model.named_modules() if module is output]
    weights = {
        "num_bits": call["bits"],
        "type": "int",
        "symmetric": call["symmetric"],
        "strategy": "channel" if call["group_size"] is None else "group",
        "group_size": call["group_size"],
    }
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    recipe = (
        AWQModifier(ignore=head, config_groups=groups, duo_scaling=False)
        if call["method"] == "awq"
        else GPTQModifier(ignore=head, config_groups=groups, dampening_frac=0.01, actorder=None)
    )
    examples = _examples(calibration)
    columns = {name: [each[name] for each in examples] for name in examples[0]}
    oneshot(
        model=model,
        dataset=Dataset.from_dict(columns),
        recipe=recipe,
        max_seq_length=calibration.shape[1],
        num_calibration_samples=len(calibration),
    )
    return model


@torch.inference_mode()
def evaluate(model: Any, tokens: np.ndarray, device: str) -> float:
    """Mean nll in nats of ``model`` on ``tokens`` (int64 (batches, batch_size, seq_len))."""
    total, count = 0.0, 0
    for batch in tokens:
        ids = torch.tensor(batch, device=device)
        logits = model(input_ids=ids).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        total += losses.double().sum().item()
        count += losses.numel()
    return total / count


def with_tokenizer(folder: Path, scratch: Path, vocab_size: int) -> Path:
    """``folder`` with a tokenizer, which both libraries insist on though the calibration text is token ids already."""
    if any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        return folder
    for file in folder.iterdir():
        (scratch / file.name).symlink_to(file)
    special = dict.fromkeys(("unk_token", "pad_token", "eos_token"), "0")
    words = WordLevel({str(token): token for token in range(vocab_size)}, unk_token=special["unk_token"])
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), **special).save_pretrained(scratch)
    return scratch


def _examples(calibration: np.ndarray) -> list[dict[str, list[int]]]:
    return [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in calibration]


LIBRARIES = {"gptqmodel": gptqmodel, "llmcompressor": llmcompressor}


def main() -> None:
    """Read the call, quantize, evaluate, print."""
    call = json.loads(sys.argv[1])
    calibration, tokens = np.load(call["calibration"]), np.load(call["tokens"])
    vocab_size = AutoConfig.from_pretrained(call["folder"]).vocab_size
    with tempfile.TemporaryDirectory(prefix="int4-collapse-") as scratch:
        call["folder"] = str(with_tokenizer(Path(call["folder"]), Path(scratch), vocab_size))
        start = time.perf_counter()
        model = LIBRARIES[call["library"]](call, calibration)
        seconds = time.perf_counter() - start
        nll = evaluate(model.eval(), tokens, call["device"])
    Path(call["answer"]).write_text(json.dumps({"seconds": seconds, "nll_nats": nll}))
    sys.stdout.flush()
    os._exit(0)  # GPTQModel's threads keep the process for minutes after its work


if __name__ == "__main__":
    main()
