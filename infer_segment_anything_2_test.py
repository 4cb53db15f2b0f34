"""The test that Ikomia's hub runs: it finds this file by its name and calls `test`. The project's own tests are in tests/."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ikomia.utils.tests import run_for_test
from PIL import Image

from infer_segment_anything_2.infer_segment_anything_2_process import InferSegmentAnything2

logger = logging.getLogger(__name__)

SCENE = Path(__file__).resolve().parent / "images" / "sample_scene.png"

#: What is set for each run, and how many masks it has to give at least, in all of its outputs. Nothing is downloaded.
RUNS: dict[str, tuple[dict[str, str], int]] = {
    "two boxes": ({"input_box": "[[101, 132, 343, 386], [526, 387, 630, 481]]"}, 2),
    "three candidates": ({"input_box": "", "input_point": "[233, 236]", "multimask_output": "True"}, 3),
    "everything": (
        {
            "input_point": "",
            "multimask_output": "False",
            "points_per_side": "8",
            "iou_thresh": "0.5",
            "instance_output": "True",
        },
        3,
    ),
}


def test(t: InferSegmentAnything2, data_dict: Mapping[str, Any]) -> Iterator[tuple[dict[str, str], str]]:
    """Run the task on the sample scene in each of the ways of RUNS.

    Args:
        t: a task of the plugin.
        data_dict: the hub's own samples, which are not needed.

    Yields:
        The parameters of a run, and "OK" or what went wrong.
    """
    with Image.open(SCENE) as picture:
        t.get_input(0).set_image(np.asarray(picture.convert("RGB")))
    t.set_parameters({"model_name": "sam2_hiera_nano"})
    for name, (parameters, least) in RUNS.items():
        logger.info("===== %s: %s =====", t.name, name)
        t.set_parameters(parameters)
        values, status = run_for_test(t)
        found = sum(int(np.count_nonzero(masks.areas)) for masks in t.get_masks())
        yield (
            values,
            status if status != "OK" or found >= least else f"{name}: {found} masks in place of {least} or more",
        )
