"""Objects that are followed through a video (track), in real workflows: where a sequence begins, and what stays through it.

That the masks are sam2's is compared in tests/parity/test_videos_of_sam2.py.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from conftest import NAME
from ikomia import core, dataprocess
from ikomia.dataprocess.workflow import Workflow
from PIL import Image
from pycocotools.coco import COCO
from tools.video import darkened, frames_of, moving_window, that_loses_what_is_dark, that_sees, write_video

from infer_segment_anything_2.segmentation.export import save_coco
from infer_segment_anything_2.segmentation.images import shown_range
from infer_segment_anything_2.segmentation.objects import Object
from infer_segment_anything_2.segmentation.sequence import Place, _told_apart

FRAMES = 5
BOX = "[70, 20, 190, 130]"
TWO_BOXES = "[[70, 20, 190, 130], [160, 90, 310, 230]]"
AUTOMATIC = {"points_per_side": "4", "iou_thresh": "0.3", "stability_score_thresh": "0.5", "use_m2m": "False"}


def parameters_of(change: Callable[[torch.nn.Module], torch.nn.Module], folder: Path) -> dict[str, str]:
    """Parameters that follow objects with the bundled weights, changed, at an input of 128 pixels, which saves time."""
    config, weights = folder / "small.yaml", folder / "weights.pt"
    bundled = oracle.MODELS / "sam2_hiera_nano.yaml"
    config.write_text(bundled.read_text().replace("image_size: 512", "image_size: 128"))
    model = change(oracle.video_model(config, oracle.nano_model().state_dict()))
    torch.save({"model": model.state_dict()}, weights)
    return {"config_file": str(config), "model_weight_file": str(weights), "track": "True"}


@pytest.fixture(scope="module")
def seeing(tmp_path_factory) -> dict[str, str]:
    """Parameters that follow objects with weights for which all are seen."""
    return parameters_of(that_sees, tmp_path_factory.mktemp("seeing"))


@pytest.fixture(scope="module")
def losing(tmp_path_factory) -> dict[str, str]:
    """Parameters that follow objects with weights for which those in black frames are not seen."""
    return parameters_of(that_loses_what_is_dark, tmp_path_factory.mktemp("losing"))


@pytest.fixture
def video(tmp_path) -> Path:
    return write_video(tmp_path / "video.avi", moving_window(FRAMES))


class Seen:
    """A workflow with the plugin, and what each of its runs gave."""

    def __init__(self, *parameters: dict[str, str], before: tuple = ()) -> None:
        self.workflow = Workflow("video")
        self.workflow.set_auto_save(False)
        for task in before:
            self.workflow.add_task(task=task, auto_connect=True)
        self.algo = self.workflow.add_task(name=NAME, auto_connect=True)
        for some in parameters:
            self.algo.set_parameters(some)
        self.masks, self.names, self.colours, self.labels, self.sources = [], [], [], [], []
        run = self.algo.run
        self.algo.run = lambda: (run(), self._keep())

    def _keep(self) -> None:
        if not self.algo.get_masks():  # the run was stopped
            return
        output = self.algo.get_output(1)
        self.masks += self.algo.get_masks()
        self.names.append(list(output.get_class_names())[1:])
        self.colours.append([list(colour) for colour in output.get_colors()])
        self.labels.append(output.get_mask().copy())
        source = self.algo.get_input(0)
        self.sources.append(source.source_file_path if isinstance(source, dataprocess.CVideoIO) else "")

    def on(self, *frames: np.ndarray) -> Seen:
        for frame in frames:
            self.workflow.run_on(array=frame)
        return self

    @property
    def rles(self) -> list[list]:
        return [masks.rles for masks in self.masks]

    @property
    def ids(self) -> list[list]:
        return [list(masks.ids) for masks in self.masks]


def run_while_track_is_switched_off(seen: Seen, frame: np.ndarray, monkeypatch) -> None:
    """A run on a frame that began with track, of which the model is opened after that was switched off."""
    from infer_segment_anything_2 import infer_segment_anything_2_process as process

    make_request = process.make_request

    def switch_off(*args):
        seen.algo.set_parameters({"track": "False"})
        return make_request(*args)

    with monkeypatch.context() as patch:
        patch.setattr(process, "make_request", switch_off)
        seen.on(frame)


def test_values_that_are_set_during_a_frame_count_from_the_next_one_on(seeing, monkeypatch):
    frame, seen = moving_window(1)[0], Seen(seeing, {"input_box": BOX})
    run_while_track_is_switched_off(seen, frame, monkeypatch)
    seen.on(frame)
    assert [masks.is_followed for masks in seen.masks] == [True, False]


def test_a_frame_of_before_track_was_switched_on_again_counts_for_nothing(seeing, monkeypatch):
    """Also of a run that began before it was switched off, and still had to load its model."""
    frames, seen = moving_window(2), Seen(seeing, {"input_box": BOX})
    run_while_track_is_switched_off(seen, frames[0], monkeypatch)
    seen.algo.set_parameters({"track": "True"})
    assert seen.on(frames[1]).rles[1:] == Seen(seeing, {"input_box": BOX}).on(frames[1]).rles


@pytest.mark.parametrize("way", ["off", "start_video"])
def test_a_video_that_is_begun_while_a_later_frame_is_followed_begins_with_the_next_one(seeing, monkeypatch, way):
    from infer_segment_anything_2.segmentation.segmenter import Segmenter

    frames, seen = moving_window(3), Seen(seeing, {"input_box": BOX})
    follow = Segmenter.follow

    def begin_meanwhile(*args, **keywords):
        if way == "off":
            seen.algo.set_parameters({"track": "False"})
            seen.algo.set_parameters({"track": "True"})
        else:
            seen.algo.start_video()
        return follow(*args, **keywords)

    seen.on(frames[0])
    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "follow", begin_meanwhile)
        seen.on(frames[1])
    seen.on(frames[2])
    through = Seen(seeing, {"input_box": BOX}).on(*frames[:2])
    assert seen.rles == [*through.rles, *Seen(seeing, {"input_box": BOX}).on(frames[2]).rles]


def test_what_is_changed_on_a_first_frame_begins_anew_and_on_a_later_one_counts_from_the_next(
    seeing, monkeypatch, caplog
):
    """Who stays on a frame in Studio and tries values there."""
    from infer_segment_anything_2 import infer_segment_anything_2_process as process
    from infer_segment_anything_2.segmentation.sequence import Place

    frames = [frame.astype(np.uint16) * 16 for frame in moving_window(3)]
    changes = [{"mask_threshold": "6"}, {"input_size_percent": "40"}, {"intensity_range": "[0, 9000]"}]
    seen, at = Seen(seeing, {"input_box": BOX}), 0
    monkeypatch.setattr(process, "place_of", lambda source: Place("video", at, 3))
    seen.on(frames[0], frames[0])
    assert seen.rles[0] == seen.rles[1]
    values = {"input_box": BOX}
    for change in changes:
        seen.algo.set_parameters(change)
        values |= change
        seen.on(frames[0])
        assert seen.rles[-1] == Seen(seeing, values).on(frames[0]).rles[0] != seen.rles[-2]
    assert "counts from the next one" not in caplog.text
    at = 1
    seen.on(frames[1])
    seen.algo.set_parameters({"mask_threshold": "0", "intensity_range": "", "input_size_percent": "100"})
    seen.on(frames[1])
    assert seen.rles[-1] == seen.rles[-2]
    assert caplog.text.count("counts from the next one") == 1
    at = 2
    seen.on(frames[2])
    assert seen.algo._sequence.shown == shown_range(frames[2])  # no frame before it was looked at for its range


def test_a_video_keeps_the_values_of_its_first_frame_as_black_and_white(seeing):
    frames = [frame.astype(np.uint16) * 16 for frame in moving_window(3)]
    first = shown_range(frames[0])
    frames[1][:40] = 65535  # would stretch that frame otherwise
    followed = Seen(seeing, {"input_box": BOX}).on(*frames)
    overlay = followed.algo.get_image_with_mask()
    given = Seen(seeing, {"input_box": BOX, "intensity_range": str(list(map(int, first)))}).on(*frames)
    assert followed.rles == given.rles
    np.testing.assert_array_equal(overlay, given.algo.get_image_with_mask())
    again = Seen(seeing, {"input_box": BOX, "intensity_range": "[0, 9000]"}).on(*frames)
    assert again.rles != given.rles
    followed.algo.start_video()
    followed.on(frames[1])
    assert followed.rles[-1] == Seen(seeing, {"input_box": BOX}).on(frames[1]).rles[0]


def test_a_video_is_followed_as_its_frames_one_by_one_are_and_again_the_same(seeing, video):
    frames = frames_of(video)
    one_by_one = Seen(seeing, {"input_box": TWO_BOXES}).on(*frames)
    whole = Seen(seeing, {"input_box": TWO_BOXES})
    whole.workflow.run_on(path=str(video))
    whole.workflow.run_on(path=str(video))  # its position is back
    assert whole.rles == one_by_one.rles * 2
    assert all((masks.areas > 0).all() for masks in whole.masks)
    alone = Seen(seeing, {"track": "False", "input_box": TWO_BOXES}).on(frames[-1])
    assert whole.rles[-1] != alone.rles[-1]  # it was followed, not pointed at again


def test_labels_names_colours_and_ids_stay(seeing):
    seen = Seen(seeing, {"input_box": TWO_BOXES, "instance_output": "True"}).on(*moving_window(3))
    assert seen.names == [["mask 1", "mask 2"]] * 3
    assert seen.ids == [[0, 1]] * 3
    assert all(colours == seen.colours[0] and len(colours) == 3 for colours in seen.colours)
    assert [(thing.label, thing.id) for thing in seen.algo.get_output(2).get_objects()] == [
        ("mask 1", 0),
        ("mask 2", 1),
    ]


def test_each_video_of_a_folder_begins_anew(seeing, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    ways = {"a.avi": moving_window(3), "b.avi": moving_window(4, (200, 300)), "c.avi": moving_window(5)[2:]}
    paths = [write_video(folder / name, frames) for name, frames in ways.items()]
    together = Seen(seeing, {"input_box": BOX})
    together.workflow.set_output_folder(str(tmp_path / "results"))
    together.workflow.run_on(folder=str(folder))
    for path in paths:
        alone = Seen(seeing, {"input_box": BOX}).on(*frames_of(path))
        assert [r for r, s in zip(together.rles, together.sources, strict=True) if s == str(path)] == alone.rles


@pytest.mark.parametrize("way", ["start_video", "off and on", "prompt", "size", "model"])
def test_what_begins_a_sequence(seeing, way, tmp_path):
    frames = moving_window(3, (200, 300) if way == "size" else (240, 320))
    seen = Seen(seeing, {"input_box": BOX}).on(*moving_window(2))
    prompt = {"input_box": BOX}
    if way == "start_video":
        seen.algo.start_video()
    elif way == "off and on":
        seen.algo.set_parameters({"track": "False"})
        seen.algo.set_parameters({"track": "True"})
    elif way == "prompt":
        prompt = {"input_box": "[60, 20, 190, 130]"}
        seen.algo.set_parameters(prompt)
    elif way == "model":
        seen.algo.set_parameters({"apply_postprocessing": "False"})
        prompt["apply_postprocessing"] = "False"
    seen.on(*frames)
    assert seen.rles[2:] == Seen(seeing, prompt).on(*frames).rles


def test_what_begins_no_sequence(seeing):
    """Thresholds and outputs are of the frame, and the same prompt again is no new one."""
    frames = moving_window(3)
    seen = Seen(seeing, {"input_box": BOX}).on(*frames[:2])
    seen.algo.set_parameters({"input_box": BOX, "instance_output": "True"})
    assert seen.on(frames[2]).rles == Seen(seeing, {"input_box": BOX}).on(*frames).rles


def test_without_a_prompt_automatic_mode_finds_what_is_followed(seeing):
    frames = moving_window(3)
    seen = Seen(seeing, AUTOMATIC).on(*frames)
    found = Seen(seeing, AUTOMATIC, {"track": "False"}).on(frames[0])
    count = len(found.masks[0])
    assert count > 1
    assert seen.rles[0] == found.rles[0]
    np.testing.assert_array_equal(seen.labels[0], found.labels[0])
    assert seen.names == [[f"mask {k + 1}" for k in range(count)]] * 3
    assert seen.ids == [list(range(count))] * 3


def test_an_object_that_disappears_keeps_its_label_and_comes_back(losing):
    seen = Seen(losing, {"input_box": BOX}).on(*darkened(moving_window(5), range(2, 4)))
    assert [bool(labels.any()) for labels in seen.labels] == [True, True, False, False, True]
    assert seen.names == [["mask 1"]] * 5


class Detector(dataprocess.CObjectDetectionTask):
    """Finds in each run what is next on its list: (label, box, id) each; a box is x, y, width, height."""

    def __init__(self, *found: list[tuple[str, tuple[int, ...], int]]) -> None:
        dataprocess.CObjectDetectionTask.__init__(self, "detector")
        self.found = list(found)

    def get_progress_steps(self) -> int:
        return 1

    def run(self) -> None:
        self.begin_task_run()
        found = self.found.pop(0)
        self.set_names([label for label, _, _ in found])
        for k, (_, box, number) in enumerate(found):
            self.add_object(number, k, 0.9 - k / 10, *map(float, box))
        self.end_task_run()


def test_detections_begin_new_objects_and_find_those_that_are_followed(losing, caplog):
    """In the black frames, in which nothing is seen, the last box of each object counts."""
    detector = Detector([], [("pot", (70, 20, 120, 110), 7)])
    frame, *others = moving_window(3)
    seen = Seen(losing, before=(detector,)).on(frame, frame)
    x0, y0, x1, y1 = map(int, seen.masks[1].boxes_xyxy[0])
    where = (x0, y0, x1 - x0, y1 - y0)
    elsewhere = (0, 190, 60, 50) if y1 < 200 else (280, 0, 40, 40)
    detector.found = [
        [("saucer", where, 7), ("cup", elsewhere, 7), ("spoon", (900, 900, 5, 5), 3)],
        [],
        [],
    ]
    caplog.clear()
    seen.on(np.zeros_like(frame), *others)
    assert seen.names == [[], ["pot"], ["pot", "cup"], ["pot", "cup"], ["pot", "cup"]]
    assert seen.ids == [[], [7], [7, 0], [7, 0], [7, 0]]  # the detector's own, where it is free
    assert seen.masks[-1].confidences == pytest.approx([0.9, 0.8])
    assert "found nothing" not in caplog.text


@pytest.mark.parametrize("is_seen", [True, False])
def test_the_same_detection_in_every_frame_is_one_object(seeing, losing, is_seen):
    """Also where the mask is never seen, and where it has another box than the detection."""
    frame = moving_window(1)[0]
    seen = Seen(seeing if is_seen else losing, before=(Detector(*[[("pot", (20, 150, 60, 20), 7)]] * 4),))
    seen.on(*[frame if is_seen else np.zeros_like(frame)] * 4)
    assert seen.names == [["pot"]] * 4
    assert bool(seen.masks[0].areas[0]) == is_seen


def test_a_thing_that_its_detector_misses_now_and_then_is_one_object(seeing):
    """Where the mask has another box than the detection: the last detection counts, moved on as the mask has."""
    frame, found = moving_window(1)[0], [("pot", (20, 150, 60, 20), 7)]
    seen = Seen(seeing, before=(Detector(found, [], found, [], [], found),)).on(*[frame] * 6)
    assert seen.names == [["pot"]] * 6


def test_a_missed_detection_moves_on_with_the_mask():
    def square(x: float, side: float = 10) -> np.ndarray:
        return np.float32([[x, 0, x + side, side]])

    found = square(0, 30)
    for x in (10, 20):
        new, found = _told_apart([], square(x), square(x - 10), found)
        assert not new
        np.testing.assert_array_equal(found, square(x, 30))
    new, _ = _told_apart([Object(box=square(100, 30)[0])], square(100), square(20), found)
    assert not new  # it was hidden, say
    new, _ = _told_apart([Object(box=square(20, 30)[0])], square(100), square(20), found)
    assert not new  # the mask jumped from one part to another
    new, _ = _told_apart([Object(box=square(200, 30)[0])], square(100), square(20), found)
    assert len(new) == 1


def test_a_frame_in_which_an_object_cannot_join_can_be_tried_again(seeing, monkeypatch):
    """As where memory runs out, or Ctrl-C comes, when one object is followed already and another one begins."""
    from infer_segment_anything_2.segmentation.segmenter import Segmenter

    frames, (first, second) = moving_window(3), [("pot", (70, 20, 120, 110), 7), ("cup", (280, 0, 40, 40), 8)]
    expected = Seen(seeing, before=(Detector([first], [second], []),)).on(*frames)
    seen = Seen(seeing, before=(Detector([first], [second], [second], []),)).on(frames[0])
    followed, calls = Segmenter._followed, []

    def fail(*args):
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError
        return followed(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "_followed", fail)
        with pytest.raises(RuntimeError, match="memory"):
            seen.on(frames[1])
    seen.on(*frames[1:])
    assert seen.names == expected.names == [["pot"], ["pot", "cup"], ["pot", "cup"]]
    assert seen.rles == expected.rles


def test_a_detector_that_never_finds_anything_costs_no_encoding_and_is_told_of_once(seeing, caplog, monkeypatch):
    from infer_segment_anything_2.segmentation.image_predictor import ImagePredictor

    monkeypatch.setattr(ImagePredictor, "embed", lambda *_: pytest.fail("a frame was encoded"))
    with caplog.at_level(logging.WARNING):
        seen = Seen(seeing, before=(Detector([], [], []),)).on(*moving_window(3))
    assert caplog.text.count("The connected task found nothing to segment: the result is empty.") == 1
    assert [len(masks) for masks in seen.masks] == [0] * 3


def test_a_video_behind_a_detector_that_is_run_again_begins_anew(seeing, video):
    found = [("pot", (70, 20, 120, 110), 7)]
    alone = Seen(seeing, before=(Detector(*[found] * FRAMES),))
    alone.workflow.run_on(path=str(video))
    assert len(alone.rles) == FRAMES
    twice = Seen(seeing, before=(Detector(*[found] * 2 * FRAMES),))
    for _ in range(2):
        twice.workflow.run_on(path=str(video))
    assert twice.rles == alone.rles * 2


def test_what_is_drawn_on_the_first_frame_is_followed_and_another_drawing_begins_anew(seeing):
    frames = moving_window(3)

    def drawing(*boxes: list[int]) -> dataprocess.CGraphicsInput:
        graphics = dataprocess.CGraphicsInput()
        graphics.set_items([core.CGraphicsRectangle(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes])
        return graphics

    one, two = json.loads(BOX), json.loads(TWO_BOXES)
    seen = Seen(seeing)
    seen.algo.set_input(drawing(one), 1)
    seen.on(*frames[:2])
    seen.algo.set_input(drawing(*two), 1)
    seen.on(frames[2])
    assert seen.rles[:2] == Seen(seeing, {"input_box": BOX}).on(*frames[:2]).rles
    assert seen.rles[2:] == Seen(seeing, {"input_box": TWO_BOXES}).on(frames[2]).rles


def test_a_video_that_jumps_forward_goes_on(seeing, monkeypatch):
    from infer_segment_anything_2 import infer_segment_anything_2_process as process

    frames, places = moving_window(3), [Place("a.mp4", position) for position in (0, 1, 7)]
    expected = Seen(seeing, {"input_box": BOX}).on(*frames).rles
    monkeypatch.setattr(process, "place_of", lambda _: places.pop(0))
    assert Seen(seeing, {"input_box": BOX}).on(*frames).rles == expected


def test_a_prompt_outside_the_frame_is_refused_and_the_next_one_followed(seeing):
    frames = moving_window(2)
    seen = Seen(seeing, {"input_box": "[400, 20, 500, 130]"})
    with pytest.raises(RuntimeError, match="is outside the image"):
        seen.on(frames[0])
    seen.algo.set_parameters({"input_box": BOX})
    assert seen.on(*frames).rles == Seen(seeing, {"input_box": BOX}).on(*frames).rles


def test_a_video_of_one_frame(seeing, tmp_path):
    path = write_video(tmp_path / "one.avi", moving_window(1))
    seen = Seen(seeing, {"input_box": BOX})
    seen.workflow.run_on(path=str(path))
    seen.workflow.run_on(path=str(path))  # the same position and picture: the same frame
    assert seen.rles == Seen(seeing, {"input_box": BOX}).on(*frames_of(path)).rles * 2


def test_two_tasks_follow_two_videos_in_turn_and_in_threads(seeing):
    ways = [moving_window(FRAMES), moving_window(FRAMES, (200, 300))]
    alone = [Seen(seeing, {"input_box": BOX}).on(*frames).rles for frames in ways]
    in_turn = [Seen(seeing, {"input_box": BOX}) for _ in ways]
    for pair in zip(*ways, strict=True):
        for seen, frame in zip(in_turn, pair, strict=True):
            seen.on(frame)
    assert [seen.rles for seen in in_turn] == alone
    at_once = [Seen(seeing, {"input_box": BOX}) for _ in ways]
    threads = [threading.Thread(target=seen.on, args=frames) for seen, frames in zip(at_once, ways, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [seen.rles for seen in at_once] == alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_goes_on_with_the_video(seeing):
    frames = moving_window(3)
    seen = Seen(seeing, {"input_box": BOX}).on(*frames[:2])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, seen.on(frames[2]).rles[2][0]["counts"])
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        of_child = pipe.read()
    os.waitpid(child, 0)
    assert of_child == seen.on(frames[2]).rles[2][0]["counts"]


def test_weights_without_what_remembers_segment_images_and_say_why_they_do_not_follow(seeing, tmp_path):
    state = torch.load(seeing["model_weight_file"], weights_only=True)["model"]
    for_images = {name: tensor for name, tensor in state.items() if not name.startswith("memory_")}
    torch.save(for_images, tmp_path / "images.pt")
    seen = Seen(seeing, {"model_weight_file": str(tmp_path / "images.pt"), "input_box": BOX})
    (frame,) = moving_window(1)
    with pytest.raises(RuntimeError, match=r"track: True .* which lack memory_attention, memory_encoder;"):
        seen.on(frame)
    seen.algo.set_parameters({"track": "False"})
    assert seen.on(frame).rles == Seen(seeing, {"track": "False", "input_box": BOX}).on(frame).rles


def test_three_candidates_are_not_asked_for_and_that_is_said_once(seeing, caplog):
    with caplog.at_level(logging.WARNING):
        seen = Seen(seeing, {"input_box": BOX, "multimask_output": "True"}).on(*moving_window(2))
    assert seen.algo.get_output_count() == 2
    assert len(seen.algo.get_masks()) == 1
    assert caplog.text.count("multimask_output is not used") == 1


def test_a_saved_workflow_follows(seeing, tmp_path):
    frames = moving_window(2)
    seen = Seen(seeing, {"input_box": BOX}).on(*frames)
    seen.workflow.save(str(tmp_path / "workflow.json"))
    loaded = Workflow("loaded")
    loaded.load(str(tmp_path / "workflow.json"))
    task = loaded.find_task(NAME, 0)
    for frame in frames:
        loaded.run_on(array=frame)
    assert task.get_masks()[0].rles == seen.rles[-1]


def test_stop_leaves_the_sequence_where_it_was(seeing, monkeypatch):
    from infer_segment_anything_2.bridge.progress import RunProgress

    frames = moving_window(3)
    seen = Seen(seeing, {"input_box": TWO_BOXES}).on(*frames[:2])
    report = RunProgress.searched
    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "searched", lambda *told: (seen.algo.stop(), report(*told)))
        seen.on(frames[2])
    assert len(seen.masks) == 2  # nothing came of the run
    assert seen.on(frames[2]).rles == Seen(seeing, {"input_box": TWO_BOXES}).on(*frames).rles


@pytest.mark.parametrize("number", [0, 1], ids=["the first", "one on which another object joins"])
def test_a_stop_that_comes_too_late_for_a_frame_leaves_its_masks(seeing, monkeypatch, number):
    from infer_segment_anything_2.segmentation.segmenter import Segmenter

    begin = Segmenter.begin

    def followed(stopped_on: int | None) -> list[list]:
        car, dog = ("car", (60, 60, 60, 50), 1), ("dog", (160, 90, 60, 50), 2)
        seen = Seen(seeing, before=(Detector([car], [car, dog]),))
        for k, frame in enumerate(moving_window(2)):
            with monkeypatch.context() as patch:
                if k == stopped_on:
                    patch.setattr(Segmenter, "begin", lambda *a, **b: (seen.algo.stop(), begin(*a, **b))[1])
                seen.on(frame)
        return seen.rles

    assert followed(number) == followed(None)
    assert [len(rles) for rles in followed(number)] == [1, 2]


def test_masks_of_a_video_as_coco_with_track_ids_and_as_label_images(seeing, tmp_path):
    seen = Seen(seeing, {"input_box": TWO_BOXES})
    for number, frame in enumerate(moving_window(3)):
        seen.on(frame)
        seen.algo.save_labels(str(tmp_path / f"{number:06}.png"))
    save_coco(tmp_path / "video.json", {f"{k:06}.png": masks for k, masks in enumerate(seen.masks)})
    coco = COCO(str(tmp_path / "video.json"))
    for number, labels in enumerate(seen.labels):
        annotations = coco.loadAnns(coco.getAnnIds(number + 1))
        assert [annotation["track_id"] for annotation in annotations] == [0, 1]
        assert [coco.annToRLE(a) for a in annotations] == [a["segmentation"] for a in annotations]
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / f"{number:06}.png")), labels)
    seen.algo.save_coco(str(tmp_path / "last.json"))
    last = json.loads((tmp_path / "last.json").read_text())
    assert [annotation["track_id"] for annotation in last["annotations"]] == [0, 1]


@pytest.mark.slow
def test_of_300_objects_those_with_the_highest_predicted_iou_are_followed(seeing, caplog):
    rng = np.random.default_rng(0)
    boxes = [(*rng.integers(0, 200, 2).tolist(), 30, 30) for _ in range(300)]
    detector = Detector([(f"thing {k}", box, k) for k, box in enumerate(boxes)], [])
    with caplog.at_level(logging.WARNING):
        seen = Seen(seeing, before=(detector,)).on(*moving_window(2))
    assert [len(masks) for masks in seen.masks] == [255] * 2
    assert seen.names[0] == seen.names[1]
    assert caplog.text.count("At most 255 objects are followed") == 1
