"""Weights that somebody else made: cut off, damaged, foreign, hostile. None of them runs, hangs or loads in part."""

# ruff: noqa: E501 - a row of a table is a line
from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import save as safetensors_of

from infer_segment_anything_2.segmentation import weights as reading
from infer_segment_anything_2.segmentation.checkpoints import CATALOGUE, CheckpointError
from infer_segment_anything_2.segmentation.model_loader import _build, load_model

NANO = ROOT / "models" / "sam2_hiera_nano.pt"
CONFIG = ROOT / "models" / "sam2_hiera_nano.yaml"
BYTES = NANO.read_bytes()


def state() -> dict[str, torch.Tensor]:
    return torch.load(NANO, weights_only=True)["model"]


def refusal(weights: Path, config: Path | str = CONFIG) -> str:
    """The message with which the weights are refused, soon; its first words say which file."""
    began = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        load_model(weights, str(config), "cpu", True)
    assert time.monotonic() - began < 30
    message = str(caught.value)
    assert message.startswith(f"model_weight_file: {weights} ")
    assert "Accepted: " in message
    assert message.isprintable()
    assert len(message) < 900
    return message


# ---------------------------------------------------------------- weights: cut off and damaged


@pytest.mark.parametrize(
    "size", [0, 1, 4, 22, 1000, len(BYTES) // 100, len(BYTES) // 2, len(BYTES) * 99 // 100, len(BYTES) - 1]
)
def test_weights_of_which_the_end_is_missing_are_refused(tmp_path, size):
    (tmp_path / "cut.pt").write_bytes(BYTES[:size])
    assert "is cut off or no checkpoint" in refusal(tmp_path / "cut.pt")


def test_what_can_be_downloaded_again_is_to_be_deleted_and_what_came_with_the_plugin_is_not():
    assert str(reading.refused(NANO, "is damaged")).endswith("It comes with the plugin: install that again.")
    other = NANO.with_name("sam2_hiera_tiny.pt")
    assert str(reading.refused(other, "is damaged")).endswith("Delete it: the next run downloads it again.")


@pytest.mark.parametrize("size", [1, 1000, len(BYTES) // 2])
def test_weights_of_which_the_beginning_is_missing_are_refused(tmp_path, size):
    (tmp_path / "late.pt").write_bytes(BYTES[size:])
    assert "is damaged" in refusal(tmp_path / "late.pt")


def is_refused(weights: Path, expected: dict[str, torch.Tensor]) -> bool:
    """Whether the weights are refused; if not, no weight may have changed: the damage lay in what only the archive needs."""
    try:
        found = load_model(weights, str(CONFIG), "cpu", True).state_dict()
    except CheckpointError:
        return True
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    return False


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_model(NANO, str(CONFIG), "cpu", True).state_dict()


def test_a_piece_of_zeros_as_a_broken_copy_leaves_is_refused_wherever_it_lies(tmp_path, expected):
    refused = 0
    for start in range(0, len(BYTES) - 4096, len(BYTES) // 25):
        (tmp_path / "hole.pt").write_bytes(BYTES[:start] + bytes(4096) + BYTES[start + 4096 :])
        refused += is_refused(tmp_path / "hole.pt", expected)
    assert refused == 25


def test_a_bit_that_fell_over_is_refused_or_changes_no_weight(tmp_path, expected):
    draw = random.Random(0)
    refused = 0
    for _ in range(60):
        content = bytearray(BYTES)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (tmp_path / "flipped.pt").write_bytes(content)
        refused += is_refused(tmp_path / "flipped.pt", expected)
    assert refused > 50


def test_weights_saved_without_checksums_load(tmp_path, expected):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": state()}, tmp_path / "unsummed.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert not is_refused(tmp_path / "unsummed.pt", expected)


@pytest.fixture
def packed(tmp_path) -> Path:
    """The good weights in an archive that somebody packed again, with compression."""
    with zipfile.ZipFile(NANO) as old, zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    return tmp_path / "packed.pt"


def test_weights_that_were_packed_again_load_and_their_checksums_count(packed, expected):
    assert not is_refused(packed, expected)
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 1
    packed.write_bytes(content)
    assert "is damaged" in refusal(packed)


def test_what_unpacks_to_more_than_the_memory_holds_is_not_unpacked(packed, monkeypatch):
    monkeypatch.setattr(reading, "MAX_UNPACKED_BYTES", len(BYTES) // 2)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *args, **kwargs: pytest.fail("it is unpacked"))
    assert "is damaged or no checkpoint" in refusal(packed)


# ---------------------------------------------------------------- weights: foreign


class Elsewhere(torch.nn.Module):
    """A model as other projects save it: whole, not its weights."""


def pickled_by_hand(function: str, argument: str, protocol: bytes = b"\x80\x02") -> bytes:
    """A pickle that calls module.function(argument)."""
    module, name = function.rsplit(".", 1)
    return protocol + f"c{module}\n{name}\n(S{argument!r}\ntR.".encode()


def archive_of(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/version", "3\n")
        archive.writestr("a/byteorder", "little")
    return buffer.getvalue()


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def jit_archive() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer)
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(CONFIG, "sys_info")
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


FOREIGN = {
    "an old torch.save of nothing": (lambda: saved({"model": {}}, _use_new_zipfile_serialization=False), " missing (such as "),
    "a torch.save in a tar": (tar, "is cut off or no checkpoint"),
    "a plain pickle": (lambda: pickle.dumps({"model": {}}), "is cut off or no checkpoint"),
    "safetensors of nothing": (lambda: b"\x02\0\0\0\0\0\0\0{}", " missing (such as "),
    "an HTML page": (lambda: b"<!DOCTYPE html><html><body>Please log in.", "is cut off or no checkpoint"),
    "a pointer of Git LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9", "is cut off or no checkpoint"),
    "NumPy's arrays": (npz, "is damaged or no checkpoint"),
    "TorchScript": (jit_archive, "is damaged or no checkpoint"),
    "a pickle of nonsense": (lambda: archive_of(b"\x80\x02nonsense"), "is damaged, or was written with another pickle_protocol"),
    "an empty pickle": (lambda: archive_of(b""), "is damaged or no checkpoint"),
    "a pickle that ends early": (lambda: archive_of(b"\x80\x02}q\0("), "is damaged or no checkpoint"),
    "a pickle 100,000 deep": (lambda: archive_of(b"\x80\x02" + b"](" * 50_000 + b"."), ""),
    "a whole model": (lambda: saved(Elsewhere()), "holds Python objects besides tensors (test_weights.Elsewhere)"),
    "another pickle protocol": (lambda: saved({"model": {}}, pickle_protocol=4), "was written with another pickle_protocol"),
    "a list": (lambda: saved([1, 2]), "it is no state dict, and holds none under model, state_dict, model_state_dict or model_state"),
    "a tensor": (lambda: saved(torch.zeros(3)), "it is no state dict, and holds none under model, state_dict, model_state_dict or model_state"),
    "None": (lambda: saved(None), "it is no state dict, and holds none under model, state_dict, model_state_dict or model_state"),
    "a model that is none": (lambda: saved({"model": "sam2"}), "it is no state dict, and holds none under model, state_dict, model_state_dict or model_state"),
    "a list for a model": (lambda: saved({"model": [1]}), "it is no state dict, and holds none under model, state_dict, model_state_dict or model_state"),
    "numbers for weights": (lambda: saved({"model": {"a": 1}}), "it is no state dict, and holds none under model, state_dict, model_state_dict or model_state"),
    "nothing in the model": (lambda: saved({"model": {}}), " missing (such as "),
    "names that are numbers": (lambda: saved({"model": {1: torch.zeros(1)}}), "1 unexpected (such as 1)"),
    "names that do not print": (lambda: saved({"model": {"a\0\n": torch.zeros(1)}}), "1 unexpected (such as a\\x00\\n)"),
    "names of another wrapper": (lambda: saved({f"net.{k}": v for k, v in state().items()}), "393 unexpected (such as net.maskmem_tpos_enc)"),
    "an encoder without dimensions": (lambda: saved({"image_encoder.trunk.patch_embed.proj.weight": torch.tensor(1.0)}), "1 of another shape"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_sam2_checkpoint_is_told_so(tmp_path, kind):
    make, said = FOREIGN[kind]
    (tmp_path / "foreign.pt").write_bytes(make())
    assert said in refusal(tmp_path / "foreign.pt")


def changed(name: str, change) -> bytes:
    tensors = state()
    tensors[name] = change(tensors[name])
    return saved({"model": tensors})


WRONG_NUMBERS = {
    "NaN": (lambda t: t.clone().fill_(float("nan")), "holds numbers that are not finite (in no_mem_embed)"),
    "one infinity": (
        lambda t: t.float().index_fill(2, torch.tensor([5]), float("-inf")),
        "holds numbers that are not finite",
    ),
    "integers": (lambda t: t.int(), "1 of another kind than floating point (such as no_mem_embed)"),
    "complex numbers": (lambda t: t.to(torch.complex64), "1 of another kind than floating point"),
    "a sparse tensor": (lambda t: t.to_sparse(), "1 of another kind than floating point"),
    "a tensor without numbers": (
        lambda t: torch.empty(t.shape, device="meta"),
        "1 of another kind than floating point",
    ),
    "a scalar": (lambda t: torch.tensor(1.0), "1 of another shape"),
    "a trillion numbers out of one": (lambda t: torch.zeros(1).expand(10**12), "1 of another shape"),
}


@pytest.mark.parametrize("kind", WRONG_NUMBERS)
def test_numbers_that_give_no_masks_are_refused(tmp_path, kind):
    change, said = WRONG_NUMBERS[kind]
    (tmp_path / "numbers.pt").write_bytes(changed("no_mem_embed", change))
    assert said in refusal(tmp_path / "numbers.pt")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_numbers_of_another_precision_load(tmp_path, dtype):
    (tmp_path / "numbers.pt").write_bytes(changed("no_mem_embed", lambda t: t.to(dtype)))
    load_model(tmp_path / "numbers.pt", str(CONFIG), "cpu", True)


@pytest.mark.parametrize("model_name", [name for name in CATALOGUE if name != "sam2_hiera_nano"])
def test_weights_of_another_architecture_are_called_by_its_name_and_accepted_by_it(tmp_path, model_name):
    (tmp_path / "mine.pt").write_bytes(saved({"model": nothing_of(model_name)}))
    message = refusal(tmp_path / "mine.pt")
    assert message.endswith(f"Its image encoder is that of {model_name}.")
    assert f"Accepted: model_name = {model_name} with an empty config_file, or the YAML of these weights" in message


def nothing_of(model_name: str) -> dict[str, torch.Tensor]:
    """The tensors of a released model, all zero, in next to no memory."""
    shapes = {name: tensor.shape for name, tensor in _build(CATALOGUE[model_name].config, False).state_dict().items()}
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def test_no_model_is_advised_that_is_set_already_or_that_the_weights_do_not_fit(tmp_path):
    tensors = nothing_of("sam2_hiera_tiny")
    del tensors["sam_mask_decoder.iou_token.weight"]
    (tmp_path / "mine.pt").write_bytes(saved({"model": tensors}))
    for config in (CATALOGUE["sam2_hiera_tiny"].config, CONFIG):
        message = refusal(tmp_path / "mine.pt", config)
        assert message.endswith(
            "Accepted: all tensors of that model, or the YAML of these weights as config_file. Its image encoder is that of "
            "sam2_hiera_tiny."
        )


def test_missing_unexpected_and_misshapen_tensors_are_counted(tmp_path):
    tensors = state()
    del tensors["no_mem_embed"]
    tensors["head.weight"] = torch.zeros(1)
    tensors["maskmem_tpos_enc"] = torch.zeros(1)
    (tmp_path / "other.pt").write_bytes(saved({"model": tensors}))
    message = refusal(tmp_path / "other.pt")
    assert "1 missing (such as no_mem_embed)" in message
    assert "1 unexpected (such as head.weight)" in message
    assert "1 of another shape (such as maskmem_tpos_enc)" in message
    assert message.endswith("Its image encoder is that of sam2_hiera_nano.")


def test_weights_that_look_like_no_known_model_are_told_so(tmp_path):
    tensors = state()
    tensors["image_encoder.trunk.patch_embed.proj.weight"] = torch.zeros(48, 3, 7, 7)
    (tmp_path / "x.pt").write_bytes(saved({"model": tensors}))
    assert refusal(tmp_path / "x.pt").endswith("that of no model that model_name accepts.")


def test_weights_without_an_image_encoder_are_not_said_to_have_one(tmp_path):
    (tmp_path / "x.pt").write_bytes(saved({"model": {"a": torch.zeros(1)}}))
    assert refusal(tmp_path / "x.pt").endswith(
        "Accepted: the tensors of a SAM 2 model under sam2's names, or of whole parts of one, such as sam_mask_decoder."
    )


NO_SAM2 = {
    "LoRA of peft": (
        {"base_model.model.sam_mask_decoder.transformer.layers.0.self_attn.q_proj.lora_A.default.weight": 0},
        "holds LoRA adapters (such as base_model.model.sam_mask_decoder.transformer.layers.0.self_attn.q_proj.lora_A.default."
        "weight) in place of whole weights; merge them into the model first (with peft: model.merge_and_unload()) and save it "
        "with torch.save({'model': model.state_dict()}, …)",
    ),
    "LoRA beside the weights": (
        dict.fromkeys(["image_encoder.trunk.blocks.0.attn.qkv.weight", "module.image_encoder.lora_b.weight"], 0),
        "holds LoRA adapters (such as ",
    ),
    "transformers' SAM 2": (
        dict.fromkeys(["vision_encoder.backbone.pos_embed", "mask_decoder.iou_token.weight", "no_memory_embedding"], 0),
        "has the names that transformers gives its own SAM models, whose parts are cut differently; train with the sam2 package,"
        " or rename the tensors to sam2's names, the reverse of transformers' convert_sam2_to_hf.py",
    ),
    "transformers' mask decoder": (
        dict.fromkeys(["mask_decoder.iou_token.weight", "mask_decoder.upscale_conv1.weight"], 0),
        "has the names that transformers gives its own SAM models",
    ),
    "SAM 1": (
        dict.fromkeys(
            ["image_encoder.pos_embed", "prompt_encoder.no_mask_embed.weight", "mask_decoder.iou_token.weight"], 0
        ),
        "is a checkpoint of SAM 1 (segment_anything), which is another architecture; train a SAM 2 on the same data",
    ),
    "SAM 1's mask decoder": (
        {"module.mask_decoder.iou_token.weight": 0},
        "is a checkpoint of SAM 1 (segment_anything)",
    ),
}


@pytest.mark.parametrize("kind", NO_SAM2)
def test_weights_that_cannot_be_used_are_called_by_their_name_with_the_way_out(tmp_path, kind):
    names, said = NO_SAM2[kind]
    (tmp_path / "other.pt").write_bytes(saved({"model": {name: torch.zeros(1) for name in names}}))
    assert refusal(tmp_path / "other.pt").removeprefix(f"model_weight_file: {tmp_path / 'other.pt'} ").startswith(said)


# ---------------------------------------------------------------- weights: hostile


def _load_anything(path: str) -> Any:
    return torch.load(path, weights_only=False)


class Calls:
    """Unpickled, it makes a folder: by one of the roads that a pickle has."""

    def __init__(self, folder: Path, road: str) -> None:
        self.folder, self.road = folder, road

    def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:
        path = str(self.folder)
        return {
            "reduce": lambda: (os.mkdir, (path,)),
            "exec": lambda: (exec, (f"import os; os.mkdir({path!r})",)),
            "eval": lambda: (eval, (f"__import__('os').mkdir({path!r})",)),
            "getattr": lambda: (getattr(Path(path), "mkdir"), ()),  # noqa: B009
            "list items": lambda: (list, (), None, iter([Calls(self.folder, "reduce")])),
            "dict items": lambda: (dict, (), None, None, iter([("k", Calls(self.folder, "reduce"))])),
            "an object's state": lambda: (Elsewhere, (), {"_forward_hooks": Calls(self.folder, "reduce")}),
            "torch's own loader": lambda: (_load_anything, (path + ".inner",)),
        }[self.road]()


@pytest.mark.parametrize(
    "road", ["reduce", "exec", "eval", "getattr", "list items", "dict items", "an object's state", "torch's own loader"]
)
@pytest.mark.parametrize("place", ["alone", "as the model", "among the weights", "as a name"])
def test_a_pickle_that_wants_to_run_code_does_not(tmp_path, road, place):
    proof = tmp_path / "it ran"
    (tmp_path / "it ran.inner").write_bytes(saved(Calls(proof, "reduce")))
    evil = Calls(proof, road)
    content = {
        "alone": lambda: evil,
        "as the model": lambda: {"model": evil},
        "among the weights": lambda: {"model": {**state(), "zzz": evil}},
        "as a name": lambda: {"model": {evil: torch.zeros(1)}},
    }[place]()
    (tmp_path / "evil.pt").write_bytes(saved(content))
    assert "holds Python objects besides tensors" in refusal(tmp_path / "evil.pt")
    assert not proof.exists()
    if place in ("alone", "among the weights"):
        torch.load(tmp_path / "evil.pt", weights_only=False)
        assert proof.exists(), "the file is no proof of anything"


@pytest.mark.parametrize(
    "function", ["os.mkdir", "posix.mkdir", "builtins.exec", "torch.hub.load", "sam2.benchmark.Path"]
)
def test_a_pickle_written_by_hand_does_not_run_in_an_archive_or_alone(tmp_path, function):
    proof = tmp_path / "it ran"
    pickled = pickled_by_hand(function, str(proof))
    for content in (
        pickled,
        archive_of(pickled),
        archive_of(pickled[2:]),
        BYTES + archive_of(pickled),
        pickled + BYTES,
    ):
        (tmp_path / "evil.pt").write_bytes(content)
        with contextlib.suppress(CheckpointError):  # the good weights behind a pickle are an archive like any other
            load_model(tmp_path / "evil.pt", str(CONFIG), "cpu", True)
        assert not proof.exists()
        assert "sam2.benchmark" not in sys.modules


@pytest.mark.parametrize(
    "road", ["reduce", "exec", "eval", "getattr", "list items", "dict items", "an object's state", "torch's own loader"]
)
def test_an_older_file_that_wants_to_run_code_does_not(tmp_path, road):
    proof = tmp_path / "it ran"
    (tmp_path / "it ran.inner").write_bytes(saved(Calls(proof, "reduce")))
    content = saved({"model": state(), "more": Calls(proof, road)}, _use_new_zipfile_serialization=False)
    (tmp_path / "evil.pt").write_bytes(content)
    assert "holds Python objects besides tensors" in refusal(tmp_path / "evil.pt")
    assert not proof.exists()


OLD = saved({"model": {"a": torch.zeros(1000)}}, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("size", [15, 100, len(OLD) // 2, len(OLD) - 1])
def test_an_older_file_of_which_the_end_is_missing_is_refused(tmp_path, size):
    (tmp_path / "cut.pt").write_bytes(OLD[:size])
    assert "is damaged or no checkpoint" in refusal(tmp_path / "cut.pt")


def test_an_older_file_that_announces_more_numbers_than_it_has_is_refused_before_they_are_made(tmp_path):
    few = (1000).to_bytes(2, "little")  # as the pickle has it, behind its opcode M
    many = saved({"model": {"a": torch.zeros(60_000)}}, _use_new_zipfile_serialization=False)
    assert OLD.count(b"M" + few) == 2  # of the storage and of the shape
    (tmp_path / "small.pt").write_bytes(OLD.replace(b"M" + few, b"M" + (60_000).to_bytes(2, "little")))
    assert len(many) > 200_000
    assert "is damaged or no checkpoint" in refusal(tmp_path / "small.pt")


def test_numbers_that_an_older_file_announces_and_leaves_out_are_not_what_the_memory_held(tmp_path):
    tensors = state()
    content = saved({"model": tensors, "x": 1}, _use_new_zipfile_serialization=False)
    # The list of what follows, a pickle of its own, comes last before the numbers: an empty one in its place.
    end = content.index(b"K\x01u.") + 4  # of the pickle with the tensors
    (tmp_path / "empty.pt").write_bytes(content[:end] + pickle.dumps([], 2) + bytes(len(content)))
    assert "holds numbers that are not finite" in refusal(tmp_path / "empty.pt")


def header_of(size: int, text: bytes) -> bytes:
    return size.to_bytes(8, "little") + text


def a_tensor(start: int, end: int, count: int = 1) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [count], "data_offsets": [start, end]}


def safetensors(tensors: dict[str, Any], numbers: bytes) -> bytes:
    text = json.dumps(tensors).encode()
    return header_of(len(text), text) + numbers


HOSTILE_SAFETENSORS = {
    "a header of absurd size": lambda: header_of(2**63 - 1, b"{}"),
    "a header that is longer than the file": lambda: header_of(5000, b'{"a":'),
    "a header that is none": lambda: header_of(4, b"{[[["),
    "a header 100,000 deep": lambda: header_of(100_005, b'{"a":' + b"[" * 100_000),
    "tensors that overlap": lambda: safetensors({"a": a_tensor(0, 4), "b": a_tensor(2, 6)}, bytes(8)),
    "tensors in one place": lambda: safetensors({"a": a_tensor(0, 4), "b": a_tensor(0, 4)}, bytes(4)),
    "a tensor beyond the end": lambda: safetensors({"a": a_tensor(0, 4000, 1000)}, bytes(8)),
    "a tensor larger than its place": lambda: safetensors({"a": a_tensor(0, 4, 10**15)}, bytes(4)),
    "an offset below zero": lambda: safetensors({"a": a_tensor(-4, 0)}, bytes(8)),
    "a shape that overflows": lambda: safetensors({"a": a_tensor(0, 4) | {"shape": [2**62, 8]}}, bytes(4)),
    "a kind that is none": lambda: safetensors({"a": a_tensor(0, 4) | {"dtype": "os.system"}}, bytes(4)),
    "something behind the last tensor": lambda: safetensors({"a": a_tensor(0, 4)}, bytes(400)),
    "half of the tensors": lambda: safetensors_of(state())[: len(BYTES) // 2],
    "all but the last byte": lambda: safetensors_of(state())[:-1],
}


@pytest.mark.parametrize("kind", HOSTILE_SAFETENSORS)
def test_safetensors_that_are_damaged_or_hostile_are_refused(tmp_path, kind):
    (tmp_path / "mine.safetensors").write_bytes(HOSTILE_SAFETENSORS[kind]())
    assert "is damaged or no checkpoint: safetensors cannot read it" in refusal(tmp_path / "mine.safetensors")


def test_files_larger_than_any_weights_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_UNPACKED_BYTES", 5000)
    for content in (safetensors_of(state()), saved(state(), _use_new_zipfile_serialization=False)):
        (tmp_path / "large").write_bytes(content)
        assert "is damaged or no checkpoint" in refusal(tmp_path / "large")
