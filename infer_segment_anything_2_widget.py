"""The panel of Ikomia Studio, built from the declaration of the parameters: an editor for each, grouped, with its limits.

ikomia 0.16 is built on Qt 6 and uses PyQt6, older ones Qt 5 and PyQt5. The classes are taken from whichever binding the
installed ikomia itself uses, and only names that both have.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from ikomia import core, dataprocess
from ikomia.utils import pyqtutils, qtconversion

from infer_segment_anything_2.infer_segment_anything_2_process import InferSegmentAnything2Param
from infer_segment_anything_2.segmentation import parameters as declared

qt = import_module(pyqtutils.QWidget.__module__)  # PyQt6.QtWidgets or PyQt5.QtWidgets

#: What a spin box shows in place of its lowest value, which stands for None.
NONE_TEXT = "None"


class Editor(NamedTuple):
    """A widget with the way to read its value as text and to write it."""

    widget: Any
    read: Callable[[], str]
    write: Callable[[Any], None]


def make_editor(name: str) -> Editor:
    """An editor for the parameter `name`, with its limits, tooltip and name."""
    make = {"bool": _check_box, "int": _spin_box, "int or None": _spin_box, "float": _double_spin_box}.get(
        declared.type_name(name), _line_edit
    )
    editor = _combo_box(name) if name == "model_name" else make(name)
    editor.widget.setObjectName(name)
    editor.widget.setToolTip(f"{declared.DECLARATION[name].description}\nAccepted: {declared.accepted(name)}.")
    return editor


def _combo_box(name: str) -> Editor:
    box = qt.QComboBox()
    box.addItems(declared.MODEL_NAMES)
    return Editor(box, box.currentText, box.setCurrentText)


def _check_box(name: str) -> Editor:
    box = qt.QCheckBox()
    return Editor(box, lambda: str(box.isChecked()), box.setChecked)


def _line_edit(name: str) -> Editor:
    edit = qt.QLineEdit()
    edit.setPlaceholderText(declared.accepted(name))
    return Editor(edit, edit.text, edit.setText)


def _spin_box(name: str) -> Editor:
    limits = declared.limits(name)
    may_be_none = declared.type_name(name) == "int or None"
    box = qt.QSpinBox()
    box.setRange(int(limits.minimum or 0) - may_be_none, int(limits.maximum or 2**31 - 1))
    if may_be_none:
        box.setSpecialValueText(NONE_TEXT)
    return Editor(
        box,
        lambda: NONE_TEXT if may_be_none and box.value() == box.minimum() else str(box.value()),
        lambda value: box.setValue(box.minimum() if value is None else value),
    )


def _double_spin_box(name: str) -> Editor:
    """Shows a few decimals; a value that is not touched is given back exactly as it came."""
    limits = declared.limits(name)
    box = qt.QDoubleSpinBox()
    box.setDecimals(4)
    box.setSingleStep(0.05)
    highest = sys.float_info.max if limits.maximum is None else limits.maximum - 1e-4 * limits.maximum_is_open
    box.setRange(-sys.float_info.max if limits.minimum is None else limits.minimum, highest)
    exact: list[float] = [0.0, 0.0]  # what was written, and what the box made of it

    def write(value: float) -> None:
        box.setValue(value)
        exact[:] = value, box.value()

    return Editor(box, lambda: str(exact[0] if box.value() == exact[1] else box.value()), write)


class InferSegmentAnything2Widget(core.CWorkflowTaskWidget):
    """The panel: editors in groups, and a line that says why values were not applied."""

    def __init__(self, param: InferSegmentAnything2Param | None, parent: Any) -> None:
        core.CWorkflowTaskWidget.__init__(self, parent)
        self.parameters = InferSegmentAnything2Param() if param is None else param
        self.editors = {name: make_editor(name) for name in declared.DECLARATION}
        self.message = qt.QLabel()
        self.message.setObjectName("message")
        self.message.setWordWrap(True)

        self.layout = layout = qt.QVBoxLayout()  # kept: Python would delete it with its last reference
        for group in dict.fromkeys(f.json_schema_extra["group"] for f in declared.DECLARATION.values()):
            box = qt.QGroupBox(group)
            form = qt.QFormLayout(box)
            for name, field in declared.DECLARATION.items():
                if field.json_schema_extra["group"] == group:
                    form.addRow(field.title, self.editors[name].widget)
            layout.addWidget(box)
        layout.addWidget(self.message)
        layout.addStretch()
        self.show_parameters()
        self.set_layout(qtconversion.PyQtToQt(layout))

    def show_parameters(self) -> None:
        """Bring every editor up to date with the parameters."""
        for name, value in self.parameters.values:
            self.editors[name].write(value)

    def on_parameters_changed(self) -> None:
        """Called by Studio when the parameters changed elsewhere."""
        self.show_parameters()

    def on_apply(self) -> None:
        """Called when the user presses Apply: sends the values, or says why not and sends nothing."""
        try:
            values = {name: editor.read() for name, editor in self.editors.items()}
            self.parameters.values = declared.update(self.parameters.values, values)
        except ValueError as error:
            self.message.setText(str(error))
            return
        self.message.clear()
        self.emit_apply(self.parameters)


class InferSegmentAnything2WidgetFactory(dataprocess.CWidgetFactory):
    """Makes panels."""

    def __init__(self) -> None:
        dataprocess.CWidgetFactory.__init__(self)
        self.name = "infer_segment_anything_2"

    def create(self, param: InferSegmentAnything2Param | None) -> InferSegmentAnything2Widget:
        """A panel that shows and edits `param`."""
        return InferSegmentAnything2Widget(param, None)
