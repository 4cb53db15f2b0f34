"""A detector in front: its boxes are the prompts, and its names, ids and confidences stay with the masks."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from conftest import NAME, PLUGINS, ROOT
from ikomia import core, dataprocess
from ikomia.dataprocess.workflow import Workflow
from pycocotools.coco import COCO
from tools.detector import install

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


@pytest.mark.parametrize("count", [1, 100, 300])
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
        for k, (x, y, width, height) in enumerate((POT, PLATE, CUP)[: self.count]):
            mask = np.zeros((512, 512), np.uint8)
            mask[y : y + height, x : x + width] = 1
            self.add_object(3 + k, 0, k, 0.5, float(x), float(y), float(width), float(height), mask)
        self.end_task_run()


def connected_to_graphics_alone(task) -> tuple[Workflow, dataprocess.CSemanticSegmentationTask]:
    """As in workflows that were saved by 2.0.0, which had no third input."""
    workflow = Workflow("graphics alone")
    workflow.add_task(task=task, auto_connect=True)
    algo = workflow.add_task(name=NAME)
    algo.set_parameters({"model_name": "sam2_hiera_nano"})
    workflow.connect_tasks(task, algo, [(0, 0), (1, 1)])
    return workflow, algo


@pytest.mark.parametrize("connect", [chain, connected_to_graphics_alone], ids=["as detections", "as graphics"])
@pytest.mark.parametrize("task", [Detector(*THREE), Instances()], ids=["detections", "instances"])
def test_each_thing_of_another_task_counts_once_by_its_box_with_its_name(astronaut, connect, task, caplog):
    workflow, algo = connect(task)
    with caplog.at_level(logging.WARNING):
        workflow.run_on(array=astronaut)
    assert names_of(algo) == ["pot", "plate", "cup"]
    np.testing.assert_array_equal(labels_of(algo), typed(astronaut, POT, PLATE, CUP))
    assert not [r for r in caplog.records if r.name.startswith(NAME)]


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


def test_a_detector_that_is_disconnected_leaves_no_boxes_and_one_that_is_connected_later_counts(astronaut, caplog):
    detector = Detector(*THREE)
    workflow, algo = chain(detector, points_per_side="2", use_m2m="False", iou_thresh="0", stability_score_thresh="0")
    workflow.run_on(array=astronaut)
    (number,) = (i for i in workflow.get_task_ids() if workflow.get_task(i).name == NAME)
    for edge in list(workflow.get_in_edges(number)):
        if workflow.get_edge_info(edge)[1] > 0:
            workflow.delete_edge(edge)
    workflow.run_on(array=astronaut)
    assert "pot" not in names_of(algo)
    workflow.run_on(array=astronaut)
    assert names_of(algo)[0].startswith("mask 1 (")  # automatic mode
    workflow.connect_tasks(detector, algo, [(1, 2)])
    workflow.run_on(array=astronaut)
    assert names_of(algo) == ["pot", "plate", "cup"]


# --- tasks behind the plugin


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


def test_in_automatic_mode_the_second_and_third_candidate_stay_empty(astronaut):
    loose = {"points_per_side": "2", "use_m2m": "False", "iou_thresh": "0", "stability_score_thresh": "0"}
    workflow, algo = chain(multimask_output="True", **loose)
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


def test_coco_categories_are_the_names(astronaut, tmp_path):
    workflow, algo = chain(Detector(("cup", CUP), ("pot", POT), ("cup", PLATE)))
    workflow.run_on(array=astronaut)
    algo.save_coco(str(tmp_path / "masks.json"), file_name="astronaut.png")
    coco = COCO(str(tmp_path / "masks.json"))
    assert {category["id"]: category["name"] for category in coco.dataset["categories"]} == {1: "cup", 2: "pot"}
    assert [annotation["category_id"] for annotation in coco.dataset["annotations"]] == [1, 2, 1]
