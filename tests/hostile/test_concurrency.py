"""Threads, tasks, workflows and processes at once: each gets the masks that it would get alone, and none waits forever."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
import yaml
from conftest import NAME
from skimage import data

from infer_segment_anything_2.segmentation import segmenter as module
from infer_segment_anything_2.segmentation.checkpoints import CATALOGUE, fetch_checkpoint
from infer_segment_anything_2.segmentation.export import save_coco, save_labels, save_yolo
from infer_segment_anything_2.segmentation.image_predictor import MAX_EMBEDDINGS
from infer_segment_anything_2.segmentation.masks import Masks, encode
from infer_segment_anything_2.segmentation.model_loader import load_model
from infer_segment_anything_2.segmentation.objects import Object, typed_objects
from infer_segment_anything_2.segmentation.search import AutomaticSettings
from infer_segment_anything_2.segmentation.segmenter import Segmenter, open_segmenter

LOOSE = AutomaticSettings(points_per_side=4, pred_iou_thresh=0.3, stability_score_thresh=0.5)
SIZES = [(512, 512), (300, 380), (90, 250), (200, 60)]
POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """More than a model keeps embeddings of, of several sizes."""
    photos = [data.astronaut(), data.coffee(), data.chelsea()]
    cut = [photos[k % 3][: SIZES[k % 4][0], : SIZES[k % 4][1]] for k in range(MAX_EMBEDDINGS + 2)]
    return [np.ascontiguousarray(np.roll(image, 5 * k, axis=1)) for k, image in enumerate(cut)]


def segment(segmenter: Segmenter, image: np.ndarray, kind: int) -> list:
    """Masks and scores of one of four kinds of run."""
    height, width = image.shape[:2]
    box = np.array([[width / 8, height / 8, width / 2, height / 2]], np.float32)
    point = np.array([[width / 2, height / 3]], np.float32)
    none = np.zeros(0, np.int64)
    if kind == 0:
        return [segmenter.generate(image, LOOSE)]
    prompts = typed_objects(point if kind > 1 else point[:0], none, box if kind < 3 else box[:0], (height, width))
    return segmenter.predict(image, prompts, multimask_output=kind == 3, input_size_percent=50 if kind == 2 else 100)


def assert_same(found: list, expected: list) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.rles == theirs.rles
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-6)


# ---------------------------------------------------------------- threads


def test_four_threads_on_one_model_get_the_masks_of_one(nano, images):
    jobs = [(k, k % 4) for k in range(len(images))] + [(k, (k + 1) % 4) for k in range(4)]
    expected = {job: segment(nano, images[job[0]], job[1]) for job in jobs}
    order = np.random.default_rng(0).permutation(len(jobs))
    nano.forget_images()  # or the searches that are kept would answer
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: segment(nano, images[jobs[i][0]], jobs[i][1]), order))
    for i, masks in zip(order, found, strict=True):
        assert_same(masks, expected[jobs[i]])


def test_two_models_at_once_get_each_its_own_masks_and_leave_no_setting_changed(nano, images):
    another = oracle.nano_model(apply_postprocessing=False)
    another.sam_prompt_encoder.no_mask_embed.weight.data += 1
    other = Segmenter(another)
    expected = [[segment(s, images[k], k % 4) for k in range(4)] for s in (nano, other)]
    assert any(a.rles != b.rles for k in range(4) for a, b in zip(expected[0][k], expected[1][k], strict=True))
    before = (torch.get_num_threads(), list(warnings.filters))
    for segmenter in (nano, other):
        segmenter.forget_images()
    torch.set_float32_matmul_precision("medium")  # the plugin sets it back to exact while it computes
    try:
        allowed = torch.get_float32_matmul_precision()
        with ThreadPoolExecutor(4) as pool:
            jobs = [(s, k) for _ in range(2) for k in range(4) for s in (0, 1)]
            found = list(pool.map(lambda job: segment((nano, other)[job[0]], images[job[1]], job[1] % 4), jobs))
        assert torch.get_float32_matmul_precision() == allowed
    finally:
        torch.set_float32_matmul_precision("highest")
    for (s, k), masks in zip(jobs, found, strict=True):
        assert_same(masks, expected[s][k])
    assert (torch.get_num_threads(), list(warnings.filters)) == before


def test_threads_that_open_a_model_at_once_load_it_once(monkeypatch):
    loads = []
    monkeypatch.setattr(module, "load_model", lambda *args: loads.append(args) or load_model(*args))
    together = threading.Barrier(4)

    def open_one(_):
        together.wait()
        return open_segmenter("sam2_hiera_nano", apply_postprocessing=False)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(open_one, range(4)))
    assert len(loads) == 1
    assert len({id(segmenter) for segmenter in found}) == 1


def test_who_needs_no_download_does_not_wait_for_one(monkeypatch):
    arrived, started = threading.Event(), threading.Event()

    def fetch(name, on_download=None):
        if name == "sam2_hiera_tiny":
            started.set()
            assert arrived.wait(60)
            raise RuntimeError("the download ends here")
        return fetch_checkpoint(name)

    monkeypatch.setattr(module, "fetch_checkpoint", fetch)
    with ThreadPoolExecutor(2) as pool:
        downloading = pool.submit(open_segmenter, "sam2_hiera_tiny")
        assert started.wait(60)
        try:
            assert pool.submit(open_segmenter, "sam2_hiera_nano").result(60)
        finally:
            arrived.set()
        with pytest.raises(RuntimeError, match="the download ends here"):
            downloading.result(60)


# ---------------------------------------------------------------- workflows


def task(workflow, **params: str):
    added = workflow.add_task(name=NAME, auto_connect=True)
    added.set_parameters({"model_name": "sam2_hiera_nano", **params})
    return added


AUTOMATIC = {
    "points_per_side": "4",
    "iou_thresh": "0.3",
    "stability_score_thresh": "0.5",
    "use_m2m": "False",
    "multimask_output": "True",
}


def test_workflows_in_several_threads_give_the_serial_results(images):
    from ikomia.dataprocess.workflow import Workflow

    kinds = [AUTOMATIC, {"input_point": "[30, 40]", "multimask_output": "True"}, {"input_box": "[5, 5, 50, 80]"}]
    flows = [Workflow(f"flow {k}") for k in range(4)]
    tasks = [task(flow, **kinds[k % 3]) for k, flow in enumerate(flows)]

    def run(k: int) -> list[list[np.ndarray]]:
        seen = []
        for image in images[:4]:
            flows[k].run_on(array=image)
            seen.append([tasks[k].get_output(i).get_mask().copy() for i in range(1, tasks[k].get_output_count())])
        return seen

    expected = [run(k) for k in range(4)]
    assert all(any(mask.any() for mask in masks) for of_flow in expected for masks in of_flow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(4)))
    for of_flow, serial in zip(found, expected, strict=True):
        for masks, others in zip(of_flow, serial, strict=True):
            assert [m.tolist() for m in masks] == [m.tolist() for m in others]


def test_the_model_can_be_changed_while_another_task_runs_on_it(images):
    from ikomia.dataprocess.workflow import Workflow

    first, second = Workflow("first"), Workflow("second")
    running, changing = task(first, **AUTOMATIC), task(second, input_box="[5, 5, 150, 180]")
    first.run_on(array=images[0])
    expected = running.get_output(1).get_mask().copy()
    wanted = {}
    for value in ("True", "False"):
        changing.set_parameters({"apply_postprocessing": value})
        second.run_on(array=images[1])
        wanted[value] = changing.get_output(1).get_mask().copy()

    in_the_middle, failures = threading.Event(), []
    running.emit_step_progress = in_the_middle.set

    def search() -> None:
        try:
            for _ in range(3):
                running._segmenter.forget_images()
                first.run_on(array=images[0])
                np.testing.assert_array_equal(running.get_output(1).get_mask(), expected)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    assert in_the_middle.wait(60)
    for value in ("False", "True", "False", "True"):
        changing.set_parameters({"apply_postprocessing": value})
        second.run_on(array=images[1])
        np.testing.assert_array_equal(changing.get_output(1).get_mask(), wanted[value])
    thread.join(120)
    assert not thread.is_alive()
    assert not failures


# ---------------------------------------------------------------- processes


def run_script(code: str, seconds: float = 120, **environment: str) -> list:
    """What a script printed in JSON, one value a line."""
    # On all cores, as users start it: the suite itself runs on one thread a process. A thread that waits for another one, which
    # may wait for a core, takes none meanwhile.
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    inherited["OMP_WAIT_POLICY"] = "passive"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=inherited | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        cwd=os.environ["HOME"],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


FORKING = """
import hashlib, json, os, sys, threading, time
import numpy as np
from skimage import data
from infer_segment_anything_2.segmentation.search import AutomaticSettings
from infer_segment_anything_2.segmentation.objects import Object
from infer_segment_anything_2.segmentation.segmenter import open_segmenter
image = np.ascontiguousarray(data.astronaut()[:300])
mirrored = np.ascontiguousarray(image[:, ::-1])
loose = AutomaticSettings(points_per_side=3, pred_iou_thresh=0.2, stability_score_thresh=0.4)
box = [Object(box=np.array([60, 20, 300, 200], np.float32))]

def segment(segmenter, image):
    masks = [segmenter.generate(image, loose), *segmenter.predict(image, box, multimask_output=True)]
    return [hashlib.md5(repr(m.rles).encode()).hexdigest() for m in masks]

def in_a_child(work, seconds=60):
    # What `work` gives in a forked process, or "hangs".
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    deadline = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return "hangs"
        time.sleep(0.02)
    with os.fdopen(read, "rb") as pipe:
        return json.loads(pipe.read() or b'"died"')
"""


@POSIX
def test_a_forked_process_gets_the_masks_with_a_model_that_its_parent_has_used():
    code = """
import torch
nano = open_segmenter("sam2_hiera_nano")
segment(nano, image)
here = in_a_child(lambda: segment(nano, mirrored))
torch.set_num_threads(2)
again = in_a_child(lambda: [*segment(nano, mirrored), torch.get_num_threads()])
own = in_a_child(lambda: segment(open_segmenter("sam2_hiera_nano", apply_postprocessing=False), mirrored))
def in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.extend(segment(nano, mirrored)))
    thread.start()
    thread.join()
    return found
threaded = in_a_child(in_a_thread)
grandchild = in_a_child(lambda: [segment(nano, mirrored), in_a_child(lambda: segment(nano, mirrored))][1])
for found in (here, again[:-1], own, threaded, grandchild, segment(nano, mirrored)):
    print(json.dumps(list(found)))
print(json.dumps(again[-1:]))
"""
    found = run_script(FORKING + code, 400)
    *masks, threads = found
    assert threads == [2]
    expected = masks.pop()
    own = masks.pop(2)
    assert len(own) == len(expected) == 4
    assert all(of_child == expected for of_child in masks)


@POSIX
def test_a_process_forked_while_others_segment_and_load_does_not_wait_for_them():
    code = """
nano = open_segmenter("sam2_hiera_nano")
expected = segment(nano, mirrored)
nano.forget_images()
from infer_segment_anything_2.segmentation import segmenter, surroundings
forked, holding = threading.Event(), threading.Event()
def hold():
    with surroundings._precision_lock, segmenter._opening:
        holding.set()
        assert forked.wait(100)
computing = threading.Event()
def progress(done, total):
    computing.set()
    assert forked.wait(100)
waiting = [threading.Thread(target=lambda: nano.generate(image, loose, progress=progress)), threading.Thread(target=hold)]
for thread, ready in zip(waiting, (computing, holding)):
    thread.start()
    assert ready.wait(60)
def work():
    assert open_segmenter("sam2_hiera_nano") is nano
    other = open_segmenter("sam2_hiera_nano", apply_postprocessing=False)
    return segment(nano, mirrored)
found = in_a_child(work)
forked.set()
for thread in waiting:
    thread.join()
print(json.dumps([expected, found, segment(nano, mirrored)]))
"""
    ((expected, found, after),) = run_script(FORKING + code, 300)
    assert found == expected
    assert after == expected


@POSIX
def test_a_workflow_that_has_run_runs_in_a_process_forked_from_the_main_thread_from_another_and_from_c():
    """Ikomia's OpenCV, too, computes on several threads, which the process does not have any more: the polygons of each mask.
    C code that forks, such as uWSGI, tells Python afterwards only."""
    code = f"""
import ctypes, torch
from ikomia.dataprocess.workflow import Workflow
def run(image):
    workflow.run_on(array=image)
    semantic, instances = algo.get_output(1), algo.get_output(algo.get_output_count() - 1)
    found = [semantic.get_mask(), algo.get_image_with_mask(), *[o.mask for o in instances.get_objects()]]
    return [hashlib.md5(a.tobytes()).hexdigest() for a in found]
workflow = Workflow()
algo = workflow.add_task(name="infer_segment_anything_2", auto_connect=True)
algo.set_parameters({{**{AUTOMATIC}, "model_name": "sam2_hiera_nano", "instance_output": "True"}})
# On a machine that was busy, OpenMP computes on one thread, and has none to wait for.
ctypes.CDLL("libgomp.so.1").omp_set_dynamic(0)
def again():
    return [*run(mirrored), torch.get_num_threads(), len(os.listdir("/proc/self/task")) > 1]
def fork():
    run(image)
    algo._segmenter.forget_images()  # or a kept search would answer in the child
    fork.found = in_a_child(again)
    fork.threads = torch.get_num_threads()

fork()
print(json.dumps(["the main thread", fork.found, [*run(mirrored), fork.threads]]))

thread = threading.Thread(target=fork)
thread.start()
thread.join()
print(json.dumps(["another thread", fork.found, [*run(mirrored), fork.threads]]))

fork_in_python = os.fork
in_a_child(lambda: 0)  # after which OpenMP starts its threads again
def fork_in_c():
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        os.fork = fork_in_python
    return child
os.fork = fork_in_c
of_child = again
def again():
    found = of_child()
    return found if in_a_child(of_child, 20) == found else "its own child: other masks"
fork()
torch.set_num_threads(1)  # as in the child, where sums are rounded accordingly
print(json.dumps(["C", fork.found, [*run(mirrored), fork.threads]]))
"""
    cases = run_script(FORKING + code, 400)
    assert [forks for forks, _, _ in cases] == ["the main thread", "another thread", "C"]
    for forks, found, expected in cases:
        assert found[:-1] == expected, forks
        assert found[-1] == (forks != "C" and len(os.sched_getaffinity(0)) > 1), forks  # several threads compute there
        assert len(found) > 4


def segment_in_a_pool(box: list[float]) -> list:
    segmenter = open_segmenter("sam2_hiera_nano")
    (masks,) = segmenter.predict(data.astronaut(), [Object(box=np.array(box, np.float32))])
    return [masks.rles, float(masks.scores[0])]


@pytest.mark.parametrize(("method", "processes"), [pytest.param("fork", 2, marks=POSIX), ("spawn", 1)])
def test_a_pool_of_processes_gets_the_masks(method, processes, nano):
    boxes = [[150, 20, 300, 200], [20, 20, 200, 200], [290, 340, 510, 510], [150.5, 20, 300, 100]]
    expected = [segment_in_a_pool(box) for box in boxes]
    with multiprocessing.get_context(method).Pool(processes) as pool:
        found = pool.map_async(segment_in_a_pool, boxes, chunksize=1).get(200)
    assert [rles for rles, _ in found] == [rles for rles, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=1e-5)


# ---------------------------------------------------------------- files


def save_labels_of(worker: int, folder: Path) -> None:
    """Labels of twenty images into one folder, half of them by a call each: each of a class of its own, and of one of all."""
    whole = encode(np.ones((4, 4), bool))
    images = [
        (f"{worker} {k}.txt", Masks((4, 4), [whole, whole], np.ones(2, np.float32), names=[f"{worker} {k}", "all"]))
        for k in range(20)
    ]
    for name, masks in images[:10]:
        save_yolo(folder / name, masks, tolerance=0)
    save_yolo(folder, images[10:], tolerance=0)


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=POSIX)])
def test_many_calls_at_once_write_labels_into_one_folder_each_of_the_right_class(tmp_path, kind):
    pool = ThreadPoolExecutor(4) if kind == "threads" else ProcessPoolExecutor(2, multiprocessing.get_context("fork"))
    with pool:
        for saved in [pool.submit(save_labels_of, worker, tmp_path) for worker in range(4)]:
            saved.result(100)
    names = yaml.safe_load((tmp_path / "data.yaml").read_text())["names"]
    images = [f"{worker} {k}" for worker in range(4) for k in range(20)]
    assert sorted(names.values()) == sorted([*images, "all"])
    for image in images:
        lines = (tmp_path / f"{image}.txt").read_text().splitlines()
        assert [names[int(line.split()[0])] for line in lines] == [image, "all"]
    assert {path.name for path in tmp_path.iterdir()} == {"data.yaml", *(f"{image}.txt" for image in images)}


@pytest.mark.parametrize(
    "save",
    [
        lambda path, masks: save_coco(path, {"a": masks}),
        lambda path, masks: save_yolo(path, masks, tolerance=0),
        save_labels,
    ],
    ids=["COCO", "YOLO", "labels"],
)
def test_threads_that_write_one_file_leave_that_of_one_of_them(tmp_path, save):
    masks = [Masks((4, 4), [encode(np.ones((4, 4), bool))] * count, np.ones(count, np.float32)) for count in (1, 300)]
    contents = []
    for of_one in masks:
        save(tmp_path / "a.png", of_one)
        contents.append((tmp_path / "a.png").read_bytes())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: save(tmp_path / "a.png", masks[k % 2]), range(40)))
    assert (tmp_path / "a.png").read_bytes() in contents
    assert {path.name for path in tmp_path.iterdir()} <= {"a.png", "data.yaml"}


def test_a_model_is_loaded_by_threads_at_once():
    """Loading draws no weights by a mode of torch, which is the calling thread's own."""
    name = "sam2_hiera_nano"
    alone = load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cpu", True).state_dict()
    with ThreadPoolExecutor(3) as pool:
        loaded = list(
            pool.map(lambda _: load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cpu", True), range(3))
        )
    assert all(torch.equal(alone[key], model.state_dict()[key]) for model in loaded for key in alone)
