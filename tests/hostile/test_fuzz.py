"""Anything at all for prompts, parameters, images and configs: a value of the right kind, or an error that says what is accepted.

FUZZ_EXAMPLES=40000 tries a hundred times as much.
"""

# ruff: noqa: E501 - lists of values
from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import NAME, ROOT
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from infer_segment_anything_2.bridge.wire import ALIASES, check_names, from_text, to_text
from infer_segment_anything_2.segmentation import parameters as declared
from infer_segment_anything_2.segmentation import prompt_text as prompting
from infer_segment_anything_2.segmentation.checkpoints import MODEL_NAMES
from infer_segment_anything_2.segmentation.config import read_config
from infer_segment_anything_2.segmentation.images import resize_percent, to_rgb8
from infer_segment_anything_2.segmentation.objects import kinds, typed_objects
from infer_segment_anything_2.segmentation.parameters import Parameters
from infer_segment_anything_2.segmentation.request import make_request

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 400))
UNHURRIED = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


def fuzz(share: float = 1):
    """Settings for so many examples of EXAMPLES."""
    return settings(
        max_examples=max(int(EXAMPLES * share), 10),
        deadline=None,
        suppress_health_check=UNHURRIED,
        derandomize=EXAMPLES <= 1000,  # the suite tries the same ones everywhere
    )


# ---------------------------------------------------------------- text that is nearly right

PIECES = st.sampled_from(
    [
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        ",",
        ":",
        '"',
        "'",
        " ",
        "\n",
        "\t",
        "\x00",
        "-",
        "+",
        ".",
        "e",
        "_",
        "%",
        "$",
        "\\",
        "/",
        "0",
        "1",
        "9",
        "255",
        "-0",
        "1e3",
        "1e-9",
        "1e400",
        "-1e400",
        "1e39",
        "0x1",
        "9" * 40,
        "9" * 400,
        "9" * 5000,
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "inf",
        "null",
        "None",
        "true",
        "false",
        "True",
        "array(",
        "٣",
        "１",
        "½",
        "−",
        "\u200b",
        "\ufeff",
        "\xa0",
        "\u2028",
        "é",
        "🦄",
        "\x7f",
        "\x1b",
    ]
)
SINGLE = st.characters(exclude_categories=["Cs"])


@st.composite
def mutated(draw, texts: st.SearchStrategy[str]) -> str:
    """A text of `texts` with some pieces taken out, put in, doubled or swapped."""
    text = draw(texts)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(start + draw(st.integers(0, 6)), len(text))
        what = draw(st.integers(0, 3))
        piece = draw(PIECES | SINGLE)
        if what == 0:
            text = text[:start] + piece + text[end:]
        elif what == 1:
            text = text[:start] + text[start:end] * draw(st.integers(0, 3)) + text[end:]
        elif what == 2:
            text = text[:start] + piece + text[start:]
        else:
            text = text[start:] + text[:start]
    return text


numbers = st.integers(-5, 600) | st.floats(-1e10, 1e10, allow_subnormal=False) | st.floats(0, 1, allow_subnormal=False)
point = st.lists(numbers, min_size=2, max_size=2)
box = st.lists(numbers, min_size=4, max_size=4)
label = st.integers(0, 1)
unit_point = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=2)
VALID_JSON = {
    "input_point": point | st.lists(point, max_size=5),
    "input_box": box | st.lists(box, max_size=5),
    "input_point_label": label | st.lists(label, max_size=6),
    "point_grids": st.lists(unit_point, max_size=4)
    | st.lists(st.lists(unit_point, min_size=1, max_size=3), max_size=3),
}
PARSERS = {
    "input_point": prompting.parse_points,
    "input_box": prompting.parse_boxes,
    "input_point_label": prompting.parse_labels,
    "point_grids": prompting.parse_point_grids,
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(SINGLE, max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(SINGLE, max_size=3), inner, max_size=3),
    max_leaves=15,
)
any_text = st.text(SINGLE, max_size=60) | st.lists(PIECES, max_size=20).map("".join)
written = anything.map(json.dumps) | anything.map(str)


def prompt_text(name: str) -> st.SearchStrategy[str]:
    good = (
        VALID_JSON[name].map(json.dumps)
        | VALID_JSON[name].map(str)
        | VALID_JSON[name].map(lambda v: json.dumps(v, indent=1))
    )
    return good | mutated(good) | mutated(written) | any_text


def is_told(message: str) -> bool:
    """Whether each line names a parameter and what is accepted, is short and prints."""
    return (
        all(
            re.split(": ", line)[0] in {*declared.DECLARATION, *ALIASES} and "accepted" in line and len(line) < 800
            for line in message.split("\n")
        )
        and message.replace("\n", "").isprintable()
    )


def tried(function, *args) -> tuple[Any, str]:
    """The value and an empty text, or None and what the ValueError says; any other exception is a fault."""
    try:
        return function(*args), ""
    except ValueError as error:
        return None, str(error)


@fuzz()
@given(st.data())
def test_any_text_is_a_prompt_or_an_error_that_names_the_parameter(data):
    name = data.draw(st.sampled_from(list(PARSERS)))
    text = data.draw(prompt_text(name))
    found, refusal = tried(PARSERS[name], text)
    if refusal:
        assert is_told(refusal), refusal
        return
    if name == "point_grids":
        assert found is None or all(
            g.ndim == 2 and g.shape[1] == 2 and len(g) and ((g >= 0) & (g <= 1)).all() for g in found
        )
    else:
        assert found.dtype == (np.int32 if name == "input_point_label" else np.float32)
        assert np.isfinite(found).all()
    if name == "input_box":
        assert (found[:, 2:] > found[:, :2]).all()


sizes = st.integers(1, 9000)


@fuzz()
@given(st.data(), sizes, sizes)
def test_any_prompts_fit_the_image_or_are_refused(data, height, width):
    near = st.sampled_from(
        [0.0, 1.0, width - 1.0, float(width), width + 1.0, height - 1.0, float(height), -0.0, -1e-30, -1.0, 1e-30]
    )
    value = (near | st.floats(-1e9, 1e9, width=32, allow_subnormal=False)).map(np.float32)
    points = np.array(data.draw(st.lists(st.tuples(value, value), max_size=5)), np.float32).reshape(-1, 2)
    labels = np.array(data.draw(st.lists(label, max_size=5)), np.int32)
    corners = np.array(data.draw(st.lists(st.tuples(value, value, value, value), max_size=4)), np.float32).reshape(
        -1, 2, 2
    )
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    found, refusal = tried(typed_objects, points, labels, boxes, (height, width))
    if refusal:
        assert is_told(refusal), refusal
        return
    assert len(found) == (len(boxes) or min(len(points), 1))
    assert sum(len(thing.points) for thing in found) == len(points)
    assert sorted(k for of_kind in kinds(found) for k in of_kind) == list(range(len(found)))
    for thing in found:
        assert len(thing.points) == len(thing.labels)
        assert ((thing.points >= 0) & (thing.points < [width, height])).all()
        assert (thing.box is None) == (not len(boxes))
        if thing.box is not None:
            assert ((thing.box >= 0) & (thing.box <= [width, height] * 2)).all()
            assert (thing.box[2:] > thing.box[:2]).all()


# ---------------------------------------------------------------- parameters

VALID: dict[str, st.SearchStrategy[str]] = {
    "model_name": st.sampled_from(MODEL_NAMES),
    "model_weight_file": st.sampled_from(["", "None", "/a/b.pt", "~/x.pt"]),
    "config_file": st.sampled_from(["", "configs/sam2/sam2_hiera_t.yaml", "x.yaml"]),
    **{name: VALID_JSON[name].map(json.dumps) for name in VALID_JSON},
}
for name in declared.DECLARATION:
    kind = declared.type_name(name)
    if kind == "bool":
        VALID[name] = st.sampled_from(["True", "False", "1", "0", "yes", "off"])
    elif kind.startswith("int"):
        VALID[name] = st.integers(-1, 120).map(str) | st.sampled_from(["None", "1.0", "1" + "0" * 30, "1" + "0" * 4000])
    elif kind == "float":
        VALID[name] = st.floats(-0.1, 1.1, allow_subnormal=False).map(str) | st.sampled_from(
            ["0", "1", "1e308", "-1e308"]
        )
NAMES = [*VALID, *ALIASES]


def value_of(name: str) -> st.SearchStrategy[str]:
    good = VALID[ALIASES.get(name, name)]
    return good | good | mutated(good) | any_text


@st.composite
def parameter_map(draw) -> dict[str, str]:
    names = draw(st.lists(st.sampled_from(NAMES), max_size=5, unique=True))
    values = {name: draw(value_of(name)) for name in names}
    if draw(st.booleans()):  # a grid of one's own needs both
        values |= {"points_per_side": "None", "point_grids": draw(prompt_text("point_grids"))}
    return values


START = Parameters(cuda=False)


@fuzz()
@given(parameter_map(), parameter_map())
def test_any_values_are_taken_or_refused_each_by_its_name_and_what_is_taken_comes_back(first, second):
    current = START
    for values in (first, second):
        before = current.model_dump()
        new, refusal = tried(from_text, current, values)
        if refusal:
            assert is_told(refusal), refusal
            assert current.model_dump() == before
            continue
        text = to_text(new)
        assert all(type(value) is str for value in text.values())
        assert from_text(START, text) == new
        assert from_text(new, text) == new
        assert declared.faults({n: v for n, v in text.items() if n not in ALIASES}) == {}
        declared.label_fault(new)
        _, refusal = tried(make_request, new, [], (40, 50))
        assert not refusal or is_told(refusal.replace("point_grids with", "point_grids: with")), refusal
        current = new


def set_as_ikomia_does(current: Parameters, values: dict[str, str]) -> Parameters:
    """What `algo.set_parameters` comes to: the core adds all other values, and drops names that it does not know."""
    known = to_text(current)
    return from_text(current, known | {n: v for n, v in values.items() if n in known})


@fuzz(0.5)
@given(st.lists(parameter_map(), min_size=1, max_size=5))
def test_setting_the_same_values_again_changes_nothing(steps):
    current = START
    for values in steps:
        before = current
        new, refusal = tried(set_as_ikomia_does, current, values)
        if refusal:
            assert is_told(refusal), refusal
            assert current == before
            continue
        if not {*ALIASES} & {*values} or not {*ALIASES.values()} & {*values}:  # by one name, whichever
            assert set_as_ikomia_does(new, values) == new
        current = new


@fuzz(0.3)
@given(st.dictionaries(any_text | mutated(st.sampled_from(NAMES)), any_text, max_size=3))
def test_any_name_is_known_or_refused_with_those_that_are(values):
    _, refusal = tried(check_names, values)
    if refusal:
        assert "there is no such parameter" in refusal
        assert "accepted are model_name, " in refusal
        assert refusal.isprintable()
        assert len(refusal) < 800
    else:
        assert set(values) <= set(NAMES)


# ---------------------------------------------------------------- images

DTYPES = [
    "?",
    "u1",
    "i1",
    "u2",
    "i2",
    "u4",
    "i4",
    "u8",
    "i8",
    "f2",
    "f4",
    "f8",
    "g",
    ">u2",
    ">f4",
    "c8",
    "O",
    "U1",
    "M8[s]",
]


@st.composite
def images(draw, dtypes: list[str], most_pixels: int) -> np.ndarray:
    """An array from 1x1 to 8000x20 pixels, of any dtype and number of channels, often not contiguous."""
    short_side = draw(st.integers(0, 20) if draw(st.integers(0, 9)) == 0 else st.integers(1, 20))
    long_side = draw(st.integers(1, 8000) if draw(st.booleans()) else st.integers(1, 60))
    height, width = (short_side, long_side)[:: draw(st.sampled_from([1, -1]))]
    channels = draw(st.sampled_from([(), (), (1,), (3,), (3,), (3,), (4,), (4,), (2,), (5,), (0,), (3, 1)]))
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    if height * width > most_pixels:
        height = min(height, 20)
        width = min(width, 20)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (height, width, *channels)
    kind = draw(st.integers(0, 4))
    values = [
        lambda: random.integers(0, 256, shape),
        lambda: random.random(shape),
        lambda: random.normal(0, 10.0 ** random.integers(-300, 300), shape),
        lambda: np.full(shape, random.choice([0, 1, 255, 65535, -1, 1e30, np.nan, np.inf, -np.inf])),
        lambda: random.choice([0, 1, 255, 256, -5, 1e300, -1e300, np.nan, np.inf, -np.inf], shape),
    ][kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = values.astype(dtype) if dtype.kind not in "MU" else np.zeros(shape, dtype)
    view = draw(st.integers(0, 6))
    if view == 1:
        array = array[::-1]
    elif view == 2:
        array = array[:, ::-2]
    elif view == 3:
        array = array.swapaxes(0, 1)
    elif view == 4:
        array = np.asfortranarray(array)
    elif view == 5 and array.ndim == 3:
        array = array[..., ::-1]
    elif view == 6:
        array.flags.writeable = False
    return array


@fuzz(0.5)
@given(images(DTYPES, 200_000), st.integers(1, 100))
def test_any_array_is_an_8_bit_rgb_image_or_refused_by_its_shape_or_dtype(array, percent):
    before = array.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image, refusal = tried(to_rgb8, array)
        if refusal:
            assert re.match(r"The input image (has the shape|is empty|holds)", refusal)
            assert "accepted " in refusal
            is_bad = array.size == 0 or array.ndim not in (2, 3) or array.dtype.kind not in "biuf"
            assert is_bad or array.shape[2] not in (1, 3, 4)
            return
        small = resize_percent(image, percent)
    assert image.shape == (*array.shape[:2], 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert min(small.shape[:2]) >= 1
    assert small.shape[2] == 3
    assert array.tobytes() == before.tobytes() or array.dtype.kind == "O"


# ---------------------------------------------------------------- configs

GOOD_CONFIG = (ROOT / "models" / "sam2_hiera_nano.yaml").read_text(encoding="utf-8")
YAML_PIECES = st.sampled_from(
    [
        ": ",
        "- ",
        "? ",
        "&a ",
        "*a",
        "!!int ",
        "!!bool ",
        "!!float ",
        "!!timestamp ",
        "!!binary ",
        "!!set ",
        "!!python/name:os.system ",
        "<<: ",
        "|\n",
        ">\n",
        "---\n",
        "...\n",
        "%YAML 9\n",
        "#",
        "${",
        "}",
        "${oc.env:HOME}",
        "~",
        "[",
        "]",
        "{",
        "}",
        "\t",
        "  ",
        "_target_: os.system\n",
        "_args_: [1]\n",
        "_partial_: true\n",
        "defaults: [x]\n",
        "0x" + "f" * 999,
        "1:1:1",
        "2001-01-01",
        "1e400",
    ]
)


@st.composite
def configs(draw) -> str:
    lines = GOOD_CONFIG.splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(lines) - 1))
        column = draw(st.integers(0, len(lines[place])))
        piece = draw(YAML_PIECES | PIECES | SINGLE)
        what = draw(st.integers(0, 3))
        if what == 0:
            lines[place] = lines[place][:column] + piece + lines[place][column:]
        elif what == 1:
            lines[place] = lines[place][:column] + piece + "\n"
        elif what == 2:
            lines[place] = draw(st.sampled_from(lines))
        else:
            del lines[place]
    return "".join(lines)


@pytest.fixture(scope="module")
def config_path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("configs") / "mine.yaml"


@fuzz(0.3)
@given(configs())
@example(GOOD_CONFIG)
def test_any_config_is_a_tree_of_sam2s_own_classes_or_refused_by_its_name(config_path, text):
    config_path.write_text(text, encoding="utf-8")
    tree, refusal = tried(read_config, str(config_path))
    if refusal:
        assert refusal.startswith(f"config_file {config_path}"), refusal
        assert re.search("[Aa]ccepted", refusal), refusal
        assert refusal.isprintable()
        assert len(refusal) < 900
    else:
        targets = re.findall(r"'_target_': ('?[^,}]*)", str(tree))
        assert all(target.startswith("'sam2.") for target in targets)


# ---------------------------------------------------------------- all of it at work


class Session(SimpleNamespace):
    """What goes on whatever comes."""

    def __repr__(self) -> str:
        return "the session"


@pytest.fixture(scope="module")
def session() -> Session:
    """A workflow with the bundled model, which goes on whatever comes."""
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow("fuzz")
    algo = workflow.add_task(name=NAME, auto_connect=True)
    algo.set_parameters({"model_name": "sam2_hiera_nano", "cuda": "False", "points_per_side": "2", "use_m2m": "False"})
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    good = dict(algo.get_parameters())
    session = Session(workflow=workflow, algo=algo, good=good, image=image)
    session.expected = masks_of_a_good_run(session)
    return session


def masks_of_a_good_run(session) -> bytes:
    session.algo.set_parameters(session.good | {"input_point": "[20, 20]"})
    session.workflow.run_on(array=session.image)
    return session.algo.get_output(1).get_mask().tobytes()


QUICK = {"points_per_side": "2", "crop_n_layers": "0", "model_name": "sam2_hiera_nano", "points_per_batch": "16"}
#: Files are tried one by one elsewhere.
RUN_NAMES = [name for name in NAMES if name not in {*QUICK, "model_weight_file", "config_file", "cuda", "point_grids"}]


@st.composite
def run_map(draw) -> dict[str, str]:
    names = draw(st.lists(st.sampled_from(RUN_NAMES), max_size=4, unique=True))
    small = st.integers(-1, 30)
    values = {
        "input_point": st.lists(st.lists(small, min_size=2, max_size=2), max_size=3).map(json.dumps),
        "input_box": st.lists(st.lists(small, min_size=4, max_size=4), max_size=3).map(json.dumps),
    }
    return {name: draw(values.get(name, VALID[ALIASES.get(name, name)]) | value_of(name)) for name in names}


@fuzz(0.1)
@given(run_map(), images(["?", "u1", "i1", "u2", "i2", "i4", "f4", "f8"], 20_000))
def test_any_image_and_any_values_are_segmented_or_refused_and_the_session_goes_on(session, values, image):
    algo = session.algo
    algo.set_parameters(session.good)
    if image.dtype == bool:  # which Ikomia does not take
        image = image.astype(np.uint8)
    refusal = ""
    try:
        algo.set_parameters(values | QUICK)
        session.workflow.run_on(array=image)
    except RuntimeError as error:
        refusal = str(error)
    if refusal:
        kind = re.match(r"<class '(?:[\w.]+\.)?(\w+)'>: (.*?):   File ", refusal, re.DOTALL)
        assert kind, refusal
        assert kind[1] == "ValueError"
        assert kind[2].startswith("The input image") or is_told(kind[2]), kind[2]
    else:
        assert algo.get_output(1).get_mask().shape == image.shape[:2]
        assert algo.get_image_with_mask().shape == (*image.shape[:2], 3)
        assert len(algo.get_output(1).get_class_names()) == min(len(algo.get_masks()[0]), 255) + 1
    assert masks_of_a_good_run(session) == session.expected
