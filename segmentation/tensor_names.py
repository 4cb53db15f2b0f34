"""Names of tensors in a state dict: what wrappers put before them is taken off, and those of other projects are recognised."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from .messages import shown

#: Where training scripts put the state dict of the model.
CONTAINERS = ("model", "state_dict", "model_state_dict", "model_state")
#: What the names of SAM 2's own tensors begin with.
_OF_SAM_2 = ("image_encoder.", "sam_mask_decoder.", "sam_prompt_encoder.", "memory_attention.", "memory_encoder.")
#: What the names of a part's tensors begin with where it was saved alone, as model.sam_mask_decoder.state_dict() has them.
_OF_PARTS = {
    "image_encoder.": ("trunk.", "neck."),
    "sam_mask_decoder.": (
        "transformer.",
        "iou_token.",
        "mask_tokens.",
        "obj_score_token.",
        "output_upscaling.",
        "conv_s0.",
        "conv_s1.",
        "output_hypernetworks_mlps.",
        "iou_prediction_head.",
        "pred_obj_score_head.",
    ),
}
# Of DistributedDataParallel and torch.compile, and of a module that holds the model, such as one for Lightning.
_PREFIXES = re.compile(r"(?:(?:module|_orig_mod|model|sam2_model)\.)*")
_LORA = re.compile(r"(?:^|[._])lora(?:[._]|$)", re.IGNORECASE)
_OF_TRANSFORMERS = (
    "vision_encoder.",
    "shared_image_embedding.",
    "mask_decoder.upscale_",
    "prompt_encoder.shared_embedding.",
)
_OF_SAM_1 = (
    "image_encoder.patch_embed.",
    "image_encoder.pos_embed",
    "image_encoder.blocks.",
    "mask_decoder.",
    "prompt_encoder.",
)


def state_dict_in(content: Any) -> dict[Any, Tensor] | None:
    """The state dict that a checkpoint is, or that it has under one of `CONTAINERS`; None if there is none."""
    if not isinstance(content, dict):
        return None
    states = [state for state in (*map(content.get, CONTAINERS), content) if _is_state_dict(state)]
    return max(states, key=bool, default=None)  # the first one that is not empty


def without_prefixes(state: dict[Any, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the model by its own names, and the names of those that lie beside it, such as the weights of a loss or a
    moving average of the model.

    The model's are those with the prefix after which most names begin as SAM 2's do, or else that most names have. Where they
    are those of one part alone, its name is put before them.
    """
    by_prefix: dict[str, dict[str, Tensor]] = {"": {}}
    for name in map(str, state):
        by_prefix.setdefault(_prefix(name), {})
    for name, tensor in state.items():
        prefix = _prefix(str(name))
        by_prefix[prefix][str(name)[len(prefix) :]] = tensor

    def likeness(prefix: str) -> tuple[int, int]:
        names = by_prefix[prefix]
        return sum(name.startswith(_OF_SAM_2) for name in names), len(names)

    own = max(by_prefix, key=likeness)
    tensors = by_prefix[own]
    for part, firsts in _OF_PARTS.items():
        if tensors and all(name.startswith(firsts) for name in tensors):
            tensors = {part + name: tensor for name, tensor in tensors.items()}
    return tensors, [str(name) for name in state if _prefix(str(name)) != own]


def why_foreign(names: Iterable[str]) -> str:
    """What weights are that are no SAM 2's under sam2's names, and the way out, as the end of a sentence; else empty.

    Args:
        names: without prefixes.
    """
    names = list(names)
    lora = next((name for name in names if _LORA.search(name)), None)
    if lora is not None:
        return (
            f"holds LoRA adapters (such as {shown(lora)}) in place of whole weights; merge them into the model first (with "
            "peft: model.merge_and_unload()) and save it with torch.save({'model': model.state_dict()}, …)"
        )
    if any(name.startswith(_OF_TRANSFORMERS) for name in names):
        return (
            "has the names that transformers gives its own SAM models, whose parts are cut differently; train with the sam2 "
            "package, or rename the tensors to sam2's names, the reverse of transformers' convert_sam2_to_hf.py"
        )
    if any(name.startswith(_OF_SAM_1) for name in names):
        return (
            "is a checkpoint of SAM 1 (segment_anything), which is another architecture; train a SAM 2 on the same data"
        )
    return ""


def facts_of_weights(state: dict[str, Tensor]) -> tuple[int, int, bool] | None:
    """Width and depth of the image encoder and whether it is SAM 2.1: what tells the nine models apart."""
    patches = state.get("image_encoder.trunk.patch_embed.proj.weight")
    blocks = {name.split(".")[3] for name in state if name.startswith("image_encoder.trunk.blocks.")}
    return None if patches is None or not patches.ndim else (len(patches), len(blocks), "no_obj_embed_spatial" in state)


def parts_of(names: Iterable[str]) -> list[str]:
    """The model's own submodules and tensors to which the names belong: what stands before the first dot."""
    return list(dict.fromkeys(name.partition(".")[0] for name in names))


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())


def _prefix(name: str) -> str:
    match = _PREFIXES.match(name)
    return match[0] if match else ""
