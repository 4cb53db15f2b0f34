"""Images as they come into a workflow: files of every kind, and what is shown of 16 bits and floats."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tifffile
from conftest import NAME
from PIL import Image
from skimage import data

from infer_segment_anything_2.segmentation.images import has_low_contrast, to_rgb8

BOX = "[20, 10, 90, 110]"


def photograph() -> np.ndarray:
    """(128, 128, 3) uint8."""
    return np.ascontiguousarray(data.astronaut()[::4, ::4])


def mask_of(workflow, algo, **source) -> np.ndarray:
    workflow.run_on(**source)
    return algo.get_output(1).get_mask().copy()


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4", "f8"])
def test_a_tiff_is_segmented_as_its_array_and_of_several_pages_the_first(workflow, algo, tmp_path, dtype):
    pages = np.stack([photograph()[..., 1], photograph()[::-1, :, 1]]).astype(dtype) * np.array(100, dtype)
    tifffile.imwrite(tmp_path / "pages.tif", pages, photometric="minisblack")
    algo.set_parameters({"input_box": BOX})
    by_array = mask_of(workflow, algo, array=pages[0])
    assert by_array.any()
    np.testing.assert_array_equal(mask_of(workflow, algo, path=str(tmp_path / "pages.tif")), by_array)


def test_a_file_is_turned_as_its_exif_data_say(workflow, algo, tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # orientation: a quarter turn to the right
    Image.fromarray(photograph()[:100]).save(tmp_path / "turned.jpg", exif=exif)
    algo.set_parameters({"input_box": BOX})
    assert mask_of(workflow, algo, path=str(tmp_path / "turned.jpg")).shape == (128, 100)


@pytest.mark.parametrize(
    "image", [np.zeros((40, 50, 5), np.uint8), np.zeros((40, 50, 3), np.float16)], ids=["five bands", "float16"]
)
def test_a_file_that_ikomia_does_not_read_is_named_with_what_is_accepted(workflow, algo, tmp_path, image):
    path = tmp_path / "bands.tif"
    tifffile.imwrite(path, image, planarconfig="contig", photometric="minisblack")
    with pytest.raises(
        RuntimeError, match=r"ValueError'>: The input image .*bands\.tif is .*Accepted are 1, 3 or 4 channels"
    ):
        workflow.run_on(path=str(path))


@pytest.mark.parametrize(
    "how", [{}, {"compression": "zlib"}, {"tile": (64, 64)}, {"bigtiff": True}, {"byteorder": ">"}]
)
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_a_tiff_whose_bands_lie_apart_is_refused_or_its_bands_would_be_mixed(workflow, algo, tmp_path, dtype, how):
    bands = np.moveaxis(photograph(), -1, 0).astype(dtype) * np.array(16, dtype)
    tifffile.imwrite(tmp_path / "apart.TIF", bands, photometric="rgb", planarconfig="separate", **how)
    algo.set_parameters({"input_box": BOX})
    with pytest.raises(
        RuntimeError, match=r"ValueError'>: apart\.TIF is a TIFF whose bands .* accepted is one that stores"
    ):
        workflow.run_on(path=str(tmp_path / "apart.TIF"))


def test_other_tiffs_are_taken_as_their_arrays(workflow, algo, tmp_path):
    colours = photograph()
    algo.set_parameters({"input_box": BOX})
    for image, how in (
        (np.moveaxis(colours, -1, 0), {"planarconfig": "separate"}),  # of 8 bits it is read right
        (colours.astype(np.uint16) * 16, {"planarconfig": "contig"}),
        (colours.astype(np.uint16) * 16, {"planarconfig": "contig", "bigtiff": True}),
    ):
        tifffile.imwrite(tmp_path / "colours.tif", image, photometric="rgb", **how)
        array = colours if image.dtype == np.uint8 else image
        by_array = mask_of(workflow, algo, array=array)
        np.testing.assert_array_equal(mask_of(workflow, algo, path=str(tmp_path / "colours.tif")), by_array)


def test_an_array_of_float16_is_refused_in_a_sentence_and_the_next_image_runs(workflow, algo):
    algo.set_parameters({"input_box": BOX})
    before = mask_of(workflow, algo, array=photograph())
    with pytest.raises(RuntimeError, match=r"ValueError'>: The input image holds float16, .*accepted is image\.astype"):
        workflow.run_on(array=(photograph() / 255).astype(np.float16))
    np.testing.assert_array_equal(mask_of(workflow, algo, array=photograph()), before)


def test_a_range_is_used_by_the_run_and_by_what_shows_its_image(workflow, algo):
    deep = photograph().astype(np.uint16) * 16
    algo.set_parameters({"input_box": BOX})
    as_8_bits, shown = mask_of(workflow, algo, array=photograph()), algo.get_image_with_mask()
    algo.set_parameters({"intensity_range": "[0, 4080]"})
    np.testing.assert_array_equal(mask_of(workflow, algo, array=deep), as_8_bits)
    np.testing.assert_array_equal(algo.get_image_with_mask(), shown)
    algo.set_parameters({"intensity_range": ""})
    workflow.run_on(array=deep)
    assert (algo.get_image_with_mask() != shown).any()


@pytest.mark.parametrize("track", ["False", "True"])
@pytest.mark.parametrize(("low", "high"), [(0, 1.2), (18, 38)], ids=["reflectance", "degrees"])
def test_floats_shown_in_few_grey_values_are_warned_of_once(workflow, algo, caplog, track, low, high):
    """As a reflectance that exceeds 1 in two pixels of a hundred: 99% of it lie within [0, 255], not within [0, 1]."""
    usual = photograph().astype(np.float32) / 255
    few = low + usual * (high - low)
    few[:3] = high
    with_bad_pixels = few.copy()  # a dead and a hot one are no contrast
    with_bad_pixels[9, 9:11] = [[0] * 3, [300] * 3]
    assert has_low_contrast(with_bad_pixels, to_rgb8(with_bad_pixels))
    algo.set_parameters({"input_box": BOX, "track": track})
    for image, intensity_range, warned in (
        (photograph().astype(np.float32), "", 0),
        (usual, "", 0),
        (np.zeros_like(usual), "", 0),
        (few, f"[{low}, {high}]", 0),
        (few, "", 1),
        (few[::-1], "", 1),
        (with_bad_pixels, "", 1),
    ):
        algo.set_parameters({"intensity_range": intensity_range})
        if track == "True":
            algo.start_video()
        workflow.run_on(array=np.ascontiguousarray(image))
        assert caplog.text.count("The image has hardly any contrast to the model") == warned


def test_probable_mistakes_are_warned_of_once_for_each_prompt(workflow, algo, caplog):
    said = []
    for prompt in ({"input_point": "[0.5, 0.25]"}, {"input_point": "", "input_box": "[90, 100, 20, 30]"}):
        algo.set_parameters(prompt)
        for _ in range(2):
            with caplog.at_level(logging.WARNING):
                workflow.run_on(array=photograph())
        said.append([r.message for r in caplog.records if r.message.startswith("input_")])
        caplog.clear()
    assert [len(messages) for messages in said] == [1, 1]
    assert "look like fractions" in said[0][0]
    assert "x, y, width, height?" in said[1][0]


def test_a_misspelt_name_is_dropped_by_ikomia_where_a_task_is_added_and_named_where_it_is_set(workflow):
    algo = workflow.add_task(name=NAME, params={"points_per_sid": "16"})
    assert "points_per_sid" not in algo.get_parameters()
    with pytest.raises(
        RuntimeError, match=r"points_per_sid: there is no such parameter \(did you mean points_per_side"
    ):
        algo.set_parameters({"points_per_sid": "16"})
