"""The example for many machines, on a real Ray of this machine: same masks, resumed runs, bad images, killed workers."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import ikomia  # noqa: F401 - brings OpenCV, for polygons
import numpy as np
import pytest
import ray
import tifffile
import torch
import yaml
from conftest import ROOT
from PIL import Image
from pycocotools.coco import COCO
from skimage import data

from infer_segment_anything_2.segmentation.export import to_coco
from infer_segment_anything_2.segmentation.images import to_rgb8
from infer_segment_anything_2.segmentation.masks import Masks, empty, encode

SCRIPT = ROOT / "examples" / "segment_folder_on_ray.py"
AUTOMATIC = {"points_per_side": "4", "iou_thresh": "0.3", "stability_score_thresh": "0.5", "use_m2m": "False"}
#: Enough where nothing is tested that needs two: each start of a worker costs seconds.
ONE_WORKER = ["--workers", "1"]
#: Nor are workers started before one is asked for, who would only wait.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_prestart_worker_first_driver": "0"}
BOX = {"input_box": "[60, 20, 260, 200]", "input_point": "[150, 100]", "multimask_output": "True"}


@pytest.fixture(scope="module")
def example():
    """The script as a module; Ray sends what it defines to workers by value, as it does with a script that is run."""
    spec = importlib.util.spec_from_file_location("segment_folder_on_ray", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ray.cloudpickle.register_pickle_by_value(module)
    module.IMAGES_PER_TASK = 2  # so that a few images are several tasks
    module.MAX_DEATHS = 2  # to save time: each costs a start of a worker
    return module


@pytest.fixture(scope="module")
def ray_folder():
    """Where Ray may leave its files; not below tmp_path: its sockets want a short path."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.fixture(scope="module")
def cluster(ray_folder):
    """A Ray with two CPUs, to which the plugin's folder was sent as `ray job submit --working-dir` does."""
    os.environ.update(SETTINGS)
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 << 20,
        runtime_env={"working_dir": str(ROOT), "excludes": [".git", "images", "tests"]},
        _temp_dir=ray_folder,
    )
    yield
    ray.shutdown()


def arguments(images: Path, results: Path, parameters: dict[str, str]) -> list[str]:
    """The command line of a run with the bundled model."""
    given = {"model_name": "sam2_hiera_nano", **parameters}
    return [str(images), str(results), *(word for name, value in given.items() for word in (f"--{name}", value))]


@pytest.fixture
def one_thread():
    """As each worker has: sums in another order would differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def in_ikomia(workflow, algo, one_thread):
    """The same from Ikomia's task, one image after the other: a function of the folder, the names and the parameters."""

    def masks_in_coco(images: Path, names: list[str], parameters: dict[str, str]) -> dict:
        algo.set_parameters(parameters)
        found = {}
        for name in names:
            workflow.run_on(path=str(images / name))
            found[name] = max(algo.get_masks(), key=lambda masks: masks.scores.max())  # there is one object
        return to_coco(found)

    return masks_in_coco


def photographs(folder: Path, count: int) -> list[str]:
    """Names of images in `folder`, some of them in a folder below."""
    (folder / "below").mkdir(parents=True)
    names = [f"{'below/' if k % 3 == 2 else ''}{k}.png" for k in range(count)]
    for k, name in enumerate(names):
        Image.fromarray(data.astronaut()[4 * k : 4 * k + 240, 8 * k : 8 * k + 320]).save(folder / name)
    return sorted(names)


def read(path: Path) -> dict:
    """What is in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def files(results: Path) -> dict[str, int]:
    """When each file with the masks of one image was written, in nanoseconds."""
    folder = results / "images"
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def in_this_process(example, monkeypatch) -> None:
    """A worker that works here, where a test is about what is given out and what is made of it: to start one takes seconds."""
    monkeypatch.setattr(example, "run", lambda job, rows, *_: map(example.ImageSegmenter(job), rows))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_keep_them(example, tmp_path, monkeypatch, suffix, channels):
    import cv2

    bgr = np.random.default_rng(0).integers(0, 4096, (20, 30, channels), np.uint16)  # a camera of 12 bits
    path = tmp_path / f"deep{suffix}"
    cv2.imwrite(str(path), bgr)
    for shown in (None, (0.0, 4095.0)):
        np.testing.assert_array_equal(example.read_image(path, shown), to_rgb8(bgr[..., 2::-1], shown))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"^colours of 16 bits are not read without OpenCV \(pip install "):
        example.read_image(path)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_a_file_is_turned_as_its_exif_data_say(example, tmp_path, suffix, dtype):
    if suffix == "webp" and dtype == "u2":
        pytest.skip("WebP has 8 bits")
    exif = Image.Exif()
    exif[0x112] = 6  # orientation: a quarter turn to the right
    Image.fromarray(np.zeros((20, 30), dtype)).save(tmp_path / f"turned.{suffix}", exif=exif)
    assert example.read_image(tmp_path / f"turned.{suffix}").shape == (30, 20, 3)


def test_a_tiff_whose_bands_lie_apart_is_refused_or_its_bands_would_be_mixed(example, tmp_path):
    bands = np.zeros((3, 20, 30), np.uint16)
    tifffile.imwrite(tmp_path / "apart.tif", bands, photometric="rgb", planarconfig="separate")
    with pytest.raises(
        ValueError, match=r"apart\.tif is a TIFF whose bands .* accepted is one that stores them together"
    ):
        example.read_image(tmp_path / "apart.tif")


@pytest.mark.parametrize("wanted", ["yolo", "coco-polygons"])
def test_a_format_that_needs_opencv_is_refused_before_anything_is_segmented(
    example, tmp_path, monkeypatch, capsys, wanted
):
    monkeypatch.setattr(example.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        example.main([*arguments(tmp_path, tmp_path, {}), "--format", wanted])
    assert f"format is {wanted}; accepted is coco where OpenCV is not installed (pip" in capsys.readouterr().err


def test_images_whose_labels_would_be_one_file_are_refused_before_anything_is_segmented(
    example, cluster, tmp_path, monkeypatch, capsys
):
    names = photographs(tmp_path / "images", 1)
    (tmp_path / "images" / "0.jpg").write_bytes((tmp_path / "images" / names[0]).read_bytes())
    monkeypatch.setattr(example, "run", pytest.fail)
    with pytest.raises(SystemExit):
        example.main([*arguments(tmp_path / "images", tmp_path / "results", {}), "--format", "yolo"])
    assert "images: the labels of 0.jpg and 0.png are both 0.txt; accepted is one of them." in capsys.readouterr().err


@pytest.mark.parametrize("written", ["{}", "file://{}"])
def test_weights_that_were_trained_on_meanwhile_are_not_mixed_with_those_before(
    example, cluster, tmp_path, monkeypatch, capsys, written
):
    photographs(tmp_path / "images", 1)
    weights = tmp_path / "best.pt"
    weights.write_bytes((ROOT / "models" / "sam2_hiera_nano.pt").read_bytes())
    command = arguments(tmp_path / "images", tmp_path / "results", BOX | {"model_weight_file": written.format(weights)})
    in_this_process(example, monkeypatch)
    for _ in range(2):
        assert example.main(command) == 0
    weights.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(SystemExit):
        example.main(command)
    assert "has masks made with SHA-256 of model_weight_file = " in capsys.readouterr().err


def test_an_image_that_fails_later_keeps_no_labels_of_an_earlier_run(example, cluster, tmp_path, monkeypatch):
    images, results = tmp_path / "images", tmp_path / "results"
    names = photographs(images, 2)
    in_this_process(example, monkeypatch)
    coco = {
        "images": [{"id": k, "file_name": name} for k, name in enumerate(names)],
        "annotations": [{"id": k, "image_id": k, "bbox": [60, 20, 200, 180], "category_id": 7} for k in range(2)],
        "categories": CATEGORIES,
    }
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    command = [*arguments(images, results, {}), "--boxes", str(tmp_path / "boxes.json"), "--format", "yolo"]
    assert example.main(command) == 0
    labels = results / "labels"
    assert {path.name for path in labels.glob("*.txt")} == {"0.txt", "1.txt"}
    coco["images"][1] |= {"width": 640, "height": 480}
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    assert example.main(command) == 1
    assert list(read(results / "failures.json")) == ["1.png"]
    assert {path.name for path in labels.glob("*.txt")} == {"0.txt"}


def test_a_bad_image_whose_name_is_not_utf_8_is_among_the_failures(example, cluster, tmp_path, monkeypatch):
    images, results, name = tmp_path / "images", tmp_path / "results", os.fsdecode(b"caf\xe9.png")
    photographs(images, 1)
    (images / name).write_text("no image")
    in_this_process(example, monkeypatch)
    assert example.main(arguments(images, results, BOX)) == 1
    assert list(read(results / "failures.json")) == [name]
    assert len(read(results / "masks.json")["images"]) == 1


def test_a_folder_with_bad_images_is_segmented_and_only_what_is_missing_a_second_time(
    example, cluster, in_ikomia, tmp_path, ray_folder, monkeypatch, capsys
):
    images, results = tmp_path / "images", tmp_path / "results"
    names = photographs(images, 8)  # with two bad ones more than one worker is given at once
    whole = (images / names[0]).read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "text.JPG").write_text("not an image")
    (images / "notes.txt").write_text("no image and not called one")
    command = arguments(images, results, AUTOMATIC)

    # As the pages have it: the command starts a Ray of its own, and as many workers as it has room for.
    environment = os.environ | SETTINGS | {"RAY_TMPDIR": ray_folder}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "8 images segmented, 0 were before, 2 failed" in done.stdout
    expected = in_ikomia(images, names, AUTOMATIC)
    assert len(expected["annotations"]) > len(names)
    assert read(results / "masks.json") == expected
    errors = read(results / "failures.json")
    assert list(errors) == ["cut.png", "text.JPG"]
    assert "truncated" in errors["cut.png"]
    assert "cannot identify image file" in errors["text.JPG"]
    before = files(results)
    assert set(before) == {f"{name}.json" for name in names}
    assert not (results / "attempts").exists()

    # Mended, and two results lost.
    in_this_process(example, monkeypatch)
    (images / "cut.png").write_bytes(whole)
    (images / "text.JPG").unlink()
    lost = {f"{name}.json" for name in names[1:3]}
    for name in lost:
        (results / "images" / name).unlink()
    assert example.main(command) == 0
    assert "3 images segmented, 6 were before, 0 failed" in capsys.readouterr().out
    after = files(results)
    assert {name for name in after if after[name] != before.get(name)} == lost | {"cut.png.json"}
    assert read(results / "masks.json") == in_ikomia(images, sorted([*names, "cut.png"]), AUTOMATIC)
    assert read(results / "failures.json") == {}

    assert example.main(command) == 0
    assert "0 images segmented, 9 were before, 0 failed" in capsys.readouterr().out
    assert files(results) == after
    with pytest.raises(SystemExit):
        example.main([*command, "--iou_thresh", "0.4"])
    assert "masks made with iou_thresh = 0.3; accepted are the same parameters" in capsys.readouterr().err


CATEGORIES = [{"id": 7, "name": "pot"}, {"id": 3, "name": "plate", "supercategory": "food"}, {"id": 12, "name": "cup"}]
OUTSIDE, NO_AREA, PARTLY = [400, 20, 50, 50], [100, 100, 0, 60], [-20.5, 150, 90, 300]


def detections_of(names: list[str]) -> dict:
    """A COCO file of 120 boxes, ten in most of 12 images of 320x240, none in the first, and two of an image that is gone."""
    counts = dict(zip(names, [0, 20] + [10] * (len(names) - 2), strict=True)) | {"gone.png": 2}
    images = [{"id": 50 + k, "file_name": f"./{name}" if k == 4 else name} for k, name in enumerate(counts)]
    owners = [image["id"] for image, count in zip(images, counts.values(), strict=True) for _ in range(count)]
    rng = np.random.default_rng(0)
    rng.shuffle(owners)
    boxes = np.hstack([rng.uniform(0, (250, 180), (122, 2)), rng.uniform(20, 60, (122, 2))]).round(1).tolist()
    boxes[10], boxes[20], boxes[30] = OUTSIDE, NO_AREA, PARTLY
    annotations = [
        {"id": 900 - k, "image_id": owner, "bbox": box, "category_id": CATEGORIES[k % 2]["id"], "score": k / 122}
        for k, (owner, box) in enumerate(zip(owners, boxes, strict=True))
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def typed_one_after_the_other(workflow, algo, images: Path, names: list[str], coco: dict) -> dict:
    """What masks.json has to hold: the masks of the same boxes, typed in Ikomia's task image by image."""
    found, categories = {}, []
    for name in names:
        number = next((image["id"] for image in coco["images"] if Path(image["file_name"]) == Path(name)), None)
        annotations = [a for a in coco["annotations"] if a["image_id"] == number]
        boxes = [
            [x, y, x + w, y + h]
            for x, y, w, h in (a["bbox"] for a in annotations if a["bbox"] not in (OUTSIDE, NO_AREA))
        ]
        algo.set_parameters({"input_box": json.dumps(boxes)})
        workflow.run_on(path=str(images / name))
        masks = algo.get_masks()[0]
        usable = iter(zip(masks.rles, masks.scores, strict=True))
        nothing = (encode(np.zeros((240, 320), bool)), 0)
        rows = [nothing if a["bbox"] in (OUTSIDE, NO_AREA) else next(usable) for a in annotations]
        found[name] = Masks((240, 320), [rle for rle, _ in rows], np.array([score for _, score in rows], np.float32))
        categories += [a["category_id"] for a in annotations]
    tree = to_coco(found)
    for annotation, category in zip(tree["annotations"], categories, strict=True):
        annotation["category_id"] = category
    return tree | {"categories": CATEGORIES}


def test_boxes_of_a_coco_file_become_masks_with_its_categories_interrupted_and_resumed(
    example, cluster, workflow, algo, one_thread, tmp_path, monkeypatch, capsys
):
    images, results, file = tmp_path / "images", tmp_path / "results", tmp_path / "detections.json"
    names = photographs(images, 13)
    coco = detections_of(names[:12])  # it does not name the last
    file.write_text(json.dumps(coco))
    command = [*arguments(images, results, {}), "--boxes", str(file)]

    def interrupted(*args):
        yield from itertools.islice(run(*args), 6)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        in_this_process(example, patched)
        run = example.run
        patched.setattr(example, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            example.main(command)
    first = files(results)
    assert 6 <= len(first) < len(names)
    assert not (results / "masks.json").exists()

    # These workers find the plugin where Ray put what was sent.
    monkeypatch.setattr(example, "PLUGIN", tmp_path / "nowhere")
    assert example.main([*command, *ONE_WORKER]) == 0
    assert f"1 images that {file} names are not among those in {images}" in capsys.readouterr().out
    whole = files(results)
    assert first.items() <= whole.items()
    assert set(whole) == {f"{name}.json" for name in names}
    expected = typed_one_after_the_other(workflow, algo, images, names, coco)
    assert len(expected["annotations"]) == 120
    assert read(results / "masks.json") == expected
    assert read(results / "images" / f"{names[0]}.json")["annotations"] == []
    alone = read(results / "images" / f"{names[1]}.json")
    assert alone["categories"] == [{"id": 3, "name": "plate"}, {"id": 7, "name": "pot"}]

    # One box of another category: its image alone is segmented again. Without boxes the results are not touched.
    coco["annotations"][40]["category_id"] = 12
    file.write_text(json.dumps(coco))
    again = []

    def noted(job, rows, *args):
        again.extend(rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(example, "run", noted)
    with pytest.raises(KeyboardInterrupt):
        example.main(command)
    assert [json.loads(row["detections"]) for row in again] == [
        example.read_detections(file).of_images[again[0]["name"]]
    ]
    assert 12 in [detection["category_id"] for detection in json.loads(again[0]["detections"])]
    whole.pop(f"{again[0]['name']}.json")
    assert files(results) == whole
    with pytest.raises(SystemExit):
        example.main(command[:-2])
    assert "has masks made with boxes = those of a COCO file; accepted are the same" in capsys.readouterr().err


class Killer(threading.Thread):
    """Kills the worker that works on an image, as often as it is told, the moment that it has begun."""

    def __init__(self, results: Path, times: dict[str, int]) -> None:
        super().__init__(daemon=True)
        self.results, self.times = results, times
        self.killed: list[tuple[str, int]] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.002):
            for name, times in self.times.items():
                deaths = sum(killed == name for killed, _ in self.killed)
                with contextlib.suppress(FileNotFoundError):
                    begun = (self.results / "attempts" / f"{name}.txt").read_text().split("\n")[:-1]
                    if deaths < min(times, len(begun)):
                        process = int(begun[-1].split()[1])
                        os.kill(process, signal.SIGKILL)
                        self.killed.append((name, process))


@pytest.mark.slow
def test_killed_workers_lose_nothing_and_an_image_that_kills_each_is_left_out(
    example, cluster, in_ikomia, tmp_path, capsys
):
    images, results = tmp_path / "images", tmp_path / "results"
    names = photographs(images, 5)
    once, always = names[1], names[3]
    slow = AUTOMATIC | {"points_per_side": "8", "multimask_output": "True"}  # so that the killer comes in time
    killer = Killer(results, {once: 1, always: example.MAX_DEATHS})
    killer.start()
    try:
        assert example.main(arguments(images, results, slow)) == 1
    finally:
        killer.done.set()
    assert [name for name, _ in killer.killed].count(once) == 1
    assert [name for name, _ in killer.killed].count(always) == example.MAX_DEATHS
    assert len({process for _, process in killer.killed}) == 1 + example.MAX_DEATHS
    assert read(results / "failures.json") == {
        always: "2 workers died while they segmented it, for want of memory perhaps"
    }
    assert read(results / "masks.json") == in_ikomia(images, [name for name in names if name != always], slow)
    assert "4 images segmented, 0 were before, 1 failed" in capsys.readouterr().out


def test_one_prompt_may_fit_some_images_only(example, cluster, in_ikomia, tmp_path, monkeypatch, capsys):
    images, results = tmp_path / "images", tmp_path / "results"
    names = photographs(images, 2)
    Image.new("RGB", (40, 30)).save(images / "small.png")
    in_this_process(example, monkeypatch)
    assert example.main(arguments(images, results, BOX)) == 1
    fault = "input_point: entry 1, [150, 100], is outside the image"
    assert fault in capsys.readouterr().err
    assert fault in read(results / "failures.json")["small.png"]
    assert read(results / "masks.json") == in_ikomia(images, names, BOX)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_gpus", "1"], "num_gpus is 1; accepted is at most 0, the GPUs that one machine of the cluster has"),
        (["--threads", "3"], "threads is 3; accepted is at most 2, the CPUs that one machine of the cluster has"),
        (["--workers", "0"], "argument --workers: '0' is not accepted; accepted is a whole number, 1 or more"),
        (["--num_gpus", "half"], "argument --num_gpus: 'half' is not accepted; accepted is a number, 0 or more"),
        (["--iou_thresh", "2"], "iou_thresh: '2' is not accepted; accepted is a number from 0 to 1"),
        (["--input_box", "[1, 2]"], "input_box: entry 1, [1, 2], does not hold 4 numbers"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_wrong_option_is_named_with_what_is_accepted(example, cluster, tmp_path, capsys, options, message):
    photographs(tmp_path / "images", 1)
    with pytest.raises(SystemExit):
        example.main([*arguments(tmp_path / "images", tmp_path / "results", {}), *options])
    assert message in capsys.readouterr().err
    assert not files(tmp_path / "results")


def test_help_names_every_default(example):
    text = re.sub(r"\s+", " ", example.options().format_help())
    for default in ("sam2_hiera_small", "0.95", "32", "empty", "1"):
        assert f"(default: {default})" in text
    assert text.count("(default: ") >= len(example.options()._option_string_actions) - 5  # -h, --help and those of Ray


def test_without_ray_a_sentence_says_what_to_install(tmp_path):
    (tmp_path / "ray.py").write_text("raise ImportError('no module named ray')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, str(SCRIPT), "--help"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == 'Ray cannot be imported (no module named ray). Install it: pip install "ray[data]>=2.60"\n'


def test_a_folder_without_images_is_refused(example, cluster, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(SystemExit):
        example.main(arguments(tmp_path, tmp_path / "results", {}))
    assert f"images: there are none in {tmp_path}; accepted are files that end with .bmp" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["weights", pytest.param("results", marks=pytest.mark.slow)])
def test_what_no_worker_can_do_ends_the_run_with_its_reason(example, cluster, tmp_path, capfd, broken):
    photographs(tmp_path / "images", 1)
    results, weights = tmp_path / "results", tmp_path / "weights.pt"
    command = [*arguments(tmp_path / "images", results, BOX), *ONE_WORKER]
    if broken == "weights":
        weights.write_text("not a checkpoint")
        command += ["--model_weight_file", str(weights)]
    else:
        results.mkdir()
        (results / "images").write_text("a file where the folder has to be")
    assert example.main(command) == 2
    last = capfd.readouterr().err.partition("the same command goes on with what is missing.\n")[2]
    assert {"weights": str(weights), "results": "File exists"}[broken] in last.splitlines()[0]


IMAGE, CATEGORY = {"id": 1, "file_name": "0.png"}, {"id": 1, "name": "pot"}
BOXED = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}


@pytest.mark.parametrize(
    ("images", "annotation", "message"),
    [
        (
            [IMAGE],
            BOXED | {"bbox": [1, 2]},
            "boxes: bbox of annotation 1: [1, 2] is not accepted; accepted is [x, y, w",
        ),
        (
            [IMAGE],
            BOXED | {"category_id": 2},
            "boxes: category_id of annotation 1: 2 is not accepted; accepted is an id",
        ),
        ([IMAGE], {"bbox": [0, 0, 9, 9]}, "boxes: image_id of annotation 1: None is not accepted; accepted is an id"),
        ([{"id": 1}], BOXED, "detections.json cannot be read (KeyError: 'file_name'); accepted is a COCO file"),
        (
            [IMAGE | {"file_name": "other/0.png"}],
            BOXED,
            "of the COCO file, such as ['other/0.png']; accepted are paths",
        ),
        ([IMAGE], None, "detections.json cannot be read (Expecting value"),
    ],
    ids=["box", "category", "image", "no name", "no image of the folder", "no JSON"],
)
def test_what_is_wrong_with_a_file_of_boxes_is_said_before_anything_is_segmented(
    example, cluster, tmp_path, capsys, images, annotation, message
):
    photographs(tmp_path / "images", 1)
    file = tmp_path / "detections.json"
    tree = {"images": images, "annotations": [annotation], "categories": [CATEGORY]}
    file.write_text(json.dumps(tree) if annotation else "no JSON")
    with pytest.raises(SystemExit):
        example.main([*arguments(tmp_path / "images", tmp_path / "results", {}), "--boxes", str(file)])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("wanted", ["coco", "coco-polygons", "yolo"])
def test_masks_of_all_images_are_written_in_the_format_that_is_asked_for(example, tmp_path, wanted):
    first, second = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    first[5:30, 10:40] = second[20:35, 30:55] = True
    score = np.ones(1, np.float32)
    masks = {
        "a.png": Masks((40, 60), [encode(first)], score, names=["plate"]),
        "below/b.png": Masks(
            (40, 60), [encode(second), empty((40, 60))], np.ones(2, np.float32), names=["pot", "plate"]
        ),
    }
    job = example.Job(tmp_path, tmp_path, {}, format=wanted)
    of_categories = {category["name"]: category["id"] for category in CATEGORIES}
    for name, of_image in masks.items():
        tree = to_coco({name: of_image})
        tree["categories"] = [{"id": of_categories[each], "name": each} for each in dict.fromkeys(of_image.names)]
        for annotation, each in zip(tree["annotations"], of_image.names, strict=True):
            annotation["category_id"] = of_categories[each]
        example.replace(job.masks_file(name), [json.dumps(tree)])
    example.merge(job, list(masks), example.Detections({}, CATEGORIES))

    if wanted == "yolo":
        assert not (tmp_path / "masks.json").exists()
        lines = {name: (tmp_path / "labels" / name).read_text().splitlines() for name in ("a.txt", "below/b.txt")}
        assert {name: [line.split()[0] for line in found] for name, found in lines.items()} == {
            "a.txt": ["1"],
            "below/b.txt": ["0"],
        }
        assert yaml.safe_load((tmp_path / "labels" / "data.yaml").read_text())["names"] == {
            0: "pot",
            1: "plate",
            2: "cup",
        }
    else:
        assert not (tmp_path / "labels").exists()
        coco = COCO(str(tmp_path / "masks.json"))
        assert [coco.anns[k]["category_id"] for k in (1, 2, 3)] == [3, 7, 3]
        assert isinstance(coco.anns[1]["segmentation"], list) == (wanted == "coco-polygons")
        for k, mask in enumerate((first, second, np.zeros((40, 60), bool)), start=1):
            np.testing.assert_array_equal(coco.annToMask(coco.anns[k]).astype(bool), mask)


@pytest.mark.parametrize("size", [{}, {"width": 320, "height": 240}, {"width": 0, "height": 0}])
def test_a_box_counts_where_the_file_says_nothing_of_the_size_of_the_image_or_the_right_one(example, tmp_path, size):
    tree = {"images": [IMAGE | size], "annotations": [BOXED], "categories": [CATEGORY]}
    (tmp_path / "detections.json").write_text(json.dumps(tree))
    (detection,) = example.read_detections(tmp_path / "detections.json").of_images["0.png"]
    np.testing.assert_array_equal(example.as_object(detection, (240, 320)).box, [0, 0, 9, 9])


def test_boxes_for_an_image_of_another_size_are_refused(example, tmp_path):
    tree = {"images": [IMAGE | {"width": 640, "height": 480}], "annotations": [BOXED], "categories": [CATEGORY]}
    (tmp_path / "detections.json").write_text(json.dumps(tree))
    (detection,) = example.read_detections(tmp_path / "detections.json").of_images["0.png"]
    with pytest.raises(ValueError, match="the image is 640 x 480 in the COCO file; accepted is 320 x 240, width"):
        example.as_object(detection, (240, 320))


def test_boxes_of_a_file_and_a_typed_prompt_are_not_taken_together(example, tmp_path, capsys):
    with pytest.raises(SystemExit):
        example.main([*arguments(tmp_path, tmp_path, BOX), "--boxes", "detections.json"])
    assert "boxes: it was given beside input_box; accepted is one of them" in capsys.readouterr().err


def test_the_commands_of_the_pages_and_of_the_help_are_accepted(example):
    text = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md")) + example.__doc__
    commands = re.findall(r"python examples/segment_folder_on_ray\.py (.*)", text)
    assert sum("--boxes" in command for command in commands) == 4
    for command in commands:
        example.options().parse_args(shlex.split(command))
