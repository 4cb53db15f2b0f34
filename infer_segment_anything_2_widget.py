"""The panel of Ikomia Studio: its drawing tools, and parameters as `bridge/editors.py` makes editors of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ikomia import core, dataprocess
from ikomia.utils import qtconversion

from infer_segment_anything_2.bridge.drawings import drawn_category
from infer_segment_anything_2.bridge.editors import (
    LABEL_SPACING,
    Field,
    Note,
    on_the_panel,
    qt,
    qtcore,
    stack,
    tool_tip,
)
from infer_segment_anything_2.bridge.wire import SAVE_COCO, SAVE_LABELS, InferSegmentAnything2Param, News
from infer_segment_anything_2.segmentation import parameters as declared
from infer_segment_anything_2.segmentation.checkpoints import catalogue_entry, checkpoint_state
from infer_segment_anything_2.segmentation.messages import shown
from infer_segment_anything_2.segmentation.own_files import own_path

#: Width in pixels, at least, that the panel is laid out for.
NARROWEST = 320
ROW_SPACING, GROUP_SPACING = 8, 12

SIDES = "With Studio's own tools: the category Background, or with Foreground the name of the object."
NAMES = "With Studio's own tools: the category Foreground, or the name of the object."
HELP = {
    "tool_point": "Click on the object. Points on the Background side say what does not belong to it.",
    "tool_box": "Drag a box around an object. Each box gives a mask of its own.",
    "tool_scribble": "Draw a line over the object. Lines on the Background side say what does not belong to it.",
    "tool_select": "Click what is drawn to select it, then move it, or delete it with the Del key.",
    "category_foreground": "What is drawn next is on the object.",
    "category_background": "Points and scribbles drawn next are off the object that was drawn last.",
    "object_name": "What the object that is drawn next is called: points and scribbles of one name are one object.",
    "next_object": "What is drawn next is another object, with a new name.",
    "save_coco": "Write the masks of the last result with names, scores and boxes as a COCO JSON file.",
    "save_labels": "Write the labels of the last result as a PNG: 0 background, 1 the first object.",
    "reset": "Show the default values; Apply sends them.",
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
#: What can be saved: the name of its button, the action of the task, the kind of file and its ending.
SAVES = {"save_coco": (SAVE_COCO, "COCO (*.json)", ".json"), "save_labels": (SAVE_LABELS, "PNG (*.png)", ".png")}
#: Of the model's parameters those that few need.
RARE = ("model_weight_file", "config_file", "apply_postprocessing", "input_size_percent", "intensity_range")


class Fold(qt.QWidget):
    """A heading that shows or hides the rows under it."""

    def __init__(self, name: str, title: str, rows: list[Any]) -> None:
        super().__init__()
        self.heading = qt.QToolButton()
        self.heading.setObjectName(name)
        self.heading.setText(title)
        self.heading.setCheckable(True)
        self.heading.setStyleSheet("QToolButton { border: none }")  # a heading, not one more button
        self.heading.setToolButtonStyle(qtcore.Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.heading.toggled.connect(self.open)
        self.rows = qt.QWidget()
        stack(rows, qt.QVBoxLayout(self.rows), ROW_SPACING).setContentsMargins(0, 0, 0, 0)
        stack([self.heading, self.rows], qt.QVBoxLayout(self), ROW_SPACING).setContentsMargins(0, 0, 0, 0)
        self.open(False)

    def open(self, is_open: bool) -> None:
        """Show or hide the rows."""
        arrows = qtcore.Qt.ArrowType
        self.heading.setArrowType(arrows.DownArrow if is_open else arrows.RightArrow)
        self.heading.setChecked(is_open)
        self.rows.setVisible(is_open)


class Content(qt.QWidget):
    """All groups under one another; calls `when_entered` when the mouse comes in, and `when_shown` when the panel appears."""

    def __init__(self, groups: list[Any], when_entered: Callable[[], None], when_shown: Callable[[], None]) -> None:
        super().__init__()
        layout = qt.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        stack(groups, layout, GROUP_SPACING)
        self._when_entered, self._when_shown = when_entered, when_shown

    def enterEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """The user turns to the panel."""
        super().enterEvent(event)
        self._when_entered()

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """The panel appears."""
        super().showEvent(event)
        self._when_shown()


class InferSegmentAnything2Widget(core.CWorkflowTaskWidget):
    """The panel: Studio's drawing tools, editors in groups, and beside Apply a line that says what went wrong."""

    def __init__(self, param: InferSegmentAnything2Param | None, parent: Any) -> None:
        core.CWorkflowTaskWidget.__init__(self, parent)
        self.parameters = InferSegmentAnything2Param() if param is None else param
        self.fields = {name: Field(name) for name in declared.DECLARATION}
        self.folds: list[Fold] = []
        self._explained_weights: tuple[str, bool] | None = None  # those that the checkpoint's note is about
        self._to_scroll_to: list[Any] = []
        self.checkpoint, self.message, self.help, self.renamed = Note(), Note(), Note(), Note()
        notes = {
            "checkpoint_state": self.checkpoint,
            "message": self.message,
            "help": self.help,
            "renamed": self.renamed,
        }
        for name, note in notes.items():
            note.setObjectName(name)
        if not declared.cuda_is_available():
            self.fields["cuda"].hint = "No CUDA device was found: the CPU computes."
        self.fields["live"].hint = "From the first Apply on, which loads the model."

        groups = [
            self._group(declared.PROMPT, [*self._drawing_rows(), *self._rows_of(declared.PROMPT)]),
            self._group(declared.MODEL, self._model_rows()),
            self._group(declared.AUTOMATIC, self._automatic_rows()),
            self._group(declared.OUTPUT, self._output_rows()),
        ]
        self.content = Content(groups, self._show_checkpoint, self._on_show)
        # Kept: Qt deletes a layout with its Python object. The core puts it into a scroll area of its own, above its Apply
        # button (both seen in 0.15.1 and 0.16.1).
        self.layout = qt.QVBoxLayout()
        self.layout.addWidget(self.content)

        self.show_parameters()
        for field in self.fields.values():
            field.editor.when_edited(self._on_user_edit)
            if hasattr(field.editor, "when_entered"):
                field.editor.when_entered(self.on_apply)
        self.fields["live"].editor.clicked.connect(self._on_live)  # not toggled: Reset to defaults alone sends nothing
        self.set_layout(qtconversion.PyQtToQt(self.layout))
        apply = self.content.window().findChild(qt.QPushButton, "CProcessBtn")
        frame = apply.parentWidget().layout()
        frame.insertWidget(frame.indexOf(apply), self.message)  # in sight wherever the panel is scrolled to
        self._show_news()

    # --- building

    def _group(self, title: str, rows: list[Any]) -> Any:
        box = qt.QGroupBox(title)
        stack(rows, qt.QVBoxLayout(box), ROW_SPACING).setContentsMargins(4, 6, 4, 8)
        return box

    def _rows_of(self, group: str) -> list[Any]:
        names = [n for n in declared.DECLARATION if declared.about(n)["group"] == group]
        return [self.fields[n].row() for n in names if n not in (*RARE, "live")]

    def _fold(self, name: str, title: str, rows: list[Any]) -> Fold:
        self.folds.append(Fold(name, title, rows))
        return self.folds[-1]

    def _button(self, name: str, text: str, slot: Callable[[], None]) -> Any:
        button = qt.QPushButton(text)
        button.setObjectName(name)
        button.setToolTip(tool_tip(HELP[name]))
        button.clicked.connect(lambda *_: slot())
        return button

    def _model_rows(self) -> list[Any]:
        name, *others = self._rows_of(declared.MODEL)
        name.addWidget(self.checkpoint)
        rare = [self.fields[n].row() for n in RARE]
        return [name, *others, self._fold("rare", "Own weights and more", rare)]

    def _drawing_rows(self) -> list[Any]:
        self.tools, tools = _choices({name: label for name, (label, _) in TOOLS.items()}, qt.QPushButton)
        for button in self.tools.buttons():
            button.setStyleSheet(ARMED)
        self.tools.buttons()[0].setChecked(True)
        self.tools.buttonClicked.connect(self._arm)
        self.categories, categories = _choices(CATEGORIES, qt.QRadioButton)
        self.categories.buttons()[self.parameters.draws_background].setChecked(True)
        self.categories.buttonClicked.connect(self._send_category)
        self.object_name = qt.QLineEdit(self.parameters.drawn_name)
        self.object_name.setObjectName("object_name")
        self.object_name.setPlaceholderText("no name")
        self.object_name.setToolTip(tool_tip(HELP["object_name"]))
        self.object_name.setAccessibleName("Name of the object")
        self.object_name.setClearButtonEnabled(True)
        self.object_name.textEdited.connect(self._send_category)
        named = qt.QHBoxLayout()
        named.addWidget(self.object_name, 1)
        named.addWidget(self._button("next_object", "Next object", self._on_next_object))
        return [
            stack([tools, self.help], qt.QVBoxLayout(), LABEL_SPACING),
            stack([Note("What is drawn next is"), categories], qt.QVBoxLayout(), LABEL_SPACING),
            stack([Note("of the object"), named, self.renamed], qt.QVBoxLayout(), LABEL_SPACING),
            self.fields["live"].row(),
        ]

    def _automatic_rows(self) -> list[Any]:
        return [
            Note("Used when nothing is drawn, typed or connected."),
            *self._rows_of(declared.AUTOMATIC),
            self._fold("advanced", "Advanced", self._rows_of(declared.ADVANCED)),
        ]

    def _output_rows(self) -> list[Any]:
        saves = [
            self._button("save_coco", "Save COCO…", lambda: self._on_save("save_coco")),
            self._button("save_labels", "Save labels…", lambda: self._on_save("save_labels")),
        ]
        reset = self._button("reset", "Reset to defaults", self._on_reset)
        return [*self._rows_of(declared.OUTPUT), _grid(saves), reset]

    # --- showing

    def show_parameters(self) -> None:
        """Bring every editor up to date with the parameters."""
        self._shown = self.parameters.values
        self._write(self._shown)

    def _write(self, values: declared.Parameters) -> None:
        # Where it was on in a workflow of another machine it can be switched off.
        self.fields["cuda"].editor.setEnabled(values.cuda or declared.cuda_is_available())
        for name, value in values:
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
                fault = declared.label_fault(new)
                faults[fault.partition(":")[0]] = fault
        weights = values["model_weight_file"].strip()
        if weights and not os.path.isfile(own_path(weights)):
            faults["model_weight_file"] = f"model_weight_file: there is no file {shown(weights)}."
        return {name: faults[name] for name in declared.DECLARATION if faults.get(name)}

    def _on_edit(self, *_: Any) -> None:
        """Check what was typed and say beside each field what is wrong with it."""
        is_used = self.fields["multimask_output"].editor.isChecked()
        candidates = self.fields["mask_id"]
        meaning = declared.about("mask_id")["choices"].get(candidates.read(), "")
        candidates.hint = meaning if is_used else "Switch on Three masks first."
        candidates.editor.setEnabled(is_used)
        faults = self._faults()
        for name, field in self.fields.items():
            field.explain(faults.get(name, ""))
        if not faults:
            self.message.tell("")
        if self._chosen_weights() != self._explained_weights:
            self._show_checkpoint()

    def _on_user_edit(self, *_: Any) -> None:
        """What was said is over: a run that ends alike says it again."""
        self.parameters.news = News()
        self.message.tell("")
        self._on_edit()

    def _show_checkpoint(self) -> None:
        """Say where the chosen model's checkpoint is; asked again later, since a run may have downloaded it."""
        self._explained_weights = self._chosen_weights()
        self.checkpoint.tell(checkpoint_text(*self._explained_weights))

    def _chosen_weights(self) -> tuple[str, bool]:
        """The name of the model, and whether it has weights of the user's own."""
        return self.fields["model_name"].read(), bool(self.fields["model_weight_file"].read().strip())

    # --- what the user does

    def _on_show(self) -> None:
        """Arm the tool that is down, Point at first, as Ikomia's own GrabCut does: Studio has that of the panel before."""
        self._show_checkpoint()
        self._arm()

    def _arm(self, *_: Any) -> None:
        name = self.tools.checkedButton().objectName()
        self.help.tell(HELP[name])
        self._send_category()
        self.emit_set_graphics_tool(TOOLS[name][1])

    def _send_category(self, *_: Any) -> None:
        """Give Studio the category of what is drawn next: the side, or on the object its name."""
        name, is_background = self.object_name.text(), self.categories.buttons()[1].isChecked()
        self.parameters.drawn_name, self.parameters.draws_background = name, is_background
        category = drawn_category(name)
        is_other = bool(name.strip()) and category != name.strip()
        self.renamed.tell(
            f'"{name.strip()}" has a meaning of its own in drawings: the object is called "{category}".'
            if is_other
            else ""
        )
        self.emit_set_graphics_category("Background" if is_background else category)

    def _on_next_object(self) -> None:
        self.parameters.objects += 1
        self.object_name.setText(f"object {self.parameters.objects}")
        self.categories.buttons()[0].setChecked(True)
        self._send_category()

    def _on_reset(self) -> None:
        self.parameters.news = News()
        self._write(declared.Parameters())

    def _on_live(self, is_on: bool) -> None:
        """At once: who switches it off wants the next stroke to wait, and no run."""
        if is_on != self.parameters.values.live:
            self.parameters.values = self._shown = declared.update(self.parameters.values, {"live": is_on})

    def _on_save(self, what: str) -> None:
        """Have the task save its masks. An action carries a number alone: the parameters, which it has too, carry the path."""
        action, kinds, ending = SAVES[what]
        path, _ = qt.QFileDialog.getSaveFileName(self.content, "Save masks", f"masks{ending}", kinds)
        if not path:  # cancelled
            return
        self.parameters.save_path = path if path.lower().endswith(ending) else path + ending
        self.parameters.news = News("Nothing was saved: Studio did not pass it on.", is_fault=True)
        self.emit_send_process_action(action)
        self._show_news()

    def _show_news(self) -> None:
        self.message.tell(on_the_panel(self.parameters.news.text), is_fault=self.parameters.news.is_fault)

    def on_parameters_changed(self) -> None:
        """Called by Studio when the parameters changed elsewhere, or a stroke or run has something to say."""
        if self.parameters.values is not self._shown:  # what is typed and not applied stays
            self.show_parameters()
        self._show_news()

    def on_apply(self) -> None:
        """Called when the user presses Apply: sends the values, or says why not and sends nothing."""
        faults = self._faults()
        if faults:
            self._refuse(faults)
            return
        self.parameters.values = declared.update(self.parameters.values, self._values())
        self.parameters.news = News()
        self.parameters.when_set()
        self.show_parameters()
        self.emit_apply(self.parameters)

    def _refuse(self, faults: dict[str, str]) -> None:
        name, fault = next(iter(faults.items()))
        more = len(faults) - 1
        self.message.tell(f"Not applied. {on_the_panel(fault)}" + (f" And {more} more." if more else ""), is_fault=True)
        editor = self.fields[name].editor
        for fold in self.folds:
            if fold.isAncestorOf(editor):
                fold.open(True)
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
    checkpoint = catalogue_entry(model_name)
    millions = f"{checkpoint.parameters_millions:g} million parameters"
    try:
        state = checkpoint_state(model_name)
    except OSError as error:  # of a folder that may not be read
        return f"{millions}. Whether its checkpoint is on disk is not known: {error.strerror}."
    # 4 bytes for each parameter, where the exact size is not known
    size = f"{checkpoint.bytes / 1e6:.0f}" if checkpoint.bytes else f"about {checkpoint.parameters_millions * 4:.0f}"
    costs = {
        "bundled": "bundled with the plugin, for trying out",
        "on disk": "on disk: nothing to download",
        "to download": f"will be downloaded at the first run: {size} MB",
    }
    return f"{millions}; {costs[state]}."


def _choices(labels: dict[str, str], kind: Any) -> tuple[Any, Any]:
    """A group of buttons of which one is on, by object name and label, and their layout."""
    group, buttons = qt.QButtonGroup(), [kind(label) for label in labels.values()]
    for name, button in zip(labels, buttons, strict=True):
        button.setObjectName(name)
        button.setCheckable(True)
        category = {"tool_select": "", "tool_box": NAMES}.get(name, SIDES)
        button.setToolTip(tool_tip(f"{HELP[name]} {category}".strip()))
        group.addButton(button)
    return group, _grid(buttons)


def _grid(buttons: list[Any]) -> Any:
    """Buttons in rows, as many in one as find room in the narrowest panel."""
    grid = qt.QGridLayout()
    grid.setSpacing(4)
    widest = max(button.sizeHint().width() for button in buttons)
    columns = next((n for n in (4, 2) if n <= len(buttons) and widest <= (NARROWEST - 60) // n - 4), 1)
    for i, button in enumerate(buttons):
        grid.addWidget(button, i // columns, i % columns)
        grid.setColumnStretch(i % columns, 1)
    return grid


class InferSegmentAnything2WidgetFactory(dataprocess.CWidgetFactory):
    """Makes panels."""

    def __init__(self) -> None:
        dataprocess.CWidgetFactory.__init__(self)
        self.name = "infer_segment_anything_2"

    def create(self, param: InferSegmentAnything2Param | None) -> InferSegmentAnything2Widget:
        """A panel that shows and edits `param`."""
        return InferSegmentAnything2Widget(param, None)
