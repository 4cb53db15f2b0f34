"""The plugin in real Ikomia workflows: results, outputs, parameters, and the published plugin's faults."""

from __future__ import annotations

import gc
import io
import json
import logging
import signal
import sys
import weakref

import numpy as np
import pytest
from conftest import NAME
from tqdm import tqdm

from infer_segment_anything_2.bridge import progress
from infer_segment_anything_2.bridge.progress import RunProgress

AUTOMATIC = {
    "points_per_side": "6",
    "iou_thresh": "0.3",
    "stability_score_thresh": "0.5",
    "use_m2m": "False",
    "multimask_output": "True",
}
PLUGIN_LOGGER = f"{NAME}.{NAME}_process"


def mask_of(algo, index: int = 1) -> np.ndarray:
    return algo.get_output(index).get_mask()


# ---------------------------------------------------------------- the published plugin's faults, by their numbers


def test_1_a_point_needs_no_label(workflow, algo, astronaut):
    algo.set_parameters({"input_point": "[[250, 100]]"})
    workflow.run_on(array=astronaut)
    assert mask_of(algo).any()


def test_2_a_point_may_stand_alone_and_a_box_keeps_its_two_points(workflow, algo, astronaut):
    algo.set_parameters({"input_point": "[250, 100]"})
    workflow.run_on(array=astronaut)
    alone = mask_of(algo).copy()
    algo.set_parameters({"input_point": "[[250, 100]]"})
    workflow.run_on(array=astronaut)
    np.testing.assert_array_equal(mask_of(algo), alone)

    algo.set_parameters({"input_box": "[150, 20, 300, 200]", "input_point": "[[220, 110], [200, 60]]"})
    workflow.run_on(array=astronaut)
    with_box = mask_of(algo).copy()
    algo.set_parameters({"input_box": ""})
    workflow.run_on(array=astronaut)
    assert (mask_of(algo) != with_box).any()


def test_3_a_point_in_a_box_keeps_its_label(workflow, algo, astronaut):
    algo.set_parameters({"input_box": "[150, 20, 300, 200]", "input_point": "[220, 110]", "input_point_label": "1"})
    workflow.run_on(array=astronaut)
    foreground = mask_of(algo).copy()
    algo.set_parameters({"input_point_label": "0"})
    workflow.run_on(array=astronaut)
    assert (mask_of(algo) != foreground).any()


def test_5_only_the_model_parameters_load_and_only_a_new_image_encodes(workflow, algo, astronaut, monkeypatch):
    from infer_segment_anything_2.segmentation import segmenter as module

    loads = []
    load_model = module.load_model
    monkeypatch.setattr(module, "load_model", lambda *args: loads.append(args) or load_model(*args))
    gc.collect()

    algo.set_parameters({"input_point": "[250, 100]", "apply_postprocessing": "False"})
    workflow.run_on(array=astronaut)
    predictor = algo._segmenter.predictor
    assert (len(loads), predictor.encoded) == (1, 1)
    for change in (
        {"input_point": "[100, 400]"},
        {"multimask_output": "True"},
        {"mask_threshold": "0.5"},
        {"input_point": "", "input_box": "[150, 20, 300, 200]"},
        {"input_box": "", **AUTOMATIC},
        {"iou_thresh": "0.4", "instance_output": "True"},
    ):
        algo.set_parameters(change)
        workflow.run_on(array=astronaut)
    assert (len(loads), predictor.encoded) == (1, 1)

    workflow.run_on(array=np.ascontiguousarray(astronaut[::-1]))
    assert (len(loads), predictor.encoded) == (1, 2)
    algo.set_parameters({"input_size_percent": "50"})
    workflow.run_on(array=astronaut)
    assert (len(loads), predictor.encoded) == (1, 3)


def test_5_a_new_model_is_used_at_once(workflow, algo, astronaut):
    algo.set_parameters({"input_point": "[250, 100]", "apply_postprocessing": "False"})
    workflow.run_on(array=astronaut)
    first = algo._segmenter
    algo.set_parameters({"apply_postprocessing": "True"})
    workflow.run_on(array=astronaut)
    assert algo._segmenter is not first


def test_6_outputs_never_pile_up(workflow, algo, astronaut):
    def count(**params: str) -> int:
        algo.set_parameters(params)
        workflow.run_on(array=astronaut)
        return algo.get_output_count()

    assert count(input_point="[250, 100]", multimask_output="True") == 4
    assert count() == 4
    assert count(instance_output="True") == 5
    assert count(multimask_output="False") == 3
    assert count(instance_output="False") == 2


def test_mask_id_gives_one_of_three_candidates_as_the_only_label_image(workflow, algo, astronaut):
    objects = {"input_box": "[[150, 20, 300, 200], [290, 340, 510, 510]]", "multimask_output": "True"}
    algo.set_parameters(objects | {"instance_output": "True"})
    workflow.run_on(array=astronaut)
    candidates = [mask_of(algo, k).copy() for k in (1, 2, 3)]
    scores = np.array([masks.scores for masks in algo.get_masks()])
    assert len(algo.get_output(4).get_objects()) == 6
    for mask_id in ("1", "2", "3", "best"):
        algo.set_parameters({"mask_id": mask_id})
        assert algo.get_output_count() == 3  # before the run
        workflow.run_on(array=astronaut)
        (masks,) = algo.get_masks()
        assert len(algo.get_output(2).get_objects()) == 2
        if mask_id == "best":
            np.testing.assert_array_equal(masks.scores, scores.max(axis=0))
            for k, best in enumerate(scores.argmax(axis=0), start=1):  # of each object for itself
                np.testing.assert_array_equal(mask_of(algo) == k, candidates[best] == k)
        else:
            np.testing.assert_array_equal(mask_of(algo), candidates[int(mask_id) - 1])
    with pytest.raises(ValueError, match="candidate is 1; accepted is 0 to 0 after the last run"):
        algo.save_labels("none.png", candidate=1)


def test_mask_id_says_nothing_without_three_masks(workflow, algo, astronaut):
    algo.set_parameters({"input_box": "[150, 20, 300, 200]"})
    workflow.run_on(array=astronaut)
    single = mask_of(algo).copy()
    algo.set_parameters({"mask_id": "3"})
    workflow.run_on(array=astronaut)
    np.testing.assert_array_equal(mask_of(algo), single)
    algo.set_parameters(AUTOMATIC | {"input_box": "", "mask_id": "2"})
    workflow.run_on(array=astronaut)
    assert algo.get_output_count() == 2
    assert len(algo.get_masks()) == 1
    assert mask_of(algo).any()


def test_7_overlapping_masks_keep_their_own_ids(workflow, algo, astronaut):
    algo.set_parameters(AUTOMATIC | {"box_nms_thresh": "1", "instance_output": "True"})
    workflow.run_on(array=astronaut)
    instances = algo.get_output(algo.get_output_count() - 1)
    labels = mask_of(algo)
    masks = [obj.mask.astype(bool) for obj in instances.get_objects()]
    assert len(masks) > 5
    assert sum(masks).max() > 1  # they do overlap
    assert labels.max() <= len(masks)
    for k in range(1, len(masks) + 1):  # nowhere does a label show that is not a mask's own
        assert not (labels == k)[~masks[k - 1]].any()
    areas = [int(m.sum()) for m in masks]
    assert areas == sorted(areas, reverse=True)


def test_7_more_than_255_masks_are_all_instances_and_the_best_255_are_painted(
    workflow, algo, astronaut, monkeypatch, caplog
):
    from infer_segment_anything_2.segmentation.masks import Masks, encode
    from infer_segment_anything_2.segmentation.segmenter import Segmenter

    spots = np.zeros((300, 512, 512), bool)
    for k in range(300):
        y, x = divmod(k, 20)
        spots[k, 20 * y : 20 * y + 10 + k % 5, 20 * x : 20 * x + 10] = True
    scores = np.random.default_rng(0).permutation(np.linspace(0.5, 1, 300)).astype(np.float32)
    many = Masks((512, 512), [encode(m) for m in spots], scores)
    monkeypatch.setattr(Segmenter, "generate", lambda *args, **kwargs: many)
    logging.getLogger(PLUGIN_LOGGER).propagate = True
    algo.set_parameters(AUTOMATIC | {"instance_output": "True"})
    with caplog.at_level(logging.WARNING):
        workflow.run_on(array=astronaut)
    labels = mask_of(algo)
    assert len(np.unique(labels)) == 256
    painted = {int(np.argmax(spots[:, y, x])) for y, x in zip(*np.nonzero(labels), strict=True)}
    assert painted == set(np.argsort(-scores)[:255].tolist())
    assert algo.get_output(algo.get_output_count() - 1).get_object_count() == 300
    assert "45" in caplog.text
    assert "instance_output" in caplog.text


def test_8_no_mask_found_is_an_empty_label_image_and_a_hint(workflow, algo, astronaut, caplog):
    algo.set_parameters({"points_per_side": "2", "iou_thresh": "1", "crop_n_layers": "1"})
    with caplog.at_level(logging.WARNING):
        workflow.run_on(array=astronaut)
    assert mask_of(algo).shape == (512, 512)
    assert not mask_of(algo).any()
    assert "iou_thresh" in caplog.text
    assert algo.get_output(1).get_class_names() == ["background"]
    np.testing.assert_array_equal(algo.get_image_with_mask(), astronaut)


def as_kind(image: np.ndarray, kind: str) -> np.ndarray:
    grey = image.mean(axis=2)
    alpha = np.full((*image.shape[:2], 1), 77, np.uint8)
    return {
        "grey": lambda: grey.astype(np.uint8),
        "one channel": lambda: grey.astype(np.uint8)[..., None],
        "RGBA": lambda: np.concatenate([image, alpha], axis=2),
        "16-bit grey": lambda: (grey * 16).astype(np.uint16),
        "16-bit RGB": lambda: image.astype(np.uint16) * 257,
        "float to 1": lambda: (image / 255).astype(np.float32),
        "float to 255": lambda: image.astype(np.float64),
    }[kind]()


@pytest.mark.parametrize(
    "kind", ["grey", "one channel", "RGBA", "16-bit grey", "16-bit RGB", "float to 1", "float to 255"]
)
def test_9_every_kind_of_image_is_segmented_and_shown(workflow, algo, astronaut, kind):
    algo.set_parameters({"input_box": "[150, 20, 300, 200]"})
    if kind == "16-bit RGB":
        algo.set_parameters({"intensity_range": "[0, 65535]"})
    workflow.run_on(array=as_kind(astronaut, kind))
    mask = mask_of(algo)
    assert mask.shape == (512, 512)
    assert mask.any()
    assert algo.get_image_with_mask().shape == (512, 512, 3)
    if kind in ("RGBA", "16-bit RGB", "float to 1", "float to 255"):
        algo.set_parameters({"intensity_range": ""})
        workflow.run_on(array=astronaut)
        np.testing.assert_array_equal(mask, mask_of(algo))


@pytest.mark.parametrize(
    "params", [{"input_point": "[0, 0]"}, {"input_box": "[0, 0, 1, 1]"}, AUTOMATIC | {"crop_n_layers": "2"}]
)
def test_9_an_image_of_one_pixel_is_an_image(workflow, algo, params):
    algo.set_parameters(params)
    workflow.run_on(array=np.full((1, 1, 3), 9, np.uint8))
    assert mask_of(algo).shape == (1, 1)


def test_9_an_unknown_model_is_a_parameter_error_not_a_download(algo):
    with pytest.raises(RuntimeError, match=r"model_name: 'sam3' is not accepted; accepted is one of sam2_hiera_tiny"):
        algo.set_parameters({"model_name": "sam3"})
    assert algo.get_parameters()["model_name"] == "sam2_hiera_nano"


def test_12_the_background_of_the_overlay_is_untouched_and_the_legend_has_names(workflow, algo, astronaut):
    algo.set_parameters({"input_box": "[150, 20, 300, 200]"})
    workflow.run_on(array=astronaut)
    background = mask_of(algo) == 0
    for shown in (algo.get_image_with_mask(), algo.get_output(0).get_image_with_mask(algo.get_output(1))):
        np.testing.assert_array_equal(shown[background], astronaut[background])
        assert (shown[~background] != astronaut[~background]).any(axis=1).mean() > 0.9
    output = algo.get_output(1)
    assert output.get_colors()[0] == [0, 0, 0]
    assert [name.split(" (")[0] for name in output.get_class_names()] == ["background", "mask 1"]
    assert output.get_legend().any()


# ---------------------------------------------------------------- results


def test_results_go_to_json(workflow, algo, astronaut):
    algo.set_parameters({"input_box": "[150, 20, 300, 200]", "instance_output": "True"})
    workflow.run_on(array=astronaut)
    semantic = json.loads(algo.get_output(1).to_json())
    assert semantic["classes"] == algo.get_output(1).get_class_names()
    assert semantic["polygons"]
    instance = json.loads(algo.get_output(2).to_json())
    assert len(instance["detections"]) == 1
    for output in algo.get_outputs():
        assert str(output)


def test_instances_carry_score_box_and_mask(workflow, algo, astronaut):
    algo.set_parameters(
        {
            "input_box": "[[150, 20, 300, 200], [290, 340, 510, 510]]",
            "instance_output": "True",
            "multimask_output": "True",
        }
    )
    workflow.run_on(array=astronaut)
    objects = algo.get_output(algo.get_output_count() - 1).get_objects()
    assert len(objects) == 6  # three candidates of two objects
    for obj in objects:
        ys, xs = np.nonzero(obj.mask)
        assert list(obj.box) == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert 0 <= obj.confidence <= 1
    names = [n for index in (1, 2, 3) for n in algo.get_output(index).get_class_names()[1:]]
    assert names == [f"{o.label} ({o.confidence:.2f})" for o in objects]


def test_a_workflow_is_saved_and_loaded_with_all_parameters(workflow, algo, tmp_path, astronaut):
    from ikomia.dataprocess.workflow import Workflow

    changed = {
        "input_box": "[[150, 20, 300, 200]]",
        "iou_thresh": "0.61",
        "points_per_side": "None",
        "point_grids": "[[[0.5, 0.5]]]",
    }
    algo.set_parameters(changed)
    workflow.run_on(array=astronaut)
    workflow.save(str(tmp_path / "wf.json"))
    loaded = Workflow()
    loaded.load(str(tmp_path / "wf.json"))
    (task,) = loaded.find_task(NAME)
    assert dict(task.get_parameters()) == dict(algo.get_parameters())
    loaded.run_on(array=astronaut)
    np.testing.assert_array_equal(mask_of(task), mask_of(algo))


def test_a_workflow_of_the_published_plugin_loads(workflow, algo, tmp_path):
    """Its parameters by its names, as its get_values() writes them (hub version 1.1.0)."""
    from ikomia.dataprocess.workflow import Workflow

    published = {
        "model_name": "sam2_hiera_tiny",
        "apply_postprocessing": "False",
        "points_per_side": "24",
        "points_per_batch": "64",
        "iou_thres": "0.77",
        "stability_score_thresh": "0.9",
        "stability_score_offset": "1.0",
        "box_nms_thresh": "0.6",
        "mask_threshold": "0.0",
        "crop_n_layers": "0",
        "crop_overlap_ratio": "0.3413333333333333",
        "crop_nms_thresh": "0.7",
        "crop_n_points_downscale_factor": "1",
        "input_size_percent": "80",
        "input_point": "[[500, 500]]",
        "input_point_label": "",
        "input_box": "",
        "use_m2m": "False",
        "multimask_output": "True",
        "cuda": "False",
    }
    workflow.save(str(tmp_path / "wf.json"))
    text = json.loads((tmp_path / "wf.json").read_text())
    assert [node["task_data"]["name"] for node in text["tasks"]].count(NAME) == 1
    for node in text["tasks"]:
        if node["task_data"]["name"] == NAME:
            node["task_data"]["parameters"] = [{"name": k, "value": v} for k, v in published.items()]
    (tmp_path / "published.json").write_text(json.dumps(text))
    loaded = Workflow()
    loaded.load(str(tmp_path / "published.json"))
    (task,) = loaded.find_task(NAME)
    values = dict(task.get_parameters())
    assert {name: values[name] for name in published} == published
    assert values["iou_thresh"] == "0.77"


def test_parameters_can_be_given_when_the_task_is_added(workflow, astronaut):
    task = workflow.add_task(
        name=NAME,
        auto_connect=True,
        params={"model_name": "sam2_hiera_nano", "input_box": "[[150, 20, 300, 200]]", "points_per_side": "12"},
    )
    workflow.run_on(array=astronaut)
    assert task.get_parameters()["input_box"] == "[[150, 20, 300, 200]]"
    assert mask_of(task).any()


def test_a_workflow_takes_python_values_as_parameters(workflow, algo, astronaut):
    values = {"input_box": [(150, 20, 300, 200)], "multimask_output": True}
    workflow.set_parameters(values | {"points_per_side": None, "point_grids": [[[0.5, 0.5]]]}, algo)
    workflow.run_on(array=astronaut)
    assert algo.get_output_count() == 4
    assert algo.get_parameters()["points_per_side"] == "None"


def test_init_long_process_loads_the_model_before_any_image(workflow, algo):
    assert algo._segmenter is None
    workflow.init_long_process()
    assert algo._segmenter is not None


def test_own_weights_load_through_the_same_path(workflow, algo, astronaut, checkout, tmp_path):
    weights, config = tmp_path / "mein Modell.pt", tmp_path / "mein Modell.yaml"
    weights.write_bytes((checkout / "models/sam2_hiera_nano.pt").read_bytes())
    config.write_bytes((checkout / "models/sam2_hiera_nano.yaml").read_bytes())
    algo.set_parameters({"input_box": "[150, 20, 300, 200]"})
    workflow.run_on(array=astronaut)
    bundled = mask_of(algo).copy()
    algo.set_parameters(
        {"model_name": "sam2_hiera_large", "model_weight_file": str(weights), "config_file": str(config)}
    )
    workflow.run_on(array=astronaut)
    np.testing.assert_array_equal(mask_of(algo), bundled)


# ---------------------------------------------------------------- errors and what they leave behind


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"input_point": "[[600, 20]]"}, r"input_point: entry 1, \[600, 20\], is outside the image"),
        ({"input_box": "[[600, 600, 700, 700]]"}, "input_box: entry 1"),
        (
            {"input_point": "[[10, 20]]", "input_point_label": "[1, 0]"},
            r"input_point_label: 2 label\(s\) for 1 point\(s\)",
        ),
        (
            {"points_per_side": "None", "point_grids": "[[[0.5, 0.5]]]", "crop_n_layers": "1"},
            r"1 grid\(s\) for 2 layer\(s\)",
        ),
    ],
)
def test_a_run_that_cannot_be_says_why_and_the_next_good_one_works(workflow, algo, astronaut, params, said):
    algo.set_parameters(params)
    before = dict(algo.get_parameters())
    with pytest.raises(RuntimeError, match=said):
        workflow.run_on(array=astronaut)
    assert dict(algo.get_parameters()) == before
    algo.set_parameters(
        {
            "input_point": "[250, 100]",
            "input_point_label": "",
            "input_box": "",
            "points_per_side": "32",
            "point_grids": "",
        }
    )
    workflow.run_on(array=astronaut)
    assert mask_of(algo).any()


def test_showing_masks_before_any_run_says_to_run(algo):
    with pytest.raises(ValueError, match="run the workflow first"):
        algo.get_image_with_mask()


def test_a_refused_set_changes_no_parameter(algo):
    before = dict(algo.get_parameters())
    with pytest.raises(RuntimeError, match=r"iou_thresh: '7' is not accepted; accepted is a number from 0 to 1"):
        algo.set_parameters({"points_per_side": "8", "iou_thresh": "7", "input_point": "[1, 2]"})
    assert dict(algo.get_parameters()) == before


def test_points_per_side_and_point_grids_are_set_together_or_not_at_all(algo):
    before = dict(algo.get_parameters())
    for params in ({"points_per_side": "None"}, {"point_grids": "[[[0.5, 0.5]]]"}):
        with pytest.raises(RuntimeError, match=r"points_per_side: .* point_grids: "):
            algo.set_parameters(params)
        assert dict(algo.get_parameters()) == before


def test_cuda_without_a_device_is_a_warning_and_the_cpu(workflow, algo, astronaut, caplog):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    algo.set_parameters({"cuda": "True", "input_point": "[250, 100]"})
    with caplog.at_level(logging.WARNING):
        workflow.run_on(array=astronaut)
        workflow.run_on(array=astronaut)
    assert caplog.text.count("no CUDA device") == 1
    assert mask_of(algo).any()


@pytest.mark.parametrize("track", ["False", "True"])
def test_a_program_without_a_console_has_no_bar_and_its_masks(workflow, algo, astronaut, monkeypatch, track):
    algo.set_parameters({"points_per_side": "2", "iou_thresh": "0", "stability_score_thresh": "0", "track": track})
    monkeypatch.setattr(sys, "stderr", None)
    for _ in range(2):
        workflow.run_on(array=astronaut)
        assert algo.get_masks()[0].areas.any()


def test_stop_ends_automatic_mode_within_a_batch_and_the_next_run_works(workflow, algo, astronaut, monkeypatch):
    from infer_segment_anything_2.bridge.progress import RunProgress

    unseen = np.ascontiguousarray(astronaut[:, ::-1])  # what was found in an image is kept
    batches = []
    report = RunProgress.searched

    def stop_at_the_third(self, done, total):
        batches.append(done)
        if done == 2:
            workflow.stop()
        report(self, done, total)

    algo.set_parameters(AUTOMATIC)
    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "searched", stop_at_the_third)
        with pytest.raises(RuntimeError, match="Code 17"):
            workflow.run_on(array=unseen)
    assert batches == [0, 1, 2]
    workflow.run_on(array=unseen)
    assert mask_of(algo).any()


def test_ctrl_c_ends_a_run_leaves_no_masks_and_the_next_run_works(workflow, algo, astronaut, monkeypatch):
    from infer_segment_anything_2.bridge.progress import RunProgress

    algo.set_parameters(AUTOMATIC | {"points_per_batch": "4"})
    workflow.run_on(array=astronaut)
    expected = mask_of(algo).copy()
    algo._segmenter.forget_images()
    batches = []

    def press_at_the_third(self, done, total):
        batches.append(done)
        if done == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "searched", press_at_the_third)
        with pytest.raises(RuntimeError, match="KeyboardInterrupt"):  # Ikomia makes a RuntimeError of everything
            workflow.run_on(array=astronaut)
    assert max(batches) == 3
    assert algo.get_masks() == []
    workflow.run_on(array=astronaut)
    np.testing.assert_array_equal(mask_of(algo), expected)


def test_values_that_are_set_during_a_run_count_from_the_next_one_on(workflow, algo, astronaut, monkeypatch):
    algo.set_parameters(AUTOMATIC)
    workflow.run_on(array=astronaut)
    expected = mask_of(algo).copy()

    from infer_segment_anything_2.segmentation.search import AutomaticSettings

    def set_meanwhile(settings):
        algo.set_parameters({"model_weight_file": "/nowhere/my.pt", "use_m2m": "True", "instance_output": "True"})

    with monkeypatch.context() as patch:
        patch.setattr(AutomaticSettings, "check", set_meanwhile)
        workflow.run_on(array=astronaut)
    np.testing.assert_array_equal(mask_of(algo), expected)
    assert algo.get_output_count() == 5  # with the instances, which are declared as soon as they are wanted
    assert not algo.get_output(4).is_data_available()  # and come with the next run
    with pytest.raises(RuntimeError, match=r"/nowhere/my\.pt does not exist"):
        workflow.run_on(array=astronaut)


# ---------------------------------------------------------------- sharing and global state


def test_tasks_share_one_model_which_is_freed_with_the_last(workflow, astronaut):
    from ikomia.dataprocess.workflow import Workflow

    params = {"model_name": "sam2_hiera_nano", "input_point": "[250, 100]", "apply_postprocessing": "False"}
    first = workflow.add_task(name=NAME, auto_connect=True, params=params)
    other = Workflow("other")
    second = other.add_task(name=NAME, auto_connect=True, params=params)
    workflow.run_on(array=astronaut)
    other.run_on(array=astronaut)
    assert first._segmenter is second._segmenter
    assert first._segmenter.predictor.encoded == 1
    alive = weakref.ref(first._segmenter)
    first.set_parameters({"apply_postprocessing": "True"})
    second.set_parameters({"apply_postprocessing": "True"})
    workflow.run_on(array=astronaut)
    assert alive() is not None
    other.run_on(array=astronaut)
    gc.collect()
    assert alive() is None


def test_a_run_leaves_no_global_state_changed(workflow, algo, astronaut):
    import cv2
    import torch

    def state():
        return {
            "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
            "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
            "dtype": torch.get_default_dtype(),
            "grad": torch.is_grad_enabled(),
            "inference": torch.is_inference_mode_enabled(),
            "threads": (torch.get_num_threads(), cv2.getNumThreads()),
            "handlers": list(logging.getLogger().handlers),
            "level": logging.getLogger().level,
            "random": torch.random.get_rng_state().tolist(),
        }

    before = state()
    algo.set_parameters({"input_point": "[250, 100]", "apply_postprocessing": "False"})
    workflow.run_on(array=astronaut)
    algo.set_parameters({"input_point": "", **AUTOMATIC})
    workflow.run_on(array=astronaut)
    assert state() == before


def test_masks_do_not_depend_on_the_autocast_of_the_caller(workflow, algo, astronaut):
    import torch

    algo.set_parameters({"input_point": "[250, 100]"})
    workflow.run_on(array=astronaut)
    expected = mask_of(algo).copy()
    algo._segmenter.predictor.forget_images()
    with torch.autocast("cpu", torch.bfloat16):
        workflow.run_on(array=astronaut)
    np.testing.assert_array_equal(mask_of(algo), expected)


# ---------------------------------------------------------------- progress


@pytest.mark.parametrize(
    "params",
    [
        {"input_point": "[250, 100]"},
        AUTOMATIC | {"points_per_side": "1"},
        AUTOMATIC | {"points_per_side": "4", "points_per_batch": "3"},
        AUTOMATIC | {"points_per_side": "11", "points_per_batch": "1", "multimask_output": "False"},
        AUTOMATIC | {"points_per_side": "2", "crop_n_layers": "1", "crop_n_points_downscale_factor": "4"},
    ],
    ids=["a prompt", "one batch", "six batches", "more batches than steps", "crops"],
)
def test_the_progress_bar_ends_exactly_full(workflow, algo, astronaut, params):
    steps = []
    algo.emit_step_progress = lambda: steps.append(1)
    algo.set_parameters(params)
    workflow.run_on(array=astronaut)
    assert len(steps) == algo.get_progress_steps()


def test_studios_bar_moves_with_every_batch(workflow, algo, astronaut, monkeypatch):
    steps, told, searched = [], [], RunProgress.searched

    def watch(bar, done, total):
        searched(bar, done, total)
        told.append((len(steps), 100 * done // total))

    monkeypatch.setattr(RunProgress, "searched", watch)
    algo.emit_step_progress = lambda: steps.append(1)
    algo.set_parameters(AUTOMATIC | {"points_per_side": "4", "points_per_batch": "3"})
    workflow.run_on(array=astronaut[5:, 5:])  # that nobody has searched before
    assert len(told) == 7
    assert all(moved == wanted for moved, wanted in told)


class PassesOn:
    """What many programs put in place of stderr: it can be written to, and no more."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


STREAMS = ["terminal", "file", "passes on", "closed", "none"]


@pytest.mark.parametrize("kind", STREAMS)
def test_a_bar_is_drawn_on_a_terminal_only(workflow, algo, astronaut, monkeypatch, kind):
    stream = PassesOn() if kind == "passes on" else io.StringIO()
    if kind == "terminal":
        monkeypatch.setattr(stream, "isatty", lambda: True)
    if kind == "closed":
        stream.close()
    algo.set_parameters(AUTOMATIC)
    searched, told = RunProgress.searched, []
    rows = 10 + STREAMS.index(kind)  # a picture that nobody has searched before
    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "searched", lambda *args: (told.append(args), searched(*args)))
        patch.setattr(sys, "stderr", None if kind == "none" else stream)
        patch.setattr(progress, "tqdm", tqdm if kind == "terminal" else pytest.fail)  # not even one that is disabled
        workflow.run_on(array=astronaut[rows:])
    assert told
    if kind not in ("closed", "none"):
        text = stream.text if kind == "passes on" else stream.getvalue()
        assert ("Segmenting" in text) == (kind == "terminal")


@pytest.fixture
def slow_host(monkeypatch, tmp_path):
    """A host for checkpoints that sends the bundled model's weights as sam2_hiera_tiny, slowly, and counts its answers."""
    import hashlib
    import http.server
    import threading
    import time
    from dataclasses import replace

    from infer_segment_anything_2.segmentation import checkpoints

    body = (checkpoints.MODELS_FOLDER / "sam2_hiera_nano.pt").read_bytes()
    entry = replace(
        checkpoints.CATALOGUE["sam2_hiera_tiny"],
        config=checkpoints.CATALOGUE["sam2_hiera_nano"].config,
        sha256=hashlib.sha256(body).hexdigest(),
        bytes=len(body),
    )

    class Host(http.server.BaseHTTPRequestHandler):
        pause = 0.2

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for start in range(0, len(body), 1 << 20):
                try:
                    self.wfile.write(body[start : start + (1 << 20)])
                except OSError:
                    return
                time.sleep(self.pause)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(checkpoints.MIRROR_VARIABLE, f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setitem(checkpoints.CATALOGUE, "sam2_hiera_tiny", entry)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        yield Host
        server.shutdown()


def test_a_download_moves_the_bar_and_the_run_fills_it(workflow, algo, astronaut, slow_host):
    slow_host.pause = 0
    steps = []
    algo.emit_step_progress = lambda: steps.append(algo._segmenter is None)
    algo.set_parameters(AUTOMATIC | {"model_name": "sam2_hiera_tiny", "points_per_side": "3"})
    workflow.run_on(array=astronaut)
    assert len(steps) == algo.get_progress_steps()
    assert sum(steps) == 50  # while there was no model yet
    assert mask_of(algo).any()


def test_stop_ends_a_download_leaves_nothing_partial_and_the_next_run_works(
    workflow, algo, astronaut, slow_host, tmp_path
):
    import threading

    algo.set_parameters({"model_name": "sam2_hiera_tiny", "input_point": "[250, 100]"})
    threading.Timer(0.5, workflow.stop).start()
    with pytest.raises(RuntimeError, match="Code 17"):
        workflow.run_on(array=astronaut)
    assert algo._segmenter is None
    assert not list((tmp_path / "torch").rglob("*.partial"))
    assert not list((tmp_path / "torch").rglob("*.pt"))
    slow_host.pause = 0
    workflow.run_on(array=astronaut)
    assert mask_of(algo).any()
