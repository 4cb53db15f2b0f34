"""Folders and videos through Ikomia's own inputs: what a run gives for each image, what one bad file does, and memory."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import ikomia  # noqa: F401 - before cv2, which comes with it
import numpy as np
import pytest
from conftest import NAME
from PIL import Image
from pycocotools.coco import COCO
from skimage import data
from tools.video import frames_of, moving_window, write_video

from infer_segment_anything_2.segmentation.export import save_coco

BOX = {"input_box": "[60, 20, 260, 200]"}
FRAMES = 6
AUTOMATIC = {"points_per_side": "4", "iou_thresh": "0.3", "stability_score_thresh": "0.5", "use_m2m": "False"}


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three pictures, one of them in a folder below, and a file that is none and does not claim to be."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for name, image in {"a.png": data.astronaut(), "b.jpg": data.coffee(), "below/c.png": data.chelsea()}.items():
        Image.fromarray(image).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def truncate(path: Path, copy: Path) -> None:
    """Half of a file, as a full disk or a broken download leaves it."""
    content = path.read_bytes()
    copy.write_bytes(content[: len(content) // 2])


def saved_labels(entry: dict) -> np.ndarray:
    """The label image (H, W) in what Ikomia saves of a semantic output."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(entry["mask"]))))


def labels_alone(workflow, algo, image: str | np.ndarray) -> np.ndarray:
    """The label image of a run on one image, by path or as an array."""
    workflow.run_on(**({"path": image} if isinstance(image, str) else {"array": image}))
    return algo.get_output(1).get_mask().copy()


@pytest.mark.parametrize("parameters", [BOX, AUTOMATIC], ids=["prompt", "automatic"])
def test_a_folder_run_saves_the_labels_of_each_image(workflow, algo, photos, tmp_path, parameters):
    algo.set_parameters(parameters)
    workflow.set_output_folder(str(tmp_path / "results"))
    workflow.run_on(folder=str(photos))
    saved = Path(workflow.get_last_run_folder())
    assert saved.parent == tmp_path / "results"
    assert {p.stem for p in saved.glob("*.json")} == {NAME + stem for stem in "abc"}
    workflow.set_auto_save(False)
    for name in ("a.png", "b.jpg", "below/c.png"):
        path = photos / name
        labels = saved_labels(json.loads((saved / f"{NAME}{path.stem}.json").read_text()))
        assert labels.any()
        np.testing.assert_array_equal(labels, labels_alone(workflow, algo, str(path)))


def test_a_folder_run_logs_files_that_are_no_images_and_goes_on(workflow, algo, photos, tmp_path, caplog):
    for name, content in {"empty": b"", "text": b"not a picture", "header": b"\x89PNG\r\n\x1a\n"}.items():
        (photos / f"{name}.png").write_bytes(content)
    algo.set_parameters(BOX)
    workflow.set_output_folder(str(tmp_path / "results"))
    with caplog.at_level(logging.ERROR):
        workflow.run_on(folder=str(photos))
    for name in ("empty", "text", "header"):
        assert f"Error occurred while processing {name}.png" in caplog.text
    assert {p.stem for p in Path(workflow.get_last_run_folder()).glob("*.json")} == {NAME + stem for stem in "abc"}


def segment_each(workflow, algo, folder: Path) -> tuple[dict, dict[str, str]]:
    """The recipe of the README: the masks of each image by its name, and why others have none."""
    masks, failures = {}, {}
    for path in sorted(folder.rglob("*.*")):
        name = path.relative_to(folder).as_posix()
        try:
            workflow.run_on(path=str(path))
        except RuntimeError as error:
            failures[name] = str(error)
        else:
            masks[name] = algo.get_masks()[0]
    return masks, failures


@pytest.mark.parametrize("given", ["", "other.png"])
def test_a_coco_file_calls_the_image_as_its_file_is_called(workflow, algo, photos, tmp_path, given):
    """Also what the panel saves, which has no other name for it."""
    algo.set_parameters(BOX)
    for image, name in (({"path": str(photos / "below/c.png")}, "c.png"), ({"array": data.chelsea()}, "image")):
        workflow.run_on(**image)
        algo.save_coco(str(tmp_path / "masks.json"), file_name=given)
        (entry,) = json.loads((tmp_path / "masks.json").read_text())["images"]
        assert entry["file_name"] == (given or name)


def test_a_truncated_png_ends_a_folder_run_but_not_a_loop(workflow, algo, photos, tmp_path):
    """ikomia (0.16.1) opens the files of a folder outside of what catches their errors."""
    truncate(photos / "a.png", photos / "cut.png")
    algo.set_parameters(BOX)
    with pytest.raises(RuntimeError, match="OpenCV"):
        workflow.run_on(folder=str(photos))

    masks, failures = segment_each(workflow, algo, photos)
    assert set(masks) == {"a.png", "b.jpg", "below/c.png"}
    assert "OpenCV" in failures["cut.png"]
    assert "unsupported input type" in failures["notes.txt"]
    save_coco(tmp_path / "masks.json", masks)
    coco = COCO(str(tmp_path / "masks.json"))
    assert [image["file_name"] for image in coco.dataset["images"]] == list(masks)
    workflow.set_auto_save(False)
    for image_id, name in enumerate(masks, start=1):
        (annotation,) = coco.loadAnns(coco.getAnnIds(image_id))
        np.testing.assert_array_equal(
            coco.annToMask(annotation), labels_alone(workflow, algo, str(photos / name)), err_msg=name
        )


def test_a_workflow_runs_on_a_second_folder_once_its_inputs_are_cleared(workflow, algo, photos, tmp_path):
    """Each run_on(folder=…) of ikomia (0.16.1) adds an input, and the task keeps the first."""
    algo.set_parameters(BOX)
    workflow.set_output_folder(str(tmp_path / "results"))
    workflow.run_on(folder=str(photos))
    workflow.clear_inputs()
    workflow.run_on(folder=str(photos / "below"))
    assert workflow.get_input_count() == 1
    np.testing.assert_array_equal(
        algo.get_output(1).get_mask(), labels_alone(workflow, algo, str(photos / "below" / "c.png"))
    )


@pytest.fixture
def video(tmp_path) -> Path:
    """A video of six frames."""
    return write_video(tmp_path / "video.avi", moving_window(FRAMES))


@pytest.mark.parametrize("parameters", [BOX, AUTOMATIC], ids=["prompt", "automatic"])
def test_a_video_is_segmented_frame_by_frame(workflow, algo, video, tmp_path, parameters):
    algo.set_parameters(parameters)
    workflow.set_auto_save(True)
    workflow.set_output_folder(str(tmp_path / "results"))
    workflow.run_on(path=str(video))
    saved = json.loads((Path(workflow.get_last_run_folder()) / NAME / "SemanticSegIO_1.json").read_text())
    workflow.set_auto_save(False)
    frames = frames_of(video)
    assert len(saved) == len(frames) == FRAMES
    for entry, frame in zip(saved, frames, strict=True):
        assert saved_labels(entry).any()
        np.testing.assert_array_equal(saved_labels(entry), labels_alone(workflow, algo, frame))


def test_a_video_input_needs_the_entry_that_asks_for_all_frames(workflow, algo, video):
    """run_on sets it; set_video_input does not (ikomia 0.16.1)."""
    sources = []
    run = algo.run
    algo.run = lambda: (run(), sources.append(algo.get_input(0).source_file_path))
    algo.set_parameters(BOX)
    workflow.set_video_input(path=str(video), index=0)
    workflow.set_cfg_entry("WholeVideo", "1")
    workflow.run()
    assert sources == [str(video)] * FRAMES


def test_after_damaged_videos_the_workflow_goes_on(workflow, algo, video, tmp_path):
    """ikomia (0.16.1) runs on the last readable frame again for each that is missing, or ends with an error, as it happens."""
    algo.set_parameters(BOX)
    expected = labels_alone(workflow, algo, frames_of(video)[0])
    (tmp_path / "none.avi").write_text("not a video")
    with pytest.raises(RuntimeError, match="Failed to open video"):
        workflow.run_on(path=str(tmp_path / "none.avi"))
    truncate(video, tmp_path / "cut.avi")
    labels = []
    run = algo.run
    algo.run = lambda: (run(), labels.append(algo.get_output(1).get_mask().copy()))
    with contextlib.suppress(RuntimeError):
        workflow.run_on(path=str(tmp_path / "cut.avi"))
    np.testing.assert_array_equal(labels[0], expected)
    readable = frames_of(tmp_path / "cut.avi")
    assert 1 < len(readable) < FRAMES
    np.testing.assert_array_equal(labels_alone(workflow, algo, readable[0]), expected)


MANY_IMAGES = f"""
import ctypes, gc, resource, sys
from ikomia.dataprocess.workflow import Workflow

def resident_bytes():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what malloc holds back, by chance up to 90 MB after a run, is not what is kept
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()

first, rest, video = sys.argv[1:]
wf = Workflow()
algo = wf.add_task(name="{NAME}", auto_connect=True)
algo.set_parameters({{"model_name": "sam2_hiera_nano", **{AUTOMATIC!r}, "points_per_side": "2"}})

def run_on_folder_and_video(folder):
    wf.set_auto_save(True)
    wf.clear_inputs()
    wf.run_on(folder=folder)
    wf.set_auto_save(False)
    wf.run_on(path=video)

run_on_folder_and_video(first)
before = resident_bytes()
run_on_folder_and_video(rest)
predictor = algo._segmenter.predictor
print(predictor.encoded, len(predictor._kept), resident_bytes() - before, next(iter(predictor._kept.values())).nbytes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/statm, malloc_trim")
def test_many_images_and_frames_take_no_more_memory_than_a_few(video, tmp_path):
    """In a process of its own: other tests leave memory behind that hides what this one takes."""
    for k, frame in enumerate(moving_window(40)):
        folder = tmp_path / ("first" if k < 10 else "rest")
        folder.mkdir(exist_ok=True)
        Image.fromarray(frame).save(folder / f"{k}.png")
    arguments = [str(tmp_path / "first"), str(tmp_path / "rest"), str(video)]
    done = subprocess.run(
        [sys.executable, "-c", MANY_IMAGES, *arguments], check=True, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    encoded, kept, growth, embedding = map(int, done.stdout.split()[-4:])
    assert (encoded, kept) == (40 + 2 * FRAMES, 8)
    assert growth < (30 + FRAMES) * embedding / 2  # half of what would stay if nothing were forgotten
