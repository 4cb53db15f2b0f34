"""Masks in files: pycocotools, OpenCV and Pillow read back what was written.

What supervision and Ultralytics read: tests/install/read_exports.py, for which `make test-install` installs both.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import ikomia  # noqa: F401 - brings cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from infer_segment_anything_2.segmentation import export
from infer_segment_anything_2.segmentation.export import get_polygons, save_coco, save_labels, save_yolo, to_coco
from infer_segment_anything_2.segmentation.locks import one_at_a_time
from infer_segment_anything_2.segmentation.masks import Masks, empty, encode

import cv2  # isort: skip


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


def test_a_mask_without_a_stability_is_written_without_it(tmp_path):
    """As where no logit of a mask comes near its cutoff: sam2 divides nothing by nothing, and keeps the mask."""
    masks = squares(2, stability=True)
    masks.stability_scores[0] = np.nan
    save_coco(tmp_path / "masks.json", {"a.jpg": masks})
    first, second = COCO(str(tmp_path / "masks.json")).anns.values()
    assert "stability_score" not in first
    assert second["stability_score"] == 0.5


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


@pytest.mark.parametrize(
    ("count", "terminal", "seen"), [(19, True, False), (20, True, True), (20, False, False), (20, None, False)]
)
@pytest.mark.parametrize("known", [True, False], ids=["a mapping", "a generator"])
def test_a_bar_is_drawn_for_many_images_in_a_terminal(monkeypatch, count, terminal, seen, known):
    """None: without a stderr, as in an application with windows."""
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", None if terminal is None else stderr)
    images = {f"{k}.jpg": squares(1) for k in range(count)}
    to_coco(images if known else (pair for pair in images.items()))
    shown = stderr.getvalue()
    assert ("COCO" in shown) == bool(seen or (terminal and not known))  # of how many, a generator does not say
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
        save_labels(
            tmp_path / "labels.png", Masks((1, 1), [encode(np.ones((1, 1), bool))] * 65536, np.zeros(65536, np.float32))
        )
    assert len(json.loads(path.read_text())["annotations"]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["masks.json"]


RING = np.zeros((12, 16), bool)
RING[2:9, 3:10] = True
RING[4:7, 5:8] = False
PARTS = RING.copy()
PARTS[10:, 12:] = True


def named(*names: str, hw: tuple[int, int] = (12, 16)) -> Masks:
    """One mask for each name, each of another place."""
    found = []
    for k in range(len(names)):
        mask = np.zeros(hw, bool)
        mask[1 + k : 4 + k, 2 : 9 + k] = True
        found.append(mask)
    return Masks(hw, [encode(m) for m in found], np.ones(len(names), np.float32), names=names)


def read_yolo(path, hw, cut=np.floor) -> list[tuple[int, np.ndarray]]:
    """Index and mask of each line, drawn as readers draw it: cut off as Ultralytics does, or rounded as supervision does."""
    found = []
    for line in path.read_text().splitlines():
        index, *values = line.split()
        polygon = np.array(values, np.float32).reshape(-1, 2) * np.float32(hw[::-1])
        canvas = np.zeros(hw, np.uint8)
        cv2.fillPoly(canvas, [cut(polygon).astype(np.int32)], 1)
        found.append((int(index), canvas.astype(bool)))
    return found


def names_in(folder) -> dict[int, str]:
    return yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["names"]


def test_pycocotools_makes_the_same_masks_of_polygons_holes_and_parts_included(tmp_path):
    masks = Masks((12, 16), [encode(RING), encode(PARTS), empty((12, 16))], np.ones(3, np.float32))
    save_coco(tmp_path / "masks.json", {"a.jpg": masks}, polygons=True, tolerance=0)
    coco = COCO(str(tmp_path / "masks.json"))
    assert [len(coco.anns[k]["segmentation"]) for k in (1, 2)] == [1, 2]
    assert isinstance(coco.anns[3]["segmentation"], dict)
    for k, mask in enumerate(masks, start=1):
        np.testing.assert_array_equal(coco.annToMask(coco.anns[k]).astype(bool), mask)
        assert coco.anns[k]["area"] == mask.sum()
    without = to_coco({"a.jpg": masks})["annotations"]
    assert [a | {"segmentation": 0} for a in coco.anns.values()] == [a | {"segmentation": 0} for a in without]


def test_polygons_are_lists_for_each_mask_and_its_parts():
    outlines = get_polygons(Masks((12, 16), [encode(PARTS), empty((12, 16))], np.ones(2, np.float32)), tolerance=0)
    assert [len(parts) for parts in outlines] == [2, 0]
    assert outlines[0][1].tolist() == [[12, 10], [16, 10], [16, 12], [12, 12]]


@pytest.mark.parametrize("cut", [np.floor, np.round], ids=["cut off", "rounded"])
@pytest.mark.parametrize("hw", [(12, 16), (480, 641), (4000, 6001)])
def test_yolos_polygons_are_the_masks_again_for_readers_that_cut_off_and_that_round(tmp_path, cut, hw):
    first, second = np.zeros(hw, bool), np.zeros(hw, bool)
    first[:12, :16] = RING
    second[-12:, -16:] = ~RING
    masks = Masks(hw, [encode(first), empty(hw), encode(second)], np.ones(3, np.float32))
    save_yolo(tmp_path / "a.txt", masks, tolerance=0)
    lines = read_yolo(tmp_path / "a.txt", hw, cut)
    assert [index for index, _ in lines] == [0, 0]
    np.testing.assert_array_equal(lines[0][1], first)
    # Its second part is joined by a line of pixels.
    assert (lines[1][1] & second).sum() == second.sum()
    assert (lines[1][1] & ~second).sum() <= 4
    assert names_in(tmp_path) == {0: "object"}


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (2, 2)])
def test_the_smallest_masks_have_three_points_as_readers_want(tmp_path, shape):
    mask = np.zeros((12, 16), bool)
    mask[3 : 3 + shape[0], 4 : 4 + shape[1]] = True
    save_yolo(tmp_path / "a.txt", Masks((12, 16), [encode(mask)], np.ones(1, np.float32)))
    assert len((tmp_path / "a.txt").read_text().split()) >= 7
    ((_, drawn),) = read_yolo(tmp_path / "a.txt", (12, 16))
    np.testing.assert_array_equal(drawn, mask)


def test_names_are_yolos_classes_and_keep_their_index_from_file_to_file(tmp_path):
    save_yolo(tmp_path / "a.txt", named("pot", "taxi", "pot"))
    assert names_in(tmp_path) == {0: "pot", 1: "taxi"}
    save_yolo(tmp_path / "b.txt", named("cup", "taxi", ""))
    assert names_in(tmp_path) == {0: "pot", 1: "taxi", 2: "cup", 3: "object"}
    assert [[index for index, _ in read_yolo(tmp_path / f"{name}.txt", (12, 16))] for name in "ab"] == [
        [0, 1, 0],
        [2, 1, 3],
    ]


def test_masks_without_a_name_have_index_0_beside_named_ones(tmp_path):
    save_yolo(tmp_path / "a.txt", named("pot", ""))
    assert names_in(tmp_path) == {0: "object", 1: "pot"}
    assert [index for index, _ in read_yolo(tmp_path / "a.txt", (12, 16))] == [1, 0]


@pytest.mark.parametrize("listed", ["names: [taxi, pot]", "names:\n  0: taxi\n  1: pot\n"])
def test_a_data_yaml_that_is_there_keeps_its_names_and_all_else(tmp_path, listed):
    (tmp_path / "data.yaml").write_text(f"train: images\n{listed}\n")
    before = (tmp_path / "data.yaml").read_bytes()
    save_yolo(tmp_path / "a.txt", named("pot"))
    assert (tmp_path / "data.yaml").read_bytes() == before
    save_yolo(tmp_path / "b.txt", named("Größe"))
    tree = yaml.safe_load((tmp_path / "data.yaml").read_text(encoding="utf-8"))
    assert tree == {"train": "images", "names": {0: "taxi", 1: "pot", 2: "Größe"}}


def test_the_number_of_classes_in_a_data_yaml_grows_with_its_names(tmp_path):
    (tmp_path / "data.yaml").write_text("nc: 1\nnames: [taxi]\n")
    save_yolo(tmp_path / "a.txt", named("pot", "taxi", "cup"))
    tree = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert tree == {"nc": 3, "names": {0: "taxi", 1: "pot", 2: "cup"}}


@pytest.mark.parametrize("text", ["nc: 3", "names: 5", "[", "names: {first: pot}", ""])
def test_a_data_yaml_without_names_is_refused_and_stays(tmp_path, text):
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(
        ValueError, match=r"data\.yaml cannot be read \(.*\); accepted is YAML with the names of classes"
    ):
        save_yolo(tmp_path / "a.txt", named("pot"))
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("data.yaml", text)]


def a_folder_in_its_place(folder, monkeypatch) -> None:
    (folder / "data.yaml.lock").mkdir()


def a_disk_without_locks(folder, monkeypatch) -> None:
    def refuses(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", refuses)


@pytest.mark.parametrize(
    ("prepare", "why"),
    [(a_folder_in_its_place, "Is a directory"), (a_disk_without_locks, "No locks available")],
)
@pytest.mark.parametrize(("name", "masks"), [("a.txt", named("pot")), ("", {"a.jpg": named("pot")})])
def test_where_data_yaml_cannot_be_locked_nothing_is_written_and_a_sentence_says_so(
    tmp_path, monkeypatch, prepare, why, name, masks
):
    path = tmp_path / name
    prepare(tmp_path, monkeypatch)
    with pytest.raises(OSError) as caught:
        save_yolo(path, masks)
    assert str(caught.value).endswith(f"] {why}, so that the lock data.yaml.lock cannot be taken: '{path}'")
    assert {p.name for p in tmp_path.iterdir()} == {"data.yaml.lock"}


def test_who_waits_for_a_lock_that_is_never_free_gives_up_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LONGEST_WAIT", 0.3)
    with ThreadPoolExecutor(1) as pool, one_at_a_time(tmp_path / "data.yaml"):
        saved = pool.submit(save_yolo, tmp_path / "a.txt", named("pot"))
        with pytest.raises(
            TimeoutError, match=r"it has not been free for 0\.3 seconds, so that the lock data\.yaml\.lock "
        ):
            saved.result(60)
    assert not list(tmp_path.iterdir())


def test_a_lock_that_a_killed_process_left_is_no_obstacle_and_goes(tmp_path):
    (tmp_path / "data.yaml.lock").touch()
    save_yolo(tmp_path / "a.txt", named("pot"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "data.yaml"]


def test_many_images_become_a_folder_of_labels(tmp_path):
    pairs = [("a.jpg", named("taxi")), ("below/b.c.png", named()), ("below/a.jpg", named("pot", "taxi"))]
    save_yolo(tmp_path / "labels", (pair for pair in pairs), names=["pot"])
    assert names_in(tmp_path / "labels") == {0: "pot", 1: "taxi"}
    files = {p.relative_to(tmp_path / "labels").as_posix(): p for p in (tmp_path / "labels").rglob("*.txt")}
    assert set(files) == {"a.txt", "below/b.c.txt", "below/a.txt"}
    assert [index for index, _ in read_yolo(files["below/a.txt"], (12, 16))] == [0, 1]
    assert files["below/b.c.txt"].read_text() == ""


@pytest.mark.parametrize("many", [False, True])
def test_names_that_are_given_again_leave_those_that_followed_them_their_indices(tmp_path, many):
    def save(file: str, masks: Masks, names: list[str]) -> None:
        save_yolo(*((tmp_path, {file: masks}) if many else (tmp_path / file, masks)), names=names)

    save("a.txt", named("dog"), ["cat"])
    save("b.txt", named("bird"), ["cat"])
    assert names_in(tmp_path) == {0: "cat", 1: "dog", 2: "bird"}
    assert [index for index, _ in read_yolo(tmp_path / "b.txt", (12, 16))] == [2]
    with pytest.raises(ValueError, match=r"^names: bird would have the index 1, which .*data\.yaml gives to dog"):
        save("c.txt", named("bird"), ["cat", "bird"])
    assert names_in(tmp_path) == {0: "cat", 1: "dog", 2: "bird"}
    assert not (tmp_path / "c.txt").exists()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"../a.jpg": named()}, r"^image: '\.\./a\.jpg' is not accepted; accepted is a path relative to "),
        ({"/a.jpg": named()}, r"^image: '/a\.jpg' is not accepted; accepted is a path relative to "),
        (
            {"a.jpg": named(), "a.png": named()},
            r"^images: the labels of a\.jpg and a\.png are both a\.txt; accepted is one of them\.",
        ),
    ],
)
def test_images_whose_labels_would_lie_elsewhere_or_replace_others_are_refused(tmp_path, images, message):
    with pytest.raises(ValueError, match=message):
        save_yolo(tmp_path / "labels", images)
    assert [p.name for p in tmp_path.iterdir()] == ["labels"]


@pytest.mark.parametrize(
    ("suffix", "count", "dtype"),
    [
        (".png", 0, np.uint8),
        (".png", 255, np.uint8),
        (".png", 600, np.uint16),
        (".PNG", 1, np.uint8),
        (".tif", 255, np.uint8),
        (".tiff", 256, np.uint16),
    ],
)
def test_labels_have_as_many_bits_as_they_need_in_the_kind_of_file_that_the_name_says(tmp_path, suffix, count, dtype):
    masks = squares(count, (400, 500))
    path = tmp_path / f"labels{suffix}"
    save_labels(path, masks)
    assert Image.open(path).format == ("PNG" if suffix.lower() == ".png" else "TIFF")
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == dtype
    expected = np.zeros(masks.image_hw, int)
    for k in sorted(range(count), key=lambda k: -masks.areas[k]):
        expected[masks[k]] = k + 1
    assert np.array_equal(labels, expected)
    assert np.array_equal(np.array(Image.open(path)), expected)


@pytest.mark.parametrize("name", ["x.jpg", "x.gif", "x", "x.png.bak"])
def test_a_kind_of_file_that_would_change_labels_or_that_is_unknown_is_refused(tmp_path, name):
    with pytest.raises(
        ValueError, match=rf"{name}' is not accepted; accepted is a file that ends with \.png, \.tif, \.tiff"
    ):
        save_labels(tmp_path / name, squares(1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("a.json", lambda path: save_coco(path, {"a.jpg": squares(1)})),
        ("a.txt", lambda path: save_yolo(path, squares(1))),
        ("a.png", lambda path: save_labels(path, squares(1))),
    ],
)
def test_a_folder_that_is_missing_or_a_file_is_told_by_the_path_that_was_given(tmp_path, name, save):
    with pytest.raises(FileNotFoundError) as missing:
        save(tmp_path / "missing" / name)
    assert str(missing.value).endswith(f"'{tmp_path / 'missing' / name}'")
    (tmp_path / name).mkdir()
    with pytest.raises(OSError) as is_folder:
        save(tmp_path / name)
    assert str(is_folder.value).endswith(f"'{tmp_path / name}'")
    assert [p.name for p in tmp_path.iterdir()] == [name]


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

    mask = algo.get_masks()[2][1]
    algo.save_coco(str(tmp_path / "polygons.json"), candidate=2, polygons=True, tolerance=0)
    coco = COCO(str(tmp_path / "polygons.json"))
    assert np.array_equal(coco.annToMask(coco.anns[2]) > 0, mask)
    outlines = [polygon.ravel().tolist() for polygon in algo.get_polygons(candidate=2, tolerance=0)[1]]
    assert outlines == coco.anns[2]["segmentation"]
    algo.save_yolo(str(tmp_path / "labels.txt"), candidate=2)
    _, (index, drawn) = read_yolo(tmp_path / "labels.txt", astronaut.shape[:2])
    assert index == 0
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.9
