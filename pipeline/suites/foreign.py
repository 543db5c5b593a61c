"""Recognize checkpoint folders without plain weights, and say how to convert them.

File names alone decide, so it works for a hub's listing too: adapters, formats of training frameworks and other
programs, weights that lie elsewhere.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

_PLAIN = "save_pretrained(FOLDER)"
_FORMS: tuple[tuple[str, str], ...] = (
    (
        r"adapter_config\.json|adapter_model\.(safetensors|bin)",
        "is an adapter (LoRA, PEFT), not a model: merge it into its base model with "
        f"PeftModel.from_pretrained(base, ADAPTER).merge_and_unload().{_PLAIN}",
    ),
    (
        r"(.*/)?mp_rank_\d+(_\d+)*/(model_optim_rng|model_rng|distrib_optim)\.pt|(.*/)?common\.pt",
        "is a Megatron checkpoint: convert it to Hugging Face with Megatron's tools (tools/checkpoint/convert.py, or "
        "Megatron Bridge)",
    ),
    (
        r"(.*/)?layer_\d+-model_\d+-model_states\.pt",
        "is a GPT-NeoX checkpoint: convert it with its tools/ckpts/convert_neox_to_hf.py",
    ),
    (
        r"zero_to_fp32\.py|(.*/)?(bf16_)?(zero_pp_rank_\d+_)?mp_rank_\d+_(model|optim)_states\.pt",
        "is a DeepSpeed checkpoint: run `python zero_to_fp32.py . . --safe_serialization` in it",
    ),
    (
        r"(.*/)?[^/]*\.distcp|(.*/)?\.metadata",
        "is a distributed checkpoint of torch (DCP, FSDP): join it with `accelerate merge-weights FOLDER OUT`, or "
        "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER OUT.pt`, and save it as a model",
    ),
    (
        r".*\.gguf",
        "is a GGUF file, which llama.cpp reads and which mostly is quantized: measure the checkpoint that it was made "
        "from",
    ),
    (
        r"tf_model\.h5|tf_model-\d+-of-\d+\.h5|.*\.ckpt\.(index|meta)",
        "is a TensorFlow checkpoint: load it with from_pretrained(FOLDER, from_tf=True) of transformers 4 and "
        f"{_PLAIN}",
    ),
    (
        r"flax_model(-\d+-of-\d+)?\.msgpack",
        f"is a Flax checkpoint: load it with from_pretrained(FOLDER, from_flax=True) of transformers 4 and {_PLAIN}",
    ),
    (r"consolidated(\.\d+)?\.(pth|safetensors)", "has its maker's own layout: convert it to Hugging Face"),
)
_SHARD = re.compile(r"(model|pytorch_model)-\d+-of-\d+\.(safetensors|bin)")
_WEIGHTS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")
_HUB_CACHE = re.compile(r"models--(.+?)/snapshots/[^/]+")
_OTHER = re.compile(
    r"(?!(optimizer|scheduler|scaler|rng_state|training_args)).*\.(safetensors|bin|pt|pth|ckpt|npz|onnx|h5|msgpack)"
)
DEPTH = 4
"""Levels of folders that are searched: a hub cache's snapshots are three below."""
MOST_NAMES = 10_000


def names_below(folder: Path) -> list[str]:
    """Names of the files in and below ``folder``, relative to it; a few thousand at most."""
    levels = ["*", "*/*", "*/*/*", "*/*/*/*"][:DEPTH]
    found = itertools.chain.from_iterable(folder.glob(level) for level in levels)
    try:
        files = (path.relative_to(folder).as_posix() for path in found if path.is_file())
        return list(itertools.islice(files, MOST_NAMES))
    except OSError:
        return []


def what_it_is(names: Iterable[str]) -> str | None:
    """What a folder with these files is and what to do, as "is an adapter ...: merge it ..."; None if unknown."""
    names = sorted(names)
    places = {str(Path(name).parent) for name in names if _WEIGHTS.fullmatch(Path(name).name) and "/" in name}
    cached = next((place for place in sorted(places) if _HUB_CACHE.fullmatch(place)), None)
    if cached is not None:
        return (
            f"is a cache of the hub client with the weights in {cached}: name that folder (or a link to it) as the "
            "checkpoint, or give the repository as the suite with HF_HUB_CACHE set to this folder"
        )
    for pattern, what in _FORMS:
        if any(re.fullmatch(pattern, name) for name in names):
            return what
    shards = [name for name in names if _SHARD.fullmatch(name)]
    if shards:
        return (
            f"has shards of weights ({shards[0]}, ...) and no index of them: copy the .index.json that was written "
            "beside them"
        )
    if places:
        return f"has its weights in the sub-folder {min(places)}: move them up, or make that folder the checkpoint"
    others = [name for name in names if _OTHER.fullmatch(name) and "/" not in name]
    return f"holds {', '.join(others[:3])}, which is not a known name of weights" if others else None
