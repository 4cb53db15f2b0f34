"""Parameters as editors of a Qt panel: each with its label, its limits, its help and a note for what is wrong with it.

ikomia 0.16 is built on Qt 6 and uses PyQt6, older ones Qt 5 and PyQt5. The classes are taken from whichever binding the
installed ikomia itself uses, and only names that both have: enums are spelled out in full, which PyQt6 (6.2) wants and
PyQt5 (5.15) takes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from fractions import Fraction
from importlib import import_module
from typing import Any

from ikomia.utils import pyqtutils

from infer_segment_anything_2.segmentation import parameters as declared

_binding = pyqtutils.QWidget.__module__.partition(".")[0]  # "PyQt6" or "PyQt5"
qtcore: Any = import_module(f"{_binding}.QtCore")
qt: Any = import_module(f"{_binding}.QtWidgets")

#: Between a label and its editor, in pixels.
LABEL_SPACING = 3
FILE_KINDS = {
    "model_weight_file": "Weights (*.pt *.pth *.ckpt *.safetensors);;All files (*)",
    "config_file": "YAML files (*.yaml *.yml);;All files (*)",
}
#: Names of parameters as they stand in sentences.
CODE_NAMES = re.compile(rf"(?<![\w/\\.])({'|'.join(n for n in declared.DECLARATION if '_' in n)})(?![\w/\\.]*\w)")


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


class IgnoresPassingWheel:
    """An editor that changes nothing while the user only scrolls past."""

    def wheelEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Take the wheel only where the user is."""
        super().wheelEvent(event) if self.hasFocus() else event.ignore()  # type: ignore[misc, attr-defined]


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


class ChoiceEditor(IgnoresPassingWheel, qt.QComboBox):
    """One of a few values."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.addItems(declared.about(name)["choices"])
        self.setSizeAdjustPolicy(qt.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setFocusPolicy(qtcore.Qt.FocusPolicy.StrongFocus)
        self.read, self.write = self.currentText, self.setCurrentText
        self.when_edited = self.currentTextChanged.connect


class TextEditor(qt.QLineEdit):
    """Text of any length, such as a path or coordinates."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setMaxLength(2**31 - 1)  # Qt's own default cuts a long list of points after 32767 characters
        self.setClearButtonEnabled(True)
        example = declared.about(name)["example"]
        self.setPlaceholderText(f"e.g. {example}" if example else "")
        self.read = self.text
        self.when_edited = self.textChanged.connect
        self.when_entered = self.returnPressed.connect

    def write(self, value: str) -> None:
        """Show `value` from its beginning."""
        self.setText(value)
        self.setCursorPosition(0)


class NumberEditor(IgnoresPassingWheel, qt.QAbstractSpinBox):
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
        self.when_entered = self.lineEdit().returnPressed.connect
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
        help_text = f"{declared.DECLARATION[name].description}\nAccepted: {declared.accepted(name)}."
        self.editor.setToolTip(tool_tip(f"{on_the_panel(help_text)}\nParameter: {name}"))
        self.editor.setAccessibleName(label)
        self.note = Note()
        self.note.setObjectName(f"note_{name}")
        self.hint = ""  # what the note says while there is no fault
        self._came_in = self._shown = ""

    @staticmethod
    def _make_editor(name: str, title: str) -> Any:
        if declared.about(name)["choices"]:
            return ChoiceEditor(name)
        kind = declared.type_name(name)
        if kind == "bool":
            return CheckEditor(title)
        return TextEditor(name) if kind in ("str", "JSON") else NumberEditor(name)

    def row(self) -> Any:
        """The layout of the field."""
        if isinstance(self.editor, CheckEditor):  # has its label in itself
            self.note.setIndent(_text_indent(self.editor))
            return stack([self.editor, self.note], qt.QVBoxLayout(), LABEL_SPACING)
        label = qt.QLabel(declared.label(self.name))
        label.setBuddy(self.editor)
        label.setToolTip(self.editor.toolTip())
        line = qt.QHBoxLayout()
        if isinstance(self.editor, NumberEditor):  # of a fixed width; the label takes the rest
            label.setWordWrap(True)
            line.addWidget(label, 1)
            line.addWidget(self.editor)
            return stack([line, self.note], qt.QVBoxLayout(), LABEL_SPACING)
        line.addWidget(self.editor)
        if self.name in FILE_KINDS:
            line.addWidget(BrowseButton(self.editor))
        return stack([label, line, self.note], qt.QVBoxLayout(), LABEL_SPACING)

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
        text = on_the_panel(fault) or self.hint
        self.note.tell(text, is_fault=bool(fault))
        self.editor.setAccessibleDescription(text)


def on_the_panel(text: str) -> str:
    """`text` with the names of fields in place of those of parameters; "live" or "cuda" only before a colon."""
    start, colon, rest = text.partition(":")
    if colon and start in declared.DECLARATION:
        return f"{declared.label(start)}:{on_the_panel(rest)}"
    return CODE_NAMES.sub(lambda found: f"“{declared.label(found[0])}”", text)


def stack(rows: list[Any], layout: Any, spacing: int) -> Any:
    """`layout`, with widgets and layouts put into it under one another."""
    layout.setSpacing(spacing)
    for row in rows:
        layout.addLayout(row) if isinstance(row, qt.QLayout) else layout.addWidget(row)
    return layout


def _text_indent(check_box: Any) -> int:
    """Where the text of `check_box` begins, in pixels."""
    metric = qt.QStyle.PixelMetric
    style = check_box.style()
    return style.pixelMetric(metric.PM_IndicatorWidth) + style.pixelMetric(metric.PM_CheckBoxLabelSpacing)


def _breakable(text: str) -> str:
    """`text` with places to break a long word at: a label is as wide as its longest word, however narrow the panel."""
    return " ".join("\u200b".join(w[i : i + 16] for i in range(0, len(w), 16)) for w in text.split(" "))


def tool_tip(text: str) -> str:
    """`text` as rich text, which Qt wraps: a plain tooltip is as wide as its longest line."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "<br>")
    return f"<qt>{escaped}</qt>"
