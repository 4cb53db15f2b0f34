"""A small detector under the name of the hub's infer_grounding_dino: what its prompt names, where the sample scene has it.

`install(plugins)` puts it into a folder of plugins, so that workflows find it by name, and can be saved and loaded.
"""

from __future__ import annotations

from pathlib import Path

NAME = "infer_grounding_dino"

DOOR = """
from ikomia import dataprocess


class IkomiaPlugin(dataprocess.CPluginProcessInterface):
    def __init__(self):
        dataprocess.CPluginProcessInterface.__init__(self)

    def get_process_factory(self):
        from infer_grounding_dino.infer_grounding_dino_process import Factory

        return Factory()

    def get_param_factory(self):
        from infer_grounding_dino.infer_grounding_dino_process import ParamFactory

        return ParamFactory()
"""

PROCESS = """
from ikomia import core, dataprocess
from ikomia.core.task import TaskParam

# Where the sample scene has its things: x, y, width, height in pixels.
THINGS = {"pot": (101, 132, 242, 254), "palette": (293, 222, 252, 269), "taxi": (526, 387, 104, 94)}


class Param(TaskParam):
    def __init__(self):
        TaskParam.__init__(self)
        self.prompt = "pot . palette . taxi ."

    def set_values(self, params):
        self.prompt = params["prompt"]

    def get_values(self):
        return {"prompt": self.prompt}


class Detector(dataprocess.CObjectDetectionTask):
    def __init__(self, name, param):
        dataprocess.CObjectDetectionTask.__init__(self, name)
        self.set_param_object(Param() if param is None else param)

    def get_progress_steps(self):
        return 1

    def run(self):
        self.begin_task_run()
        names = [name.strip() for name in self.get_param_object().prompt.split(".")]
        found = [name for name in names if name in THINGS]
        self.set_names(found)
        for number, name in enumerate(found):
            self.add_object(number, number, 0.9, *map(float, THINGS[name]))
        self.end_task_run()


class Factory(dataprocess.CTaskFactory):
    def __init__(self):
        dataprocess.CTaskFactory.__init__(self)
        self.info.name = "infer_grounding_dino"
        self.info.short_description = "A detector for tests."
        self.info.path = "Plugins/Python/Detection"
        self.info.version = "1.0.0"
        self.info.min_ikomia_version = "0.15.0"
        self.info.min_python_version = "3.10.0"
        self.info.authors = "tests"
        self.info.license = "Apache-2.0"
        self.info.algo_type = core.AlgoType.INFER
        self.info.algo_tasks = "OBJECT_DETECTION"

    def create(self, param=None):
        return Detector(self.info.name, param)


class ParamFactory(dataprocess.CTaskParamFactory):
    def __init__(self):
        dataprocess.CTaskParamFactory.__init__(self)
        self.name = "infer_grounding_dino"

    def create(self):
        return Param()
"""


def install(plugins: Path) -> None:
    """Make the detector a plugin of that folder."""
    folder = plugins / NAME
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").touch()
    (folder / f"{NAME}.py").write_text(DOOR)
    (folder / f"{NAME}_process.py").write_text(PROCESS)
