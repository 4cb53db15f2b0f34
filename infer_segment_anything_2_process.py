"""The plugin as Ikomia sees it: its parameters, its task and the factories that make them."""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from ikomia import core, dataprocess
from ikomia.core.task import TaskParam

from infer_segment_anything_2.bridge.errors import in_a_sentence
from infer_segment_anything_2.bridge.inputs import NoDetections, disconnect, image_of, pointed_at, refuse_float16
from infer_segment_anything_2.bridge.outputs import OverlaidImage, declare, publish
from infer_segment_anything_2.bridge.progress import PROGRESS_STEPS, RunProgress, StopRequested
from infer_segment_anything_2.bridge.wire import check_names, from_text, to_text
from infer_segment_anything_2.segmentation.export import get_polygons, save_coco, save_labels, save_yolo
from infer_segment_anything_2.segmentation.masks import Masks
from infer_segment_anything_2.segmentation.memory import memory_errors
from infer_segment_anything_2.segmentation.own_files import blamed_on_config, check_files
from infer_segment_anything_2.segmentation.parameters import Parameters, cuda_is_available
from infer_segment_anything_2.segmentation.polygons import DEFAULT_TOLERANCE, Polygon
from infer_segment_anything_2.segmentation.request import make_request, ways_to_more

if TYPE_CHECKING:
    from infer_segment_anything_2.segmentation.segmenter import Segmenter

logger = logging.getLogger(__name__)


class InferSegmentAnything2Param(TaskParam):
    """The parameters as Ikomia keeps them: text outside, :class:`Parameters` inside."""

    def __init__(self) -> None:
        TaskParam.__init__(self)
        self.values = Parameters()
        self.when_set: Callable[[], Any] = lambda: None  #: called with every change

    def __deepcopy__(self, memo: dict) -> InferSegmentAnything2Param:
        """The same values for another task."""
        made = InferSegmentAnything2Param()
        made.values = self.values
        return made

    @in_a_sentence
    def set_values(self, params: dict[str, str]) -> None:
        """Take new values; raises ValueError and changes nothing when one of them is not accepted."""
        self.values = from_text(self.values, {name: params[name] for name in params})
        self.when_set()

    def get_values(self) -> dict[str, str]:
        """All values as text, under every name that they may be set by."""
        return to_text(self.values)


def while_alive(task: InferSegmentAnything2, act: Callable[[InferSegmentAnything2], object]) -> Callable[[], None]:
    """A function that does `act` to `task` and does not hold it: for its parameters and outputs, which would keep it alive."""
    reference = weakref.ref(task)

    def act_on_it() -> None:
        living = reference()
        if living is not None:
            act(living)

    return act_on_it


class InferSegmentAnything2(dataprocess.CSemanticSegmentationTask):
    """Segment Anything 2 as a task of an Ikomia workflow.

    Inputs: 0 the image, 1 drawn graphics, 2 detections of another task. Outputs: 0 the image, 1 the label image (with
    multimask_output 1, 2 and 3), last the instances if asked for.
    """

    def __init__(self, name: str, param: InferSegmentAnything2Param | None) -> None:
        dataprocess.CSemanticSegmentationTask.__init__(self, name)
        self.add_input(NoDetections())
        # Ikomia empties the outputs when an edge is deleted, and before a run, in which it then fills the connected inputs.
        self.set_output(OverlaidImage(while_alive(self, disconnect)), 0)
        own = InferSegmentAnything2Param() if param is None else copy.deepcopy(param)
        self.set_param_object(own)
        # Outputs follow from the parameters, also from those of a workflow that is loaded: Ikomia sets them on this object,
        # before it connects the tasks, and does not call the task (0.16.1).
        own.when_set = while_alive(self, lambda task: declare(task, own.values))
        own.when_set()
        self._told: set[str] = set()  #: warnings that are told once
        self._segmenter: Segmenter | None = None  # held, so that it is not loaded again for the next run
        self._stop_requested = False
        self._masks: list[Masks] = []  #: of the last run
        self._progress: RunProgress | None = None  #: of the run that is under way

    def set_parameters(self, params: dict[str, str]) -> None:
        """Take new values, as text; RuntimeError for a value or a name that is not accepted, and then nothing is changed."""
        try:
            check_names(params)
        except ValueError as error:
            raise RuntimeError(str(error)) from error  # what Ikomia makes of an error in set_values
        super().set_parameters(params)

    @in_a_sentence
    def update_static_outputs(self) -> None:
        """Called by Ikomia with a new input, before anything else: it fails in OpenCV at an image of float16 (0.16.1), and says
        nothing of it."""
        refuse_float16(self.get_input(0))
        super().update_static_outputs()

    def get_progress_steps(self) -> int:
        """How far Studio's bar goes in one run."""
        return PROGRESS_STEPS

    @in_a_sentence
    def init_long_process(self) -> None:
        """Download the model if it is not there and load it: call it when deploying, or the first run does."""
        if self._progress is None:  # a run loads the model itself, where it can be stopped
            self._open_segmenter(self._parameters())
        super().init_long_process()

    def stop(self) -> None:
        """End a running download, or automatic mode within one batch."""
        super().stop()
        self._stop_requested = True

    @in_a_sentence
    def run(self) -> None:
        """Segment the image of input 0."""
        self._stop_requested = False
        self._progress = progress = RunProgress(self.emit_step_progress, lambda: self._stop_requested)
        with memory_errors():
            try:
                self.begin_task_run()
                self._segment(progress)
            except StopRequested:
                logger.info("Stopped by the user.")
            finally:
                progress.close()
                self._progress = None
            progress.fill()
            self.end_task_run()

    def _segment(self, progress: RunProgress) -> None:
        parameters = self._parameters()
        intensity_range = parameters.intensity_range.value
        image = image_of(self.get_input(0), intensity_range)
        self.get_output(0).intensity_range = intensity_range
        image_hw = image.shape[:2]
        objects = pointed_at(self.get_input(1), self.get_input(2), parameters, image_hw, self._warn_once)
        request = make_request(parameters, objects, image_hw)
        segmenter = self._open_segmenter(parameters)
        progress.check()
        with blamed_on_config(parameters.config_file):
            self._masks = segmenter.segment(image, request, progress.searched)
        if request.search and not len(self._masks[0]):
            logger.warning("No mask was found: %s.", ways_to_more(parameters))
        publish(self, self._masks, parameters)

    def _warn_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            logger.warning(text)

    def _open_segmenter(self, parameters: Parameters) -> Segmenter:
        """The shared segmenter that `parameters` ask for, loaded if nobody in this process holds it."""
        from infer_segment_anything_2.segmentation.segmenter import open_segmenter  # imports torch and sam2

        check_files(parameters.model_weight_file, parameters.config_file)
        use_cuda = parameters.cuda and cuda_is_available()
        if parameters.cuda and not use_cuda:
            self._warn_once("cuda: no CUDA device was found, the CPU computes instead.")
        with blamed_on_config(parameters.config_file):
            self._segmenter = open_segmenter(
                parameters.model_name,
                model_weight_file=parameters.model_weight_file,
                config_file=parameters.config_file,
                device="cuda" if use_cuda else "cpu",
                apply_postprocessing=parameters.apply_postprocessing,
                on_download=self._progress.downloaded if self._progress else None,
            )
        return self._segmenter

    def get_image_with_mask(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB: the image with the masks of output 1 in their colours, its background untouched."""
        return self.get_output(0).get_image_with_mask(self.get_output(1))

    def get_masks(self) -> list[Masks]:
        """The masks of the last run: one set, or with multimask_output and a prompt three, one for each candidate."""
        # Ikomia empties the outputs before each run: after one that failed nothing of an earlier image is left to be saved.
        return list(self._masks) if self.get_output(1).is_data_available() else []

    def get_polygons(self, candidate: int = 0, tolerance: float = DEFAULT_TOLERANCE) -> list[list[Polygon]]:
        """The outlines of the masks of the last run: for each mask a list with one polygon (P, 2) for each of its parts.

        Args:
            candidate: 0, 1 or 2 with multimask_output and a prompt.
            tolerance: how far in pixels a polygon may run from the edges of the mask's pixels; 0: it is exact.
        """
        return get_polygons(self._candidate(candidate), tolerance)

    def save_coco(
        self,
        path: str,
        file_name: str = "image",
        candidate: int = 0,
        polygons: bool = False,
        tolerance: float = DEFAULT_TOLERANCE,
    ) -> None:
        """Write all masks of the last run with scores and boxes as a COCO JSON file.

        Args:
            path: the file to write; one that is there is replaced.
            file_name: what the file says the image is called.
            candidate: 0, 1 or 2 with multimask_output and a prompt.
            polygons: polygons in place of run lengths.
            tolerance: of the polygons, as in :meth:`get_polygons`.
        """
        save_coco(path, {file_name: self._candidate(candidate)}, polygons, tolerance)

    def save_yolo(self, path: str, candidate: int = 0, tolerance: float = DEFAULT_TOLERANCE) -> None:
        """Write all masks of the last run as YOLO's segmentation labels, and the names of classes into data.yaml beside them.

        Args:
            path: the text file to write; one that is there is replaced, while names in data.yaml keep their indices.
            candidate: 0, 1 or 2 with multimask_output and a prompt.
            tolerance: how far in pixels a polygon may run from the exact one.
        """
        save_yolo(path, self._candidate(candidate), tolerance)

    def save_labels(self, path: str, candidate: int = 0) -> None:
        """Write all masks of the last run as one PNG or TIFF of labels; of 16 bits a pixel beyond 255 masks."""
        save_labels(path, self._candidate(candidate))

    def _candidate(self, index: int) -> Masks:
        masks = self.get_masks()
        if not masks:
            raise ValueError("There are no masks to save yet: run the workflow first.")
        if index not in range(len(masks)):
            raise ValueError(f"candidate is {index!r}; accepted is 0 to {len(masks) - 1} after the last run.")
        return masks[index]

    def _parameters(self) -> Parameters:
        return self.get_param_object().values


class InferSegmentAnything2Factory(dataprocess.CTaskFactory):
    """Makes tasks, and tells the hub and Studio what they are."""

    def __init__(self) -> None:
        dataprocess.CTaskFactory.__init__(self)
        info = self.info
        info.name = "infer_segment_anything_2"
        info.short_description = "Segment anything in an image with SAM 2: by points, boxes, or everything at once."
        info.path = "Plugins/Python/Segmentation"
        info.version = "2.0.0"
        info.min_ikomia_version = "0.15.0"
        info.min_python_version = "3.10.0"
        info.icon_path = "images/icon.png"
        info.authors = (
            "Nikhila Ravi, Valentin Gabeur, Yuan-Ting Hu, Ronghang Hu, Chaitanya Ryali, Tengyu Ma, Haitham Khedr, "
            "Roman Rädle, Chloe Rolland, Laura Gustafson, Eric Mintun, Junting Pan, Kalyan Vasudev Alwala, "
            "Nicolas Carion, Chao-Yuan Wu, Ross Girshick, Piotr Dollár, Christoph Feichtenhofer"
        )
        info.article = "SAM 2: Segment Anything in Images and Videos"
        info.article_url = "https://arxiv.org/abs/2408.00714"
        info.journal = "arXiv:2408.00714"
        info.year = 2024
        info.license = "Apache-2.0"
        info.documentation_link = "https://ai.meta.com/sam2/"
        info.repository = "https://github.com/Ikomia-hub/infer_segment_anything_2"
        info.original_repository = "https://github.com/facebookresearch/sam2"
        info.keywords = "SAM 2,segment anything,segmentation,mask,prompt,point,box,automatic,annotation,Hiera,PyTorch"
        info.algo_type = core.AlgoType.INFER
        info.algo_tasks = "SEMANTIC_SEGMENTATION"
        # Seen at the peak with sam2_hiera_large on 12 megapixels: 2.6 GB. No GPU is needed.
        info.hardware_config.min_cpu = 2
        info.hardware_config.min_ram = 4

    def create(self, param: InferSegmentAnything2Param | None = None) -> InferSegmentAnything2:
        """A task with a copy of `param`, or with the default parameters."""
        return InferSegmentAnything2(self.info.name, param)


class InferSegmentAnything2ParamFactory(dataprocess.CTaskParamFactory):
    """Makes parameters."""

    def __init__(self) -> None:
        dataprocess.CTaskParamFactory.__init__(self)
        self.name = "infer_segment_anything_2"

    def create(self) -> InferSegmentAnything2Param:
        """The default parameters."""
        return InferSegmentAnything2Param()
