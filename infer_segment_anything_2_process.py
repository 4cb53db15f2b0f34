"""The plugin as Ikomia sees it: its parameters, its task and the factories that make them."""

from __future__ import annotations

import copy
import logging
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy.typing as npt
from ikomia import core, dataprocess

from infer_segment_anything_2.bridge.drawings import NOTHING_DRAWN, has_drawing
from infer_segment_anything_2.bridge.errors import WarnOnce, in_a_sentence
from infer_segment_anything_2.bridge.inputs import NOTHING_FOUND, are_found, image_of, place_of, pointed_at
from infer_segment_anything_2.bridge.live import Turns
from infer_segment_anything_2.bridge.outputs import declare, publish, while_alive
from infer_segment_anything_2.bridge.progress import PROGRESS_STEPS, RunProgress, StopRequested
from infer_segment_anything_2.bridge.results import TaskWithMasks
from infer_segment_anything_2.bridge.wire import InferSegmentAnything2Param, News, check_names
from infer_segment_anything_2.segmentation.images import LOW_CONTRAST, has_low_contrast, to_rgb8
from infer_segment_anything_2.segmentation.masks import Masks
from infer_segment_anything_2.segmentation.memory import memory_errors
from infer_segment_anything_2.segmentation.own_files import blamed_on_config, check_files
from infer_segment_anything_2.segmentation.parameters import Parameters, cuda_is_available
from infer_segment_anything_2.segmentation.request import Request, make_request, ways_to_more
from infer_segment_anything_2.segmentation.sequence import Sequence

if TYPE_CHECKING:
    from infer_segment_anything_2.segmentation.segmenter import Segmenter

logger = logging.getLogger(__name__)

#: The values that choose a model, of the parameters.
model_of = attrgetter("model_name", "model_weight_file", "config_file", "cuda", "apply_postprocessing")


class InferSegmentAnything2(TaskWithMasks):
    """Segment Anything 2 as a task of an Ikomia workflow.

    Inputs: 0 the image, 1 drawn graphics, 2 detections of another task. Outputs: 0 the image, 1 the label image (with
    multimask_output 1, 2 and 3), last the instances if asked for.
    """

    def __init__(self, name: str, param: InferSegmentAnything2Param | None) -> None:
        super().__init__(name)
        own = InferSegmentAnything2Param() if param is None else copy.deepcopy(param)
        self.set_param_object(own)
        self._warn_once = WarnOnce()
        self._sequence = Sequence(self._warn_once)
        self._follows = False  #: track, as it was set last
        # Outputs follow from the parameters, also from those of a workflow that is loaded: Ikomia sets them on this object,
        # before it connects the tasks, and does not call the task (0.16.1).
        own.when_set = while_alive(self, InferSegmentAnything2._follow_parameters)
        own.when_set()
        self._turns = Turns()
        self._segmenter: Segmenter | None = None  # held, so that it is not loaded again for the next run
        self._model: tuple = ()  #: what it was opened with
        self._stops = 0  #: asked for so far
        self._progress: RunProgress | None = None  #: of the run that is under way

    def _follow_parameters(self) -> None:
        """What follows from the parameters before any run."""
        parameters = self._parameters()
        declare(self, parameters)
        if not (parameters.track and self._follows):  # or a run that began before may have left a frame
            self._sequence.start()
        self._follows = parameters.track

    def set_parameters(self, params: dict[str, str]) -> None:
        """Take new values, as text; RuntimeError for a value or a name that is not accepted, and then nothing is changed."""
        try:
            check_names(params)
        except ValueError as error:
            raise RuntimeError(str(error)) from error  # what Ikomia makes of an error in set_values
        super().set_parameters(params)

    def get_progress_steps(self) -> int:
        """How far Studio's bar goes in one run."""
        return PROGRESS_STEPS

    @in_a_sentence
    def init_long_process(self) -> None:
        """Download the model if it is not there and load it: call it when deploying, or the first run does."""
        if self._progress is None:  # a run loads the model itself, where it can be stopped
            self._open_segmenter(self._parameters())
        super().init_long_process()

    def start_video(self) -> None:
        """With track: let the next frame be the first of a video, and forget the objects that were followed."""
        self._sequence.start()

    def stop(self) -> None:
        """End a running download, automatic mode within one batch, or a stroke and those that wait."""
        super().stop()
        self._stops += 1
        self._turns.give_up()

    @in_a_sentence
    def run(self) -> None:
        """Segment the image of input 0."""
        stops = self._stops  # who stops it while it waits for a stroke means it too
        with self._turns.run():
            self._compute(self._parameters(), stops)

    def is_graphics_changed_listening(self) -> bool:
        """Whether a stroke segments: where `live` is on, once a run has loaded the model that the parameters ask for."""
        parameters = self._parameters()
        return parameters.live and self._model == model_of(parameters) and self.get_input(0).is_data_available()

    def graphics_changed(self) -> None:
        """Called by Studio with every stroke, and when something drawn is removed: segment what is drawn now."""
        self._turns.stroke(self._answer_stroke, self._tell)

    def _answer_stroke(self) -> None:
        # Asked again: the parameters may have changed while the stroke waited.
        if self.is_graphics_changed_listening() and self._compute(self._parameters(), self._stops, is_live=True):
            self.emit_output_changed()

    def _compute(self, parameters: Parameters, stops: int, is_live: bool = False) -> bool:
        """Do one run, or one stroke, unless more than so many stops are asked for; whether it came to its end."""
        self._warn_once.said.clear()
        self._progress = progress = RunProgress(self.emit_step_progress, lambda: self._stops != stops)
        is_done = False
        with memory_errors():
            try:
                self.begin_task_run()
                self._segment(parameters, progress, is_live)
                is_done = True
            except StopRequested:
                logger.info("Stopped by the user.")
            finally:
                progress.close()
                self._progress = None
            progress.fill()
            self.end_task_run()
        self._tell("\n".join(dict.fromkeys(self._warn_once.said)))
        return is_done

    def _segment(self, parameters: Parameters, progress: RunProgress, is_live: bool) -> None:
        image = image_of(self.get_input(0))
        image_hw = image.shape[:2]
        objects = pointed_at(self.get_input(1), self.get_input(2), parameters, image_hw, self._warn_once)
        self.get_param_object().count(thing.name for thing in objects or ())
        if objects is None and is_live:
            if not has_drawing(self.get_input(1)):
                self._warn_once(NOTHING_DRAWN)
            objects = []
        request = make_request(parameters, objects, image_hw)
        segmenter = (is_live and self._segmenter) or self._open_segmenter(parameters)
        progress.check()
        with blamed_on_config(parameters.config_file):
            self._masks = masks = self._masks_of(segmenter, image, request, parameters, progress)
        if request.search and not len(masks[0]):
            self._warn_once.each(f"No mask was found: {ways_to_more(parameters)}.")
        publish(self, masks, parameters, self._warn_once.each)
        declare(self, self._parameters())  # those of now: they may have been set during the run

    def _masks_of(
        self,
        segmenter: Segmenter,
        image: npt.NDArray,
        request: Request,
        parameters: Parameters,
        progress: RunProgress,
    ) -> list[Masks]:
        """The masks of an image of any kind, or of the next frame of a video; output 0 then shows it as the model saw it."""
        intensity_range = parameters.intensity_range.value
        if not parameters.track:
            self.get_output(0).intensity_range = intensity_range
            rgb8 = to_rgb8(image, intensity_range)
            if intensity_range is None and has_low_contrast(image, rgb8):
                self._warn_once(LOW_CONTRAST)
            masks = segmenter.segment(rgb8, request, progress.searched)
            progress.check()
            return masks
        if parameters.multimask_output:
            self._warn_once("multimask_output is not used where objects are followed (track): each has one mask.")
        may_join = are_found(self.get_input(1), self.get_input(2), parameters)
        followed = self._sequence.frame(
            segmenter,
            image,
            request,
            place_of(self.get_input(0)),
            may_join=may_join,
            intensity_range=intensity_range,
            progress=progress.searched,
        )
        if may_join and not len(followed):
            self._warn_once(NOTHING_FOUND)
        self.get_output(0).intensity_range = self._sequence.shown
        return [followed]  # also where a stop came meanwhile: the sequence has taken the frame

    def _tell(self, text: str, is_fault: bool = False) -> None:
        """Bring to the panel what the last run or stroke has to say; empty: nothing."""
        own, news = self.get_param_object(), News(text, is_fault)
        if own.news != news:
            own.news = news
            self.emit_parameters_changed()

    def _open_segmenter(self, parameters: Parameters) -> Segmenter:
        """The shared segmenter that `parameters` ask for, loaded if nobody in this process holds it."""
        from infer_segment_anything_2.segmentation.segmenter import open_segmenter  # imports torch and sam2

        check_files(parameters.model_weight_file, parameters.config_file)
        use_cuda = parameters.cuda and cuda_is_available()
        if parameters.cuda and not use_cuda:
            self._warn_once("cuda: no CUDA device was found, the CPU computes instead.")
        if parameters.config_file and not parameters.model_weight_file:
            self._warn_once(
                "config_file: it is set and model_weight_file is empty, so the weights of model_name are used with it. Empty "
                "it if you did not mean that."
            )
        with blamed_on_config(parameters.config_file):
            self._segmenter = open_segmenter(
                parameters.model_name,
                model_weight_file=parameters.model_weight_file,
                config_file=parameters.config_file,
                device="cuda" if use_cuda else "cpu",
                apply_postprocessing=parameters.apply_postprocessing,
                on_download=self._progress.downloaded if self._progress else None,
            )
        self._model = model_of(parameters)
        return self._segmenter

    def _parameters(self) -> Parameters:
        return self.get_param_object().values


class InferSegmentAnything2Factory(dataprocess.CTaskFactory):
    """Makes tasks, and tells the hub and Studio what they are."""

    def __init__(self) -> None:
        dataprocess.CTaskFactory.__init__(self)
        info = self.info
        info.name = "infer_segment_anything_2"
        info.short_description = (
            "Segment and follow anything with SAM 2: by clicks, the boxes of a detector, or all at once."
        )
        info.path = "Plugins/Python/Segmentation"
        info.version = "3.0.0"
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
        info.keywords = (
            "SAM 2,SAM 2.1,Segment Anything,segmentation,instance segmentation,mask,prompt,point,box,interactive,"
            "annotation,detector,video,tracking,automatic,COCO,YOLO,16-bit,microscopy,fine-tuned,Hiera,PyTorch"
        )
        info.algo_type = core.AlgoType.INFER
        info.algo_tasks = "SEMANTIC_SEGMENTATION,INSTANCE_SEGMENTATION,OBJECT_TRACKING"
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
