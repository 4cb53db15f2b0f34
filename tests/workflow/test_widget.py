"""The Studio panel, driven by keys and clicks: every parameter can be seen and set, and nothing bad is sent.

The same tests run with ikomia 0.16 and PyQt6, and with ikomia 0.15 and PyQt5; without PyQt they are skipped. Run them by
`pytest tests/workflow/test_widget.py`, alone: PyQt has to be imported before ikomia (seen with 0.15.1 and PyQt5 5.15.11).
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

BINDING = next((name for name in ("PyQt6", "PyQt5") if find_spec(name)), None)
if BINDING is None:
    pytest.skip("no PyQt is installed", allow_module_level=True)
QtCore, QtGui, QtWidgets, QtTest = (import_module(f"{BINDING}.Qt{m}") for m in ("Core", "Gui", "Widgets", "Test"))

from hypothesis import HealthCheck, example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from ikomia import core  # noqa: E402

from infer_segment_anything_2 import infer_segment_anything_2_widget as module  # noqa: E402
from infer_segment_anything_2.bridge.drawings import drawn_objects  # noqa: E402
from infer_segment_anything_2.bridge.wire import InferSegmentAnything2Param, News, to_text  # noqa: E402
from infer_segment_anything_2.bridge.wire import from_text as update  # noqa: E402
from infer_segment_anything_2.infer_segment_anything_2_process import InferSegmentAnything2Factory  # noqa: E402
from infer_segment_anything_2.segmentation import parameters as declared  # noqa: E402
from infer_segment_anything_2.segmentation.parameters import DECLARATION, Parameters  # noqa: E402

pytestmark = pytest.mark.qt

QTest, Key, LEFT = QtTest.QTest, QtCore.Qt.Key, QtCore.Qt.MouseButton.LeftButton
CONTROL = QtCore.Qt.KeyboardModifier.ControlModifier
SHAPES = core.GraphicsShape
NUMBERS = [n for n in DECLARATION if declared.type_name(n).split()[0] in ("int", "float")]
CHOICES = [n for n in DECLARATION if declared.about(n)["choices"]]
SWITCHES = [n for n in DECLARATION if declared.type_name(n) == "bool"]
ADVANCED = [n for n, field in DECLARATION.items() if field.json_schema_extra["group"] == declared.ADVANCED]
RARE = ["model_weight_file", "config_file", "apply_postprocessing", "input_size_percent", "intensity_range"]
FOLDED = {**dict.fromkeys(ADVANCED, "advanced"), **dict.fromkeys(RARE, "rare")}
FIRST = ["Foreground", SHAPES.POINT]  # what a panel sends to Studio when it appears


@pytest.fixture(scope="module")
def app():
    app = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
    app.setStyle("Fusion")
    set_text_height(app, 13)
    return app


def set_text_height(app, pixels: int) -> None:
    font = app.font()
    font.setPixelSize(pixels)  # a point is not the same in both generations
    app.setFont(font)


class Driver:
    """A panel on the screen, the ways of a user to work it, and a record of what it sends to Studio."""

    def __init__(self, app, param: InferSegmentAnything2Param | None, width: int = 380) -> None:
        driver = self
        self.app, self.sent, self.emitted, self.actions = app, [], [], []
        self.act = lambda action: None  # Studio has the task execute it, before the call returns

        class Panel(module.InferSegmentAnything2Widget):
            def emit_apply(self, param):
                driver.sent.append(param.get_values())

            def emit_set_graphics_tool(self, tool):
                driver.emitted.append(tool)

            def emit_set_graphics_category(self, category):
                driver.emitted.append(category)

            def emit_send_process_action(self, action):
                driver.actions.append(action)
                driver.act(action)

        self.panel = Panel(param, None)
        self.window = self.panel.layout.parentWidget().window()
        self.window.resize(width, 700)
        self.window.show()
        app.processEvents()

    def find(self, name: str):
        found = self.window.findChild(QtWidgets.QWidget, name)
        assert found is not None, name
        return found

    def click(self, name: str) -> None:
        widget = self.find(name)
        where = QtCore.QPoint(10, widget.height() // 2)  # of a check box only its text and its box react
        QTest.mouseClick(widget, LEFT, QtCore.Qt.KeyboardModifier.NoModifier, where)
        self.app.processEvents()

    def type(self, name: str, text: str) -> None:
        """Put `text` in the place of what stands in the editor."""
        editor = self.find(name)
        editor.setFocus()
        QTest.keyClick(editor, Key.Key_A, CONTROL)
        QTest.keyClick(editor, Key.Key_Delete)
        QTest.keyClicks(editor, text)
        self.app.processEvents()

    def press(self, name: str, *keys) -> None:
        self.find(name).setFocus()
        for key in keys:
            QTest.keyClick(self.find(name), key)

    def unfold(self) -> None:
        for name in ("rare", "advanced"):
            if not self.find(name).isChecked():
                self.click(name)

    def apply(self) -> dict[str, str] | None:
        """Press Apply; what was sent, None for nothing."""
        before = len(self.sent)
        self.click("CProcessBtn")
        assert len(self.sent) <= before + 1
        return self.sent[-1] if len(self.sent) > before else None

    def text(self, name: str) -> str:
        """What a label says, without the invisible places to break it at; empty when it is not shown."""
        label = self.find(name)
        return "" if label.isHidden() else label.text().replace("\u200b", "")


@pytest.fixture
def open_panel(app, monkeypatch):
    """Opens panels; fails the test if one of them raised where Qt called it, which would end Studio."""
    raised, drivers = [], []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: raised.append(error))

    def opened(param: InferSegmentAnything2Param | None = None, width: int = 380) -> Driver:
        drivers.append(Driver(app, param, width))
        return drivers[-1]

    yield opened
    for driver in drivers:
        driver.window.close()
    app.processEvents()
    assert not raised


@pytest.fixture
def driver(open_panel):
    return open_panel(param_with())


def param_with(**values) -> InferSegmentAnything2Param:
    param = InferSegmentAnything2Param()
    param.values = Parameters(**({"cuda": False} | values))
    return param


# --- building


def test_the_panel_uses_the_binding_of_the_installed_ikomia(driver):
    assert module.qt.__name__ == f"{BINDING}.QtWidgets"
    assert isinstance(driver.find("model_name"), QtWidgets.QComboBox)


def test_the_factory_makes_a_panel_with_and_without_parameters(app):
    factory = module.InferSegmentAnything2WidgetFactory()
    assert factory.name == "infer_segment_anything_2"
    assert factory.create(None).parameters.get_values() == to_text(Parameters())
    param = param_with(points_per_side=7)
    assert factory.create(param).parameters is param


def test_a_panel_opens_without_torch_where_no_gpu_is_to_be_asked_about():
    """It takes seconds to import, in which Studio would stand still."""
    code = f"""
import sys
from {BINDING} import QtWidgets
app = QtWidgets.QApplication([])
from infer_segment_anything_2.infer_segment_anything_2_widget import InferSegmentAnything2Widget
panel = InferSegmentAnything2Widget(None, None)
panel.layout.parentWidget().window().show()
app.processEvents()
loaded = {{"torch", "sam2", "hydra", "torchvision"}} & set(sys.modules)
import torch
assert not loaded or torch.cuda.is_available(), loaded
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=os.environ["HOME"])


@pytest.mark.parametrize("name", DECLARATION)
def test_every_parameter_has_one_editor_with_its_name_label_and_help(driver, name):
    assert len(driver.window.findChildren(QtWidgets.QWidget, name)) == 1
    editor = driver.find(name)
    for words in (DECLARATION[name].description, declared.accepted(name)):
        assert module.on_the_panel(words).replace("&", "&amp;").replace("<", "&lt;") in editor.toolTip()
    assert f"Parameter: {name}</qt>" in editor.toolTip()
    title = DECLARATION[name].title
    assert editor.accessibleName() == title
    shown = [w.text() for w in driver.window.findChildren(QtWidgets.QLabel) if w.buddy() is editor]
    assert (shown or [editor.text()]) == [title]


@pytest.mark.parametrize("name", NUMBERS)
def test_limits_are_those_of_the_declaration(driver, name):
    editor = driver.find(name)
    assert (editor.minimum(), editor.maximum()) == declared.limits(name)[:2]


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_can_be_chosen(driver, name):
    box = driver.find(name)
    assert [box.itemText(i) for i in range(box.count())] == list(declared.about(name)["choices"])


def test_the_tools_are_in_sight_in_a_small_panel(open_panel):
    driver = open_panel(param_with(), 360)
    driver.window.resize(360, 760)
    driver.app.processEvents()
    for name in (*module.TOOLS, *module.CATEGORIES, "object_name", "next_object", "live", "input_point", "CProcessBtn"):
        widget = driver.find(name)
        assert widget.visibleRegion().boundingRect().size() == widget.size(), name


def test_groups_follow_one_another_and_the_rare_ones_are_folded(driver):
    groups = driver.window.findChildren(QtWidgets.QGroupBox)
    assert [g.title() for g in groups] == ["Prompt", "Model", "Automatic mode", "Output"]
    for name, field in DECLARATION.items():
        group = field.json_schema_extra["group"]
        box = next(g for g in groups if g.title() == (declared.AUTOMATIC if name in ADVANCED else group))
        assert box.isAncestorOf(driver.find(name))
        assert driver.find(name).isVisible() == (name not in FOLDED)
    for heading in ("rare", "advanced"):
        driver.click(heading)
        assert {n for n in FOLDED if driver.find(n).isVisible()} == {n for n in FOLDED if FOLDED[n] == heading}
        driver.click(heading)
    assert not any(driver.find(name).isVisible() for name in FOLDED)


def test_the_tab_key_goes_through_the_panel_from_top_to_bottom(driver):
    driver.unfold()
    first = widget = driver.find("tool_point")
    stops = []
    while widget.nextInFocusChain() is not first:
        stops.append(widget.objectName())
        widget = widget.nextInFocusChain()
    named = [
        n for n in stops if n in DECLARATION or n in ("object_name", "next_object", "save_coco", "save_labels", "reset")
    ]
    places = [driver.find(n).mapTo(driver.panel.content, QtCore.QPoint(0, 0)).y() for n in named]
    assert len(places) == len(DECLARATION) + 5
    assert places == sorted(places)


def test_nothing_flashes_up_while_a_panel_is_built(app):
    shown = []

    class Watch(QtCore.QObject):
        def eventFilter(self, watched, event):  # noqa: N802 - Qt's name
            if event.type() == QtCore.QEvent.Type.Show and watched.isWidgetType() and watched.isWindow():
                shown.append(watched)
            return False

    watch = Watch()
    app.installEventFilter(watch)
    module.InferSegmentAnything2Widget(param_with(cuda=True), None)
    app.removeEventFilter(watch)
    assert shown == []


# --- round trip


def any_value_of(name: str) -> st.SearchStrategy:
    """Every legal value of a parameter, by its declaration."""
    low, high, is_open = declared.limits(name)
    coordinate = st.integers(0, 10**6) | st.floats(0, 1e6, allow_subnormal=False)
    points = st.lists(st.tuples(coordinate, coordinate), max_size=4)
    return {
        "bool": st.booleans(),
        "int": st.integers(low, high),
        "int or None": st.integers(low, high),
        # ikomia (0.15.1 and 0.16.1) has the processor treat subnormal numbers as zero, for the whole process.
        "float": st.floats(
            low, high, exclude_max=is_open, allow_nan=False, allow_infinity=False, allow_subnormal=False
        ),
        "str": {
            "model_weight_file": st.sampled_from(["", __file__, f" {__file__}"]),  # one that is there
            "config_file": st.text(st.characters(exclude_categories=["Cs"])),
        }.get(name, st.sampled_from(list(declared.about(name)["choices"]) or [""])),
        "JSON": {
            "input_point": points.map(str),
            "input_box": points.map(lambda found: str([[x, y, x + 7, y + 9.5] for x, y in found])),
            "input_point_label": st.lists(st.integers(0, 1)).map(str) | st.sampled_from(["", "0", "1"]),
            "point_grids": st.just(""),
            "intensity_range": st.sampled_from(["", "[0, 4095]", "[-1.5, 1e30]"]),
        }.get(name),
    }[declared.type_name(name)]


own_grid = st.sampled_from([{}, {"points_per_side": None, "point_grids": "[[[0.5, 0.25], [1, 0]]]"}])


def with_areas_in_order(values: dict) -> dict:
    """The values with a smallest area that is not above the largest."""
    areas = sorted((values["min_mask_area"], values["max_mask_area"]))
    return values | dict(zip(("min_mask_area", "max_mask_area"), areas, strict=True))


any_parameters = st.builds(
    lambda values, grid: Parameters(**(with_areas_in_order(values) | grid)),
    st.fixed_dictionaries({name: any_value_of(name) for name in DECLARATION}),
    own_grid,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_parameters)
@example(Parameters(cuda=True, crop_n_layers=0, stability_score_offset=7.25, mask_threshold=-1.7976931348623157e308))
@example(
    Parameters(
        points_per_side=None, point_grids="[[0.5, 0.5]]", iou_thresh=0.1234567890123456, crop_overlap_ratio=1e-300
    )
)
@example(Parameters(points_per_side=10**40, min_mask_region_area=2**31, crop_n_layers=2**63, points_per_batch=10**300))
@example(Parameters(config_file="a\nb\tc\u2028d\x00e " + "f" * 40000, input_point="[[1, 2],\n [3, 4]]"))
@example(Parameters(input_point="[1, 2]", input_point_label="[1, 0, 1]"))
def test_parameters_go_through_the_panel_unchanged(round_trip, parameters):
    round_trip.panel.parameters.values = parameters
    round_trip.panel.on_parameters_changed()
    assert round_trip.apply() == to_text(parameters)
    assert round_trip.panel.parameters.values == parameters
    assert round_trip.text("message") == ""


@pytest.fixture
def round_trip(open_panel):
    return open_panel(param_with())


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("crop_n_layers", 0, "0"),
        ("stability_score_offset", 2.5, "2.5"),
        ("points_per_side", 64, "64"),
        ("min_mask_region_area", 10**12, "1000000000000"),
        ("crop_overlap_ratio", 512 / 1500, "0.341333"),
        ("mask_threshold", -1.25, "-1.25"),
    ],
)
def test_a_number_is_shown(open_panel, name, value, text):
    driver = open_panel(param_with(**{name: value}))
    assert driver.find(name).text() == text


def test_points_per_side_none_is_shown_as_such(open_panel):
    driver = open_panel(param_with(points_per_side=None, point_grids="[[0.5, 0.5]]"))
    assert driver.find("points_per_side").text() == "None"
    assert driver.apply()["points_per_side"] == "None"


def test_the_panel_follows_parameters_that_change_elsewhere(driver):
    driver.type("iou_thresh", "not yet applied")
    values = {"model_name": "sam2.1_hiera_large", "use_m2m": "False", "points_per_side": "9", "input_point": "[1, 2]"}
    driver.panel.parameters.set_values(driver.panel.parameters.get_values() | values)
    driver.panel.on_parameters_changed()
    assert driver.find("model_name").currentText() == "sam2.1_hiera_large"
    assert not driver.find("use_m2m").isChecked()
    assert driver.find("points_per_side").text() == "9"
    assert driver.find("input_point").text() == "[1, 2]"
    assert (driver.find("iou_thresh").text(), driver.text("note_iou_thresh")) == ("0.8", "")
    assert driver.text("checkpoint_state").startswith("224.4 million parameters; ")
    assert "898 MB" in driver.text("checkpoint_state")


# --- editing

TYPED = {
    "input_size_percent": "50",
    "points_per_side": "16",
    "points_per_batch": "128",
    "iou_thresh": "0.5",
    "stability_score_thresh": "0.123456789",
    "stability_score_offset": "3.5",
    "mask_threshold": "-0.25",
    "box_nms_thresh": "1",
    "crop_nms_thresh": "0",
    "crop_n_layers": "2",
    "crop_overlap_ratio": "0.999",
    "crop_n_points_downscale_factor": "3",
    "min_mask_region_area": "5000000000",
    "min_mask_area": "100",
    "max_mask_area": "5000000000",
    "model_weight_file": __file__,
    "config_file": "configs/sam2/sam2_hiera_t.yaml",
    "input_box": "[[1, 2, 3, 4], [5, 6, 7, 8]]",
    "input_point": "[[10, 20], [30, 40.5]]",
    "input_point_label": "[1, 0]",
}


def test_what_is_typed_and_clicked_is_sent(driver):
    driver.unfold()
    for name, text in TYPED.items():
        driver.type(name, text)
    for name in SWITCHES:
        if name != "cuda":
            driver.press(name, Key.Key_Space)
    driver.press("model_name", Key.Key_Down)
    driver.press("mask_id", Key.Key_Down)
    sent = driver.apply()
    expected = update(Parameters(cuda=False), TYPED)
    switched = {name: not getattr(expected, name) for name in SWITCHES if name != "cuda"}
    assert sent == to_text(update(expected, switched | {"model_name": "sam2_hiera_base_plus", "mask_id": "best"}))


@pytest.mark.parametrize("name", [n for n in SWITCHES if n not in FOLDED and n != "cuda"])
def test_a_switch_is_switched_by_a_click_and_by_space(driver, name):
    before = driver.find(name).isChecked()
    driver.click(name)
    assert driver.apply()[name] == str(not before)
    driver.press(name, Key.Key_Space)
    assert driver.apply()[name] == str(before)


def test_own_points_replace_the_grid(driver):
    driver.type("point_grids", "[[[0.5, 0.5]]]")
    assert "None together with “Point grids”" in driver.text("note_points_per_side")
    assert driver.apply() is None
    driver.type("points_per_side", "none")
    assert driver.text("note_points_per_side") == ""
    sent = driver.apply()
    assert (sent["points_per_side"], sent["point_grids"]) == ("None", "[[[0.5, 0.5]]]")


def test_a_smallest_area_above_the_largest_is_said_and_not_sent(driver):
    driver.type("max_mask_area", "100")
    driver.type("min_mask_area", "101")
    assert driver.text("note_min_mask_area").startswith(
        "Smallest mask (px): 101 is not accepted with “Largest mask (px)”: 100"
    )
    assert driver.apply() is None
    driver.type("min_mask_area", "100")
    assert driver.text("note_min_mask_area") == ""
    sent = driver.apply()
    assert (sent["min_mask_area"], sent["max_mask_area"]) == ("100", "100")


@pytest.mark.parametrize(
    ("name", "start", "keys", "end"),
    [
        ("iou_thresh", 0.8, ["Up"], "0.85"),
        ("iou_thresh", 0.98, ["Up", "Up"], "1.0"),
        ("iou_thresh", 0.07, ["Down", "Down", "Down"], "0.0"),
        ("stability_score_thresh", 0.95, ["Down"], "0.94"),
        ("crop_overlap_ratio", 512 / 1500, ["Up"], "0.35"),
        ("crop_overlap_ratio", 512 / 1500, ["Down"], "0.3"),
        ("crop_overlap_ratio", 0.9, ["Up", "Up", "Up"], "0.95"),
        ("crop_overlap_ratio", 0.99, ["Up"], "0.99"),
        ("mask_threshold", 0.0, ["Down"], "-0.1"),
        ("mask_threshold", 1.7976931348623157e308, ["Up", "PageUp"], "1.7976931348623157e+308"),
        ("input_size_percent", 100, ["Up"], "100"),
        ("input_size_percent", 5, ["Down", "Up"], "5"),
        ("points_per_batch", 1, ["Up", "PageUp"], "88"),
        ("points_per_side", 2, ["Down", "Down", "Down"], "None"),
        ("points_per_side", 1, ["Down", "Up"], "1"),
        ("crop_n_layers", 0, ["Down"], "0"),
        ("min_mask_region_area", 10**20, ["Up"], str(10**20 + 10)),
    ],
)
def test_arrow_keys_step_a_number_and_stop_at_its_limits(open_panel, name, start, keys, end):
    driver = open_panel(param_with(**{name: start}))
    driver.press(name, *(getattr(Key, f"Key_{key}") for key in keys))
    assert driver.panel.fields[name].read() == end


def test_the_arrows_of_a_number_can_be_clicked(driver):
    editor = driver.find("points_per_side")
    at_arrows = QtCore.QPoint(editor.width() - 6, 4)
    QTest.mouseClick(editor, LEFT, QtCore.Qt.KeyboardModifier.NoModifier, at_arrows)
    assert editor.text() == "33"


@pytest.mark.parametrize("name", ["iou_thresh", "model_name"])
def test_scrolling_past_an_editor_changes_nothing(driver, name):
    editor = driver.find(name)
    middle = QtCore.QPointF(editor.rect().center())
    event = QtGui.QWheelEvent(
        middle,
        QtCore.QPointF(editor.mapToGlobal(editor.rect().center())),
        QtCore.QPoint(0, 0),
        QtCore.QPoint(0, -120),
        QtCore.Qt.MouseButton.NoButton,
        QtCore.Qt.KeyboardModifier.NoModifier,
        QtCore.Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    driver.find("input_point").setFocus()
    driver.app.sendEvent(editor, event)
    assert driver.apply() == to_text(Parameters(cuda=False))


# --- refusing

BAD = [
    ("input_point", "[1, 2", "Points: '[1, 2' is not valid JSON; accepted is [x, y], a list"),
    ("input_point", "[[1, 2], [3]]", "Points: entry 2, [3], does not hold 2 numbers"),
    ("input_point", "[NaN, 1]", "Points: entry 1, [nan, 1], is not finite or too large"),
    ("input_box", "[1, 2, 3]", "Boxes: entry 1, [1, 2, 3], does not hold 4 numbers"),
    ("input_box", "[5, 5, 5, 9]", "Boxes: entry 1, [5, 5, 5, 9], has no area"),
    ("input_point_label", "[0, 2]", "Point labels: entry 2, 2, is neither 0 nor 1"),
    ("point_grids", "[[0.5, 1.5]]", "Point grids: layer 1: entry 1, [0.5, 1.5], is outside 0 to 1"),
    ("points_per_side", "0", "Points per side: '0' is not accepted; accepted is a whole number, 1 or more"),
    ("points_per_side", "None", "Points per side: None is not accepted with “Point grids”: ''"),
    ("points_per_side", "", "Points per side: None is not accepted with “Point grids”: ''"),
    (
        "input_size_percent",
        "101",
        "Image size (%): '101' is not accepted; accepted is a whole number from 1 to 100",
    ),
    ("input_size_percent", "", "Image size (%): '' is not accepted"),
    ("crop_n_layers", "1.5", "Crop layers: '1.5' is not accepted"),
    ("crop_overlap_ratio", "1", "Crop overlap: '1' is not accepted; accepted is a number from 0 to below 1"),
    ("mask_threshold", "nan", "Mask threshold: 'nan' is not accepted; accepted is any finite number"),
    ("mask_threshold", "1e999999999", "Mask threshold: '1e999999999' is not accepted"),
    ("iou_thresh", "0,5", "Predicted IoU, at least: '0,5' is not accepted; accepted is a number from 0 to 1"),
]


@pytest.mark.parametrize(("name", "text", "reason"), BAD)
def test_a_bad_value_is_told_beside_its_field_and_nothing_is_sent(driver, name, text, reason):
    good = driver.find(name).text()
    if name in FOLDED:
        driver.click(FOLDED[name])
    driver.type(name, text)
    assert driver.text(f"note_{name}").startswith(reason)
    assert driver.find(name).accessibleDescription().startswith(reason)
    driver.press(name, Key.Key_Up, Key.Key_Down)  # steps nowhere from what is no number
    driver.type(name, text)
    assert driver.apply() is None
    assert driver.text("message").startswith(f"Not applied. {reason}")
    assert driver.find(name).isVisible()
    assert driver.find(name).hasFocus()
    assert not driver.find(name).visibleRegion().isEmpty()
    assert not driver.find(f"note_{name}").visibleRegion().isEmpty()
    assert driver.panel.parameters.values == Parameters(cuda=False)
    driver.type(name, good)
    assert driver.text(f"note_{name}") == driver.text("message") == ""
    assert driver.apply() == to_text(Parameters(cuda=False))


def test_a_fault_shows_while_typing_and_goes_when_the_entry_is_complete(driver):
    shown = []
    for key in "[1, 2]":
        QTest.keyClicks(driver.find("input_point"), key)
        shown.append(bool(driver.text("note_input_point")))
    assert shown == [True] * 5 + [False]


def test_labels_that_do_not_match_the_typed_points_are_refused(driver):
    driver.type("input_point", "[[1, 2], [3, 4]]")
    driver.type("input_point_label", "[1, 0, 1]")
    assert driver.text("note_input_point_label").startswith("Point labels: 3 label(s) for 2 point(s)")
    assert driver.apply() is None
    driver.type("input_point_label", "0")
    assert driver.apply()["input_point_label"] == "0"


@pytest.mark.parametrize(
    ("points", "labels", "boxes", "name", "told"),
    [
        (
            "[[[1, 2]], [[3, 4]]]",
            "[[1]]",
            "",
            "input_point_label",
            "Point labels: labels of 1 object(s) for points of 2",
        ),
        ("[[[1, 2]], [[3, 4]]]", "[1, 0]", "", "input_point_label", "Point labels: 2 labels for points of 2 object(s)"),
        ("[[[1, 2]], [[3, 4]]]", "", "[1, 2, 3, 4]", "input_point", "Points: points of 2 object(s) for 1 box(es)"),
        ("[[[1, 2]], []]", "", "", "input_point", "Points: object 2 has no points"),
    ],
)
def test_so_are_those_of_several_objects(driver, points, labels, boxes, name, told):
    for field, text in (("input_point", points), ("input_point_label", labels), ("input_box", boxes)):
        driver.type(field, text)
    assert driver.text(f"note_{name}").startswith(told)
    assert driver.apply() is None


def test_labels_alone_are_for_drawn_points(driver):
    driver.type("input_point_label", "[1, 0, 1]")
    assert driver.apply()["input_point_label"] == "[1, 0, 1]"


def test_of_several_faults_the_first_is_told_and_the_others_counted(driver):
    driver.type("iou_thresh", "2")
    driver.type("crop_n_layers", "x")
    assert driver.apply() is None
    assert driver.text("message").startswith("Not applied. Predicted IoU, at least: '2' is not accepted")
    assert driver.text("message").endswith("And 1 more.")
    assert driver.text("note_crop_n_layers")
    driver.type("iou_thresh", "0.2")
    assert driver.text("message") == ""  # what it said is mended; the other fault stands under its field


# --- drawing


@pytest.mark.parametrize(
    ("button", "tool"),
    [
        ("tool_point", SHAPES.POINT),
        ("tool_box", SHAPES.RECTANGLE),
        ("tool_scribble", SHAPES.FREEHAND_POLYLINE),
        ("tool_select", SHAPES.SELECTION),
    ],
)
def test_a_tool_button_arms_the_tool_of_studio_and_says_what_to_do(driver, button, tool):
    driver.click("tool_box" if button == "tool_point" else "tool_point")
    before = driver.text("help")
    driver.emitted.clear()
    driver.click(button)
    assert driver.emitted == ["Foreground", tool]
    tools = [name for name in module.TOOLS if driver.find(name).isChecked()]
    assert tools == [button]
    assert driver.text("help") not in ("", before)


def test_a_panel_that_appears_arms_point_and_later_the_tool_that_is_down(driver):
    assert driver.emitted == FIRST
    assert driver.find("tool_point").isChecked()
    assert driver.text("help").startswith("Click on the object.")
    driver.click("tool_box")
    driver.click("category_background")
    driver.emitted.clear()
    driver.window.hide()
    driver.window.show()
    assert driver.emitted == ["Background", SHAPES.RECTANGLE]


def test_the_switch_sets_the_category_of_what_is_drawn_next(driver):
    assert driver.find("category_foreground").isChecked()
    driver.emitted.clear()
    driver.click("category_background")
    driver.click("tool_point")
    driver.press("category_background", Key.Key_Left)
    assert driver.emitted == ["Background", "Background", SHAPES.POINT, "Foreground"]
    assert driver.find("category_foreground").isChecked()


def test_the_next_object_gets_a_new_name_and_background_strokes_belong_to_it(driver):
    driver.click("category_background")
    driver.emitted.clear()
    driver.click("next_object")
    assert driver.find("object_name").text() == "object 2"
    assert driver.find("category_foreground").isChecked()
    driver.click("category_background")
    driver.click("category_foreground")
    driver.click("next_object")
    assert driver.emitted == ["object 2", "Background", "object 2", "object 3"]


def test_a_panel_that_is_built_anew_gives_no_name_that_was_drawn_with_the_one_before(open_panel):
    param = param_with()
    for name in ("object 2", "object 3"):
        driver = open_panel(param)
        driver.click("next_object")
        assert driver.find("object_name").text() == name


def test_a_panel_that_is_built_anew_draws_on_where_the_one_before_stopped(open_panel):
    """Studio builds it anew when the task is selected again, and with the first Apply beside a task with a copy."""
    first = open_panel(param_with())
    first.click("next_object")
    first.click("category_background")
    again = open_panel(first.panel.parameters)
    applied = open_panel(InferSegmentAnything2Factory().create(first.panel.parameters).get_param_object())
    for driver in (again, applied):
        assert driver.emitted == ["Background", SHAPES.POINT]
        assert driver.find("object_name").text() == "object 2"
        driver.click("category_foreground")
        driver.click("next_object")
        assert driver.emitted[-2:] == ["object 2", "object 3"]


@pytest.mark.parametrize("name", ["0", "1", "background", " Foreground", "Default "])
def test_a_name_that_is_a_side_in_drawings_becomes_another_and_the_panel_says_so(driver, name):
    driver.type("object_name", name)
    category = f"object {name.strip()}"
    assert driver.emitted[-1] == category
    assert driver.text("renamed").endswith(f'the object is called "{category}".')
    item = core.CGraphicsPoint(core.CPointF(5, 5))
    item.set_category(category)
    (thing,) = drawn_objects([item], np.zeros(0, np.int32), (9, 9))
    assert thing.name == category
    driver.type("object_name", "10")
    assert driver.emitted[-1] == "10"
    assert driver.text("renamed") == ""


def test_a_typed_name_is_the_category_until_it_is_cleared(driver):
    driver.emitted.clear()
    driver.type("object_name", "a cat ")
    assert driver.emitted[-1] == "a cat"
    driver.click("tool_box")
    driver.press("object_name", Key.Key_Return)
    driver.type("object_name", "")
    assert driver.emitted[-3:] == ["a cat", SHAPES.RECTANGLE, "Foreground"]
    assert driver.sent == []


@pytest.mark.parametrize("name", [*module.TOOLS, *module.CATEGORIES])
def test_tool_tips_say_what_a_tool_does_and_its_category(driver, name):
    tip = driver.find(name).toolTip()
    assert module.HELP[name] in tip
    assert ("the category " in tip) == (name != "tool_select")
    assert ("Background, or" in tip) == (name not in ("tool_select", "tool_box"))


CLICKS = {
    "the first mask": ([], 1),
    "a correction": (["category_background"], 2),
    "a second object": (["next_object"], 2),
    "deleting a wrong point": (["tool_select"], 3),
}


@pytest.mark.parametrize("what", CLICKS)
def test_a_mask_takes_few_clicks(driver, what):
    """What is clicked on the panel; the rest is one click on the image, and for deleting the Del key."""
    on_the_panel, count = CLICKS[what]
    for name in on_the_panel:
        assert not driver.find(name).visibleRegion().isEmpty()
        driver.click(name)
    armed = [tool for tool in driver.emitted if not isinstance(tool, str)][-1]
    assert armed == (SHAPES.SELECTION if what == "deleting a wrong point" else SHAPES.POINT)
    assert len(on_the_panel) + (2 if what == "deleting a wrong point" else 1) == count


def test_the_core_takes_the_tools_categories_and_actions_that_the_panel_sends(app, monkeypatch, tmp_path):
    monkeypatch.setattr(
        module.qt.QFileDialog, "getSaveFileName", staticmethod(lambda *_: (str(tmp_path / "masks.json"), ""))
    )
    panel = module.InferSegmentAnything2Widget(None, None)
    for name in (*module.TOOLS, *module.CATEGORIES, "next_object", "save_coco", "save_labels"):
        panel.layout.parentWidget().window().findChild(QtWidgets.QWidget, name).click()
    panel.on_apply()


def test_drawing_can_be_switched_off_at_once(driver):
    before = driver.panel.parameters
    driver.click("live")
    assert driver.panel.parameters is before
    assert not before.values.live
    assert driver.sent == []
    driver.click("live")
    assert before.values.live


# --- what the task has to say


def test_a_fault_of_a_stroke_is_told_beside_apply_in_the_words_of_the_panel_and_keeps_what_is_typed(driver):
    driver.type("iou_thresh", "0.5")
    driver.panel.parameters.news = News("input_point_label: 2 label(s) for 3 point(s) of input_point.", is_fault=True)
    driver.panel.on_parameters_changed()
    assert driver.text("message") == "Point labels: 2 label(s) for 3 point(s) of “Points”."
    assert driver.find("iou_thresh").text() == "0.5"
    driver.panel.parameters.news = News()
    driver.panel.on_parameters_changed()
    assert driver.text("message") == ""


def test_the_message_is_in_sight_beside_apply_wherever_the_panel_is_scrolled_to(driver):
    driver.unfold()
    driver.type("input_point", "[1")
    for place in (0, 10**6):
        driver.apply()
        driver.app.processEvents()
        area = driver.panel.content.parentWidget().parentWidget().parentWidget()
        area.verticalScrollBar().setValue(place)
        message, apply = driver.find("message"), driver.find("CProcessBtn")
        assert not message.visibleRegion().isEmpty()
        assert 0 <= apply.y() - (message.y() + message.height()) < 30


# --- keys and buttons


@pytest.mark.parametrize("name", ["input_point", "iou_thresh", "points_per_side"])
def test_enter_in_a_field_applies(driver, name):
    text = {"input_point": "[1, 2]", "iou_thresh": "0.5", "points_per_side": "9"}[name]
    driver.type(name, text)
    driver.press(name, Key.Key_Return)
    assert [sent[name] for sent in driver.sent] == [text]
    driver.type(name, "x")
    driver.press(name, Key.Key_Return)
    assert len(driver.sent) == 1


def test_fields_of_text_can_be_cleared_by_a_click(driver):
    for name in ("input_box", "input_point", "input_point_label", "model_weight_file", "config_file", "point_grids"):
        assert driver.find(name).isClearButtonEnabled()


def test_reset_shows_the_defaults_and_apply_sends_them(open_panel):
    driver = open_panel(param_with(input_point="[1, 2]", iou_thresh=0.3, model_name="sam2_hiera_nano", use_m2m=False))
    driver.click("reset")
    assert driver.find("input_point").text() == ""
    assert driver.panel.parameters.values.iou_thresh == 0.3
    assert driver.apply() == to_text(Parameters())


def test_reset_alone_does_not_switch_live_drawing_on(open_panel):
    driver = open_panel(param_with(live=False))
    driver.click("reset")
    assert not driver.panel.parameters.values.live
    driver.apply()
    assert driver.panel.parameters.values.live


def test_candidates_say_what_they_mean_and_wait_for_three_masks(driver):
    assert not driver.find("mask_id").isEnabled()
    assert driver.text("note_mask_id") == "Switch on Three masks first."
    driver.click("multimask_output")
    told = []
    for key in (None, Key.Key_Down, Key.Key_Down):
        if key:
            driver.press("mask_id", key)
        told.append(driver.text("note_mask_id"))
    assert told == [
        "All three, as outputs 1 to 3.",
        "Of each object the one with the highest predicted IoU.",
        "Of each object the first.",
    ]
    assert driver.apply()["mask_id"] == "1"


# --- saving


def test_what_a_run_says_is_told_again_after_an_edit_or_another_apply_and_by_a_panel_that_is_built_anew(
    open_panel, workflow, algo, astronaut, monkeypatch
):
    algo.set_parameters({"iou_thresh": "1", "points_per_side": "1", "use_m2m": "False"})
    driver = open_panel(algo.get_param_object())
    monkeypatch.setattr(algo, "emit_parameters_changed", driver.panel.on_parameters_changed)
    for edited in ("0.99", "1"):
        workflow.run_on(array=astronaut)
        assert driver.text("message").startswith("No mask was found")
        driver.type("iou_thresh", edited)
        assert driver.text("message") == ""
    workflow.run_on(array=astronaut)
    assert driver.text("message").startswith("No mask was found")
    for _ in range(2):
        assert driver.apply() is not None
        assert driver.text("message") == ""
        workflow.run_on(array=astronaut)
        assert driver.text("message").startswith("No mask was found")
    assert open_panel(algo.get_param_object()).text("message").startswith("No mask was found")
    driver.click("reset")
    assert driver.text("message") == ""
    assert open_panel(algo.get_param_object()).text("message") == ""


@pytest.mark.parametrize(("button", "name"), [("save_coco", "masks.json"), ("save_labels", "masks.png")])
def test_masks_are_saved_through_the_task(open_panel, workflow, algo, astronaut, monkeypatch, tmp_path, button, name):
    asked = []

    def pick(parent, title, start, kinds):
        asked.append(start)
        return (str(tmp_path / name.partition(".")[0]), "")  # without an ending

    monkeypatch.setattr(module.qt.QFileDialog, "getSaveFileName", staticmethod(pick))
    driver = open_panel(algo.get_param_object())
    driver.act = algo.execute_actions
    driver.click(button)
    assert driver.text("message") == "There are no masks to save yet: run the workflow first."
    algo.set_parameters({"input_box": "[150, 20, 300, 200]"})
    workflow.run_on(array=astronaut)
    driver.click(button)
    assert driver.text("message") == f"Saved: {tmp_path / name}"
    assert (tmp_path / name).stat().st_size > 100
    assert asked == [name, name]
    algo.get_param_object().save_path = str(tmp_path / "none" / name)
    algo.execute_actions(driver.actions[-1])
    assert algo.get_param_object().news.is_fault


def test_saving_says_so_where_nobody_does_it_and_nothing_where_it_is_cancelled(driver, monkeypatch, tmp_path):
    picked = [(str(tmp_path / "a.json"), ""), ("", "")]
    monkeypatch.setattr(module.qt.QFileDialog, "getSaveFileName", staticmethod(lambda *_: picked.pop(0)))
    driver.click("save_coco")
    assert driver.text("message") == "Nothing was saved: Studio did not pass it on."
    driver.click("save_coco")
    assert len(driver.actions) == 1


# --- model and device


@pytest.mark.parametrize(
    ("name", "label"), [("model_weight_file", "Own weights"), ("config_file", "Config of own weights")]
)
def test_a_file_is_picked(driver, monkeypatch, tmp_path, name, label):
    asked = []
    picked = tmp_path / "fine tuned.pt"
    picked.touch()

    def pick(parent, title, folder, kinds):
        asked.append((title, folder, kinds))
        return (str(picked), "") if len(asked) == 1 else ("", "")

    monkeypatch.setattr(module.qt.QFileDialog, "getOpenFileName", staticmethod(pick))
    driver.click("rare")
    driver.click(f"browse_{name}")
    assert driver.find(name).text() == str(picked)
    driver.click(f"browse_{name}")  # and cancelled
    assert [(title, folder) for title, folder, _ in asked] == [(label, ""), (label, str(tmp_path))]
    assert (".yaml" in asked[0][2]) == (name == "config_file")
    assert driver.apply()[name] == str(picked)


def test_own_weights_that_are_not_there_are_told_and_keep_apply_from_sending(driver, tmp_path):
    path = tmp_path / "none.pt"
    driver.click("rare")
    driver.type("model_weight_file", str(path))
    assert driver.text("note_model_weight_file") == f"Own weights: there is no file {path}."
    driver.click("rare")
    assert driver.apply() is None
    assert driver.text("message") == f"Not applied. Own weights: there is no file {path}."
    assert not driver.find("model_weight_file").visibleRegion().isEmpty()  # unfolded
    path.touch()
    assert driver.apply()["model_weight_file"] == str(path)


def test_the_state_of_the_chosen_checkpoint_is_shown(driver, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    states = {}
    box = driver.find("model_name")
    for name in ("sam2_hiera_nano", "sam2_hiera_tiny", "sam2_hiera_base_plus"):
        while box.currentText() != name:
            down = box.findText(name) > box.currentIndex()
            QTest.keyClick(box, Key.Key_Down if down else Key.Key_Up)
        states[name] = driver.text("checkpoint_state")
    assert states == {
        "sam2_hiera_nano": "4.7 million parameters; bundled with the plugin, for trying out.",
        "sam2_hiera_tiny": "38.9 million parameters; will be downloaded at the first run: 156 MB.",
        "sam2_hiera_base_plus": "80.8 million parameters; will be downloaded at the first run: about 323 MB.",
    }
    cached = tmp_path / "hub" / "checkpoints" / "sam2_hiera_base_plus.pt"
    cached.parent.mkdir(parents=True)
    with zipfile.ZipFile(cached, "w") as archive:
        archive.writestr("data.pkl", b"")
    driver.window.hide()
    driver.window.show()  # as when the user comes back after a run
    assert driver.text("checkpoint_state") == "80.8 million parameters; on disk: nothing to download."
    driver.click("rare")
    driver.type("model_weight_file", "/my.pt")
    assert driver.text("checkpoint_state") == "Its weights are not needed: your own are used."


def test_a_folder_that_cannot_be_read_does_not_break_the_panel(driver, monkeypatch):
    def refuse(name):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "checkpoint_state", refuse)
    driver.press("model_name", Key.Key_Down)
    assert "Permission denied" in driver.text("checkpoint_state")


def test_cuda_is_disabled_with_a_reason_where_there_is_none_and_it_is_off(open_panel, monkeypatch):
    monkeypatch.setattr(declared, "cuda_is_available", lambda: False)
    driver = open_panel(param_with(cuda=False))
    assert not driver.find("cuda").isEnabled()
    assert driver.text("note_cuda") == "No CUDA device was found: the CPU computes."


def test_cuda_that_is_on_stays_on_where_there_is_none_and_can_be_switched_off(open_panel, monkeypatch):
    monkeypatch.setattr(declared, "cuda_is_available", lambda: False)
    driver = open_panel(param_with(cuda=True))
    assert driver.text("note_cuda") == "No CUDA device was found: the CPU computes."
    assert driver.apply()["cuda"] == "True"  # a workflow that goes on to another machine keeps it
    driver.click("cuda")
    assert driver.apply()["cuda"] == "False"
    assert not driver.find("cuda").isEnabled()


def test_cuda_can_be_switched_where_there_is_one(open_panel, monkeypatch):
    monkeypatch.setattr(declared, "cuda_is_available", lambda: True)
    driver = open_panel(param_with(cuda=True))
    assert driver.find("cuda").isEnabled()
    assert driver.text("note_cuda") == ""
    driver.click("cuda")
    assert driver.apply()["cuda"] == "False"


# --- with the task


def test_what_is_applied_reaches_a_task_of_a_workflow(open_panel, algo):
    driver = open_panel(algo.get_param_object())
    assert driver.find("model_name").currentText() == "sam2_hiera_nano"
    driver.type("input_point", "[12, 34]")
    assert driver.apply() == algo.get_parameters()
    assert algo.get_parameters()["input_point"] == "[12, 34]"


# --- looks


@pytest.mark.parametrize("width", [320, 380, 700])
@pytest.mark.parametrize("text_height", [13, 20], ids=["100%", "150%"])
def test_no_text_is_clipped(app, open_panel, width, text_height):
    set_text_height(app, text_height)
    try:
        driver = open_panel(param_with(), width)
        driver.unfold()
        driver.type("input_point", "[1, 2")
        driver.type("mask_threshold", "x" * 200)
        driver.type("model_weight_file", "/nowhere/" + "long" * 50)
        driver.apply()
        for name in module.TOOLS:
            driver.click(name)
            assert clipped(driver) == []
        assert driver.window.width() == width
    finally:
        set_text_height(app, 13)


def clipped(driver: Driver) -> list[str]:
    """What has less room than its text wants, or reaches out of the panel."""
    content, found = driver.panel.content, []
    for _ in range(5):  # heights that depend on widths settle one level of the layout at a time
        driver.app.processEvents()
    viewport = content.parentWidget().parentWidget()
    assert content.width() <= viewport.width()
    for widget in content.findChildren(QtWidgets.QWidget):
        if not widget.isVisible() or widget.objectName().startswith("qt_"):
            continue
        if isinstance(widget.parentWidget(), QtWidgets.QLineEdit):  # its button to clear it, which Qt places
            continue
        needed = widget.minimumSizeHint()
        right = widget.mapTo(content, QtCore.QPoint(widget.width(), 0)).x()
        fits = right <= content.width() and widget.width() >= needed.width() and widget.height() >= needed.height()
        if isinstance(widget, QtWidgets.QLabel):
            fits &= widget.height() >= widget.heightForWidth(widget.width())
        text = widget.fontMetrics().horizontalAdvance
        if isinstance(widget, QtWidgets.QComboBox):
            option = QtWidgets.QStyleOptionComboBox()
            widget.initStyleOption(option)
            part = QtWidgets.QStyle.SubControl.SC_ComboBoxEditField
            box = QtWidgets.QStyle.ComplexControl.CC_ComboBox
            room = widget.style().subControlRect(box, option, part, widget).width() - 2
            fits &= room >= max(text(widget.itemText(k)) for k in range(widget.count()))
        if isinstance(widget, QtWidgets.QLineEdit):
            fits &= widget.width() >= text(widget.placeholderText()) + 8
        if not fits:
            found.append(f"{widget.objectName()}: {widget.size()} for {needed}, up to {right} of {content.width()}")
    return found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_notes_are_readable_on_either_palette_also_when_it_changes(app, open_panel, dark):
    light = app.palette()
    driver = open_panel(param_with())
    driver.type("iou_thresh", "2")
    palette = QtGui.QPalette(light)
    if dark:
        palette.setColor(QtGui.QPalette.ColorRole.Window, QtGui.QColor("#353535"))
        palette.setColor(QtGui.QPalette.ColorRole.WindowText, QtGui.QColor("#f0f0f0"))
    try:
        app.setPalette(palette)
        app.processEvents()
        for name in ("note_iou_thresh", "help", "checkpoint_state"):
            image = driver.find(name).grab().toImage()
            colours = {image.pixel(x, y) for x in range(image.width()) for y in range(image.height())}
            lightness = sorted(luminance(QtGui.QColor(c)) for c in colours)
            assert (lightness[-1] + 0.05) / (lightness[0] + 0.05) >= 4.5, name
    finally:
        app.setPalette(light)


def luminance(colour) -> float:
    """WCAG's relative luminance."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour.getRgbF()[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_picture_of_the_readme_shows_the_panel_as_studio_does(checkout: Path):
    panel, picture = (QtGui.QImage(str(checkout / "images" / name)) for name in ("studio_panel.png", "studio.png"))
    assert (panel.width(), panel.height()) == (360, 760)
    assert picture.height() == 760
    assert picture.copy(picture.width() - 360, 0, 360, 760).pixel(180, 700) == panel.pixel(180, 700)
    assert (checkout / "images" / "studio.png").stat().st_size < 700_000
