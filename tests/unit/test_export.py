"""Masks in files: pycocotools and Pillow read back what was written."""

from __future__ import annotations

import dataclasses
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from infer_segment_anything_2.segmentation.export import save_coco, save_labels, to_coco
from infer_segment_anything_2.segmentation.masks import Masks, encode


def squares(count: int, hw: tuple[int, int] = (40, 60), side: int = 8, stability: bool = False) -> Masks:
    """Squares along the diagonal, overlapping."""
    masks = np.zeros((count, *hw), bool)
    for k in range(count):
        at = (k * 3) % (min(hw) - side)
        masks[k, at : at + side, at : at + side + k % 3] = True
    scores = np.linspace(0.5, 1, count, dtype=np.float32)
    return Masks(hw, [encode(m) for m in masks], scores, scores / 2 if stability else np.zeros(0, np.float32))


def test_pycocotools_reads_masks_boxes_and_scores(tmp_path):
    images = {"a.jpg": squares(3, stability=True), "b/ü.png": squares(2, (30, 20)), "empty.jpg": squares(0)}
    save_coco(tmp_path / "masks.json", images)
    coco = COCO(str(tmp_path / "masks.json"))
    assert [coco.imgs[i]["file_name"] for i in (1, 2, 3)] == list(images)
    assert coco.cats[1]["name"] == "object"
    for image_id, masks in enumerate(images.values(), start=1):
        found = coco.loadAnns(coco.getAnnIds(image_id))
        assert (coco.imgs[image_id]["height"], coco.imgs[image_id]["width"]) == masks.image_hw
        assert len(found) == len(masks)
        for annotation, mask, score in zip(found, masks, masks.scores, strict=True):
            assert np.array_equal(coco.annToMask(annotation).astype(bool), mask)
            assert annotation["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert annotation["score"] == pytest.approx(score)
    assert coco.anns[1]["stability_score"] == pytest.approx(0.25)
    assert "stability_score" not in coco.anns[4]


def test_every_key_of_a_file_is_as_coco_defines_it():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2:5] = True
    tree = to_coco({"a.jpg": Masks((4, 5), [encode(mask)], np.ones(1, np.float32))})
    assert tree == {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 5}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "segmentation": {"size": [4, 5], "counts": encode(mask)["counts"].decode()},
                "area": 6,
                "bbox": [2, 1, 3, 2],
                "score": 1,
            }
        ],
        "categories": [{"id": 1, "name": "object", "supercategory": "object"}],
    }


@pytest.mark.parametrize(("count", "terminal", "seen"), [(19, True, False), (20, True, True), (20, False, False)])
@pytest.mark.parametrize("known", [True, False], ids=["a mapping", "a generator"])
def test_a_bar_is_drawn_for_many_images_in_a_terminal(monkeypatch, count, terminal, seen, known):
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stderr)
    images = {f"{k}.jpg": squares(1) for k in range(count)}
    to_coco(images if known else (pair for pair in images.items()))
    shown = stderr.getvalue()
    assert ("COCO" in shown) == (seen or (terminal and not known))  # of how many, a generator does not say
    assert f"/{count} " in shown or not (seen and known)
    assert shown == "" or shown.endswith("\r")  # the line is free again


def test_results_may_be_generated_one_at_a_time():
    tree = to_coco((f"{k}.jpg", squares(1)) for k in range(3))
    assert [image["file_name"] for image in tree["images"]] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [annotation["image_id"] for annotation in tree["annotations"]] == [1, 2, 3]


def test_a_file_is_replaced_in_full_or_not_at_all(tmp_path):
    path = tmp_path / "masks.json"
    save_coco(path, {"a": squares(1)})

    def breaks():
        yield "a", squares(2)
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        save_coco(path, breaks())
    with pytest.raises(ValueError, match="65536 masks: accepted are at most 65535"):
        save_labels(path, Masks((1, 1), [encode(np.ones((1, 1), bool))] * 65536, np.zeros(65536, np.float32)))
    assert len(json.loads(path.read_text())["annotations"]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["masks.json"]


@pytest.mark.parametrize(("count", "bits"), [(0, 8), (255, 8), (256, 16), (600, 16)])
def test_labels_have_as_many_bits_as_they_need(tmp_path, count, bits):
    masks = squares(count, (400, 500))
    save_labels(tmp_path / "labels.png", masks)
    assert (tmp_path / "labels.png").read_bytes()[24] == bits  # of a sample (PNG specification, IHDR)
    labels = np.array(Image.open(tmp_path / "labels.png"))
    expected = np.zeros(masks.image_hw, int)
    for k in sorted(range(count), key=lambda k: -masks.areas[k]):
        expected[masks[k]] = k + 1
    assert np.array_equal(labels, expected)


def test_a_label_image_carries_the_names_of_its_labels(tmp_path):
    masks = dataclasses.replace(squares(3), names=["cup", "", "Größe, 茶碗"])
    save_labels(tmp_path / "labels.png", masks)
    with Image.open(tmp_path / "labels.png") as image:
        assert json.loads(image.text["names"]) == ["background", "cup", "mask 2 (0.75)", "Größe, 茶碗"]


def test_the_task_saves_its_last_run(workflow, algo, astronaut, tmp_path):
    with pytest.raises(ValueError, match="no masks to save yet: run the workflow first"):
        algo.save_coco(str(tmp_path / "masks.json"))
    algo.set_parameters({"input_box": "[[150, 20, 300, 200], [290, 340, 510, 510]]", "multimask_output": "True"})
    workflow.run_on(array=astronaut)
    algo.save_coco(str(tmp_path / "masks.json"), file_name="astronaut.png", candidate=2)
    coco = COCO(str(tmp_path / "masks.json"))
    assert coco.imgs[1]["file_name"] == "astronaut.png"
    labels = algo.get_output(3).get_mask()
    assert np.array_equal(coco.annToMask(coco.anns[2]) > 0, algo.get_masks()[2][1])
    algo.save_labels(str(tmp_path / "labels.png"), candidate=2)
    assert np.array_equal(np.array(Image.open(tmp_path / "labels.png")), labels)
    with pytest.raises(ValueError, match="candidate is 3; accepted is 0 to 2"):
        algo.save_labels(str(tmp_path / "labels.png"), candidate=3)
