"""Pictures of the Studio panel, drawn offscreen by the Qt generation it runs under.

`python tests/tools/panel.py OUT_DIR` writes panel_light.png and panel_dark.png, the whole height of the panel. images/
studio_panel.png is the light one of Qt 6 with --width 360 --height 760 --model sam2_hiera_nano, as Studio shows it. Text needs
a font on the machine, such as Debian's fonts-dejavu-core.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "infer_segment_anything_2"


def dark_palette(palette, role):
    """`palette`, turned dark, with a usual choice of colours; `role` is Qt's enum of colour roles."""
    from_hex = type(palette.color(role.Window))
    for names, colour in {
        ("Window", "Button", "AlternateBase"): "#353535",
        ("Base", "ToolTipBase"): "#232323",
        ("WindowText", "Text", "ButtonText", "ToolTipText"): "#f0f0f0",
        ("PlaceholderText",): "#8a8a8a",
        ("Highlight",): "#2a82da",
        ("HighlightedText",): "#ffffff",
    }.items():
        for name in names:
            palette.setColor(getattr(role, name), from_hex(colour))
    for name in ("WindowText", "Text", "ButtonText"):
        palette.setColor(type(palette).ColorGroup.Disabled, getattr(role, name), from_hex("#8a8a8a"))
    return palette


def main() -> None:
    """Draw the panel in both palettes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--width", type=int, default=380)
    parser.add_argument("--height", type=int, help="default: as high as the panel's content")
    parser.add_argument("--model", default="sam2_hiera_small", help="model_name (default: %(default)s)")
    parser.add_argument("--font-scale", type=float, default=1.0)
    parser.add_argument("--open", action="store_true", help="with all that is folded")
    parser.add_argument("--faulty", action="store_true", help="with fields that are refused")
    arguments = parser.parse_args()
    arguments.out_dir.mkdir(parents=True, exist_ok=True)

    # The same binding as ikomia's, imported before it: ikomia's own Qt would come first otherwise (seen in 0.15.1).
    try:
        from PyQt6 import QtGui, QtWidgets
    except ImportError:
        from PyQt5 import QtGui, QtWidgets
    app = QtWidgets.QApplication([])
    app.setStyle("Fusion")
    font = app.font()
    font.setPixelSize(round(13 * arguments.font_scale))  # in pixels: the generations differ in what a point is here
    app.setFont(font)
    light = app.palette()
    dark = dark_palette(app.palette(), QtGui.QPalette.ColorRole)
    for name, palette in (("light", light), ("dark", dark)):
        app.setPalette(palette)
        picture = picture_of_panel(app, arguments)
        picture.save(str(arguments.out_dir / f"panel_{name}.png"))


def picture_of_panel(app, arguments):
    """A pixmap of a fresh panel."""
    from infer_segment_anything_2.bridge.wire import InferSegmentAnything2Param
    from infer_segment_anything_2.infer_segment_anything_2_widget import InferSegmentAnything2Widget

    parameters = InferSegmentAnything2Param()
    parameters.values = parameters.values.model_copy(update={"model_name": arguments.model})
    panel = InferSegmentAnything2Widget(parameters, None)
    window = panel.layout.parentWidget().window()
    fields = panel.fields
    if arguments.faulty:
        fields["input_point"].editor.setText("[120, 80")
        fields["iou_thresh"].editor.lineEdit().setText("1.5")
        fields["model_weight_file"].editor.setText("/a/very/long/path/that/is/not/there/really_not.pt")
        panel.on_apply()
    if arguments.open:
        for fold in panel.folds:
            fold.open(True)
    window.resize(arguments.width, arguments.height or 800)
    window.show()
    area = panel.content.parentWidget().parentWidget().parentWidget()  # the core's
    for _ in range(4):
        app.processEvents()
        if arguments.height is None:
            missing = area.widget().heightForWidth(area.viewport().width()) - area.viewport().height()
            window.resize(arguments.width, window.height() + missing)
    area.verticalScrollBar().setValue(0)
    app.processEvents()
    picture = window.grab()
    window.hide()
    return picture


if __name__ == "__main__":
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ["IKOMIA_AUTO_COMPLETION"] = "False"
    with tempfile.TemporaryDirectory() as home:  # ikomia writes into the home that it finds
        os.environ["HOME"] = home
        os.environ["TORCH_HOME"] = f"{home}/torch"
        plugins = Path(home) / "Ikomia" / "Plugins" / "Python"
        plugins.mkdir(parents=True)
        (plugins / NAME).symlink_to(ROOT)
        sys.path.insert(0, str(plugins))
        main()
