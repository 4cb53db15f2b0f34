"""Weights that somebody else made: cut off, damaged, foreign, hostile. None of them runs, hangs or loads in part."""

# ruff: noqa: E501 - a row of a table is a line
from __future__ import annotations

import contextlib
import io
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
import yaml
from conftest import ROOT

from infer_segment_anything_2.segmentation import weights as reading
from infer_segment_anything_2.segmentation.checkpoints import CATALOGUE, CheckpointError
from infer_segment_anything_2.segmentation.model_loader import load_model

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
    "an old torch.save": (lambda: saved({"model": {}}, _use_new_zipfile_serialization=False), "is cut off or no checkpoint"),
    "a torch.save in a tar": (tar, "is cut off or no checkpoint"),
    "a plain pickle": (lambda: pickle.dumps({"model": {}}), "is cut off or no checkpoint"),
    "safetensors": (lambda: b"\x02\0\0\0\0\0\0\0{}", "is cut off or no checkpoint"),
    "an HTML page": (lambda: b"<!DOCTYPE html><html><body>Please log in.", "is cut off or no checkpoint"),
    "a pointer of Git LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9", "is cut off or no checkpoint"),
    "NumPy's arrays": (npz, "is damaged or no checkpoint"),
    "TorchScript": (jit_archive, "is damaged or no checkpoint"),
    "a pickle of nonsense": (lambda: archive_of(b"\x80\x02nonsense"), "is damaged or no checkpoint"),
    "an empty pickle": (lambda: archive_of(b""), "is damaged or no checkpoint"),
    "a pickle that ends early": (lambda: archive_of(b"\x80\x02}q\0("), "is damaged or no checkpoint"),
    "a pickle 100,000 deep": (lambda: archive_of(b"\x80\x02" + b"](" * 50_000 + b"."), ""),
    "a whole model": (lambda: saved(Elsewhere()), "holds Python objects besides tensors (test_weights.Elsewhere)"),
    "NumPy beside the tensors": (lambda: saved({"model": {}, "best": np.float64(1)}), "holds Python objects besides tensors (numpy"),
    "a list": (lambda: saved([1, 2]), "it does not hold {'model': state_dict}"),
    "a tensor": (lambda: saved(torch.zeros(3)), "it does not hold {'model': state_dict}"),
    "None": (lambda: saved(None), "it does not hold {'model': state_dict}"),
    "a model that is none": (lambda: saved({"model": "sam2"}), "it does not hold {'model': state_dict}"),
    "a list for a model": (lambda: saved({"model": [1]}), "it does not hold {'model': state_dict}"),
    "numbers for weights": (lambda: saved({"model": {"a": 1}}), "it does not hold {'model': state_dict}"),
    "nothing in the model": (lambda: saved({"model": {}}), "tensors 333 missing"),
    "names that are numbers": (lambda: saved({"model": {1: torch.zeros(1)}}), "1 unexpected (such as 1)"),
    "names that do not print": (lambda: saved({"model": {"a\0\n": torch.zeros(1)}}), "1 unexpected (such as a\\x00\\n)"),
    "names of another wrapper": (lambda: saved({f"module.{k}": v for k, v in state().items()}), "333 unexpected (such as module.maskmem_tpos_enc)"),
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
def test_weights_of_another_architecture_are_called_by_its_name(tmp_path, model_name):
    """By the few tensors that tell: the names and shapes of the others do not matter here."""
    import sam2

    tree = yaml.safe_load((Path(sam2.__file__).parent / CATALOGUE[model_name].config).read_text(encoding="utf-8"))[
        "model"
    ]
    trunk = tree["image_encoder"]["trunk"]
    depth = sum(trunk.get("stages", (2, 3, 16, 3)))
    tensors = {f"image_encoder.trunk.blocks.{k}.norm1.weight": torch.zeros(1) for k in range(depth)}
    tensors["image_encoder.trunk.patch_embed.proj.weight"] = torch.zeros(trunk["embed_dim"], 3, 7, 7)
    if "2.1" in model_name:
        tensors["no_obj_embed_spatial"] = torch.zeros(1, 64)
    torch.save({"model": tensors}, tmp_path / "mine.pt")
    message = refusal(tmp_path / "mine.pt")
    assert message.endswith(f"Its image encoder is that of {model_name}.")
    assert f"Accepted: model_name = {model_name} with an empty config_file, or the YAML of these weights" in message


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
    (tmp_path / "x.pt").write_bytes(saved({"model": {"a": torch.zeros(1)}}))
    assert refusal(tmp_path / "x.pt").endswith("that of no model that model_name accepts.")


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
