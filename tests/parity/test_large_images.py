"""Automatic mode on 8000x6000 pixels: sam2's masks, and memory for the picture rather than for every mask of it.

With 64 points, three masks each, sam2 itself fills 64 x 3 x 48 million float32: 37 GB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import oracle
import pytest
from PIL import Image
from skimage import data
from test_automatic_of_sam2 import assert_same_masks

from infer_segment_anything_2.segmentation.search import AutomaticSettings

WIDTH, HEIGHT = 8000, 6000


@pytest.mark.slow
def test_the_masks_of_48_megapixels_are_those_of_sam2(nano):
    image = np.asarray(Image.fromarray(data.coffee()).resize((WIDTH, HEIGHT)))
    settings = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "use_m2m": False}
    settings |= {"multimask_output": False, "box_nms_thresh": 1.0}  # 770 MB of logits, which sam2 reads several times
    theirs = oracle.mask_generator(oracle.nano_model(), **settings).generate(image)
    ours = nano.generate(image, AutomaticSettings(**settings))
    assert len(theirs) == 4
    assert_same_masks(ours, theirs)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/status")
def test_a_workflow_on_48_megapixels_takes_memory_for_the_picture_and_not_for_every_mask():
    code = f"""
import ctypes, json
import numpy as np
from PIL import Image
from skimage import data
from ikomia.dataprocess.workflow import Workflow

def megabytes(name):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(name))

image = np.asarray(Image.fromarray(data.coffee()).resize(({WIDTH}, {HEIGHT})))
workflow = Workflow()
algo = workflow.add_task(name="infer_segment_anything_2", auto_connect=True)
algo.set_parameters({{"model_name": "sam2_hiera_nano", "points_per_side": "4", "multimask_output": "True", "use_m2m": "False",
                     "iou_thresh": "0.1", "stability_score_thresh": "0.3"}})
workflow.run_on(array=np.ascontiguousarray(image[::10, ::10]))  # the model and libraries are loaded now
ctypes.CDLL(None).malloc_trim(0)  # what malloc holds back would take the place of what is needed
open("/proc/self/clear_refs", "w").write("5")  # the peak is counted from here on: proc(5)
before = megabytes("VmRSS")
workflow.run_on(array=image)
print("RESULT" + json.dumps([megabytes("VmHWM") - before, int(algo.get_output(1).get_mask().max()),
                             algo.get_output(1).get_mask().shape]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, cwd=os.environ["HOME"]
    )
    assert done.returncode == 0, done.stderr[-3000:]
    peak, masks, shape = json.loads(done.stdout.rpartition("RESULT")[2])
    assert shape == [HEIGHT, WIDTH]
    assert masks >= 10
    assert peak < 1500
