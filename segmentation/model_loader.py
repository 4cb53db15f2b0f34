"""A model from a config and weights, without Hydra's global state."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .catalogue import CATALOGUE
from .checkpoints import CheckpointError
from .config import facts_of_config, read_config
from .memory import as_memory_error, memory_errors
from .messages import in_short, shown
from .sam2_package import SAM2Base
from .surroundings import own_settings
from .tensor_names import facts_of_weights, parts_of
from .weights import read_weights, refused

logger = logging.getLogger(__name__)

# What sam2.build_sam overrides with apply_postprocessing: fall back to the best of three masks when the single one is not
# stable, and in a video remember of prompted objects the mask itself, not how sure the model is of each pixel.
_POSTPROCESSING = {
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
    "binarize_mask_from_pts_for_mem_enc": True,
}
# The parts of a SAM2Base that images need.
_FOR_IMAGES = {"image_encoder", "sam_prompt_encoder", "sam_mask_decoder", "no_mem_embed"}


def load_model(
    weights: Path, config: str, device: str, apply_postprocessing: bool, rest: Callable[[], Path] | None = None
) -> SAM2Base:
    """Build the model of `config`, fill it from `weights`, put it on `device`: float32, in evaluation mode.

    Args:
        weights: as in :func:`.weights.read_weights`. Half precision becomes float32. The parts that only videos need may be
            missing, see :func:`missing_for_video`.
        config: as in :func:`.config.config_path`.
        device: "cpu", "cuda", "cuda:1", …
        apply_postprocessing: as in `sam2.build_sam.build_sam2`.
        rest: gives the checkpoint from which other parts come where `weights` lack them as a whole, as those of a fine-tuned
            mask decoder do. None: there is none, and such weights are refused.

    Raises:
        ValueError: the config is missing, is no SAM 2 config, or is unsafe (see :func:`.config.read_config`).
        CheckpointError: the weights are missing, damaged, unsafe or of another architecture.
        MemoryError: there is no memory for them.
    """
    with memory_errors(), own_settings():
        state = read_weights(weights)
        model = _build(config, apply_postprocessing)
        lacking = _lacking_parts(state, model)
        if not _faults(state, model, lacking) and not lacking <= _for_video(model) and state and rest:
            state = _completed(state, model, weights, config, rest())
            lacking = set()
        _check_fit(state, model, weights, config, lacking & _for_video(model))
        for name, tensor in model.state_dict().items():
            if name not in state:
                tensor.fill_(math.nan)  # not what the memory held before: no mask comes of it
        model.load_state_dict(state, strict=False)  # copies into float32 parameters
        return model.to(device).eval()


def missing_for_video(model: SAM2Base) -> list[str]:
    """What following objects through a video needs and the model's weights did not have, such as "memory_encoder"; empty where
    it can follow them. For images such a model is whole."""
    parts = _for_video(model)
    return parts_of(
        name for name, tensor in model.state_dict().items() if name.partition(".")[0] in parts and tensor.isnan().any()
    )


def _build(config: str, apply_postprocessing: bool) -> SAM2Base:
    """The model of a config, its weights still to be filled in."""
    tree = read_config(config)
    _let_no_cache_warm_up(tree["model"])
    try:
        # A few small constants are drawn all the same: spare the caller's random generator.
        with _WithoutInitialWeights(), torch.random.fork_rng(devices=[]):
            return instantiate(tree["model"], **(_POSTPROCESSING if apply_postprocessing else {}))
    except Exception as error:  # Hydra's, OmegaConf's, and what the constructors raise of themselves
        if memory := as_memory_error(error):
            raise memory from error
        raise ValueError(
            f"config_file {shown(config)} describes no model that sam2 can build: {in_short(error)}. "
            "Accepted: a YAML file like those in sam2/configs."
        ) from error


def _let_no_cache_warm_up(node: Any) -> None:
    """Keep sam2's position encodings from a GPU that may not be meant: their caches are filled when they are used."""
    if isinstance(node, dict):
        if str(node.get("_target_")).endswith(".PositionEmbeddingSine"):
            node["warmup_cache"] = False
        for value in node.values():
            _let_no_cache_warm_up(value)


class _WithoutInitialWeights(TorchFunctionMode):
    """A context in which modules are built without drawing their weights, which for a large model takes most of the time.

    For models that a checkpoint fills completely. Affects the calling thread alone.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # Functions of torch.nn.init come here themselves, or with what they call.
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if function in (torch.Tensor.uniform_, torch.Tensor.normal_):
            return args[0]
        # Of sam2's RoPEAttention: the model is moved as a whole, later.
        if function is torch.Tensor.to and args[1:] == ("cuda",):
            return args[0]
        return function(*args, **kwargs)


def _for_video(model: SAM2Base) -> set[str]:
    """The parts of a model that images do not need: those with which it remembers earlier frames."""
    return set(parts_of(model.state_dict())) - _FOR_IMAGES


def _lacking_parts(state: dict[str, Tensor], model: SAM2Base) -> set[str]:
    """The parts of a model of which the weights have nothing at all."""
    return set(parts_of(model.state_dict())) - set(parts_of(state))


def _completed(
    state: dict[str, Tensor], model: SAM2Base, weights: Path, config: str, checkpoint: Path
) -> dict[str, Tensor]:
    """The weights of some parts, with those of all others from the checkpoint of model_name, and a line that says so."""
    parts = ", ".join(parts_of(state))
    rest = read_weights(checkpoint)
    if faults := _faults(rest, model):
        raise CheckpointError(
            f"model_weight_file: {shown(weights)} holds {parts} alone, and the rest cannot come from {shown(checkpoint)}, the "
            f"checkpoint of model_name, which does not fit the config {shown(config)}: tensors {_listed(faults)}. Accepted: "
            "as model_name the model from which these weights were trained, with an empty config_file."
        )
    logger.warning(
        "model_weight_file: %s holds %s alone; the rest comes from %s, the checkpoint of model_name.",
        shown(weights),
        parts,
        shown(checkpoint),
    )
    return rest | state


def _faults(state: dict[str, Tensor], model: SAM2Base, may_lack: set[str] | None = None) -> dict[str, list[str]]:
    """The names of the tensors in which weights and model differ, by what is wrong with them; parts in `may_lack` may be
    missing as a whole."""
    expected = model.state_dict()
    both = [name for name in expected if name in state]
    faults = {
        "missing": [
            name for name in expected if name not in state and name.partition(".")[0] not in (may_lack or set())
        ],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [name for name in both if expected[name].shape != state[name].shape],
        "of another kind than floating point": [
            name
            for name in both
            if not state[name].is_floating_point() or state[name].layout != expected[name].layout or state[name].is_meta
        ],
    }
    return {what: names for what, names in faults.items() if names}


def _listed(faults: dict[str, list[str]]) -> str:
    return ", ".join(f"{len(names)} {what} (such as {shown(names[0])})" for what, names in faults.items())


def _check_fit(state: dict[str, Tensor], model: SAM2Base, weights: Path, config: str, may_lack: set[str]) -> None:
    """CheckpointError unless the weights have exactly the model's tensors, by name, shape and kind, without NaN or infinity.

    The parts in `may_lack` may be missing as a whole.
    """
    if faults := _faults(state, model, may_lack):
        raise _misfit(state, weights, config, faults)
    broken = next((name for name, tensor in state.items() if not tensor.float().isfinite().all()), None)
    if broken is not None:
        raise refused(
            weights, f"holds numbers that are not finite (in {shown(broken)}), as after a training that diverged"
        )


def _misfit(state: dict[str, Tensor], weights: Path, config: str, faults: dict[str, list[str]]) -> CheckpointError:
    facts = facts_of_weights(state)
    twin = next((name for name, entry in CATALOGUE.items() if facts_of_config(entry.config) == facts), None)
    if facts is None:
        accepted = (
            "the tensors of a SAM 2 model under sam2's names, or of whole parts of one, such as sam_mask_decoder."
        )
    elif twin is None:
        accepted = (
            "the YAML of these weights as config_file. Its image encoder is that of no model that model_name accepts."
        )
    else:
        accepted = "all tensors of that model, or the YAML of these weights as config_file."
        if CATALOGUE[twin].config != config and _fits(state, CATALOGUE[twin].config):
            accepted = f"model_name = {twin} with an empty config_file, or the YAML of these weights as config_file."
        accepted = f"{accepted} Its image encoder is that of {twin}."
    return CheckpointError(
        f"model_weight_file: {shown(weights)} does not fit the config {shown(config)}: tensors {_listed(faults)}. "
        f"Accepted: {accepted}"
    )


def _fits(state: dict[str, Tensor], config: str) -> bool:
    """Whether the weights are those of the config's model, or of whole parts of it."""
    model = _build(config, apply_postprocessing=False)
    return not _faults(state, model, _lacking_parts(state, model))
