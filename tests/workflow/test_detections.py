"""A detector in front: its boxes are the prompts, and its names, ids and confidences stay with the masks."""

from __future__ import annotations

import base64
import io
import json
import logging
from pathlib import Path

import numpy as np
import oracle
import pytest
from conftest import NAME, PLUGINS, ROOT
from ikomia import core, dataprocess
from ikomia.dataprocess.workflow import Workflow
from PIL import Image
from pycocotools.coco import COCO
from tools.detector import install
from tools.video import frames_of, write_video

from infer_segment_anything_2.bridge import outputs
from infer_segment_anything_2.segmentation.catalogue import CATALOGUE
from infer_segment_anything_2.segmentation.parameters import cuda_is_available

POT, PLATE, CUP = (150, 20, 150, 180), (20, 20, 100, 100), (290, 340, 200, 150)  # x, y, width, height


class Detector(dataprocess.CObjectDetectionTask):
    """Finds what it is told to: (label, box) each, the boxes as Ikomia has them."""

    def __init__(self, *found: tuple[str, tuple[float, ...]]) -> None:
        dataprocess.CObjectDetectionTask.__init__(self, "detector")
        self.found = list(found)

    def get_progress_steps(self) -> int:
        return 1

    def run(self) -> None:
        self.begin_task_run()
        self.set_names(
            [label for label, _ in self.found]
        )  # a list with an entry for each box, as some detectors have it
        for k, (_, box) in enumerate(self.found):
            self.add_object(10 + k, k, 0.9 - k / 1000, *map(float, box))
        self.end_task_run()


def chain(*tasks, **parameters: str) -> tuple[Workflow, dataprocess.CSemanticSegmentationTask]:
    """A workflow of those tasks with the plugin behind them, all connected by Ikomia itself."""
    workflow = Workflow("chain")
    for task in tasks:
        workflow.add_task(task=task, auto_connect=True)
    algo = workflow.add_task(name=NAME, auto_connect=True)
    algo.set_parameters({"model_name": "sam2_hiera_nano", **parameters})
    return workflow, algo


def labels_of(algo, output: int = 1) -> np.ndarray:
    return algo.get_output(output).get_mask().copy()


def names_of(algo) -> list[str]:
    return list(algo.get_output(1).get_class_names())[1:]


def xyxy(box) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def typed(astronaut, *boxes) -> np.ndarray:
    """The label image of boxes (x, y, width, height) that are typed."""
    workflow, algo = chain(input_box=str([xyxy(box) for box in boxes]))
    workflow.run_on(array=astronaut)
    return labels_of(algo)


THREE = (("pot", POT), ("plate", PLATE), ("cup", CUP))


@pytest.mark.qt
def test_three_detections_are_three_masks_of_their_names_equal_to_those_of_the_boxes_typed(astronaut, caplog):
    with caplog.at_level(logging.WARNING):
        workflow, algo = chain(Detector(*THREE), instance_output="True")
        workflow.run_on(array=astronaut)
    assert names_of(algo) == ["pot", "plate", "cup"]
    np.testing.assert_array_equal(labels_of(algo), typed(astronaut, POT, PLATE, CUP))
    (masks,) = algo.get_masks()
    assert (masks.names, masks.ids) == (["pot", "plate", "cup"], [10, 11, 12])
    np.testing.assert_allclose(masks.confidences, [0.9, 0.899, 0.898])
    objects = algo.get_output(2).get_objects()
    assert [(o.label, o.id) for o in objects] == [("pot", 10), ("plate", 11), ("cup", 12)]
    np.testing.assert_allclose([o.confidence for o in objects], [0.9, 0.899, 0.898])
    assert "plugin" not in caplog.text
    assert not [r for r in caplog.records if r.name.startswith(NAME)]  # nothing to warn of


def test_the_masks_of_detections_are_those_of_sam2(astronaut):
    workflow, algo = chain(Detector(*THREE))
    workflow.run_on(array=astronaut)
    predictor = oracle.predictor(oracle.nano_model())
    predictor.set_image(astronaut)
    masks, _, _ = predictor.predict(box=np.array([xyxy(box) for _, box in THREE]), multimask_output=False)
    np.testing.assert_array_equal(np.stack(list(algo.get_masks()[0])), masks[:, 0].astype(bool))


@pytest.mark.parametrize("count", [1, 300])
def test_any_number_of_detections_is_as_many_masks(astronaut, count, caplog):
    rng = np.random.default_rng(0)
    boxes = [(*rng.uniform(0, 400, 2), *rng.uniform(20, 100, 2)) for _ in range(count)]
    workflow, algo = chain(Detector(*((f"thing {k}", box) for k, box in enumerate(boxes))))
    with caplog.at_level(logging.WARNING):
        workflow.run_on(array=astronaut)
    (masks,) = algo.get_masks()
    assert masks.names == [f"thing {k}" for k in range(count)]
    assert names_of(algo) == [f"thing {k}" for k in range(min(count, 255))]
    assert ("45 of the 300 are not painted" in caplog.text) == (count == 300)


@pytest.mark.qt
def test_a_detector_that_finds_nothing_gives_an_empty_result_and_one_warning(astronaut, caplog):
    detector = Detector()
    workflow, algo = chain(detector, instance_output="True", multimask_output="True")
    with caplog.at_level(logging.WARNING):
        workflow.run_on(array=astronaut)
        workflow.run_on(array=astronaut)
    for output in (1, 2, 3):
        assert labels_of(algo, output).shape == astronaut.shape[:2]
        assert not labels_of(algo, output).any()
    assert algo.get_output(1).get_class_names() == ["background"]
    assert algo.get_output(4).get_objects() == []
    assert [len(masks) for masks in algo.get_masks()] == [0, 0, 0]
    assert caplog.text.count("found nothing to segment") == 1
    detector.found = list(THREE)
    workflow.run_on(array=astronaut)
    assert names_of(algo) == ["pot", "plate", "cup"]


@pytest.mark.parametrize(
    "bad",
    [(600, 20, 50, 50), (-80, 20, 50, 50), (30, 30, 0, 40), (30, 30, 40, -5), (float("nan"), 1, 5, 5)],
    ids=["outside", "left of it", "no width", "negative height", "no number"],
)
def test_a_box_that_cannot_be_used_is_an_empty_mask_and_the_others_are_as_without_it(astronaut, bad, caplog):
    workflow, algo = chain(Detector(("pot", POT), ("ghost", bad), ("plate", PLATE), ("ghost", bad)))
    with caplog.at_level(logging.WARNING):
        workflow.run_on(array=astronaut)
    (masks,) = algo.get_masks()
    assert masks.names == ["pot", "ghost", "plate", "ghost"]
    assert [bool(mask.any()) for mask in masks] == [True, False, True, False]
    expected = typed(astronaut, POT, PLATE)
    np.testing.assert_array_equal(labels_of(algo) == 1, expected == 1)
    np.testing.assert_array_equal(labels_of(algo) == 3, expected == 2)
    assert caplog.text.count("2 of 4 detections lie outside the image or have no area") == 1


def test_a_box_that_sticks_out_is_clipped_and_a_rotated_one_is_the_rectangle_around_it(astronaut):
    workflow, algo = chain(Detector(("a", (400, 400, 300, 300)), ("b", (250, 100, 100, 40, 90.0))))
    workflow.run_on(array=astronaut)
    np.testing.assert_array_equal(labels_of(algo), typed(astronaut, (400, 400, 112, 112), (230, 50, 40, 100)))


NAMES = ["cup", "cup", "a, b", "Größe 茶碗", "", "background", " "]


def test_names_of_any_kind_stay_as_they_are(astronaut):
    boxes = [POT, PLATE, CUP, (10, 200, 90, 90), (10, 400, 90, 90), (400, 10, 90, 90), (400, 200, 90, 90)]
    workflow, algo = chain(Detector(*zip(NAMES, boxes, strict=True)), instance_output="True")
    workflow.run_on(array=astronaut)
    (masks,) = algo.get_masks()
    assert masks.names == NAMES
    shown = names_of(algo)
    assert shown[4].startswith("mask 5 (0.")
    assert [*shown[:4], *shown[5:]] == [*NAMES[:4], *NAMES[5:]]
    objects = algo.get_output(2).get_objects()
    assert [o.label for o in objects] == [*NAMES[:4], "mask 5", *NAMES[5:]]


def test_a_filter_by_name_behind_keeps_the_name_in_every_image(astronaut):
    workflow, algo = chain(Detector(*THREE), instance_output="True")
    behind = workflow.add_task(name="ik_semantic_segmentation_filter")
    behind.set_parameters({"categories": "plate"})
    workflow.connect_tasks(algo, behind, [(0, 0), (1, 1)])
    for image in (astronaut, np.ascontiguousarray(astronaut[:, ::-1])):
        workflow.run_on(array=image)
        kept = behind.get_output(1)
        names = kept.get_class_names()
        assert [names[label] for label in np.unique(kept.get_mask()) if label] == ["plate"]


def test_detections_through_a_filter_in_between(astronaut):
    workflow, algo = Workflow("filtered"), None
    workflow.add_task(task=Detector(*THREE), auto_connect=True)
    between = workflow.add_task(name="ik_object_detection_filter", auto_connect=True)
    between.set_parameters({"categories": "plate,cup", "confidence": "0.1"})
    algo = workflow.add_task(name=NAME, auto_connect=True)
    algo.set_parameters({"model_name": "sam2_hiera_nano"})
    workflow.run_on(array=astronaut)
    assert names_of(algo) == ["plate", "cup"]
    np.testing.assert_array_equal(labels_of(algo), typed(astronaut, PLATE, CUP))


class Instances(dataprocess.CInstanceSegmentationTask):
    """Three instances: a rectangle and an outline each, where they come as graphics."""

    def __init__(self, count: int = 3) -> None:
        dataprocess.CInstanceSegmentationTask.__init__(self, "instances")
        self.count = count

    def get_progress_steps(self) -> int:
        return 1

    def run(self) -> None:
        self.begin_task_run()
        self.set_names(["pot", "plate", "cup"])
        for k, box in enumerate((POT, PLATE, CUP)[: self.count]):
            self.add_object(3 + k, 0, k, 0.5, *map(float, box), self.mask_of(k, *box))
        self.end_task_run()

    def mask_of(self, k: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        mask = np.zeros((512, 512), np.uint8)
        mask[y : y + height, x : x + width] = 1
        return mask


def connected_to_graphics_alone(task) -> tuple[Workflow, dataprocess.CSemanticSegmentationTask]:
    """As in workflows that were saved by 2.0.0, which had no third input."""
    workflow = Workflow("graphics alone")
    workflow.add_task(task=task, auto_connect=True)
    algo = workflow.add_task(name=NAME)
    algo.set_parameters({"model_name": "sam2_hiera_nano"})
    workflow.connect_tasks(task, algo, [(0, 0), (1, 1)])
    return workflow, algo


@pytest.mark.qt
@pytest.mark.parametrize("connect", [chain, connected_to_graphics_alone], ids=["as detections", "as graphics"])
@pytest.mark.parametrize("task", [Detector(*THREE), Instances()], ids=["detections", "instances"])
def test_each_thing_of_another_task_counts_once_by_its_box_with_its_name(astronaut, connect, task, caplog):
    workflow, algo = connect(task)
    with caplog.at_level(logging.WARNING):
        workflow.run_on(array=astronaut)
    assert names_of(algo) == ["pot", "plate", "cup"]
    np.testing.assert_array_equal(labels_of(algo), typed(astronaut, POT, PLATE, CUP))
    assert not [r for r in caplog.records if r.name.startswith(NAME)]


class InParts(Instances):
    """Each thing in three parts; from the second on, one of them has a hole."""

    def mask_of(self, k: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        mask = super().mask_of(k, x, y, width, height)
        mask[:, x + width // 3 : x + width // 3 + 5] = mask[:, x + width // 2 : x + width // 2 + 5] = 0
        if k:
            mask[y + height // 2 : y + height // 2 + 9, x + 9 : x + 20] = 0
        return mask


@pytest.mark.qt
@pytest.mark.parametrize("connect", [chain, connected_to_graphics_alone], ids=["as detections", "as graphics"])
def test_a_box_that_cannot_be_used_is_told_of_however_its_task_is_connected(astronaut, connect, caplog):
    workflow, algo = connect(Detector(*THREE, ("bird", (900, 900, 20, 20))))
    with caplog.at_level(logging.WARNING):
        workflow.run_on(array=astronaut)
    assert names_of(algo) == ["pot", "plate", "cup", "bird"]
    assert "1 of 4 detections lie outside the image or have no area: their masks are empty." in caplog.text


@pytest.mark.qt
@pytest.mark.parametrize("connect", [chain, connected_to_graphics_alone], ids=["as detections", "as graphics"])
def test_a_thing_in_parts_counts_once(astronaut, connect):
    workflow, algo = connect(InParts(2))
    workflow.run_on(array=astronaut)
    assert names_of(algo) == ["pot", "plate"]
    np.testing.assert_array_equal(labels_of(algo), typed(astronaut, POT, PLATE))


@pytest.mark.parametrize("connect", [chain, connected_to_graphics_alone], ids=["as detections", "as graphics"])
@pytest.mark.parametrize("task", [Detector, lambda: Instances(0)], ids=["detections", "instances"])
def test_another_task_that_finds_nothing_gives_an_empty_result_however_it_is_connected(astronaut, connect, task):
    workflow, algo = connect(task())
    workflow.run_on(array=astronaut)
    assert not labels_of(algo).any()


class Keypoints(dataprocess.CKeypointDetectionTask):
    """A person with two keypoints, and a third that was not found."""

    def __init__(self) -> None:
        dataprocess.CKeypointDetectionTask.__init__(self, "keypoints")

    def get_progress_steps(self) -> int:
        return 1

    def run(self) -> None:
        self.begin_task_run()
        self.set_object_names(["person"])
        self.set_keypoint_names(["nose", "eye", "ear"])
        link = dataprocess.CKeypointLink()
        link.start_point_index, link.end_point_index, link.label = 1, 2, "nose-eye"
        self.set_keypoint_links([link])
        points = [(0, core.CPointF(220, 110)), (1, core.CPointF(240, 90)), (2, core.CPointF(0, 0))]
        self.add_object(7, 0, 0.9, *map(float, POT), points)
        self.end_task_run()


def test_of_keypoints_the_box_and_the_points_that_were_found_are_one_object(astronaut):
    workflow, algo = chain(Keypoints())
    workflow.run_on(array=astronaut)
    plain, expected = chain(input_box=str(xyxy(POT)), input_point="[[220, 110], [240, 90]]")
    plain.run_on(array=astronaut)
    assert names_of(algo) == ["person"]
    np.testing.assert_array_equal(labels_of(algo), labels_of(expected))


class Texts(dataprocess.C2dImageTask):
    """A word in a box, as text recognition finds it."""

    def __init__(self) -> None:
        dataprocess.C2dImageTask.__init__(self, "texts")
        self.add_output(dataprocess.CTextIO())

    def get_progress_steps(self) -> int:
        return 1

    def run(self) -> None:
        self.begin_task_run()
        self.forward_input_image(0, 0)
        output = self.get_output(1)
        output.init("texts", 0)
        output.add_text_field(1, "word", "hello", 0.9, *map(float, POT), [255, 0, 0])
        self.end_task_run()


def test_a_text_field_is_its_box(astronaut, caplog):
    workflow, algo = chain(Texts())
    with caplog.at_level(logging.WARNING):
        workflow.run_on(array=astronaut)
    assert names_of(algo) == ["word"]
    assert labels_of(algo).any()
    assert not [r for r in caplog.records if r.name.startswith(NAME)]


def test_a_typed_prompt_beside_a_detector_counts_and_says_so_once(astronaut, caplog):
    workflow, algo = chain(Detector(*THREE), input_box=str(xyxy(CUP)))
    with caplog.at_level(logging.WARNING):
        workflow.run_on(array=astronaut)
        workflow.run_on(array=astronaut)
    np.testing.assert_array_equal(labels_of(algo), typed(astronaut, CUP))
    assert caplog.text.count("The prompt that is typed counts") == 1
    algo.set_parameters({"input_box": ""})
    workflow.run_on(array=astronaut)
    assert names_of(algo) == ["pot", "plate", "cup"]


def test_of_a_text_that_is_drawn_nobody_is_told_that_it_is_not_used(astronaut, caplog):
    workflow, algo = chain(input_box=str(xyxy(CUP)))
    graphics = dataprocess.CGraphicsInput()
    graphics.set_items([core.CGraphicsText("a note", 5.0, 5.0)])
    algo.set_input(graphics, 1)
    with caplog.at_level(logging.WARNING):
        workflow.run_on(array=astronaut)
    assert not [r for r in caplog.records if r.name.startswith(NAME)]


@pytest.mark.parametrize("name", ["input_box", "input_point"])
def test_an_empty_list_says_that_there_is_no_object(astronaut, name, caplog):
    workflow, algo = chain(**{name: "[]"})
    with caplog.at_level(logging.WARNING):
        workflow.run_on(array=astronaut)
        workflow.run_on(array=astronaut)
    assert not labels_of(algo).any()
    assert len(algo.get_masks()[0]) == 0
    assert caplog.text.count("says that there is no object") == 1


def test_an_empty_list_beside_another_prompt_says_nothing(astronaut):
    workflow, algo = chain(input_box=str(xyxy(CUP)), input_point="[]")
    workflow.run_on(array=astronaut)
    np.testing.assert_array_equal(labels_of(algo), typed(astronaut, CUP))


# Automatic mode that is quick and finds something.
LOOSE = {"points_per_side": "2", "use_m2m": "False", "iou_thresh": "0", "stability_score_thresh": "0"}


def number_of(workflow, task_name: str) -> int:
    (number,) = (i for i in workflow.get_task_ids() if workflow.get_task(i).name == task_name)
    return number


def disconnect(workflow) -> None:
    """Delete the edges to the plugin's graphics and detections."""
    for edge in list(workflow.get_in_edges(number_of(workflow, NAME))):
        if workflow.get_edge_info(edge)[1] > 0:
            workflow.delete_edge(edge)


@pytest.mark.qt
@pytest.mark.parametrize("connect", [chain, connected_to_graphics_alone], ids=["as detections", "as graphics"])
@pytest.mark.parametrize("task", [lambda: Detector(*THREE), Detector, Instances], ids=["some", "none", "instances"])
def test_a_task_that_is_disconnected_leaves_no_boxes_and_one_that_is_connected_later_counts(astronaut, connect, task):
    in_front = task()
    workflow, algo = connect(in_front)
    algo.set_parameters(LOOSE)
    workflow.run_on(array=astronaut)
    found = names_of(algo)
    disconnect(workflow)
    for _ in range(2):
        workflow.run_on(array=astronaut)
        assert names_of(algo)[0].startswith("mask 1 (")  # automatic mode
    workflow.connect_tasks(in_front, algo, [(1, 2)])
    workflow.run_on(array=astronaut)
    assert names_of(algo) == found


def test_a_detector_that_is_disconnected_before_any_run_counts_for_nothing(astronaut):
    workflow, algo = chain(Detector(*THREE), **LOOSE)
    disconnect(workflow)
    workflow.run_on(array=astronaut)
    assert names_of(algo)[0].startswith("mask 1 (")


class MakesItsOutput(dataprocess.C2dImageTask):
    """Finds things and gives them in an output that it made in Python."""

    def __init__(self) -> None:
        dataprocess.C2dImageTask.__init__(self, "detector")
        self.add_output(dataprocess.CObjectDetectionIO())

    def get_progress_steps(self) -> int:
        return 1

    def run(self) -> None:
        self.begin_task_run()
        self.forward_input_image(0, 0)
        self.get_output(1).clear_data()
        for k, (label, box) in enumerate(THREE):
            self.get_output(1).add_object(k, label, 0.9, *map(float, box), [255, 0, 0])
        self.end_task_run()


@pytest.mark.qt
def test_a_detector_whose_output_is_made_in_python_counts_until_it_is_deleted(astronaut):
    workflow, algo = chain(MakesItsOutput())
    algo.set_parameters(LOOSE)
    for _ in range(2):
        workflow.run_on(array=astronaut)
        assert names_of(algo) == ["pot", "plate", "cup"]
    workflow.delete_task(number_of(workflow, "detector"))
    workflow.connect_tasks(workflow.root(), algo, [(0, 0)])
    workflow.run_on(array=astronaut)
    assert names_of(algo)[0].startswith("mask 1 (")


def test_what_a_run_has_to_say_is_in_the_panel_too(astronaut):
    workflow, algo = chain(Detector(("far", (600, 600, 20, 20))))
    workflow.run_on(array=astronaut)
    said = "1 of 1 detections lie outside the image or have no area: their masks are empty."
    assert algo.get_param_object().news.text == said
    algo.set_parameters({"cuda": "True"})
    workflow.run_on(array=astronaut)
    cuda = "" if cuda_is_available() else "\ncuda: no CUDA device was found, the CPU computes instead."
    assert algo.get_param_object().news.text == said + cuda
    workflow, algo = chain(points_per_side="2", iou_thresh="1")
    workflow.run_on(array=astronaut)
    assert algo.get_param_object().news.text.startswith("No mask was found: lower iou_thresh (1.0)")


@pytest.mark.parametrize("connect", [chain, connected_to_graphics_alone], ids=["as detections", "as graphics"])
def test_a_detector_that_is_deleted_leaves_no_boxes(astronaut, connect):
    workflow, algo = connect(Detector(*THREE))
    algo.set_parameters(LOOSE)
    workflow.run_on(array=astronaut)
    workflow.delete_task(number_of(workflow, "detector"))
    workflow.connect_tasks(workflow.root(), algo, [(0, 0)])
    workflow.run_on(array=astronaut)
    assert names_of(algo)[0].startswith("mask 1 (")


@pytest.mark.qt
@pytest.mark.parametrize("count", [0, 3])
def test_instances_that_are_connected_as_detections_alone_count_also_where_there_are_none(astronaut, count):
    instances = Instances(count)
    workflow = Workflow("detections alone")
    workflow.add_task(task=instances, auto_connect=True)
    algo = workflow.add_task(name=NAME)
    algo.set_parameters({"model_name": "sam2_hiera_nano"})
    workflow.connect_tasks(instances, algo, [(0, 0), (1, 2)])
    workflow.run_on(array=astronaut)
    assert names_of(algo) == ["pot", "plate", "cup"][:count]


@pytest.mark.qt
def test_detections_that_are_put_in_by_hand_count_in_each_run_until_others_are(astronaut):
    workflow, algo = chain()
    for found in (THREE, THREE[1:2], ()):
        detections = dataprocess.CObjectDetectionIO()
        for k, (label, box) in enumerate(found):
            detections.add_object(k, label, 0.9, *map(float, box), [255, 0, 0])
        algo.set_input(detections, 2)
        for _ in range(2):
            workflow.run_on(array=astronaut)
            assert names_of(algo) == [label for label, _ in found]
    algo.set_input(None, 2)
    algo.set_parameters({"points_per_side": "4", "iou_thresh": "0.3", "stability_score_thresh": "0.5"})
    workflow.run_on(array=astronaut)
    assert names_of(algo)[0].startswith("mask 1 (")  # automatic mode


@pytest.mark.qt
def test_what_is_drawn_beside_a_detector_is_not_used_and_one_warning_says_so(astronaut, caplog):
    detector = Detector(*THREE)
    workflow = Workflow("drawn beside")
    workflow.add_task(task=detector, auto_connect=True)
    algo = workflow.add_task(name=NAME)
    algo.set_parameters({"model_name": "sam2_hiera_nano"})
    workflow.connect_tasks(detector, algo, [(0, 0), (1, 2)])  # input 1 is left to the user
    graphics = dataprocess.CGraphicsInput()
    graphics.set_items([core.CGraphicsRectangle(*CUP)])
    algo.set_input(graphics, 1)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            workflow.run_on(array=astronaut)
            assert names_of(algo) == ["pot", "plate", "cup"]
    assert [r.getMessage() for r in caplog.records if r.name.startswith(NAME)] == [
        "What is drawn is not used: the detections of the connected task count."
    ]
    disconnect(workflow)
    workflow.run_on(array=astronaut)
    np.testing.assert_array_equal(labels_of(algo), typed(astronaut, CUP))  # what was drawn is still there
    workflow.connect_tasks(detector, algo, [(1, 2)])
    workflow.run_on(array=astronaut)
    assert names_of(algo) == ["pot", "plate", "cup"]


# --- folders and videos


class BrightSquare(dataprocess.CObjectDetectionTask):
    """Finds what is bright, in each image for itself."""

    def __init__(self) -> None:
        dataprocess.CObjectDetectionTask.__init__(self, "bright")

    def get_progress_steps(self) -> int:
        return 1

    def run(self) -> None:
        self.begin_task_run()
        self.set_names(["square"])
        box = bright_box(self.get_input(0).get_image())
        if box:
            self.add_object(0, 0, 0.9, *map(float, box))
        self.end_task_run()


def bright_box(image: np.ndarray) -> tuple[int, ...] | None:
    """x, y, width and height of what is bright; None where nothing is."""
    y, x = np.nonzero(image.min(axis=2) > 170)
    return (int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1) if len(x) else None


def with_square(left: int | None) -> np.ndarray:
    """A grey image (240, 320, 3) with a white square that begins at the column `left`, or without one."""
    image = np.full((240, 320, 3), 90, np.uint8)
    if left is not None:
        image[80:160, left : left + 80] = 250
    return image


#: Where the square is in each image; in one it is not.
LEFTS = (20, None, 120, 200)


def assert_each_has_its_own(results: list[np.ndarray], images: list[np.ndarray]) -> None:
    """The label images are those of the box that each image has when it is typed."""
    assert len(results) == len(images)
    for labels, image in zip(results, images, strict=True):
        box = bright_box(image)
        assert labels.any() == (box is not None)
        np.testing.assert_array_equal(labels, np.zeros(image.shape[:2]) if box is None else typed(image, box))


def test_each_image_of_a_folder_has_the_boxes_found_in_it(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    images = [with_square(left) for left in LEFTS]
    for k, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{k}.png")
    workflow, _ = chain(BrightSquare())
    workflow.set_output_folder(str(tmp_path / "results"))
    workflow.run_on(folder=str(folder))
    files = [Path(workflow.get_last_run_folder()) / f"{NAME}{k}.json" for k in range(len(LEFTS))]
    pictures = [io.BytesIO(base64.b64decode(json.loads(file.read_text())["mask"])) for file in files]
    assert_each_has_its_own([np.array(Image.open(picture)) for picture in pictures], images)


def test_each_frame_of_a_video_has_the_boxes_found_in_it(tmp_path):
    video = write_video(tmp_path / "video.avi", [with_square(left) for left in LEFTS])
    frames = frames_of(video)
    assert len(frames) == len(LEFTS)
    workflow, algo = chain(BrightSquare())
    run, results = algo.run, []
    algo.run = lambda: (run(), results.append(labels_of(algo)))
    workflow.set_auto_save(True)
    workflow.set_output_folder(str(tmp_path / "results"))
    workflow.run_on(path=str(video))
    assert_each_has_its_own(results, frames)
    saved = Path(workflow.get_last_run_folder()) / NAME / "SemanticSegIO_1.json"
    # Of a task behind another ikomia (0.16.1) writes each frame over the one before, as the README says.
    assert len(json.loads(saved.read_text())) == 1


# --- tasks behind the plugin


def test_a_config_that_is_left_from_weights_of_ones_own_is_warned_of(workflow, algo, astronaut, caplog):
    algo.set_parameters({"config_file": CATALOGUE["sam2_hiera_nano"].config, "input_box": str(xyxy(CUP))})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            workflow.run_on(array=astronaut)
    assert caplog.text.count("config_file: it is set and model_weight_file is empty") == 1


def test_outputs_are_those_of_the_parameters_that_are_set_during_a_run(workflow, algo, astronaut, monkeypatch):
    masks_of = type(algo)._masks_of

    def set_meanwhile(*args):
        algo.set_parameters({"instance_output": "True"})
        return masks_of(*args)

    algo.set_parameters({"model_name": "sam2_hiera_nano", "input_box": str(xyxy(CUP))})
    monkeypatch.setattr(type(algo), "_masks_of", set_meanwhile)
    workflow.run_on(array=astronaut)
    assert algo.get_output_count() == 3
    assert labels_of(algo).any()


@pytest.mark.parametrize("name", ["instance_output", "multimask_output"])
def test_outputs_that_go_while_they_are_filled_end_no_run(workflow, algo, astronaut, monkeypatch, name):
    fill = outputs._fill_labels

    def set_meanwhile(*args):
        algo.set_parameters({name: "False"})
        return fill(*args)

    algo.set_parameters({"model_name": "sam2_hiera_nano", "input_box": str(xyxy(CUP)), name: "True"})
    monkeypatch.setattr(outputs, "_fill_labels", set_meanwhile)
    workflow.run_on(array=astronaut)
    assert algo.get_output_count() == 2
    assert labels_of(algo).any()


def test_outputs_follow_from_the_parameters_before_any_run(algo):

    def kinds() -> list[str]:
        return [type(algo.get_output(k)).__name__ for k in range(1, algo.get_output_count())]

    labels, instances = "CSemanticSegmentationIO", "CInstanceSegmentationIO"
    assert kinds() == [labels]
    for params, expected in (
        ({"instance_output": "True"}, [labels, instances]),
        ({"multimask_output": "True"}, [labels, labels, labels, instances]),
        ({"instance_output": "False"}, [labels, labels, labels]),
        ({"multimask_output": "False"}, [labels]),
    ):
        algo.set_parameters(params)
        assert kinds() == expected


def test_outputs_can_be_exposed_before_any_run_and_a_workflow_that_exposes_them_loads(astronaut, tmp_path):
    workflow, _ = chain(Detector(), multimask_output="True", instance_output="True")
    for index in (2, 3, 4):
        workflow.add_output("", number_of(workflow, NAME), index)
    assert workflow.get_output_count() == 3

    workflow, _ = chain(input_box=str(xyxy(CUP)), multimask_output="True", instance_output="True")
    exposed = [{"index": 2, "description": "second"}, {"index": 3}, {"index": 4, "description": "instances"}]
    workflow.save(str(tmp_path / "exposed.json"), exposed_outputs={NAME: exposed})
    loaded = Workflow("loaded")
    loaded.load(str(tmp_path / "exposed.json"))
    assert loaded.get_output_count() == 3
    loaded.run_on(array=astronaut)
    second, third, instances = loaded.get_outputs()
    assert second.get_mask().any()
    assert third.get_mask().any()
    assert len(instances.get_objects()) == 3


def test_in_automatic_mode_the_second_and_third_candidate_stay_empty(astronaut):
    workflow, algo = chain(multimask_output="True", **LOOSE)
    algo.set_parameters({"input_box": str(xyxy(POT))})
    workflow.run_on(array=astronaut)
    assert all(labels_of(algo, k).any() for k in (1, 2, 3))
    algo.set_parameters({"input_box": ""})
    workflow.run_on(array=astronaut)
    assert [bool(labels_of(algo, k).any()) for k in (1, 2, 3)] == [True, False, False]
    assert labels_of(algo, 3).shape == astronaut.shape[:2]


def test_a_chain_that_is_saved_loads_with_its_connections_and_gives_the_same(tmp_path):
    install(PLUGINS)
    path = str(ROOT / "images" / "sample_scene.png")
    workflow = Workflow("saved")
    detector = workflow.add_task(name="infer_grounding_dino", auto_connect=True)
    algo = workflow.add_task(name=NAME, auto_connect=True)
    algo.set_parameters({"model_name": "sam2_hiera_nano", "instance_output": "True", "multimask_output": "True"})
    behind = workflow.add_task(name="ik_instance_segmentation_filter")
    behind.set_parameters({"categories": "palette"})
    workflow.connect_tasks(algo, behind, [(0, 0), (4, 1)])  # an output that is there before any run
    workflow.run_on(path=path)
    before = [labels_of(algo, k) for k in (1, 2, 3)]
    assert algo.get_output(1).get_class_names() == ["background", "pot", "palette", "taxi"]
    assert {o.label for o in behind.get_output(1).get_objects()} == {"palette"}
    workflow.save(str(tmp_path / "chain.json"))

    loaded = Workflow("loaded")
    loaded.load(str(tmp_path / "chain.json"))
    loaded.run_on(path=path)
    again = {task.name: task for task in (loaded.get_task(i) for i in loaded.get_task_ids())}
    for k in (1, 2, 3):
        np.testing.assert_array_equal(labels_of(again[NAME], k), before[k - 1])
    assert {o.label for o in again["ik_instance_segmentation_filter"].get_output(1).get_objects()} == {"palette"}
    assert detector.name in again


def test_two_plugins_one_after_the_other(astronaut):
    workflow, first = chain(Detector(*THREE), instance_output="True")
    second = workflow.add_task(name=NAME)
    second.set_parameters({"model_name": "sam2_hiera_nano"})
    workflow.connect_tasks(first, second, [(0, 0), (2, 2)])  # the instances of the first are detections for the second
    workflow.run_on(array=astronaut)
    assert names_of(second) == ["pot", "plate", "cup"]
    boxes = first.get_masks()[0].boxes_xyxy
    plain, expected = chain(input_box=str(boxes.tolist()))
    plain.run_on(array=astronaut)
    np.testing.assert_array_equal(labels_of(second), labels_of(expected))


def test_masks_without_a_name_have_none_behind_another_plugin_either(astronaut, tmp_path):
    workflow, first = chain(input_box="[[150, 20, 300, 200], [20, 150, 200, 290]]", instance_output="True")
    second = workflow.add_task(name=NAME)
    second.set_parameters({"model_name": "sam2_hiera_nano"})
    workflow.connect_tasks(first, second, [(0, 0), (2, 2)])
    workflow.run_on(array=astronaut)
    assert [list(masks.names) for masks in second.get_masks()] == [["", ""]]
    second.save_coco(str(tmp_path / "masks.json"))
    (category,) = COCO(str(tmp_path / "masks.json")).dataset["categories"]
    assert category["name"] == "object"


def test_yolo_labels_of_several_folders_have_the_classes_that_are_given(astronaut, tmp_path):
    for folder, found in (("train", [("cup", CUP), ("pot", POT)]), ("val", [("pot", POT)])):
        (tmp_path / folder).mkdir()
        workflow, algo = chain(Detector(*found))
        workflow.run_on(array=astronaut)
        algo.save_yolo(str(tmp_path / folder / "1.txt"), names=["pot", "cup"])
    assert len({(tmp_path / folder / "data.yaml").read_text() for folder in ("train", "val")}) == 1
    assert (tmp_path / "val" / "1.txt").read_text().startswith("0 ")
    assert (tmp_path / "train" / "1.txt").read_text().startswith("1 ")


def test_coco_categories_are_the_names(astronaut, tmp_path):
    workflow, algo = chain(Detector(("cup", CUP), ("pot", POT), ("cup", PLATE)))
    workflow.run_on(array=astronaut)
    algo.save_coco(str(tmp_path / "masks.json"), file_name="astronaut.png")
    coco = COCO(str(tmp_path / "masks.json"))
    assert {category["id"]: category["name"] for category in coco.dataset["categories"]} == {1: "cup", 2: "pot"}
    assert [annotation["category_id"] for annotation in coco.dataset["annotations"]] == [1, 2, 1]
