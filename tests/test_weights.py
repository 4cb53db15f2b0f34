"""Weights and configs that somebody else made: cut off, damaged, foreign, hostile. None of them runs, hangs or loads in part."""

# ruff: noqa: E501 - a row of a table is a line
from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import NAME, ROOT

from infer_segment_anything_2.segmentation import model_loader
from infer_segment_anything_2.segmentation.checkpoints import CATALOGUE, CheckpointError
from infer_segment_anything_2.segmentation.model_loader import load_model, read_config

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
    monkeypatch.setattr(model_loader, "_MAX_WEIGHTS_BYTES", len(BYTES) // 2)
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
    "a whole model": (lambda: saved(Elsewhere()), "holds Python objects besides tensors (test_foreign_files.Elsewhere)"),
    "NumPy beside the tensors": (lambda: saved({"model": {}, "best": np.float64(1)}), "holds Python objects besides tensors (numpy"),
    "a list": (lambda: saved([1, 2]), "it does not hold {'model': state_dict}"),
    "a tensor": (lambda: saved(torch.zeros(3)), "it does not hold {'model': state_dict}"),
    "None": (lambda: saved(None), "it does not hold {'model': state_dict}"),
    "a model that is none": (lambda: saved({"model": "sam2"}), "it does not hold {'model': state_dict}"),
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


# ---------------------------------------------------------------- configs

BASE = "model:\n  _target_: sam2.modeling.sam2_base.SAM2Base\n"
DEEP = "  x: '" + "${a:" * 300 + "b" + "}" * 300 + "'\n"
CONFIGS = {
    "aliases to aliases": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n" + BASE,
    "a long list": BASE + "  x: [" + "1," * 400_000 + "]\n",
    "a long list of lines": BASE + "  x:\n" + "  - a\n" * 160_000,
    "many keys": BASE + "".join(f"  k{k}: 1\n" for k in range(80_000)),
    "many anchors": BASE + "".join(f"  k{k}: &a{k} 1\n" for k in range(50_000)),
    "brackets": BASE + "  x: " + "[" * 100_000,
    "an endless interpolation": BASE + "  x: '" + "${a}" * 200_000 + "'\n",
    "a deep interpolation": BASE + DEEP,
    "a broken interpolation": BASE + "  x: '" + "${" * 20_000 + "'\n",
    "a time that is a number": BASE + "  x: 1" + ":1" * 400_000 + "\n",
    "a number of 900,000 digits": BASE + "  x: " + "9" * 900_000 + "\n",
    "a hexadecimal target": "model:\n  _target_: 0x" + "f" * 900 + "\n",
    "a long key": BASE + "  " + "k" * 900_000 + ": 1\n",
    "a value of 900,000 characters": BASE + "  x: '" + "a\n\n" * 300_000 + "'\n",
    "a tag of a bool": BASE + "  x: !!bool foo\n",
    "a tag of an integer": BASE + "  x: !!int ''\n",
    "a tag of a float": BASE + "  x: !!float ''\n",
    "a tag of a date": BASE + "  x: !!timestamp foo\n",
    "a date that is none": BASE + "  x: 2001-13-45T99:99:99Z\n",
    "a tag of Python": BASE + "  x: !!python/object/apply:os.system ['true']\n",
    "a list for a key": BASE + "  ? [a, b]\n  : 1\n",
    "nothing for a key": BASE + "  ~: 2\n",
    "a number for a key": BASE + "  1.5: 2\n",
    "the same key twice": BASE + "  a: 1\n  a: 2\n",
    "two documents": BASE + "---\n" + BASE,
    "a tab": BASE + "\tx: 1\n",
    "a NUL": BASE + "  x: \0\n",
    "another YAML": "%YAML 9.9\n---\n" + BASE,
    "a merge with nothing": BASE + "  <<: 5\n",
    "what OmegaConf asks for": BASE + "  x: ???\n",
    "JSON": json.dumps({"model": {"a": 1}}),
    "prose": "Dear Sir or Madam,\n\n  please find attached: the weights [of my model.\n",
    "nothing but blanks": " \n" * 1000,
    "a target in another package": BASE + "  image_encoder:\n    _target_: os.system\n    command: touch {folder}/ran\n",
    "a target with a dot too many": BASE.replace("SAM2Base", "sam2_base.os.system"),
    "half a model": BASE + "  image_encoder: {}\n",
    "a model of the wrong things": BASE + "  image_encoder: 1\n  memory_attention: 2\n  memory_encoder: 3\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_is_none_is_refused_soon_and_in_few_words(tmp_path, kind):
    path = tmp_path / "mine.yaml"
    path.write_text(CONFIGS[kind].replace("{folder}", str(tmp_path)), encoding="utf-8")
    began = time.monotonic()
    with pytest.raises(ValueError, match=rf"config_file {path}.* Accepted: ") as caught:
        load_model(NANO, str(path), "cpu", True)
    assert time.monotonic() - began < 30
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("content", [BASE.encode("utf-16"), b"\xff\xfe\0", BYTES[:5000], b"\x80\x81", os.urandom(3000)])
def test_a_config_in_no_known_script_is_refused(tmp_path, content):
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"config_file .*mine\.yaml.* Accepted: ") as caught:
        read_config(str(tmp_path / "mine.yaml"))
    assert str(caught.value).isprintable()


# ---------------------------------------------------------------- paths


NAMES = [
    "mein Modell für Katzen",
    "模型",
    "نموذج",
    "🦄 emoji",
    "a'quote\"s",
    "$HOME ${HOME} %PATH% %20",
    "back\\slash",
    "semi;colon&ampersand|pipe",
    "line\nbreak",
    "#hash?query=1",
    "[brackets] (and) {more}",
    "e\u0301 in two parts",
    "x" * 200,
]


@pytest.fixture(scope="module")
def masks_of_nano() -> bytes:
    return masks_with()


def masks_with(**files: Path | str) -> bytes:
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow("files")
    algo = workflow.add_task(name=NAME, auto_connect=True)
    # Another model by name: only the files can make it nano.
    algo.set_parameters({"model_name": "sam2_hiera_large" if files else "sam2_hiera_nano", "input_point": "[20, 20]"})
    algo.set_parameters({name: str(path) for name, path in files.items()})
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    workflow.run_on(array=image)
    return algo.get_output(1).get_mask().tobytes()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_own_files_may_lie_under_any_name(tmp_path, masks_of_nano, name):
    folder = tmp_path / name
    folder.mkdir()
    weights = Path(shutil.copy(NANO, folder / f"{name}.pt"))
    config = Path(shutil.copy(CONFIG, folder / f"{name}.yaml"))
    assert masks_with(model_weight_file=weights, config_file=config) == masks_of_nano


@pytest.mark.parametrize("way", ["relative", "a link", "home", "dots", "upper case"])
def test_own_files_may_be_named_in_any_way(tmp_path, masks_of_nano, monkeypatch, way):
    (tmp_path / "folder").mkdir()
    weights = Path(shutil.copy(NANO, tmp_path / "folder" / "mine.pt"))
    config = Path(shutil.copy(CONFIG, tmp_path / "folder" / "mine.yaml"))
    if way == "relative":
        monkeypatch.chdir(tmp_path)
        weights, config = "folder/mine.pt", "folder/mine.yaml"
    elif way == "a link":
        (tmp_path / "weights").symlink_to(weights)
        (tmp_path / "config").symlink_to(config)
        weights, config = tmp_path / "weights", tmp_path / "config"
    elif way == "home":
        monkeypatch.setenv("HOME", str(tmp_path))
        weights, config = "~/folder/mine.pt", "~/folder/mine.yaml"
    elif way == "dots":
        weights, config = f"{tmp_path}/folder/../folder//./mine.pt", f"{tmp_path}/folder/../folder/mine.yaml"
    else:
        weights, config = weights.rename(tmp_path / "MINE.PTH"), config.rename(tmp_path / "MINE.YML")
    assert masks_with(model_weight_file=weights, config_file=config) == masks_of_nano


RUN = f"""
import numpy as np
from ikomia.dataprocess.workflow import Workflow
workflow = Workflow()
algo = workflow.add_task(name="{NAME}", auto_connect=True)
algo.set_parameters({{"model_name": "sam2_hiera_nano", "input_point": "[20, 20]"}})
workflow.run_on(array=np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
import hashlib, sys
print(hashlib.sha256(algo.get_output(1).get_mask().tobytes()).hexdigest(), sys.modules[type(algo).__module__].__file__)
"""


def run_in_the_home(home: Path) -> list[str]:
    """A workflow with the plugin that lies in that home: the hash of its mask and the file that it came from."""
    env = {**os.environ, "HOME": str(home), "TORCH_HOME": str(home / "torch"), "IKOMIA_AUTO_COMPLETION": "False"}
    env.pop("PYTHONPYCACHEPREFIX", None)  # so that Python tries to write beside the code
    done = subprocess.run([sys.executable, "-c", RUN], env=env, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1].split(" ", 1)


def install(home: Path) -> Path:
    plugin = home / "Ikomia" / "Plugins" / "Python" / NAME
    plugin.mkdir(parents=True)
    for part in (f"{NAME}.py", f"{NAME}_process.py", f"{NAME}_widget.py", "__init__.py"):
        shutil.copy(ROOT / part, plugin / part)
    for part in ("segmentation", "models", "images"):
        shutil.copytree(ROOT / part, plugin / part, ignore=shutil.ignore_patterns("__pycache__"))
    return plugin


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """An empty disk that can be made read-only; skips where nothing can be mounted."""
    disk = tmp_path / "мой дом 家"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_the_plugin_works_from_a_folder_with_blanks_in_any_script_that_nobody_may_write(tmp_path, disk, masks_of_nano):
    plugin = install(disk)
    before = sorted(disk.rglob("*"))
    plugins = tmp_path / "nasz dom" / "Ikomia" / "Plugins" / "Python"
    plugins.mkdir(parents=True)
    (plugins / NAME).symlink_to(plugin)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OSError):
        (plugin / "x").touch()
    found, file = run_in_the_home(tmp_path / "nasz dom")
    assert found == hashlib.sha256(masks_of_nano).hexdigest()
    assert Path(file).resolve() == plugin / f"{NAME}_process.py"
    assert sorted(disk.rglob("*")) == before
