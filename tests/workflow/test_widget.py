"""The Studio panel, driven by keys and clicks: every parameter can be seen and set, and nothing bad is sent.

The same tests run with ikomia 0.16 and PyQt6, and with ikomia 0.15 and PyQt5; without PyQt they are skipped. Run them by
`pytest tests/workflow/test_widget.py`, alone: PyQt has to be imported before ikomia (seen with 0.15.1 and PyQt5 5.15.11).
"""

from __future__ import annotations

import sys
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

BINDING = next((name for name in ("PyQt6", "PyQt5") if find_spec(name)), None)
if BINDING is None:
    pytest.skip("no PyQt is installed", allow_module_level=True)
QtCore, QtGui, QtWidgets, QtTest = (import_module(f"{BINDING}.Qt{m}") for m in ("Core", "Gui", "Widgets", "Test"))

from hypothesis import HealthCheck, example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from ikomia import core  # noqa: E402

from infer_segment_anything_2 import infer_segment_anything_2_widget as module  # noqa: E402
from infer_segment_anything_2.bridge.wire import from_text as update  # noqa: E402
from infer_segment_anything_2.bridge.wire import to_text  # noqa: E402
from infer_segment_anything_2.infer_segment_anything_2_process import InferSegmentAnything2Param  # noqa: E402
from infer_segment_anything_2.segmentation import parameters as declared  # noqa: E402
from infer_segment_anything_2.segmentation.parameters import DECLARATION, Parameters  # noqa: E402

pytestmark = pytest.mark.qt

QTest, Key, LEFT = QtTest.QTest, QtCore.Qt.Key, QtCore.Qt.MouseButton.LeftButton
CONTROL = QtCore.Qt.KeyboardModifier.ControlModifier
SHAPES = core.GraphicsShape
NUMBERS = [n for n in DECLARATION if declared.type_name(n).split()[0] in ("int", "float")]
TEXTS = [n for n in DECLARATION if declared.type_name(n) in ("str", "JSON") and n != "model_name"]
SWITCHES = [n for n in DECLARATION if declared.type_name(n) == "bool"]
ADVANCED = [n for n, field in DECLARATION.items() if field.json_schema_extra["group"] == declared.ADVANCED]


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
        self.app, self.sent, self.emitted = app, [], []

        class Panel(module.InferSegmentAnything2Widget):
            def emit_apply(self, param):
                driver.sent.append(param.get_values())

            def emit_set_graphics_tool(self, tool):
                driver.emitted.append(tool)

            def emit_set_graphics_category(self, category):
                driver.emitted.append(category)

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


@pytest.mark.parametrize("name", DECLARATION)
def test_every_parameter_has_one_editor_with_its_name_label_and_help(driver, name):
    assert len(driver.window.findChildren(QtWidgets.QWidget, name)) == 1
    editor = driver.find(name)
    for words in (DECLARATION[name].description, declared.accepted(name), name):
        assert words.replace("&", "&amp;").replace("<", "&lt;") in editor.toolTip()
    title = DECLARATION[name].title
    assert editor.accessibleName() == title
    shown = [w.text() for w in driver.window.findChildren(QtWidgets.QLabel) if w.buddy() is editor]
    assert (shown or [editor.text()]) == [title]


@pytest.mark.parametrize("name", NUMBERS)
def test_limits_are_those_of_the_declaration(driver, name):
    editor = driver.find(name)
    assert (editor.minimum(), editor.maximum()) == declared.limits(name)[:2]


def test_the_models_of_the_catalogue_can_be_chosen(driver):
    box = driver.find("model_name")
    assert [box.itemText(i) for i in range(box.count())] == list(declared.MODEL_NAMES)


def test_groups_follow_one_another_and_the_rare_ones_are_folded(driver):
    groups = driver.window.findChildren(QtWidgets.QGroupBox)
    assert [g.title() for g in groups] == ["Model", "Prompt", "Automatic mode", "Output"]
    for name, field in DECLARATION.items():
        group = field.json_schema_extra["group"]
        box = next(g for g in groups if g.title() == (declared.AUTOMATIC if name in ADVANCED else group))
        assert box.isAncestorOf(driver.find(name))
        assert driver.find(name).isVisible() == (name not in ADVANCED)
    driver.click("advanced")
    assert all(driver.find(name).isVisible() for name in DECLARATION)
    driver.click("advanced")
    assert not any(driver.find(name).isVisible() for name in ADVANCED)


def test_the_tab_key_goes_through_the_panel_from_top_to_bottom(driver):
    driver.click("advanced")
    first = widget = driver.find("model_name")
    stops = []
    while widget.nextInFocusChain() is not first:
        stops.append(widget.objectName())
        widget = widget.nextInFocusChain()
    places = [driver.find(n).mapTo(driver.panel.content, QtCore.QPoint(0, 0)).y() for n in stops if n in DECLARATION]
    assert len(places) == len(DECLARATION)
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
        "str": st.sampled_from(declared.MODEL_NAMES)
        if name == "model_name"
        else st.text(st.characters(exclude_categories=["Cs"])),
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
@example(Parameters(model_weight_file="a\nb\tc\u2028d\x00e " + "f" * 40000, input_point="[[1, 2],\n [3, 4]]"))
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
    "model_weight_file": "/a b/tuned.pt",
    "config_file": "configs/sam2/sam2_hiera_t.yaml",
    "input_box": "[[1, 2, 3, 4], [5, 6, 7, 8]]",
    "input_point": "[[10, 20], [30, 40.5]]",
    "input_point_label": "[1, 0]",
}


def test_what_is_typed_and_clicked_is_sent(driver):
    for name, text in TYPED.items():
        driver.type(name, text)
    for name in SWITCHES:
        if name != "cuda":
            driver.press(name, Key.Key_Space)
    driver.press("model_name", Key.Key_Down)
    sent = driver.apply()
    expected = update(Parameters(cuda=False), TYPED)
    switched = {name: not getattr(expected, name) for name in SWITCHES if name != "cuda"}
    assert sent == to_text(update(expected, switched | {"model_name": "sam2_hiera_base_plus"}))


@pytest.mark.parametrize("name", [n for n in SWITCHES if n not in ADVANCED and n != "cuda"])
def test_a_switch_is_switched_by_a_click_and_by_space(driver, name):
    before = driver.find(name).isChecked()
    driver.click(name)
    assert driver.apply()[name] == str(not before)
    driver.press(name, Key.Key_Space)
    assert driver.apply()[name] == str(before)


def test_own_points_replace_the_grid(driver):
    driver.type("point_grids", "[[[0.5, 0.5]]]")
    assert "None together with point_grids" in driver.text("note_points_per_side")
    assert driver.apply() is None
    driver.type("points_per_side", "none")
    assert driver.text("note_points_per_side") == ""
    sent = driver.apply()
    assert (sent["points_per_side"], sent["point_grids"]) == ("None", "[[[0.5, 0.5]]]")


def test_a_smallest_area_above_the_largest_is_said_and_not_sent(driver):
    driver.type("max_mask_area", "100")
    driver.type("min_mask_area", "101")
    assert driver.text("note_min_mask_area").startswith("min_mask_area: 101 is not accepted with max_mask_area: 100")
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
    ("input_point", "[1, 2", "input_point: '[1, 2' is not valid JSON; accepted is [x, y], a list"),
    ("input_point", "[[1, 2], [3]]", "input_point: entry 2, [3], does not hold 2 numbers"),
    ("input_point", "[NaN, 1]", "input_point: entry 1, [nan, 1], is not finite or too large"),
    ("input_box", "[1, 2, 3]", "input_box: entry 1, [1, 2, 3], does not hold 4 numbers"),
    ("input_box", "[5, 5, 5, 9]", "input_box: entry 1, [5, 5, 5, 9], has no area"),
    ("input_point_label", "[0, 2]", "input_point_label: entry 2, 2, is neither 0 nor 1"),
    ("point_grids", "[[0.5, 1.5]]", "point_grids: layer 1: entry 1, [0.5, 1.5], is outside 0 to 1"),
    ("points_per_side", "0", "points_per_side: '0' is not accepted; accepted is a whole number, 1 or more"),
    ("points_per_side", "None", "points_per_side: None is not accepted with point_grids: ''"),
    ("points_per_side", "", "points_per_side: None is not accepted with point_grids: ''"),
    (
        "input_size_percent",
        "101",
        "input_size_percent: '101' is not accepted; accepted is a whole number from 1 to 100",
    ),
    ("input_size_percent", "", "input_size_percent: '' is not accepted"),
    ("crop_n_layers", "1.5", "crop_n_layers: '1.5' is not accepted"),
    ("crop_overlap_ratio", "1", "crop_overlap_ratio: '1' is not accepted; accepted is a number from 0 to below 1"),
    ("mask_threshold", "nan", "mask_threshold: 'nan' is not accepted; accepted is any finite number"),
    ("mask_threshold", "1e999999999", "mask_threshold: '1e999999999' is not accepted"),
    ("iou_thresh", "0,5", "iou_thresh: '0,5' is not accepted; accepted is a number from 0 to 1"),
]


@pytest.mark.parametrize(("name", "text", "reason"), BAD)
def test_a_bad_value_is_told_beside_its_field_and_nothing_is_sent(driver, name, text, reason):
    good = driver.find(name).text()
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
    assert driver.text("note_input_point_label").startswith("input_point_label: 3 label(s) for 2 point(s)")
    assert driver.apply() is None
    driver.type("input_point_label", "0")
    assert driver.apply()["input_point_label"] == "0"


def test_labels_alone_are_for_drawn_points(driver):
    driver.type("input_point_label", "[1, 0, 1]")
    assert driver.apply()["input_point_label"] == "[1, 0, 1]"


def test_of_several_faults_the_first_is_told_and_the_others_counted(driver):
    driver.type("iou_thresh", "2")
    driver.type("crop_n_layers", "x")
    assert driver.apply() is None
    assert driver.text("message").startswith("Not applied. iou_thresh: '2' is not accepted")
    assert driver.text("message").endswith("And 1 more.")
    assert driver.text("note_crop_n_layers")


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
    before = driver.text("help")
    driver.click(button)
    assert driver.emitted == ["Foreground", tool]
    tools = [name for name in module.TOOLS if driver.find(name).isChecked()]
    assert tools == [button]
    assert driver.text("help") not in ("", before)


def test_the_switch_sets_the_category_of_what_is_drawn_next(driver):
    assert driver.find("category_foreground").isChecked()
    assert driver.emitted == []
    driver.click("category_background")
    driver.click("tool_point")
    driver.press("category_background", Key.Key_Left)
    assert driver.emitted == ["Background", "Background", SHAPES.POINT, "Foreground"]
    assert driver.find("category_foreground").isChecked()


def test_the_core_takes_the_tools_and_categories_that_the_panel_sends(app):
    panel = module.InferSegmentAnything2Widget(None, None)
    for name in (*module.TOOLS, *module.CATEGORIES):
        panel.layout.parentWidget().window().findChild(QtWidgets.QWidget, name).click()
    panel.on_apply()


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
    driver.click(f"browse_{name}")
    assert driver.find(name).text() == str(picked)
    driver.click(f"browse_{name}")  # and cancelled
    assert [(title, folder) for title, folder, _ in asked] == [(label, ""), (label, str(tmp_path))]
    assert (".yaml" in asked[0][2]) == (name == "config_file")
    assert driver.apply()[name] == str(picked)


def test_own_weights_that_are_not_there_are_told_but_not_refused(driver, tmp_path):
    driver.type("model_weight_file", str(tmp_path / "none.pt"))
    assert driver.text("note_model_weight_file") == "There is no such file."
    assert driver.apply()["model_weight_file"] == str(tmp_path / "none.pt")


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
        "sam2_hiera_nano": "Bundled with the plugin: nothing to download.",
        "sam2_hiera_tiny": "Will be downloaded at the first run: 156 MB.",
        "sam2_hiera_base_plus": "Will be downloaded at the first run: about 323 MB.",
    }
    cached = tmp_path / "hub" / "checkpoints" / "sam2_hiera_base_plus.pt"
    cached.parent.mkdir(parents=True)
    with zipfile.ZipFile(cached, "w") as archive:
        archive.writestr("data.pkl", b"")
    driver.window.hide()
    driver.window.show()  # as when the user comes back after a run
    assert driver.text("checkpoint_state") == "On disk: nothing to download."
    driver.type("model_weight_file", "/my.pt")
    assert driver.text("checkpoint_state") == "Its weights are not needed: your own are used."


def test_a_folder_that_cannot_be_read_does_not_break_the_panel(driver, monkeypatch):
    def refuse(name):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "checkpoint_state", refuse)
    driver.press("model_name", Key.Key_Down)
    assert "Permission denied" in driver.text("checkpoint_state")


def test_cuda_is_disabled_with_a_reason_where_there_is_none(open_panel, monkeypatch):
    monkeypatch.setattr(declared, "cuda_is_available", lambda: False)
    driver = open_panel(param_with(cuda=True))
    assert not driver.find("cuda").isEnabled()
    assert driver.text("note_cuda") == "No CUDA device was found: the CPU computes."
    assert driver.apply()["cuda"] == "True"  # a workflow that goes on to another machine keeps it


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
        driver.click("advanced")
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
    assert content.mapTo(viewport, QtCore.QPoint(content.width(), 0)).x() <= viewport.width()
    for widget in content.findChildren(QtWidgets.QWidget):
        if not widget.isVisible() or widget.objectName().startswith("qt_"):
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
            fits &= room >= max(text(name) for name in declared.MODEL_NAMES)
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


def test_the_picture_of_the_readme_is_there_and_small(checkout: Path):
    picture = checkout / "images" / "studio_panel.png"
    assert picture.stat().st_size < 150_000
    assert QtGui.QImage(str(picture)).width() == 380
