"""The masks of a prompt are those of sam2 called directly with the same weights: equal, pixel for pixel."""

from __future__ import annotations

import json

import numpy as np
import oracle
import pytest
import torch
from skimage import data

# name, parameters, and the calls of SAM2ImagePredictor.predict that give the same objects: (objects, keywords) each.
CASES: list[tuple[str, dict, list[tuple[list[int], dict]]]] = [
    ("one point", {"input_point": [[250, 100]]}, [([0], {"point_coords": [[250, 100]], "point_labels": [1]})]),
    (
        "one point, not nested",
        {"input_point": [250, 100]},
        [([0], {"point_coords": [[250, 100]], "point_labels": [1]})],
    ),
    (
        "a fraction of a pixel",
        {"input_point": [250.4, 99.6]},
        [([0], {"point_coords": [[250.4, 99.6]], "point_labels": [1]})],
    ),
    ("a corner", {"input_point": [0, 0]}, [([0], {"point_coords": [[0, 0]], "point_labels": [1]})]),
    ("the last pixel", {"input_point": [511, 511]}, [([0], {"point_coords": [[511, 511]], "point_labels": [1]})]),
    (
        "background only",
        {"input_point": [[400, 60]], "input_point_label": [0]},
        [([0], {"point_coords": [[400, 60]], "point_labels": [0]})],
    ),
    (
        "on and off",
        {"input_point": [[250, 100], [150, 400]], "input_point_label": [1, 0]},
        [([0], {"point_coords": [[250, 100], [150, 400]], "point_labels": [1, 0]})],
    ),
    (
        "two points, one label for both",
        {"input_point": [[250, 100], [150, 400]], "input_point_label": 1},
        [([0], {"point_coords": [[250, 100], [150, 400]], "point_labels": [1, 1]})],
    ),
    (
        "three points, no labels",
        {"input_point": [[100, 400], [200, 400], [300, 450]]},
        [([0], {"point_coords": [[100, 400], [200, 400], [300, 450]], "point_labels": [1, 1, 1]})],
    ),
    ("one box", {"input_box": [150, 20, 300, 200]}, [([0], {"box": [150, 20, 300, 200]})]),
    ("one box, nested", {"input_box": [[150, 20, 300, 200]]}, [([0], {"box": [150, 20, 300, 200]})]),
    ("corners swapped", {"input_box": [300, 200, 150, 20]}, [([0], {"box": [150, 20, 300, 200]})]),
    ("a box that sticks out", {"input_box": [-40, 350, 200, 700]}, [([0], {"box": [0, 350, 200, 512]})]),
    ("the whole image", {"input_box": [0, 0, 512, 512]}, [([0], {"box": [0, 0, 512, 512]})]),
    (
        "box and point",
        {"input_box": [150, 20, 300, 200], "input_point": [220, 110]},
        [([0], {"box": [150, 20, 300, 200], "point_coords": [[220, 110]], "point_labels": [1]})],
    ),
    (
        "box and a background point",
        {"input_box": [150, 20, 300, 200], "input_point": [220, 50], "input_point_label": 0},
        [([0], {"box": [150, 20, 300, 200], "point_coords": [[220, 50]], "point_labels": [0]})],
    ),
    (
        "box and two points",
        {"input_box": [[150, 20, 300, 200]], "input_point": [[220, 110], [220, 50]], "input_point_label": [1, 0]},
        [([0], {"box": [150, 20, 300, 200], "point_coords": [[220, 110], [220, 50]], "point_labels": [1, 0]})],
    ),
    (
        "two boxes",
        {"input_box": [[150, 20, 300, 200], [290, 340, 510, 510]]},
        [([0, 1], {"box": [[150, 20, 300, 200], [290, 340, 510, 510]]})],
    ),
    (
        "three boxes, overlapping",
        {"input_box": [[20, 150, 380, 510], [150, 20, 300, 200], [120, 340, 220, 440]]},
        [([0, 1, 2], {"box": [[20, 150, 380, 510], [150, 20, 300, 200], [120, 340, 220, 440]]})],
    ),
    (
        "two boxes, a point in each",
        {"input_box": [[150, 20, 300, 200], [290, 340, 510, 510]], "input_point": [[400, 430], [220, 110]]},
        [
            (
                [0, 1],
                {
                    "box": [[150, 20, 300, 200], [290, 340, 510, 510]],
                    "point_coords": [[[220, 110]], [[400, 430]]],
                    "point_labels": [[1], [1]],
                },
            )
        ],
    ),
    (
        "three boxes, a point in the smallest that holds it",
        {"input_box": [[20, 150, 380, 510], [120, 340, 220, 440], [380, 0, 470, 290]], "input_point": [[170, 390]]},
        [
            ([0, 2], {"box": [[20, 150, 380, 510], [380, 0, 470, 290]]}),
            ([1], {"box": [120, 340, 220, 440], "point_coords": [[170, 390]], "point_labels": [1]}),
        ],
    ),
    (
        "two boxes, a point near one of them",
        {
            "input_box": [[150, 20, 300, 200], [380, 20, 470, 290]],
            "input_point": [[310, 110]],
            "input_point_label": [0],
        },
        [
            ([0], {"box": [150, 20, 300, 200], "point_coords": [[310, 110]], "point_labels": [0]}),
            ([1], {"box": [380, 20, 470, 290]}),
        ],
    ),
]
IDS = [name for name, _, _ in CASES]


def expected_outputs(predictor, calls, multimask_output: bool, shape: tuple[int, int]):
    """Per candidate the label image and the scores of the objects, from sam2's own predict."""
    candidates = 3 if multimask_output else 1
    masks: list[dict] = [{} for _ in range(candidates)]
    scores: list[dict] = [{} for _ in range(candidates)]
    for objects, keywords in calls:
        arrays = {name: np.array(value, np.float32) for name, value in keywords.items()}
        found, iou, _ = predictor.predict(**arrays, multimask_output=multimask_output)
        if len(objects) == 1:
            found, iou = found[None], iou[None]
        for place, number in enumerate(objects):
            for k in range(candidates):
                masks[k][number] = found[place, k].astype(bool)
                scores[k][number] = iou[place, k]
    return [
        (oracle.painted([m[i] for i in sorted(m)], shape), [s[i] for i in sorted(s)])
        for m, s in zip(masks, scores, strict=True)
    ]


def check(workflow, algo, image, params: dict, expected) -> None:
    algo.set_parameters(
        {name: value if isinstance(value, str) else json.dumps(value) for name, value in params.items()}
    )
    workflow.run_on(array=image)
    assert algo.get_output_count() == 1 + len(expected)
    for index, (labels, scores) in enumerate(expected, start=1):
        output = algo.get_output(index)
        np.testing.assert_array_equal(output.get_mask(), labels)
        names = output.get_class_names()
        assert names == ["background"] + [f"mask {k} ({s:.2f})" for k, s in enumerate(scores, start=1)]


@pytest.fixture(scope="module")
def nano_predictor():
    predictor = oracle.predictor(oracle.nano_model())
    predictor.set_image(data.astronaut())
    return predictor


@pytest.mark.parametrize("multimask_output", [False, True], ids=["one mask", "three masks"])
@pytest.mark.parametrize(("name", "params", "calls"), CASES, ids=IDS)
def test_nano_gives_the_masks_of_sam2(workflow, algo, astronaut, nano_predictor, name, params, calls, multimask_output):
    expected = expected_outputs(nano_predictor, calls, multimask_output, astronaut.shape[:2])
    assert any(labels.any() for labels, _ in expected)
    check(workflow, algo, astronaut, params | {"multimask_output": str(multimask_output)}, expected)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Random weights in the architecture of sam2_hiera_tiny, and sam2's predictor with them and an image set."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random_tiny.pt"
    model = oracle.released_model("configs/sam2/sam2_hiera_t.yaml", None)
    torch.save({"model": model.state_dict()}, path)
    predictor = oracle.predictor(model)
    predictor.set_image(data.astronaut())
    # Held here so that the plugin, too, loads and encodes once for all cases.
    from infer_segment_anything_2.segmentation.segmenter import open_segmenter

    return path, predictor, open_segmenter("sam2_hiera_tiny", model_weight_file=str(path))


#: One for each way in which objects reach the decoder; how they are typed has nothing to do with the model.
OF_EACH_KIND = [
    case
    for case in CASES
    if case[0]
    in (
        "one point",
        "on and off",
        "one box",
        "box and two points",
        "two boxes",
        "two boxes, a point in each",
        "three boxes, a point in the smallest that holds it",
    )
]


@pytest.mark.parametrize("multimask_output", [False, True], ids=["one mask", "three masks"])
@pytest.mark.parametrize(("name", "params", "calls"), OF_EACH_KIND, ids=[case[0] for case in OF_EACH_KIND])
def test_the_tiny_architecture_gives_the_masks_of_sam2(
    workflow, algo, astronaut, tiny, name, params, calls, multimask_output
):
    path, predictor, _ = tiny
    expected = expected_outputs(predictor, calls, multimask_output, astronaut.shape[:2])
    own = {"model_name": "sam2_hiera_tiny", "model_weight_file": str(path), "multimask_output": str(multimask_output)}
    check(workflow, algo, astronaut, params | own, expected)


def test_without_postprocessing_sam2_without_postprocessing_is_met(workflow, algo, astronaut):
    predictor = oracle.predictor(oracle.nano_model(apply_postprocessing=False))
    predictor.set_image(astronaut)
    for _, params, calls in CASES[:6]:
        expected = expected_outputs(predictor, calls, False, astronaut.shape[:2])
        check(workflow, algo, astronaut, params | {"apply_postprocessing": "False"}, expected)


@pytest.mark.parametrize("threshold", [-1.5, 0.7])
def test_mask_threshold_is_sam2s(workflow, algo, astronaut, threshold):
    predictor = oracle.predictor(oracle.nano_model(), mask_threshold=threshold)
    predictor.set_image(astronaut)
    _, params, calls = CASES[9]
    expected = expected_outputs(predictor, calls, True, astronaut.shape[:2])
    check(workflow, algo, astronaut, params | {"multimask_output": "True", "mask_threshold": str(threshold)}, expected)


@pytest.mark.parametrize("percent", [50, 73])
def test_a_smaller_image_size_is_sam2_on_the_smaller_image_with_masks_of_the_full_size(
    workflow, algo, astronaut, percent
):
    from PIL import Image

    side = round(512 * percent / 100)
    predictor = oracle.predictor(oracle.nano_model())
    predictor.set_image(np.array(Image.fromarray(astronaut).resize((side, side), Image.Resampling.BOX)))
    predictor._orig_hw = [astronaut.shape[:2]]
    _, params, calls = CASES[14]
    expected = expected_outputs(predictor, calls, False, astronaut.shape[:2])
    check(workflow, algo, astronaut, params | {"input_size_percent": str(percent)}, expected)


@pytest.mark.parametrize("shape", [(300, 512), (512, 77), (40, 30)])
def test_images_that_are_not_square_agree_with_sam2(workflow, algo, astronaut, shape):
    image = np.ascontiguousarray(astronaut[: shape[0], : shape[1]])
    predictor = oracle.predictor(oracle.nano_model())
    predictor.set_image(image)
    x, y = shape[1] // 2, shape[0] // 3
    expected = expected_outputs(predictor, [([0], {"point_coords": [[x, y]], "point_labels": [1]})], True, shape)
    check(workflow, algo, image, {"input_point": [x, y], "multimask_output": "True"}, expected)
