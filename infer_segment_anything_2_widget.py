"""The panel of Ikomia Studio, built from the declaration of the parameters: an editor for each, with its limits and help.

ikomia 0.16 is built on Qt 6 and uses PyQt6, older ones Qt 5 and PyQt5. The classes are taken from whichever binding the
installed ikomia itself uses, and only names that both have: enums are spelled out in full, which PyQt6 (6.2) wants and
PyQt5 (5.15) takes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from fractions import Fraction
from importlib import import_module
from typing import Any

from ikomia import core, dataprocess
from ikomia.utils import pyqtutils, qtconversion

from infer_segment_anything_2.infer_segment_anything_2_process import InferSegmentAnything2Param
from infer_segment_anything_2.segmentation import parameters as declared
from infer_segment_anything_2.segmentation.checkpoints import catalogue_entry, checkpoint_state
from infer_segment_anything_2.segmentation.own_files import own_path

_binding = pyqtutils.QWidget.__module__.partition(".")[0]  # "PyQt6" or "PyQt5"
qtcore: Any = import_module(f"{_binding}.QtCore")
qt: Any = import_module(f"{_binding}.QtWidgets")

#: Width in pixels, at least, that the panel is laid out for.
NARROWEST = 320
LABEL_SPACING, ROW_SPACING, GROUP_SPACING = 3, 8, 12

HELP = {
    "": "Choose a tool, draw on the image, press Apply. With nothing drawn and nothing typed, all objects are "
    "segmented: automatic mode.",
    "tool_point": "Click on the object. Points on the Background side say what does not belong to it.",
    "tool_box": "Drag a box around an object. Each box gives a mask of its own.",
    "tool_scribble": "Draw a line over the object. Lines on the Background side say what does not belong to it.",
    "tool_select": "Click what is drawn to select it, then move or delete it.",
}
TOOLS = {
    "tool_point": ("Point", core.GraphicsShape.POINT),
    "tool_box": ("Box", core.GraphicsShape.RECTANGLE),
    "tool_scribble": ("Scribble", core.GraphicsShape.FREEHAND_POLYLINE),
    "tool_select": ("Select", core.GraphicsShape.SELECTION),
}
#: A button that is down differs too little from one that is up, on a dark palette.
ARMED = """QPushButton:checked {
    background-color: palette(highlight); color: palette(highlighted-text);
    border: 1px solid palette(highlight); border-radius: 3px; padding: 3px;
}"""
CATEGORIES = {"category_foreground": "Foreground", "category_background": "Background"}
FILE_KINDS = {
    "model_weight_file": "Weights (*.pt *.pth *.ckpt *.safetensors);;All files (*)",
    "config_file": "YAML files (*.yaml *.yml);;All files (*)",
}


class Note(qt.QLabel):
    """A line of text that wraps, takes no room while empty, and is calm, or red where it tells of a fault."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setTextFormat(qtcore.Qt.TextFormat.PlainText)
        self._is_fault = False
        self._colour = ""
        self.tell(text)

    def tell(self, text: str, is_fault: bool = False) -> None:
        """Show `text`; an empty one hides the note."""
        self._is_fault = is_fault
        self.setText(_breakable(text))
        if not text:
            self.hide()
        elif self.parentWidget() is not None:  # without a parent it would be a window of its own
            self.show()
        self._paint_text()

    def changeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Keep the text readable when Studio changes between its light and its dark theme."""
        super().changeEvent(event)
        if event.type() == qtcore.QEvent.Type.PaletteChange:
            self._paint_text()

    def _paint_text(self) -> None:
        """The colour as a style sheet: Studio has one of its own, which would win over a palette."""
        palette = (self.parentWidget() or qt.QApplication.instance()).palette()
        text, ground = palette.windowText().color(), palette.window().color()
        if self._is_fault:
            colour = "#ff9a8d" if text.lightness() > ground.lightness() else "#b3261e"
        else:
            pairs = zip(text.getRgb()[:3], ground.getRgb()[:3], strict=True)
            colour = "#" + "".join(f"{round(0.72 * a + 0.28 * b):02x}" for a, b in pairs)
        if colour != self._colour:  # a style sheet that is set changes the palette again
            self._colour = colour
            self.setStyleSheet(f"color: {colour}")


class CheckEditor(qt.QCheckBox):
    """True or False."""

    def read(self) -> str:
        """The state as text."""
        return str(self.isChecked())

    def write(self, value: bool) -> None:
        """Show `value`."""
        self.setChecked(value)

    def when_edited(self, slot: Callable[..., None]) -> None:
        """Have `slot` called with every change."""
        self.toggled.connect(slot)


class ModelEditor(qt.QComboBox):
    """The models by name."""

    def __init__(self) -> None:
        super().__init__()
        self.addItems(declared.MODEL_NAMES)
        self.setSizeAdjustPolicy(qt.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setFocusPolicy(qtcore.Qt.FocusPolicy.StrongFocus)
        self.read, self.write = self.currentText, self.setCurrentText
        self.when_edited = self.currentTextChanged.connect

    def wheelEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Change nothing while the user only scrolls past."""
        super().wheelEvent(event) if self.hasFocus() else event.ignore()


class TextEditor(qt.QLineEdit):
    """Text of any length, such as a path or coordinates."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setMaxLength(2**31 - 1)  # Qt's own default cuts a long list of points after 32767 characters
        example = declared.about(name)["example"]
        self.setPlaceholderText(f"e.g. {example}" if example else "")
        self.read = self.text
        self.when_edited = self.textChanged.connect

    def write(self, value: str) -> None:
        """Show `value` from its beginning."""
        self.setText(value)
        self.setCursorPosition(0)


class NumberEditor(qt.QAbstractSpinBox):
    """A number of any size and precision, or None where the parameter may be that; arrows, keys and wheel step it.

    QSpinBox ends at 2^31 and QDoubleSpinBox rounds to its decimals: neither holds every value that a parameter may have.
    Anything can be typed; what is wrong with it is said beside the editor.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._limits = declared.limits(name)
        self._step = Fraction(str(declared.about(name)["step"]))
        self._kind = declared.type_name(name)
        self._may_be_none = self._kind == "int or None"
        self.setFocusPolicy(qtcore.Qt.FocusPolicy.StrongFocus)
        self.setFixedWidth(self.fontMetrics().horizontalAdvance("0.333333") + 44)
        self.when_edited = self.lineEdit().textChanged.connect
        self.read = self.text

    def minimum(self) -> float | None:
        """The lowest number, None where there is none."""
        return self._limits.minimum

    def maximum(self) -> float | None:
        """The highest number, None where there is none."""
        return self._limits.maximum

    def write(self, value: float | None) -> None:
        """Show `value`, a long fraction with six digits."""
        text = str(value)
        self.lineEdit().setText(text if len(text) < 9 or isinstance(value, int) else f"{value:.6g}")
        self.lineEdit().setCursorPosition(0)

    def number(self) -> float | None:
        """The number that is shown; None for None.

        Raises:
            ValueError: it is not a finite number.
        """
        text = self.text().strip()
        if self._may_be_none and text.lower() in ("", "none"):
            return None
        if self._kind.startswith("int"):
            return int(text)
        if not math.isfinite(float(text)):
            raise ValueError(text)
        return float(text)

    def stepEnabled(self) -> Any:  # noqa: N802 - Qt's name
        """Which arrows lead anywhere."""
        flags = qt.QAbstractSpinBox.StepEnabledFlag
        try:
            number = self.number()
        except ValueError:
            return flags.StepNone
        low, high, _ = self._limits
        down = number is not None and (self._may_be_none or low is None or number > low)
        up = number is None or high is None or number < high
        if down and up:
            return flags.StepDownEnabled | flags.StepUpEnabled
        return flags.StepDownEnabled if down else flags.StepUpEnabled if up else flags.StepNone

    def stepBy(self, steps: int) -> None:  # noqa: N802 - Qt's name
        """To the next multiple of the step, so that 512/1500 becomes 0.35, and no farther than the limits."""
        try:
            number = self.number()
        except ValueError:
            return
        low, high, is_open = self._limits
        if number is None or (self._may_be_none and number == low and steps < 0):
            self.write(low if steps > 0 else None)
            return
        place = Fraction(str(number)) / self._step
        new = ((math.floor(place) if steps > 0 else math.ceil(place)) + steps) * self._step
        if low is not None:
            new = max(new, Fraction(low))
        if high is not None:
            new = min(new, max(Fraction(high) - self._step, Fraction(str(number))) if is_open else Fraction(high))
        self.write(int(new) if self._kind.startswith("int") else float(new))
        self.selectAll()

    def wheelEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Change nothing while the user only scrolls past."""
        super().wheelEvent(event) if self.hasFocus() else event.ignore()


class BrowseButton(qt.QToolButton):
    """Picks a file for an editor."""

    def __init__(self, editor: TextEditor) -> None:
        name = editor.objectName()
        super().__init__()
        self.setText("…")
        self.setObjectName(f"browse_{name}")
        self.setToolTip("Choose a file")
        self.setAccessibleName(f"Choose a file: {declared.label(name)}")
        self._editor = editor
        self.clicked.connect(self._choose)

    def _choose(self) -> None:
        name = self._editor.objectName()
        title, folder = declared.label(name), os.path.dirname(self._editor.text())
        path, _ = qt.QFileDialog.getOpenFileName(self.window(), title, folder, FILE_KINDS[name])
        if path:  # empty: cancelled
            self._editor.write(path)


class Field:
    """A parameter on the panel: its label and editor in a row, and a note under it."""

    def __init__(self, name: str) -> None:
        label = declared.label(name)
        self.name = name
        self.editor = self._make_editor(name, label)
        self.editor.setObjectName(name)
        help_text = f"{declared.DECLARATION[name].description}\nAccepted: {declared.accepted(name)}.\nParameter: {name}"
        self.editor.setToolTip(_tool_tip(help_text))
        self.editor.setAccessibleName(label)
        self.note = Note()
        self.note.setObjectName(f"note_{name}")
        self.hint = ""  # what the note says while there is no fault
        self._came_in = self._shown = ""

    @staticmethod
    def _make_editor(name: str, title: str) -> Any:
        if name == "model_name":
            return ModelEditor()
        kind = declared.type_name(name)
        if kind == "bool":
            return CheckEditor(title)
        return TextEditor(name) if kind in ("str", "JSON") else NumberEditor(name)

    def row(self) -> Any:
        """The layout of the field."""
        if isinstance(self.editor, CheckEditor):  # has its label in itself
            self.note.setIndent(_text_indent(self.editor))
            return _stack([self.editor, self.note], qt.QVBoxLayout(), LABEL_SPACING)
        label = qt.QLabel(declared.label(self.name))
        label.setBuddy(self.editor)
        label.setToolTip(self.editor.toolTip())
        line = qt.QHBoxLayout()
        if isinstance(self.editor, NumberEditor):  # of a fixed width; the label takes the rest
            label.setWordWrap(True)
            line.addWidget(label, 1)
            line.addWidget(self.editor)
            return _stack([line, self.note], qt.QVBoxLayout(), LABEL_SPACING)
        line.addWidget(self.editor)
        if self.name in FILE_KINDS:
            line.addWidget(BrowseButton(self.editor))
        return _stack([label, line, self.note], qt.QVBoxLayout(), LABEL_SPACING)

    def write(self, value: Any) -> None:
        """Show `value`."""
        self.editor.write(value)
        self._came_in, self._shown = str(value), self.editor.read()

    def read(self) -> str:
        """The value as text: while the editor is as it was, exactly what came in, whatever digits it shows of that."""
        text = self.editor.read()
        return self._came_in if text == self._shown else text

    def explain(self, fault: str) -> None:
        """Say what is wrong under the editor, or its hint if nothing is."""
        self.note.tell(fault or self.hint, is_fault=bool(fault))
        self.editor.setAccessibleDescription(fault or self.hint)


class Content(qt.QWidget):
    """All groups under one another; calls `when_entered` when the mouse comes in or the panel is shown."""

    def __init__(self, groups: list[Any], when_entered: Callable[[], None]) -> None:
        super().__init__()
        layout = qt.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        _stack(groups, layout, GROUP_SPACING)
        self._when_entered = when_entered

    def enterEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """The user turns to the panel."""
        super().enterEvent(event)
        self._when_entered()

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """The panel appears."""
        super().showEvent(event)
        self._when_entered()


class InferSegmentAnything2Widget(core.CWorkflowTaskWidget):
    """The panel: editors in groups, Studio's drawing tools, and a line that says why values were not applied."""

    def __init__(self, param: InferSegmentAnything2Param | None, parent: Any) -> None:
        core.CWorkflowTaskWidget.__init__(self, parent)
        self.parameters = InferSegmentAnything2Param() if param is None else param
        self.fields = {name: Field(name) for name in declared.DECLARATION}
        self._explained_weights: tuple[str, bool] | None = None  # those that the checkpoint's note is about
        self._to_scroll_to: list[Any] = []
        self.checkpoint = Note()
        self.checkpoint.setObjectName("checkpoint_state")
        self.message = Note()
        self.message.setObjectName("message")
        if not declared.cuda_is_available():
            self.fields["cuda"].editor.setEnabled(False)
            self.fields["cuda"].hint = "No CUDA device was found: the CPU computes."

        groups = [
            self._group(declared.MODEL, self._model_rows()),
            self._group(declared.PROMPT, self._prompt_rows()),
            self._group(declared.AUTOMATIC, self._automatic_rows()),
            self._group(declared.OUTPUT, self._rows_of(declared.OUTPUT)),
        ]
        self.content = Content([*groups, self.message], self._show_checkpoint)
        # Kept: Qt deletes a layout with its Python object. The core puts it into a scroll area of its own, above its Apply
        # button (both seen in 0.15.1 and 0.16.1).
        self.layout = qt.QVBoxLayout()
        self.layout.addWidget(self.content)

        self.show_parameters()
        for field in self.fields.values():
            field.editor.when_edited(self._on_edit)
        self.set_layout(qtconversion.PyQtToQt(self.layout))

    # --- building

    def _group(self, title: str, rows: list[Any]) -> Any:
        box = qt.QGroupBox(title)
        _stack(rows, qt.QVBoxLayout(box), ROW_SPACING).setContentsMargins(4, 6, 4, 8)
        return box

    def _rows_of(self, group: str) -> list[Any]:
        names = [name for name in declared.DECLARATION if declared.about(name)["group"] == group]
        return [self.fields[name].row() for name in names]

    def _model_rows(self) -> list[Any]:
        name, *others = self._rows_of(declared.MODEL)
        name.addWidget(self.checkpoint)
        return [name, *others]

    def _prompt_rows(self) -> list[Any]:
        self.tools, tools = _choices({name: label for name, (label, _) in TOOLS.items()}, qt.QPushButton)
        for button in self.tools.buttons():
            button.setStyleSheet(ARMED)
        self.tools.buttonClicked.connect(self._on_tool)
        self.categories, categories = _choices(CATEGORIES, qt.QRadioButton)
        self.categories.buttons()[0].setChecked(True)
        self.categories.buttonClicked.connect(self._on_category)
        self.help = Note(HELP[""])
        self.help.setObjectName("help")
        return [
            tools,
            self.help,
            _stack([Note("Points and scribbles drawn next are"), categories], qt.QVBoxLayout(), LABEL_SPACING),
            Note("Or type coordinates, in pixels of the image. They win over what is drawn."),
            *self._rows_of(declared.PROMPT),
        ]

    def _automatic_rows(self) -> list[Any]:
        self.advanced = qt.QToolButton()
        self.advanced.setObjectName("advanced")
        self.advanced.setText("Advanced")
        self.advanced.setCheckable(True)
        self.advanced.setStyleSheet("QToolButton { border: none }")  # a heading, not one more button
        self.advanced.setToolButtonStyle(qtcore.Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.advanced.toggled.connect(self._on_advanced)
        self.folded = qt.QWidget()
        rows = qt.QVBoxLayout(self.folded)
        rows.setContentsMargins(0, 0, 0, 0)
        _stack(self._rows_of(declared.ADVANCED), rows, ROW_SPACING)
        self._on_advanced(False)
        return [
            Note("Used when nothing is drawn or typed."),
            *self._rows_of(declared.AUTOMATIC),
            self.advanced,
            self.folded,
        ]

    # --- showing

    def show_parameters(self) -> None:
        """Bring every editor up to date with the parameters."""
        for name, value in self.parameters.values:
            self.fields[name].write(value)
        self._on_edit()

    def _values(self) -> dict[str, str]:
        return {name: field.read() for name, field in self.fields.items()}

    def _faults(self) -> dict[str, str]:
        """What keeps the values from being applied, by the name of the field to say it under."""
        values, current = self._values(), self.parameters.values
        faults = declared.faults(values)
        if not faults:
            new = declared.update(current, values)
            # Values that came in so are not refused: the labels may be meant for points that are set later.
            if any(getattr(new, n) != getattr(current, n) for n in ("input_point", "input_point_label", "input_box")):
                faults = {"input_point_label": declared.label_fault(new)}
        return {name: fault for name, fault in faults.items() if fault}

    def _on_edit(self, *_: Any) -> None:
        """Check what was typed and say beside each field what is wrong with it."""
        weights = self.fields["model_weight_file"]
        path = weights.read().strip()
        weights.hint = "There is no such file." if path and not os.path.isfile(own_path(path)) else ""
        faults = self._faults()
        for name, field in self.fields.items():
            field.explain(faults.get(name, ""))
        if not faults:
            self.message.tell("")
        if self._chosen_weights() != self._explained_weights:
            self._show_checkpoint()

    def _show_checkpoint(self) -> None:
        """Say where the chosen model's checkpoint is; asked again later, since a run may have downloaded it."""
        self._explained_weights = self._chosen_weights()
        self.checkpoint.tell(checkpoint_text(*self._explained_weights))

    def _chosen_weights(self) -> tuple[str, bool]:
        """The name of the model, and whether it has weights of the user's own."""
        return self.fields["model_name"].read(), bool(self.fields["model_weight_file"].read().strip())

    # --- what the user does

    def _on_tool(self, button: Any) -> None:
        """Arm Studio's drawing tool, with the category that the switch shows: Studio keeps that of the last panel."""
        self.help.tell(HELP[button.objectName()])
        self.emit_set_graphics_category(CATEGORIES[self.categories.checkedButton().objectName()])
        self.emit_set_graphics_tool(TOOLS[button.objectName()][1])

    def _on_category(self, button: Any) -> None:
        self.emit_set_graphics_category(CATEGORIES[button.objectName()])

    def _on_advanced(self, is_open: bool) -> None:
        arrows = qtcore.Qt.ArrowType
        self.advanced.setArrowType(arrows.DownArrow if is_open else arrows.RightArrow)
        self.folded.setVisible(is_open)

    def on_parameters_changed(self) -> None:
        """Called by Studio when the parameters changed elsewhere."""
        self.show_parameters()

    def on_apply(self) -> None:
        """Called when the user presses Apply: sends the values, or says why not and sends nothing."""
        faults = self._faults()
        if faults:
            self._refuse(faults)
            return
        self.parameters.values = declared.update(self.parameters.values, self._values())
        self.show_parameters()
        self.emit_apply(self.parameters)

    def _refuse(self, faults: dict[str, str]) -> None:
        name, fault = next(iter(faults.items()))
        more = len(faults) - 1
        self.message.tell(f"Not applied. {fault}" + (f" And {more} more." if more else ""), is_fault=True)
        editor = self.fields[name].editor
        if self.folded.isAncestorOf(editor):
            self.advanced.setChecked(True)
        editor.setFocus()
        self._to_scroll_to = [self.fields[name].note, editor]
        qtcore.QTimer.singleShot(0, self._scroll)  # once the notes and what was unfolded have their places

    def _scroll(self) -> None:
        area: Any = self.content.parentWidget()
        while area is not None and not isinstance(area, qt.QScrollArea):
            area = area.parentWidget()
        if area is not None:
            for widget in self._to_scroll_to:
                area.ensureWidgetVisible(widget)


def checkpoint_text(model_name: str, has_own_weights: bool) -> str:
    """Where the weights of `model_name` come from, and what that costs."""
    if has_own_weights:
        return "Its weights are not needed: your own are used."
    try:
        state = checkpoint_state(model_name)
    except OSError as error:  # of a folder that may not be read
        return f"Whether its checkpoint is on disk is not known: {error.strerror}."
    if state == "to download":
        checkpoint = catalogue_entry(model_name)
        # 4 bytes for each parameter, where the exact size is not known
        size = (
            f"{checkpoint.bytes / 1e6:.0f}" if checkpoint.bytes else f"about {checkpoint.parameters_millions * 4:.0f}"
        )
        return f"Will be downloaded at the first run: {size} MB."
    return {"bundled": "Bundled with the plugin: nothing to download.", "on disk": "On disk: nothing to download."}[
        state
    ]


def _stack(rows: list[Any], layout: Any, spacing: int) -> Any:
    """`layout`, with widgets and layouts put into it under one another."""
    layout.setSpacing(spacing)
    for row in rows:
        layout.addLayout(row) if isinstance(row, qt.QLayout) else layout.addWidget(row)
    return layout


def _choices(labels: dict[str, str], kind: Any) -> tuple[Any, Any]:
    """A group of buttons of which one is on, by object name and label, and their layout: two columns, or one if narrow."""
    group, grid = qt.QButtonGroup(), qt.QGridLayout()
    grid.setSpacing(4)
    buttons = [kind(label) for label in labels.values()]
    columns = 2 if max(button.sizeHint().width() for button in buttons) < (NARROWEST - 70) // 2 else 1
    for i, (name, button) in enumerate(zip(labels, buttons, strict=True)):
        button.setObjectName(name)
        button.setCheckable(True)
        group.addButton(button)
        grid.addWidget(button, i // columns, i % columns)
        grid.setColumnStretch(i % columns, 1)
    return group, grid


def _text_indent(check_box: Any) -> int:
    """Where the text of `check_box` begins, in pixels."""
    metric = qt.QStyle.PixelMetric
    style = check_box.style()
    return style.pixelMetric(metric.PM_IndicatorWidth) + style.pixelMetric(metric.PM_CheckBoxLabelSpacing)


def _breakable(text: str) -> str:
    """`text` with places to break a long word at: a label is as wide as its longest word, however narrow the panel."""
    return " ".join("\u200b".join(w[i : i + 16] for i in range(0, len(w), 16)) for w in text.split(" "))


def _tool_tip(text: str) -> str:
    """`text` as rich text, which Qt wraps: a plain tooltip is as wide as its longest line."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "<br>")
    return f"<qt>{escaped}</qt>"


class InferSegmentAnything2WidgetFactory(dataprocess.CWidgetFactory):
    """Makes panels."""

    def __init__(self) -> None:
        dataprocess.CWidgetFactory.__init__(self)
        self.name = "infer_segment_anything_2"

    def create(self, param: InferSegmentAnything2Param | None) -> InferSegmentAnything2Widget:
        """A panel that shows and edits `param`."""
        return InferSegmentAnything2Widget(param, None)
