"""A model from a config and weights, without Hydra's global state."""

from __future__ import annotations

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
from .weights import facts_of_weights, read_weights, refused

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


def load_model(weights: Path, config: str, device: str, apply_postprocessing: bool) -> SAM2Base:
    """Build the model of `config`, fill it from `weights`, put it on `device`: float32, in evaluation mode.

    Args:
        weights: as in :func:`.weights.read_weights`. Half precision becomes float32.
        config: as in :func:`.config.config_path`.
        device: "cpu", "cuda", "cuda:1", …
        apply_postprocessing: as in `sam2.build_sam.build_sam2`.

    Raises:
        ValueError: the config is missing, is no SAM 2 config, or is unsafe (see :func:`.config.read_config`).
        CheckpointError: the weights are missing, damaged, unsafe or of another architecture.
        MemoryError: there is no memory for them.
    """
    with memory_errors(), own_settings():
        state = read_weights(weights)
        model = _build(config, apply_postprocessing)
        _check_fit(state, model, weights, config)
        model.load_state_dict(state)  # copies into float32 parameters
        return model.to(device).eval()


def _build(config: str, apply_postprocessing: bool) -> SAM2Base:
    """The model of a config, its weights still to be filled in."""
    tree = read_config(config)
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
        return function(*args, **kwargs)


def _check_fit(state: dict[str, Tensor], model: SAM2Base, weights: Path, config: str) -> None:
    """CheckpointError unless the weights have exactly the model's tensors, by name, shape and kind, without NaN or infinity."""
    expected = model.state_dict()
    both = [name for name in expected if name in state]
    faults = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [name for name in both if expected[name].shape != state[name].shape],
        "of another kind than floating point": [
            name
            for name in both
            if not state[name].is_floating_point() or state[name].layout != expected[name].layout or state[name].is_meta
        ],
    }
    differences = [f"{len(names)} {what} (such as {shown(names[0])})" for what, names in faults.items() if names]
    if differences:
        raise _misfit(weights, config, ", ".join(differences), facts_of_weights(state))
    broken = next((name for name in both if not state[name].float().isfinite().all()), None)
    if broken is not None:
        raise refused(
            weights, f"holds numbers that are not finite (in {shown(broken)}), as after a training that diverged"
        )


def _misfit(weights: Path, config: str, differences: str, facts: tuple[int, int, bool] | None) -> CheckpointError:
    twin = next((name for name, entry in CATALOGUE.items() if facts_of_config(entry.config) == facts), None)
    way = f"model_name = {twin} with an empty config_file, or " if twin else ""
    return CheckpointError(
        f"model_weight_file: {shown(weights)} does not fit the config {shown(config)}: tensors {differences}. "
        f"Accepted: {way}the YAML of these weights as config_file. "
        f"Its image encoder is that of {twin or 'no model that model_name accepts'}."
    )
