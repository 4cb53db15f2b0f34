"""Bad input through a real Ikomia workflow: a sentence that a user understands, nothing changed, and the next run works.

Each row of the table is one attempt: what is wrong, the parameters that are set, the image that is run, and what the user is
told, word for word ("…" stands for anything). Ikomia passes it on as RuntimeError, with the type before it and the trace
after it.
"""

# ruff: noqa: E501 - a row of a table is a line
from __future__ import annotations

import copy
import fnmatch
import json
import os
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import NAME, ROOT

GOOD = {"input_point": "[60, 25]"}
SEARCH = {"input_point": "", "points_per_side": "2", "iou_thresh": "0", "use_m2m": "False"}
NANO = ROOT / "models" / "sam2_hiera_nano.pt"
CONFIG = ROOT / "models" / "sam2_hiera_nano.yaml"

FORM = {
    "point": "accepted is [[]x, y], a list of them, or a list of such lists, in pixels of the original image",
    "box": "accepted is [[]x0, y0, x1, y1] or a list of them, in pixels of the original image",
    "label": "accepted is 1 (foreground), 0 (background), a list of them, or a list of such lists",
    "grid": "accepted is one list of [[]x, y] per crop layer, each coordinate from 0 to 1",
}
WHOLE = "accepted is a whole number, {} or more"
FRACTION = "accepted is a number from 0 to 1"
WEIGHTS = "Accepted: the path of a .pt file (or .safetensors, .ckpt) with the weights of a SAM 2 model, or empty."
YAML = "accepted is the path of a YAML file, a config of the sam2 package such as configs/sam2/sam2_hiera_s.yaml, or empty."
TOO_MANY = (
    "makes more than 1000000 points to ask the model at; accepted is fewer points per side, such as 32, or fewer crop "
)
TOO_MANY += "layers, such as 1."
SHAPES = "accepted are (height, width) and (height, width, channels) with 1, 3 or 4 channels."


def rows_of(text: str, count: int) -> str:
    return "[" + ",".join([text] * count) + "]"


def photo() -> np.ndarray:
    """(128, 128, 3) uint8."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[::4, ::4])


# fmt: off
TABLE = [
    # --- numbers
    ("not a number", {"points_per_side": "many"}, f"points_per_side: 'many' is not accepted; {WHOLE.format(1)}, or None together with point_grids."),
    ("nan", {"iou_thresh": "nan"}, f"iou_thresh: 'nan' is not accepted; {FRACTION}."),
    ("infinity", {"stability_score_offset": "inf"}, "stability_score_offset: 'inf' is not accepted; accepted is a number, 0 or more."),
    ("beyond a double", {"mask_threshold": "1e400"}, "mask_threshold: '1e400' is not accepted; accepted is any finite number."),
    ("a decimal comma", {"iou_thresh": "0,5"}, f"iou_thresh: '0,5' is not accepted; {FRACTION}."),
    ("a decimal comma in a threshold", {"mask_threshold": "1.000,5"}, "mask_threshold: '1.000,5' is not accepted; accepted is any finite number."),
    ("per cent", {"iou_thresh": "80%"}, f"iou_thresh: '80%' is not accepted; {FRACTION}."),
    ("per cent without the sign", {"stability_score_thresh": "95"}, f"stability_score_thresh: '95' is not accepted; {FRACTION}."),
    ("Arabic digits", {"points_per_side": "٣٢"}, f"points_per_side: '٣٢' is not accepted; {WHOLE.format(1)}, or None together with point_grids."),
    ("full-width digits", {"points_per_batch": "６４"}, f"points_per_batch: '６４' is not accepted; {WHOLE.format(1)}."),
    ("superscript digits", {"crop_n_layers": "¹"}, f"crop_n_layers: '¹' is not accepted; {WHOLE.format(0)}."),
    ("a fraction sign", {"box_nms_thresh": "½"}, f"box_nms_thresh: '½' is not accepted; {FRACTION}."),
    ("a typographic minus", {"mask_threshold": "−1"}, "mask_threshold: '−1' is not accepted; accepted is any finite number."),
    ("hexadecimal", {"min_mask_region_area": "0x10"}, f"min_mask_region_area: '0x10' is not accepted; {WHOLE.format(0)}."),
    ("an empty text", {"points_per_batch": ""}, f"points_per_batch: '' is not accepted; {WHOLE.format(1)}."),
    ("blanks", {"crop_nms_thresh": " \t\n"}, f"crop_nms_thresh: '' is not accepted; {FRACTION}."),
    ("a NUL", {"points_per_side": "3\0002"}, f"points_per_side: '3\\x002' is not accepted; {WHOLE.format(1)}, or None together with point_grids."),
    ("a zero-width blank", {"points_per_batch": "6\u200b4"}, f"points_per_batch: '6\\u200b4' is not accepted; {WHOLE.format(1)}."),
    ("a list for a number", {"points_per_side": "[32]"}, f"points_per_side: '[[]32]' is not accepted; {WHOLE.format(1)}, or None together with point_grids."),
    ("a bool for a number", {"iou_thresh": "true"}, f"iou_thresh: 'true' is not accepted; {FRACTION}."),
    ("a number for a bool", {"use_m2m": "2"}, "use_m2m: '2' is not accepted; accepted is True or False."),
    ("yes in another language", {"cuda": "ja"}, "cuda: 'ja' is not accepted; accepted is True or False."),
    ("below the range", {"input_size_percent": "0"}, "input_size_percent: '0' is not accepted; accepted is a whole number from 1 to 100."),
    ("the open end of a range", {"crop_overlap_ratio": "1"}, "crop_overlap_ratio: '1' is not accepted; accepted is a number from 0 to below 1."),
    ("a fraction of a layer", {"crop_n_layers": "1.5"}, f"crop_n_layers: '1.5' is not accepted; {WHOLE.format(0)}."),
    ("ten thousand digits", {"points_per_batch": "9" * 10_000}, f"points_per_batch: '999…999' is not accepted; {WHOLE.format(1)}."),
    ("50 MB for a number", {"iou_thresh": "1" * 50_000_000}, f"iou_thresh: '111…111' is not accepted; {FRACTION}."),
    ("two faults at once", {"iou_thresh": "7", "use_m2m": "perhaps"}, f"iou_thresh: '7' is not accepted; {FRACTION}.\nuse_m2m: 'perhaps' is not accepted; accepted is True or False."),
    ("a good value beside a bad one", {"points_per_side": "8", "iou_thres": "7"}, f"iou_thres: '7' is not accepted; {FRACTION}."),
    # --- names
    ("an unknown model", {"model_name": "sam3"}, "model_name: 'sam3' is not accepted; accepted is one of sam2_hiera_tiny, …, sam2_hiera_nano."),
    ("a file for a model", {"model_name": "sam2_hiera_small.pt"}, "model_name: 'sam2_hiera_small.pt' is not accepted; accepted is one of …"),
    ("no model", {"model_name": ""}, "model_name: '' is not accepted; accepted is one of …"),
    ("another alphabet's letter", {"model_name": "sаm2_hiera_nano"}, "model_name: 'sаm2_hiera_nano' is not accepted; accepted is one of …"),
    # --- JSON
    ("brackets that do not close", {"input_point": "[60, 25"}, f"input_point: '[[]60, 25' is not valid JSON; {FORM['point']}."),
    ("no brackets", {"input_box": "1, 2, 3, 4"}, f"input_box: '1, 2, 3, 4' is not valid JSON; {FORM['box']}."),
    ("numbers without commas", {"input_point": "[[60 25]]"}, f"input_point: '[[][[]60 25]]' is not valid JSON; {FORM['point']}; of an array or a tensor pass .tolist()."),
    ("a tensor", {"input_box": "tensor([[10, 20, 30, 40]])"}, f"input_box: 'tensor([[][[]10, 20, 30, 40]])' is not valid JSON; {FORM['box']}; of an array or a tensor pass .tolist()."),
    ("a tensor for a number", {"iou_thresh": "tensor(0.8000)"}, f"iou_thresh: 'tensor(0.8000)' is not accepted; {FRACTION}; of an array or a tensor pass .tolist()."),
    ("a range from white to black", {"intensity_range": "[255, 0]"}, "intensity_range: [[]255, 0] is not accepted; accepted is [[]low, high] with low below high, in the values of the image, or empty."),
    ("decimal commas", {"input_point": "[60,5, 25,5]"}, f"input_point: entry 1, [[]60, 5, 25, 5], does not hold 2 numbers; {FORM['point']}."),
    ("semicolons", {"input_box": "[1;2;3;4]"}, f"input_box: '[[]1;2;3;4]' is not valid JSON; {FORM['box']}."),
    ("full-width digits in JSON", {"input_point": "[６０, 25]"}, f"input_point: '[[]６０, 25]' is not valid JSON; {FORM['point']}."),
    ("words", {"input_point": "the face"}, f"input_point: 'the face' is not valid JSON; {FORM['point']}."),
    ("a number alone", {"input_point": "60"}, f"input_point: 60 is not a list; {FORM['point']}."),
    ("an object", {"input_point": '{"x": 60, "y": 25}'}, f"input_point: {{'x': 60, 'y': 25}} is not a list; {FORM['point']}."),
    ("text in a list", {"input_point": '["60", "25"]'}, f"input_point: entry 1, '60', does not hold 2 numbers; {FORM['point']}."),
    ("true in a list", {"input_point": "[true, 25]"}, f"input_point: entry 1, True, does not hold 2 numbers; {FORM['point']}."),
    ("null in a list", {"input_box": "[1, 2, null, 4]"}, f"input_box: entry 1, 1, does not hold 4 numbers; {FORM['box']}."),
    ("NaN in a list", {"input_point": "[NaN, 25]"}, f"input_point: entry 1, [[]nan, 25], is not finite or too large; {FORM['point']}."),
    ("1e400 in a list", {"input_point": "[60, 1e400]"}, f"input_point: entry 1, [[]60, inf], is not finite or too large; {FORM['point']}."),
    ("an integer of 400 digits", {"input_point": "[1" + "0" * 400 + ", 2]"}, f"input_point: entry 1, [[]1…0, 2], is not finite or too large; {FORM['point']}."),
    ("an integer of 5000 digits", {"input_point": "[" + "9" * 5000 + ", 2]"}, f"input_point: '[[]999…, 2]' is not valid JSON; {FORM['point']}."),
    ("three coordinates", {"input_point": "[[60, 25], [1, 2, 3]]"}, f"input_point: entry 2, [[]1, 2, 3], does not hold 2 numbers; {FORM['point']}."),
    ("two brackets too many", {"input_point": "[[[[60, 25]]]]"}, f"input_point: object 1: entry 1, [[][[]60, 25]], does not hold 2 numbers; {FORM['point']}."),
    ("a NUL in JSON", {"input_point": "[60,\0 25]"}, f"input_point: '[[]60,\\x00 25]' is not valid JSON; {FORM['point']}."),
    ("100,000 brackets", {"input_point": "[" * 100_000}, f"input_point: '[[][[]…[[][[]' is not valid JSON; {FORM['point']}."),
    ("100,000 brackets that close", {"point_grids": "[" * 100_000 + "1" + "]" * 100_000}, f"point_grids: '[[][[]…]]' is not valid JSON; {FORM['grid']}."),
    ("50 MB of points", {"input_point": rows_of("[1,2]", 8_000_000)}, f"input_point: '[[][[]1,2]…[[]1,2]]' has 48000001 characters; {FORM['point']}, in 1000000 characters at most."),
    ("50 MB of labels", {"input_point_label": rows_of("1", 25_000_000)}, f"input_point_label: '[[]1,1…1,1]' has 50000001 characters; {FORM['label']}, in 1000000 characters at most."),
    ("50 MB of one text", {"input_box": '"' + "x" * 50_000_000}, f"input_box: '\"xxx…xxx' has 50000001 characters; {FORM['box']}, in 1000000 characters at most."),
    ("100,000 points", {"input_point": rows_of("[1,2]", 100_000)}, f"input_point: 100000 entries are too many; {FORM['point']}, 10000 of them at most."),
    ("50,000 boxes", {"input_box": rows_of("[1,2,3,4]", 50_000)}, f"input_box: 50000 entries are too many; {FORM['box']}, 10000 of them at most."),
    # --- points, boxes and labels
    ("a point on the right border", {"input_point": "[128, 5]"}, "input_point: entry 1, [[]128, 5], is outside the image; accepted is x from 0 to below 128 and y from 0 to below 128."),
    ("a point on the lower border", {"input_point": "[[5, 5], [5, 128]]"}, "input_point: entry 2, [[]5, 128], is outside the image; accepted is x from 0 to below 128 and y from 0 to below 128."),
    ("a negative point", {"input_point": "[-1, 5]"}, "input_point: entry 1, [[]-1, 5], is outside the image; accepted is …"),
    ("a point as good as nowhere", {"input_point": "[9e8, 5]"}, "input_point: entry 1, [[]9e+08, 5], is outside the image; accepted is …"),
    ("a box beside the image", {"input_box": "[200, 200, 300, 300]"}, "input_box: entry 1, [[]200, 200, 300, 300], is outside the image, which is 128 pixels wide and 128 high; accepted is a box that overlaps it."),
    ("a box that touches the image", {"input_box": "[[1, 1, 9, 9], [128, 0, 200, 50]]"}, "input_box: entry 2, [[]128, 0, 200, 50], is outside the image, …; accepted is a box that overlaps it."),
    ("a box of which clipping leaves a line", {"input_box": "[-9, 5, 0, 50]"}, "input_box: entry 1, [[]-9, 5, 0, 50], is outside the image, …; accepted is a box that overlaps it."),
    ("a box without width", {"input_box": "[10, 20, 10, 40]"}, f"input_box: entry 1, [[]10, 20, 10, 40], has no area; {FORM['box']}."),
    ("a box thinner than a float32", {"input_box": "[10, 20, 10.0000001, 40]"}, f"input_box: entry 1, [[]10, 20, 10, 40], has no area; {FORM['box']}."),
    ("a label of two", {"input_point_label": "2"}, f"input_point_label: entry 1, 2, is neither 0 nor 1; {FORM['label']}."),
    ("a label in words", {"input_point_label": '["foreground"]'}, f"input_point_label: entry 1, 'foreground', is neither 0 nor 1; {FORM['label']}."),
    ("a label that is a bool", {"input_point_label": "[true]"}, f"input_point_label: entry 1, True, is neither 0 nor 1; {FORM['label']}."),
    ("half a label", {"input_point_label": "[0.5]"}, f"input_point_label: entry 1, 0.5, is neither 0 nor 1; {FORM['label']}."),
    ("labels of another count", {"input_point_label": "[1, 0]"}, "input_point_label: 2 label(s) for 1 point(s); accepted is one label for each point, one label for all, or none (all foreground)."),
    ("labels for boxes", {"input_point": "", "input_box": "[5, 5, 50, 50]", "input_point_label": "[1]"}, "input_point_label: 1 label(s) for 0 point(s); accepted is …"),
    ("labels for nothing", SEARCH | {"input_point_label": "[1]"}, "input_point_label: 1 label(s) for 0 point(s); accepted is …"),
    # --- grids and searches
    ("no grid of either kind", {"points_per_side": "None"}, "points_per_side: None is not accepted with point_grids: ''; accepted is a number without point_grids, or None together with point_grids: set both in one call."),
    ("both kinds of grid", {"point_grids": "[[0.5, 0.5]]"}, "points_per_side: 32 is not accepted with point_grids: '[[][[]0.5, 0.5]]'; accepted is a number without point_grids, or None together with point_grids: set both in one call."),
    ("both kinds of grid, one of 4000 digits", {"points_per_side": "1" + "0" * 4000, "point_grids": "[[0.5, 0.5]]"}, "points_per_side: 1000…000 is not accepted with point_grids: '[[][[]0.5, 0.5]]'; accepted is …"),
    ("an empty list of grids", {"points_per_side": "None", "point_grids": "[]"}, "points_per_side: None is not accepted with point_grids: '[[]]'; accepted is …"),
    ("an empty grid", {"points_per_side": "None", "point_grids": "[[]]"}, f"point_grids: [[][[]]] is not a list of lists of points; {FORM['grid']}."),
    ("a grid in pixels", {"points_per_side": "None", "point_grids": "[[64, 64]]"}, f"point_grids: layer 1: entry 1, [[]64.0, 64.0], is outside 0 to 1; {FORM['grid']}."),
    ("one grid for three layers", SEARCH | {"points_per_side": "None", "point_grids": "[[0.5, 0.5]]", "crop_n_layers": "2"}, "point_grids: 1 grid(s) for 3 layer(s); accepted is one grid for the image and one for each of crop_n_layers = 2."),
    ("a grid larger than the memory", SEARCH | {"points_per_side": "100000"}, f"points_per_side: 100000 with crop_n_layers: 0 {TOO_MANY}"),
    ("a grid of 4000 digits", SEARCH | {"points_per_side": "1" + "0" * 4000}, f"points_per_side: 1000…000 with crop_n_layers: 0 {TOO_MANY}"),
    ("crops without end", SEARCH | {"crop_n_layers": "50"}, f"points_per_side: 2 with crop_n_layers: 50 {TOO_MANY}"),
    ("a billion layers", SEARCH | {"crop_n_layers": "1000000000", "crop_n_points_downscale_factor": "4"}, f"points_per_side: 2 with crop_n_layers: 1000000000 {TOO_MANY}"),
    ("own points for crops without end", SEARCH | {"points_per_side": "None", "point_grids": rows_of("[[0.5, 0.5]]", 12), "crop_n_layers": "11"}, f"point_grids with crop_n_layers: 11 {TOO_MANY}"),
    # --- files
    ("weights that are not there", {"model_weight_file": "/nowhere/my.pt"}, f"model_weight_file: /nowhere/my.pt does not exist. {WEIGHTS}"),
    ("weights of nobody's home", {"model_weight_file": "~nobody-of-this-name/my.pt"}, f"model_weight_file: ~nobody-of-this-name/my.pt does not exist. {WEIGHTS}"),
    ("a folder for weights", {"model_weight_file": "{folder}"}, f"model_weight_file: {{folder}} is a folder. {WEIGHTS}"),
    ("a pipe for weights", {"model_weight_file": "{folder}/pipe"}, f"model_weight_file: {{folder}}/pipe is no ordinary file. {WEIGHTS}"),
    ("a device for weights", {"model_weight_file": "/dev/zero"}, f"model_weight_file: /dev/zero is no ordinary file. {WEIGHTS}"),
    ("a path of 300 characters", {"model_weight_file": "/tmp/" + "x" * 300}, f"model_weight_file: /tmp/xxx…xxx cannot be opened (File name too long). {WEIGHTS}"),
    ("a path of 50 MB", {"model_weight_file": "x" * 50_000_000}, f"model_weight_file: xxx…xxx cannot be opened (File name too long). {WEIGHTS}"),
    ("a NUL in a path", {"model_weight_file": "my\0.pt"}, f"model_weight_file: my\\x00.pt cannot be opened (embedded null byte). {WEIGHTS}"),
    ("a line break in a path", {"model_weight_file": "/tmp/my\n.pt"}, f"model_weight_file: /tmp/my\\n.pt does not exist. {WEIGHTS}"),
    ("an address for weights", {"model_weight_file": "https://example.org/my.pt"}, f"model_weight_file: https:/example.org/my.pt does not exist. {WEIGHTS}"),
    ("empty weights", {"model_weight_file": "{folder}/empty"}, f"model_weight_file: {{folder}}/empty is cut off or no checkpoint: it is not a complete torch.save or safetensors file. {WEIGHTS}"),
    ("a text for weights", {"model_weight_file": "{folder}/text"}, f"model_weight_file: {{folder}}/text is cut off or no checkpoint: it is not a complete torch.save or safetensors file. {WEIGHTS}"),
    ("a zip of photos for weights", {"model_weight_file": "{folder}/photos.zip"}, f"model_weight_file: {{folder}}/photos.zip is damaged or no checkpoint: torch cannot read it. {WEIGHTS}"),
    ("weights with one wrong bit", {"model_weight_file": "{folder}/flipped.pt"}, f"model_weight_file: {{folder}}/flipped.pt is damaged: what it holds as …/data/… is not what was written. {WEIGHTS}"),
    ("weights with a hole", {"model_weight_file": "{folder}/hole.pt"}, f"model_weight_file: {{folder}}/hole.pt is damaged: what it holds as …/data/… is not what was written. {WEIGHTS}"),
    ("weights of another model", {"model_name": "sam2_hiera_tiny", "model_weight_file": str(NANO)}, f"model_weight_file: {NANO} does not fit the config configs/sam2/sam2_hiera_t.yaml: tensors 91 missing (…), …. Accepted: model_name = sam2_hiera_nano with an empty config_file, or the YAML of these weights as config_file. Its image encoder is that of sam2_hiera_nano."),
    ("a config that is not there", {"config_file": "/nowhere/my.yaml"}, f"config_file '/nowhere/my.yaml' is neither a file nor a config inside the sam2 package; {YAML}"),
    ("a config of nobody's home", {"config_file": "~nobody-of-this-name/my.yaml"}, f"config_file '~nobody-of-this-name/my.yaml' is neither a file nor a config inside the sam2 package; {YAML}"),
    ("a folder for a config", {"config_file": "{folder}"}, f"config_file '{{folder}}' is a folder; {YAML}"),
    ("a pipe for a config", {"config_file": "{folder}/pipe"}, f"config_file '{{folder}}/pipe' is no ordinary file; {YAML}"),
    ("a device for a config", {"config_file": "/dev/zero"}, f"config_file '/dev/zero' is no ordinary file; {YAML}"),
    ("a config path of 300 characters", {"config_file": "x" * 300}, f"config_file 'xxx…xxx' cannot be opened (File name too long); {YAML}"),
    ("a NUL in a config path", {"config_file": "my\0.yaml"}, f"config_file 'my\\x00.yaml' cannot be opened (embedded null byte); {YAML}"),
    ("weights for a config", {"config_file": str(NANO)}, f"config_file {NANO} cannot be read: it is larger than 20000 bytes. Accepted: a YAML file like those in sam2/configs."),
    ("an empty config", {"config_file": "{folder}/empty"}, "config_file {folder}/empty: model: None is not accepted; accepted is a mapping with a _target_, as in the files of sam2/configs."),
    ("a training config", {"config_file": "configs/sam2.1_training/sam2.1_hiera_b+_MOSE_finetune.yaml"}, "config_file …_MOSE_finetune.yaml says how sam2 trains a model (it has a trainer), and is no config of a model. Accepted: configs/sam2.1/sam2.1_hiera_b+.yaml, the config of the model that it trains; or empty, with model_name set to that model."),
    ("a config with a negative size", {"config_file": "{folder}/image_size_-1.yaml"}, "config_file: the model that {folder}/image_size_-1.yaml describes fails (Trying to create tensor with negative dimension …). Accepted: the YAML with which the weights were trained."),
    # --- images
    ("no pixels", {}, "The input image is empty or missing. Accepted is an image of one pixel or more.", np.zeros((0, 0, 3), np.uint8)),
    ("no rows", {}, "The input image is empty or missing. Accepted is an image of one pixel or more.", np.zeros((0, 7), np.uint8)),
    ("no columns", {}, "The input image is empty or missing. Accepted is an image of one pixel or more.", np.zeros((7, 0, 3), np.float32)),
    ("no channels", {}, f"The input image has the shape (7, 7, 0); {SHAPES}", np.zeros((7, 7, 0), np.uint8)),
    ("one dimension", {}, f"The input image has the shape (7,); {SHAPES}", np.zeros(7, np.uint8)),
    ("a number for an image", {}, f"The input image has the shape (); {SHAPES}", np.array(7, np.uint8)),
    ("a batch of images", {}, f"The input image has the shape (1, 7, 7, 3); {SHAPES}", np.zeros((1, 7, 7, 3), np.uint8)),
    ("channels first", {}, f"The input image has the shape (3, 70, 80); {SHAPES}", np.zeros((3, 70, 80), np.uint8)),
    ("two channels", {}, f"The input image has the shape (7, 7, 2); {SHAPES}", np.zeros((7, 7, 2), np.float32)),
    ("five channels", {}, f"The input image has the shape (7, 7, 5); {SHAPES}", np.zeros((7, 7, 5), np.uint16)),
    ("600 channels", {}, f"The input image has the shape (7, 7, 600); {SHAPES}", np.zeros((7, 7, 600), np.uint8)),
    ("a point beside an image of one pixel", {"input_point": "[1, 0]"}, "input_point: entry 1, [[]1, 0], is outside the image; accepted is x from 0 to below 1 and y from 0 to below 1.", np.zeros((1, 1, 3), np.uint8)),
]
# fmt: on


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder of files that are no weights and no configs."""
    folder = tmp_path_factory.mktemp("bad files")
    os.mkfifo(folder / "pipe")
    (folder / "empty").touch()
    (folder / "text").write_text("not weights, - : [ not YAML", encoding="utf-8")
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("photo.jpg", "a photo")
    good = NANO.read_bytes()
    middle = len(good) // 2
    (folder / "flipped.pt").write_bytes(good[:middle] + bytes([good[middle] ^ 64]) + good[middle + 1 :])
    (folder / "hole.pt").write_bytes(good[:middle] + bytes(65536) + good[middle + 65536 :])
    for size in (100, -1):
        tree = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        tree["model"]["image_size"] = size
        (folder / f"image_size_{size}.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def session() -> SimpleNamespace:
    """One long session: a workflow that has run, and goes on after each row of the table."""
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow("a long session")
    algo = workflow.add_task(name=NAME, auto_connect=True)
    algo.set_parameters({"model_name": "sam2_hiera_nano", "cuda": "False"})
    good = dict(algo.get_parameters()) | GOOD
    del good["iou_thres"]  # the other name of iou_thresh, with the value of now
    session = SimpleNamespace(workflow=workflow, algo=algo, good=good, photo=photo())
    run_good(session)
    session.mask = algo.get_output(1).get_mask().copy()
    assert session.mask.any()
    return session


def run_good(session) -> None:
    session.algo.set_parameters(session.good)
    session.workflow.run_on(array=session.photo)


def state(algo) -> dict:
    """What a user would see change, but for the results."""
    return {
        "parameters": dict(algo.get_parameters()),
        "model": id(algo._segmenter),
        "weights": float(next(algo._segmenter.predictor.model.parameters()).sum()),
        "outputs": algo.get_output_count(),
    }


def results(algo) -> list:
    """All that the outputs and the methods of the task give; nothing where there is nothing."""
    if not algo.get_output(1).is_data_available():
        assert not any(output.is_data_available() for output in algo.get_outputs())
        assert algo.get_masks() == []
        for show in (
            algo.get_image_with_mask,
            lambda: algo.save_coco("/nowhere"),
            lambda: algo.save_labels("/nowhere"),
        ):
            with pytest.raises(ValueError, match="run the workflow first"):
                show()
        return []
    mask = algo.get_output(1).get_mask()
    np.testing.assert_array_equal(mask > 0, np.any(list(algo.get_masks()[0]), axis=0))
    return [mask.tobytes(), algo.get_image_with_mask().tobytes(), algo.get_output(1).get_class_names()]


def told(error: BaseException) -> tuple[str, str]:
    """Type and message of what the plugin raised, out of what Ikomia made of it."""
    match = re.fullmatch(r"<class '(?:[\w.]+\.)?(\w+)'>: (.*?):   File .*", str(error), re.DOTALL)
    assert match, f"this is Ikomia's own: {str(error)[:500]}"
    return match[1], match[2]


def fits(message: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(message, pattern.replace("…", "*"))


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_bad_input_is_refused_in_words_changes_nothing_and_the_next_run_works(session, files, row):
    what, params, says, *images = row
    params = {name: value.replace("{folder}", str(files)) for name, value in params.items()}
    run_good(session)
    before, good, was_run = state(session.algo), results(session.algo), False
    try:
        session.algo.set_parameters(params)
        was_run, before["parameters"] = True, dict(session.algo.get_parameters())  # by themselves the values are fine
        session.workflow.run_on(array=images[0] if images else session.photo)
    except RuntimeError as error:
        kind, message = told(error)
    else:
        pytest.fail(f"{what}: this is taken")

    assert fits(message, says.replace("{folder}", str(files))), f"{what}: {message[:1000]!r}"
    assert kind in ("ValueError", "CheckpointError")
    assert "ccepted" in message
    assert len(message) < 700
    for line in message.splitlines():
        assert re.split("[: ]", line)[0] in before["parameters"] or line.startswith("The input image")
    assert not re.search(r"Traceback|(Key|Index|Type|Attribute|Assertion|Recursion|Memory|OS)Error", message)

    assert state(session.algo) == before
    # Ikomia empties the outputs before each run: nothing of an earlier image may be left anywhere.
    assert results(session.algo) == ([] if was_run else good)
    run_good(session)
    np.testing.assert_array_equal(session.algo.get_output(1).get_mask(), session.mask)


def test_a_config_that_fits_the_weights_and_fails_is_named(session, files):
    config = files / "image_size_100.yaml"
    session.algo.set_parameters(session.good | {"config_file": str(config)})
    with pytest.raises(RuntimeError) as error:
        session.workflow.run_on(array=session.photo)
    says = f"config_file: the model that {config} describes fails (The size of tensor a (25) must match …). Accepted: the YAML with which the weights were trained."
    kind, message = told(error.value)
    assert fits(message, says), message
    assert kind == "ValueError"
    assert results(session.algo) == []
    run_good(session)
    np.testing.assert_array_equal(session.algo.get_output(1).get_mask(), session.mask)


def test_the_table_tries_eighty_things_and_more():
    assert len(TABLE) >= 80
    assert len({row[0] for row in TABLE}) == len(TABLE)


# ---------------------------------------------------------------- what looks bad and is not


ODD_BUT_GOOD = [
    ("blanks around", {"input_point": " \n[ 60 , 25 ]\t"}, GOOD),
    ("a tuple", {"input_point": "(60, 25)"}, GOOD),
    ("exponents", {"input_point": "[6e1, 2.5E+1]"}, GOOD),
    ("a label as a fraction", {"input_point_label": "[1.0]"}, GOOD),
    ("corners in the wrong order", {"input_point": "", "input_box": "[90, 70, 20, 5]"}, {"input_point": "", "input_box": "[20, 5, 90, 70]"}),
    ("a box far beyond the image", {"input_point": "", "input_box": "[-1e8, -1e8, 1e8, 1e8]"}, {"input_point": "", "input_box": "[0, 0, 128, 128]"}),
    ("minus zero", {"input_point": "[-0.0, 25]"}, {"input_point": "[0, 25]"}),
    ("None for files", {"model_weight_file": "None", "config_file": " None "}, GOOD),
    ("a batch of 4000 digits", SEARCH | {"points_per_batch": "9" * 4000}, SEARCH),
    ("a factor of 4000 digits", SEARCH | {"crop_n_points_downscale_factor": "9" * 4000}, SEARCH),
    ("an area of 4000 digits", SEARCH | {"min_mask_region_area": "9" * 4000}, SEARCH | {"min_mask_region_area": "100000"}),
    ("a smaller grid than its factor", SEARCH | {"crop_n_layers": "1", "crop_n_points_downscale_factor": "1" + "0" * 400}, SEARCH | {"crop_n_layers": "1", "crop_n_points_downscale_factor": "2"}),
]  # fmt: skip


@pytest.mark.parametrize(("what", "odd", "plain"), ODD_BUT_GOOD, ids=[row[0] for row in ODD_BUT_GOOD])
def test_what_only_looks_bad_works_like_its_plain_form(session, what, odd, plain):
    masks = []
    for params in (plain, odd):
        session.algo.set_parameters(session.good | params)
        session.workflow.run_on(array=session.photo)
        masks.append(session.algo.get_output(1).get_mask().copy())
    np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize(("threshold", "everything"), [("1e308", False), ("-1e308", True), ("-3.5e38", True)])
@pytest.mark.parametrize("params", [GOOD, SEARCH | {"stability_score_thresh": "0", "stability_score_offset": "1.7e308"}], ids=["a point", "a search"])  # fmt: skip
def test_the_utmost_thresholds_give_nothing_or_everything_without_a_warning(
    session, threshold, everything, params, recwarn
):
    session.algo.set_parameters(session.good | params | {"mask_threshold": threshold})
    session.workflow.run_on(array=session.photo)
    assert session.algo.get_output(1).get_mask().all() == everything
    assert session.algo.get_output(1).get_mask().any() == everything
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


IMAGES = {
    "every second column": lambda image: (image[:, ::2], image[:, ::2].copy()),
    "upside down": lambda image: (image[::-1], image[::-1].copy()),
    "colours swapped": lambda image: (image[..., ::-1], image[..., ::-1].copy()),
    "transposed": lambda image: (image.transpose(1, 0, 2), image.transpose(1, 0, 2).copy()),
    "one channel of it": lambda image: (image[..., 1], image[..., 1].copy()),
    "columns first": lambda image: (np.asfortranarray(image), image),
    "a window": lambda image: (image[3:120, 5:101], image[3:120, 5:101].copy()),
    "read-only": lambda image: (np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape), image),
    "the other byte order": lambda image: (image.astype(">u2") * 256, image.astype(np.uint16) * 256),
    "an np.matrix": lambda image: (np.matrix(image[..., 0]), image[..., 0].copy()),
    "a masked array": lambda image: (np.ma.masked_array(image, image > 99), image),
    "one channel in three dimensions": lambda image: (image[..., :1].copy(), image[..., 0].copy()),
    "signed bytes": lambda image: ((image // 2).astype(np.int8), (image // 2).astype(np.int16)),
    "32-bit integers": lambda image: (image.astype(np.int32) * 70000, image.astype(np.float64) * 70000),
    "64-bit integers": lambda image: (image.astype(np.int64) * 70000, image.astype(np.float64) * 70000),
    "infinities and NaN": lambda image: (
        np.where(image == image.max(), np.inf, np.where(image == 0, np.nan, image / 255.0)),
        np.where(image == image.max(), 255, image) / 255.0,
    ),
    "all NaN": lambda image: (np.full(image.shape, np.nan), np.zeros_like(image)),
    "all infinite": lambda image: (np.full(image.shape, -np.inf, np.float32), np.zeros_like(image)),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_in_an_odd_form_gives_the_masks_of_its_plain_form(session, kind):
    masks = []
    session.algo.set_parameters(session.good)
    for image in IMAGES[kind](session.photo):
        session.workflow.run_on(array=image)
        masks.append((session.algo.get_output(1).get_mask().copy(), session.algo.get_image_with_mask()))
    for odd, plain in zip(*masks, strict=True):
        np.testing.assert_array_equal(odd, plain)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20000, 3), (8000, 20, 4)])
@pytest.mark.parametrize(
    "params",
    [{"input_point": "[0, 0]"}, {"input_box": "[0, 0, 1, 1]"}, {"input_size_percent": "1"}],
    ids=["a point", "a box", "a search at 1 %"],
)
def test_an_image_of_any_proportions_is_segmented(session, shape, params):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    crops = {"crop_n_layers": "1", "stability_score_thresh": "0", "min_mask_region_area": "5"}
    session.algo.set_parameters(session.good | SEARCH | crops | params)
    session.workflow.run_on(array=image)
    assert session.algo.get_output(1).get_mask().shape == shape[:2]
    assert session.algo.get_image_with_mask().shape == (*shape[:2], 3)


# ---------------------------------------------------------------- what Ikomia itself refuses


OF_IKOMIA = {
    "booleans": lambda image: image > 99,
    "32-bit unsigned integers": lambda image: image.astype(np.uint32),
    "half precision": lambda image: image.astype(np.float16),
    "long doubles": lambda image: image.astype(np.longdouble),
    "complex numbers": lambda image: image.astype(complex),
    "Python objects": lambda image: image.astype(object),
    "text": lambda image: image.astype(str),
    "a list": lambda image: image.tolist(),
    "None": lambda image: None,
}


@pytest.mark.parametrize("kind", OF_IKOMIA)
def test_an_image_that_ikomia_refuses_changes_nothing(session, kind):
    run_good(session)
    before, good = state(session.algo), results(session.algo)
    with pytest.raises(Exception):  # noqa: B017 - Ikomia's affair
        session.workflow.run_on(array=OF_IKOMIA[kind](session.photo))
    assert state(session.algo) == before
    assert results(session.algo) in ([[]] if kind == "half precision" else (good, []))  # the plugin refuses that itself
    run_good(session)
    np.testing.assert_array_equal(session.algo.get_output(1).get_mask(), session.mask)


@pytest.mark.parametrize("name", ["nowhere.png", "text.png", "cut.png", "empty.png", "folder.png"])
def test_a_picture_that_ikomia_cannot_read_is_an_error_and_changes_nothing(session, tmp_path, name):
    from PIL import Image

    Image.fromarray(session.photo).save(tmp_path / "good.png")
    content = (tmp_path / "good.png").read_bytes()
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    (tmp_path / "cut.png").write_bytes(content[:40])
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    run_good(session)
    before, good = state(session.algo), results(session.algo)
    with pytest.raises(Exception):  # noqa: B017 - Ikomia's affair
        session.workflow.run_on(path=str(tmp_path / name))
    assert state(session.algo) == before
    assert results(session.algo) in (good, [])
    run_good(session)
    np.testing.assert_array_equal(session.algo.get_output(1).get_mask(), session.mask)


@pytest.mark.parametrize("params", [{"points_per_side": 8}, {"iou_thresh": None}, {"model_weight_file": "\ud800.pt"}])
def test_a_value_that_ikomia_cannot_pass_on_changes_nothing(session, params):
    before = dict(session.algo.get_parameters())
    with pytest.raises((TypeError, UnicodeEncodeError)):
        session.algo.set_parameters({"use_m2m": "False"} | params)
    assert dict(session.algo.get_parameters()) == before


# ---------------------------------------------------------------- other ways in


@pytest.mark.parametrize(
    "values", [{"iou_thresh": 7}, {"input_point": [[1, 2, 3]]}, {"input_point": [[1, "x"]]}, {"use_m2m": "?"}]
)
def test_python_values_are_refused_in_the_same_words(session, values):
    run_good(session)
    before, good = state(session.algo), results(session.algo)
    with pytest.raises(RuntimeError) as error:
        session.workflow.set_parameters(values, session.algo)
    kind, message = told(error.value)
    assert kind == "ValueError"
    assert message.startswith(f"{next(iter(values))}: ")
    assert "accepted is" in message
    assert (state(session.algo), results(session.algo)) == (before, good)


@pytest.mark.parametrize(
    "name", ["iou_treshold", "Points", "points per side", "", "model_name ", "iou_thresh\0", "x" * 10_000]
)
def test_a_name_that_no_parameter_has_is_refused_which_ikomia_alone_would_not(session, name):
    run_good(session)
    before, good = state(session.algo), results(session.algo)
    with pytest.raises(
        RuntimeError, match=r": there is no such parameter.*; accepted are model_name, .*, iou_thres\."
    ) as error:
        session.algo.set_parameters({"use_m2m": "False", name: "0.5"})
    assert len(str(error.value)) < 700
    assert (state(session.algo), results(session.algo)) == (before, good)


@pytest.mark.parametrize("changed", ["iou_thresh", "iou_thres"])
def test_a_copy_of_all_values_can_be_changed_under_either_name_of_a_parameter(session, changed):
    """Both names are in it, one with the new value and one with the current one."""
    session.algo.set_parameters(session.good)
    for value in ("0.7", "0.3", "0.5", "0.5"):
        session.algo.set_parameters(dict(session.algo.get_parameters()) | {changed: value})
        found = session.algo.get_parameters()
        assert (found["iou_thresh"], found["iou_thres"]) == (value, value)


def test_a_task_that_is_added_with_a_bad_value_says_so_and_the_session_goes_on(session):
    before = session.workflow.get_task_count()
    with pytest.raises(RuntimeError, match=r"iou_thresh: '7' is not accepted; accepted is a number from 0 to 1\."):
        session.workflow.add_task(name=NAME, params={"iou_thresh": "7"})
    assert session.workflow.get_task_count() == before
    run_good(session)
    np.testing.assert_array_equal(session.algo.get_output(1).get_mask(), session.mask)


@pytest.mark.parametrize("value", ["7", "nan", "", "[" * 1000])
def test_a_workflow_file_with_a_bad_value_says_so(session, tmp_path, value):
    from ikomia.dataprocess.workflow import Workflow

    session.algo.set_parameters(session.good)
    session.workflow.save(str(tmp_path / "good.json"))
    tree = json.loads((tmp_path / "good.json").read_text(encoding="utf-8"))
    bad = copy.deepcopy(tree)
    for task in bad["tasks"]:
        if task["task_data"]["name"] == NAME:
            for parameter in task["task_data"]["parameters"]:
                if parameter["name"] == "stability_score_thresh":
                    parameter["value"] = value
    assert bad != tree
    (tmp_path / "bad.json").write_text(json.dumps(bad), encoding="utf-8")
    with pytest.raises(
        RuntimeError, match=r"stability_score_thresh: .* is not accepted; accepted is a number from 0 to 1\."
    ):
        Workflow().load(str(tmp_path / "bad.json"))
    good = Workflow()
    good.load(str(tmp_path / "good.json"))
    good.run_on(array=session.photo)
    (algo,) = good.find_task(NAME)
    np.testing.assert_array_equal(algo.get_output(1).get_mask(), session.mask)


@pytest.mark.parametrize("method", ["save_coco", "save_labels"])
@pytest.mark.parametrize("name", ["", "nowhere/masks.png", "text/masks.png"])
def test_results_that_cannot_be_written_are_an_error_and_stay(session, files, tmp_path, method, name):
    (tmp_path / "text").touch()
    run_good(session)
    before, good = state(session.algo), results(session.algo)
    with pytest.raises((OSError, ValueError)) as error:  # a folder's name ends as that of no label image
        getattr(session.algo, method)(str(tmp_path / name))
    assert str(tmp_path) in str(error.value)
    assert (state(session.algo), results(session.algo)) == (before, good)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text"]
