"""The bundled model understands what it is shown: on a scene of objects that it was never trained on, whose masks are known."""

from __future__ import annotations

import json

import numpy as np
import oracle
import pytest
from conftest import ROOT
from PIL import Image
from scipy.ndimage import distance_transform_edt
from tools.samples import AUTOMATIC


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return np.array(Image.open(ROOT / "images/sample_scene.png").convert("RGB"))


@pytest.fixture(scope="module")
def objects() -> list[np.ndarray]:
    """The true masks, (H, W) bool each."""
    labels = np.array(Image.open(ROOT / "images/sample_scene_objects.png"))
    return [labels == k for k in range(1, labels.max() + 1)]


def inner_point(mask: np.ndarray) -> list[int]:
    """The pixel of `mask` that is farthest from its border."""
    y, x = np.unravel_index(np.argmax(distance_transform_edt(mask)), mask.shape)
    return [int(x), int(y)]


def box_around(mask: np.ndarray) -> list[int]:
    ys, xs = np.nonzero(mask)
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


def masks_for(workflow, algo, image, **params) -> list[np.ndarray]:
    algo.set_parameters({name: json.dumps(value) for name, value in params.items()})
    workflow.run_on(array=image)
    return [algo.get_output(k).get_mask().copy() for k in range(1, algo.get_output_count())]


def test_a_point_on_an_object_gives_that_object(workflow, algo, scene, objects):
    right, best = 0, []
    algo.set_parameters({"multimask_output": "True"})
    for mask in objects:
        candidates = masks_for(workflow, algo, scene, input_point=inner_point(mask))
        chosen = max(candidates, key=lambda c: oracle.iou(c > 0, mask)) > 0
        best.append(oracle.iou(chosen, mask))
        right += max(range(len(objects)), key=lambda i: oracle.iou(chosen, objects[i])) == [
            m is mask for m in objects
        ].index(True)
    assert right >= 0.9 * len(objects)
    assert np.mean(best) >= 0.7


def test_a_box_around_an_object_gives_that_object(workflow, algo, scene, objects):
    (labels,) = masks_for(workflow, algo, scene, input_box=[box_around(mask) for mask in objects])
    found = [oracle.iou(labels == k, mask) for k, mask in enumerate(objects, start=1)]
    assert np.mean(found) >= 0.7
    assert np.mean([iou >= 0.5 for iou in found]) >= 0.8


def test_a_background_point_takes_something_away(workflow, algo, scene, objects):
    """A point on one object and one off another keep the one: without its label the second point would add the other."""
    big = sorted(range(len(objects)), key=lambda i: -int(objects[i].sum()))[:2]
    keep, drop = (objects[i] for i in big)
    points = [inner_point(keep), inner_point(drop)]
    (off,) = masks_for(workflow, algo, scene, input_point=points, input_point_label=[1, 0])
    (on,) = masks_for(workflow, algo, scene, input_point=points, input_point_label=[1, 1])
    assert (off[keep] > 0).mean() > (off[drop] > 0).mean() + 0.5
    assert (on[drop] > 0).mean() > (off[drop] > 0).mean() + 0.5


def test_automatic_mode_finds_most_objects(workflow, algo, scene, objects):
    algo.set_parameters(AUTOMATIC["sam2_hiera_nano"])
    assert share_found(workflow, algo, scene, objects) >= 0.55


def test_automatic_mode_finds_objects_at_its_default_thresholds(workflow, algo, scene, objects):
    algo.set_parameters({"points_per_side": "16"})
    assert share_found(workflow, algo, scene, objects) >= 0.3


def share_found(workflow, algo, scene, objects) -> float:
    """The share of objects that a mask of automatic mode has at IoU 0.5."""
    workflow.run_on(array=scene)
    (masks,) = algo.get_masks()
    return float(np.mean([max((oracle.iou(m, mask) for m in masks), default=0) >= 0.5 for mask in objects]))


@pytest.mark.usefixtures("tools")
def test_things_that_are_marked_in_the_first_frame_are_followed(workflow, algo):
    import clip

    made = list(clip.frames())
    algo.set_parameters({"track": "True"} | clip.prompt().parameters())
    found = []
    for frame, truth in made:
        workflow.run_on(array=frame)
        masks = algo.get_masks()[0]
        found.append([oracle.iou(np.asarray(masks[place]), truth == label) for place, label in enumerate((1, 3))])
    assert np.mean(found) >= 0.7
    assert min(found[-1]) >= 0.5
