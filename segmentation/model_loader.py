"""From a weights file and a YAML config to a SAM 2 model, leaving Hydra alone and running no foreign code."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import re
import struct
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoints import CATALOGUE, CheckpointError, fault_of_file, is_of_the_catalogue, shown
from .forks import free_in_children
from .memory import as_memory_error, memory_errors
from .messages import short

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base
    from torch import Tensor
    from torch.overrides import TorchFunctionMode

_MAX_CONFIG_BYTES = 1_000_000  # the released ones have 4,000
_MAX_CONFIG_DEPTH = 50  # the released ones are 6 deep
_MAX_CONFIG_VALUES = 10_000  # the released ones have 350; a list of 50,000 takes OmegaConf a minute
_MAX_CONFIG_SCALAR = 1_000  # a base-60 integer as long as the file takes PyYAML minutes
# Only the modules that hold models: importing another one can have effects (sam2.benchmark runs a benchmark).
_TARGET = re.compile(r"(?P<module>sam2\.(?:modeling(?:\.\w+)+|sam2_\w+))\.(?P<name>[A-Za-z]\w*)", re.ASCII)
_MAX_WEIGHTS_BYTES = 16 << 30  # the largest released ones have 898 MB, some four times that with an optimizer's state
_ACCEPTED_WEIGHTS = "the path of a .pt file with the weights of a SAM 2 model, or empty"
_ACCEPTED_CONFIG = (
    "the path of a YAML file, a config of the sam2 package such as configs/sam2/sam2_hiera_s.yaml, or empty"
)
_ACCEPTED_TARGETS = "a torch.nn.Module class of the sam2 package, such as sam2.modeling.sam2_base.SAM2Base"
# What sam2.build_sam.build_sam2 overrides with apply_postprocessing: fall back to the best of three masks
# when the single one is not stable.
_POSTPROCESSING = {
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
}
_import_lock = free_in_children(threading.RLock())
_filters_lock = free_in_children(threading.RLock())


@contextmanager
def sam2_imports() -> Iterator[None]:
    """Import sam2 in the body of this context without touching Hydra's global state.

    `import sam2` (1.1.0) initialises Hydra for the whole process unless somebody did so before; a library
    that initialises it later fails. Here Hydra looks initialised while sam2 is imported, so nothing happens
    to it. The price: a program whose first import of sam2 goes through here, and that later calls
    `build_sam2` itself, has to call `hydra.initialize_config_module("sam2", version_base="1.2")` before. Who
    imported sam2 earlier notices nothing.

    Raises:
        ImportError: a sam2 from before its configs were part of it.
    """
    spec = find_spec("sam2")
    if spec and spec.origin and not Path(spec.origin).with_name("configs").is_dir():
        raise ImportError(
            f"The sam2 in {Path(spec.origin).parent} is too old: accepted is 1.1.0 or newer. "
            "Install it with: pip install --upgrade 'sam2>=1.1.0'"
        )
    from hydra.core.global_hydra import GlobalHydra

    with _import_lock:
        hydra = GlobalHydra.instance()
        before = hydra.hydra
        if before is None:
            hydra.hydra = "not initialised: infer_segment_anything_2 is importing sam2"
        try:
            yield
        finally:
            hydra.hydra = before


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Build sam2's objects in the body of this context without the warnings about what sam2 uses of torch (jit.script), of
    which a user of this plugin can change nothing."""
    # Filters are those of the process: two threads that changed them at once would set back what the other one had set.
    with _filters_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def load_model(weights: Path, config: str, device: str, apply_postprocessing: bool) -> SAM2Base:
    """Build the model of `config`, fill it from `weights`, put it on `device`: float32, in evaluation mode.

    Args:
        weights: a file that `torch.save({"model": state_dict}, …)` wrote, or one with the state dict alone.
            Half precision becomes float32.
        config: a name inside the sam2 package ("configs/sam2/sam2_hiera_s.yaml") or the path of a YAML file.
        device: "cpu", "cuda", "cuda:1", …
        apply_postprocessing: as in `sam2.build_sam.build_sam2`.

    Raises:
        ValueError: the config is missing, is no SAM 2 config, or is unsafe (see `read_config`).
        CheckpointError: the weights are missing, damaged, unsafe or of another architecture.
        MemoryError: there is no memory for them.
    """
    from .surroundings import own_settings  # imports torch

    with memory_errors(), own_settings():
        state = _read_weights(weights)
        model = _build(config, apply_postprocessing)
        _check_fit(state, model, weights, config)
        model.load_state_dict(state)  # copies into float32 parameters
        return model.to(device).eval()


def read_config(config: str) -> dict[str, Any]:
    """Read a config; refuse it if building it could run anything but the constructors of sam2's own modules.

    A YAML config is code: Hydra imports and calls whatever a `_target_` names, with the arguments beside it.

    Args:
        config: as in `load_model`.

    Returns:
        The plain tree; its `model` builds a `SAM2Base`.

    Raises:
        ValueError: names the file, the key, the value and what is accepted.
    """
    path = _config_path(config)
    tree = _parse(path)
    with sam2_imports():
        from sam2.modeling.sam2_base import SAM2Base

        if "defaults" in tree:
            raise _refusal(path, "defaults", tree["defaults"], "one file that holds the whole config")
        _check_node(tree, "", path)
        model = tree.get("model")
        if not isinstance(model, dict) or "_target_" not in model:
            raise _refusal(path, "model", model, "a mapping with a _target_, as in the files of sam2/configs")
        target = model["_target_"]
        if not issubclass(_find_class(target), SAM2Base):
            raise _refusal(path, "model._target_", target, "sam2.modeling.sam2_base.SAM2Base or a subclass")
    return tree


def check_files(model_weight_file: str, config_file: str) -> None:
    """Refuse names of files that cannot be read, before anything is loaded; empty names are no files.

    Raises:
        ValueError: a config_file that is neither a file nor a config inside the sam2 package.
        CheckpointError: a model_weight_file that is no file.
    """
    if model_weight_file:
        _check_weights_file(_expanded(model_weight_file))
    if config_file:
        _config_path(str(_expanded(config_file)))


@contextmanager
def blamed_on_config(config_file: str) -> Iterator[None]:
    """Run a model in the body of this context: where it was built from a config of one's own and fails, the config is named.

    A config can fit the weights and yet describe a model that cannot work, such as one with an image_size of 100.

    Raises:
        ValueError: in place of what sam2 and torch raise inside such a model.
    """
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        if not config_file or isinstance(error, CheckpointError) or "memory" in str(error):
            raise
        raise ValueError(
            f"config_file: the model that {shown(config_file)} describes fails ({_in_short(error)}). Accepted: the YAML with "
            "which the weights were trained."
        ) from error


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # "~somebody", who is not a user here
        return Path(name)


def _config_path(config: str) -> Path:
    spec = find_spec("sam2")  # finds the package without importing it
    packaged = Path(spec.origin).parent / config if spec and spec.origin else Path(config)
    path = packaged if not fault_of_file(packaged) else Path(config)
    fault = fault_of_file(path)
    if fault == "does not exist":
        fault = "is neither a file nor a config inside the sam2 package"
    if fault:
        raise ValueError(f"config_file '{shown(config)}' {fault}; accepted is {_ACCEPTED_CONFIG}.")
    return path


def _parse(path: Path) -> dict[Any, Any]:
    import yaml
    from omegaconf import OmegaConf

    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError(f"it is larger than {_MAX_CONFIG_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        depth = values = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            # A few lines of aliases to aliases would unfold to more than the memory holds.
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it uses YAML aliases (*name); write the values out")
            # PyYAML's time grows with the square of the depth: 8 s for 5,000 brackets.
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_CONFIG_DEPTH:
                raise ValueError(f"it is nested more than {_MAX_CONFIG_DEPTH} deep")
            values += isinstance(event, yaml.ScalarEvent)
            if values > _MAX_CONFIG_VALUES:
                raise ValueError(f"it holds more than {_MAX_CONFIG_VALUES} values")
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > _MAX_CONFIG_SCALAR:
                raise ValueError(f"a value in it has more than {_MAX_CONFIG_SCALAR} characters")
        # OmegaConf's loader is a safe one that reads 1e-6 as a number, as the released configs need.
        tree = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
        if not isinstance(tree, dict):
            raise ValueError("it is not a mapping")
    except Exception as error:  # PyYAML's own: KeyError for `!!bool x`, IndexError for `!!int ""`, and others
        raise ValueError(
            f"config_file {shown(path)} cannot be read: {_in_short(error)}. Accepted: a YAML file like those in sam2/configs."
        ) from error
    return tree


def _check_node(node: Any, key: str, path: Path) -> None:
    if isinstance(node, dict):
        for name, value in node.items():
            here = f"{key}.{name}" if key else str(name)
            if name == "_target_":
                if _find_class(value) is None:
                    raise _refusal(path, here, value, _ACCEPTED_TARGETS)
            elif str(name).startswith("_"):  # _args_, _partial_, …: sam2's model configs need none
                raise _refusal(path, here, value, "no key of Hydra's but _target_")
            elif name == "weights_path" and value is not None:  # Hiera reads that file itself
                raise _refusal(path, here, value, "null: weights come from model_weight_file")
            else:
                _check_node(value, here, path)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check_node(value, f"{key}[{index}]", path)
    elif isinstance(node, str) and "${" in node:  # reads environment variables, among others
        raise _refusal(path, key, node, "plain values, no ${…}")


def _find_class(target: Any) -> type | None:
    """The class that a `_target_` names, or None if it is not accepted. Imports nothing but sam2's models."""
    from torch.nn import Module

    match = _TARGET.fullmatch(target) if isinstance(target, str) else None
    if match is None:
        return None
    try:
        found = getattr(importlib.import_module(match["module"]), match["name"], None)
    except ImportError:
        return None
    # Defined there, not merely imported there: sam2.modeling.sam2_base.F is torch's.
    accepted = isinstance(found, type) and issubclass(found, Module) and found.__module__ == match["module"]
    return found if accepted else None


def _refusal(path: Path, key: str, value: Any, accepted: str) -> ValueError:
    return ValueError(f"config_file {shown(path)}: {shown(key)} is {_text_of(value)!r}. Accepted: {accepted}.")


def _text_of(value: Any) -> str:
    try:
        return str(value)[:200]
    except ValueError:  # Python writes no number of more than 4300 digits
        return short(value)


def _in_short(error: Exception) -> str:
    """What an error says, on one line and no longer than one reads."""
    text = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else str(error)
    return shown(" ".join(text.split()))


def _build(config: str, apply_postprocessing: bool) -> SAM2Base:
    import torch
    from hydra.utils import instantiate

    tree = read_config(config)
    try:
        # A few small constants are drawn all the same: spare the caller's random generator.
        with _without_initial_weights(), torch.random.fork_rng(devices=[]):
            return instantiate(tree["model"], **(_POSTPROCESSING if apply_postprocessing else {}))
    except Exception as error:  # Hydra's, OmegaConf's, and what the constructors raise of themselves
        if as_memory_error(error):
            raise as_memory_error(error) from error
        raise ValueError(
            f"config_file {shown(config)} describes no model that sam2 can build: {_in_short(error)}. "
            "Accepted: a YAML file like those in sam2/configs."
        ) from error


def _without_initial_weights() -> TorchFunctionMode:
    """A context in which modules are built without drawing their weights, which for a large model takes most of the time.

    For models that a checkpoint fills completely. Affects the calling thread alone.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            # Functions of torch.nn.init come here themselves, or with what they call.
            if getattr(function, "__module__", None) == "torch.nn.init":
                return kwargs["tensor"] if "tensor" in kwargs else args[0]
            if function in (torch.Tensor.uniform_, torch.Tensor.normal_):
                return args[0]
            return function(*args, **kwargs)

    return Mode()


def _read_weights(weights: Path) -> dict[str, Tensor]:
    import torch

    _check_weights_file(weights)
    if not zipfile.is_zipfile(weights):  # torch.save has written zip archives since 1.6, long before SAM 2
        raise _refused(weights, "is cut off or no checkpoint: it is not a complete torch.save file")
    try:
        damaged = _damaged_part(weights)
        # Of an archive that was packed again, torch would map the packed bytes and take them for weights.
        mmap = not _is_packed(weights)
        content = None if damaged else torch.load(weights, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if "global" not in str(error).lower():
            raise _refused(weights, "is damaged or no checkpoint: torch cannot read it") from error
        raise _refused(
            weights,
            f"holds Python objects besides tensors{_named_object(error)}, which are not loaded because that runs code; if you "
            "trust it, write the tensors alone with torch.save({'model': model.state_dict()}, …)",
        ) from error
    except Exception as error:  # a damaged archive can make torch.load raise anything
        if as_memory_error(error):
            raise as_memory_error(error) from error
        raise _refused(weights, "is damaged or no checkpoint: torch cannot read it") from error
    if damaged:
        raise _refused(weights, f"is damaged: what it holds as {shown(damaged)} is not what was written")
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise _refused(weights, "is no SAM 2 checkpoint: it does not hold {'model': state_dict}")
    return state


def _check_weights_file(weights: Path) -> None:
    fault = fault_of_file(weights)
    if fault:
        raise _refused(weights, fault)


def _refused(weights: Path, why: str) -> CheckpointError:
    """The error for weights that cannot be used: what is wrong with them, and what to do about it."""
    if is_of_the_catalogue(weights):
        return CheckpointError(f"The checkpoint {shown(weights)} {why}. Delete it: the next run downloads it again.")
    return CheckpointError(f"model_weight_file: {shown(weights)} {why}. Accepted: {_ACCEPTED_WEIGHTS}.")


def _named_object(error: Exception) -> str:
    """The class or function that torch did not load, in brackets, where its message says which."""
    match = re.search(r"GLOBAL:? ([\w.]+)", str(error))
    return f" ({match[1]})" if match else ""


def _is_packed(weights: Path) -> bool:
    with zipfile.ZipFile(weights) as archive:
        return any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist())


def _damaged_part(weights: Path) -> str | None:
    """The name of a part of a torch.save file that differs from its checksum, which torch itself does not compare.

    Weights of which a piece is missing or wrong would load, and give masks that look like masks.
    """
    with zipfile.ZipFile(weights) as archive, weights.open("rb") as file:
        buffer = memoryview(bytearray(1 << 20))
        if sum(part.file_size for part in archive.infolist()) > _MAX_WEIGHTS_BYTES:
            raise ValueError("a few kilobytes can unpack to more than the memory holds")
        for part in archive.infolist():
            if part.CRC == 0:  # torch was told to write no checksums
                continue
            if part.compress_type != zipfile.ZIP_STORED:
                with archive.open(part) as unpacked:
                    while unpacked.readinto(buffer):
                        pass
                continue
            file.seek(part.header_offset)
            name_length, extra_length = struct.unpack("<HH", file.read(30)[26:])
            file.seek(name_length + extra_length, os.SEEK_CUR)
            checksum, left = 0, part.file_size
            while left and (read := file.readinto(buffer[: min(left, len(buffer))])):
                checksum, left = zlib.crc32(buffer[:read], checksum), left - read
            if checksum != part.CRC or left:
                return part.filename
    return None


def _check_fit(state: dict[str, Tensor], model: SAM2Base, weights: Path, config: str) -> None:
    """CheckpointError unless the weights have exactly the model's tensors, by name, shape and kind, without NaN or infinity."""
    expected = model.state_dict()
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    both = [name for name in expected if name in state]
    reshaped = [name for name in both if expected[name].shape != state[name].shape]
    recast = [
        name
        for name in both
        if not state[name].is_floating_point() or state[name].layout != expected[name].layout or state[name].is_meta
    ]
    differences = [
        f"{len(names)} {what} (such as {shown(names[0])})"
        for names, what in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (reshaped, "of another shape"),
            (recast, "of another kind than floating point"),
        )
        if names
    ]
    if differences:
        raise _misfit(weights, config, ", ".join(differences), _facts_of_weights(state))
    broken = next((name for name in both if not state[name].float().isfinite().all()), None)
    if broken is not None:
        raise _refused(
            weights, f"holds numbers that are not finite (in {shown(broken)}), as after a training that diverged"
        )


def _misfit(weights: Path, config: str, differences: str, facts: tuple[int, int, bool] | None) -> CheckpointError:
    twin = next((name for name, entry in CATALOGUE.items() if _facts_of_config(entry.config) == facts), None)
    way = f"model_name = {twin} with an empty config_file, or " if twin else ""
    return CheckpointError(
        f"model_weight_file: {shown(weights)} does not fit the config {shown(config)}: tensors {differences}. "
        f"Accepted: {way}the YAML of these weights as config_file. "
        f"Its image encoder is that of {twin or 'no model that model_name accepts'}."
    )


def _facts_of_weights(state: dict[str, Tensor]) -> tuple[int, int, bool] | None:
    """Width and depth of the image encoder and whether it is SAM 2.1: what tells the nine models apart."""
    patches = state.get("image_encoder.trunk.patch_embed.proj.weight")
    blocks = {name.split(".")[3] for name in state if str(name).startswith("image_encoder.trunk.blocks.")}
    return None if patches is None or not patches.ndim else (len(patches), len(blocks), "no_obj_embed_spatial" in state)


def _facts_of_config(config: str) -> tuple[int, int, bool]:
    model = _parse(_config_path(config))["model"]
    trunk = model["image_encoder"]["trunk"]
    stages = trunk.get("stages", (2, 3, 16, 3))  # Hiera's default, which base_plus leaves unsaid
    return trunk["embed_dim"], sum(stages), model.get("no_obj_embed_spatial", False)
