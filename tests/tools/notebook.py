"""Executes examples/segment_anything_2.ipynb and stores what comes out in it: `make notebook`.

With the checkout as the plugin and the bundled model; HOME is a private one, as for the demo.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "segment_anything_2.ipynb"
CELL_SECONDS = 600

#: What Ikomia's core (0.16.1) prints after each run: another number each time.
_TIMES = re.compile(r"^Workflow .* run successfully in .* ms\.\n", re.MULTILINE)


def executed(environment: Mapping[str, str] | None = None) -> nbformat.NotebookNode:
    """The notebook with its outputs, run by a new kernel of this Python in a temporary copy of its folder and of images/.

    Args:
        environment: variables for the kernel besides those of this process.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        examples = Path(folder, "examples")
        examples.mkdir()
        shutil.copytree(ROOT / "images", Path(folder, "images"))
        # Jupyter and IPython keep files in the home, or wherever the user's variables say.
        own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR")
        private = {name: str(Path(folder, name.lower())) for name in own}
        with mock.patch.dict(os.environ, private | {"JUPYTER_PATH": ""} | dict(environment or {})):
            client = NotebookClient(
                notebook,
                timeout=CELL_SECONDS,
                kernel_name="python3",
                record_timing=False,
                resources={"metadata": {"path": str(examples)}},
            )
            client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_without_times, cell.outputs) if output]
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    return notebook


def _without_times(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """The output without the times of the runs; None if there was nothing else."""
    if output.output_type == "stream":
        output.text = _TIMES.sub("", output.text)
        return output if output.text.strip() else None
    return output


if __name__ == "__main__":
    from demo import prepare_home
    from samples import DemoError

    try:
        prepare_home()
    except DemoError as error:
        sys.exit(str(error))
    nbformat.write(executed(), NOTEBOOK)
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size / 1000:.0f} kB")
