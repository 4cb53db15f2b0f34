"""Ikomia's side of the plugin: its parameters, its task and the factories that make them."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from ikomia import core, dataprocess
from ikomia.core.task import TaskParam
from tqdm import tqdm

from infer_segment_anything_2.segmentation import prompts as prompting
from infer_segment_anything_2.segmentation.export import save_coco, save_labels
from infer_segment_anything_2.segmentation.images import to_rgb8
from infer_segment_anything_2.segmentation.masks import (
    MAX_LABELS,
    Masks,
    class_colours,
    class_names,
    label_image,
    overlay,
    ranked,
)
from infer_segment_anything_2.segmentation.memory import memory_errors
from infer_segment_anything_2.segmentation.own_files import blamed_on_config, check_files
from infer_segment_anything_2.segmentation.parameters import (
    Parameters,
    as_logit,
    as_meant,
    check_search,
    cuda_is_available,
    to_text,
    update,
)

logger = logging.getLogger(__name__)

#: Studio asks for the number of progress steps before a run, when the number of batches is not known yet.
PROGRESS_STEPS = 100


class InferSegmentAnything2Param(TaskParam):
    """The parameters as Ikomia keeps them: text outside, :class:`Parameters` inside."""

    def __init__(self) -> None:
        TaskParam.__init__(self)
        self.values = Parameters()

    def set_values(self, params: dict[str, str]) -> None:
        """Take new values; raises ValueError and changes nothing when one of them is not accepted."""
        self.values = update(self.values, {name: params[name] for name in params})

    def get_values(self) -> dict[str, str]:
        """All values as text, under every name that they may be set by."""
        return to_text(self.values)


def drawn_prompts(items: list, labels: np.ndarray, image_hw: tuple[int, int]) -> prompting.Prompts:
    """The prompts that Ikomia's drawn graphics are.

    A point is a point, a polyline a scribble: points along it. Their category says on which side they are ("Background" or
    "0": off the object, anything else: on it) unless labels are given. A rectangle, ellipse or polygon is a box, the one
    around it. Anything else is named in a warning.

    Args:
        items: Ikomia's graphics items, in drawing order.
        labels: of the drawn points and scribbles, in drawing order: one for each, one for all, or none.
        image_hw: height and width of the image in pixels.

    Raises:
        ValueError: as :func:`.prompts.make_prompts`.
    """
    kinds = core.GraphicsItem
    strokes, categories, boxes = [], [], []
    for item in items:
        kind = item.get_type()
        if kind == kinds.POINT:  # not its bounding rectangle's corner, which lies 1.5 pixels off (ikomia 0.16.1)
            strokes.append(np.array([[item.point.x, item.point.y]], np.float32))
        elif kind == kinds.POLYLINE:
            strokes.append(prompting.points_along(np.array([[p.x, p.y] for p in item.points], np.float32)))
        elif kind in (kinds.RECTANGLE, kinds.ELLIPSE, kinds.POLYGON):
            x, y, width, height = item.get_bounding_rect()
            boxes.append([x, y, x + width, y + height])
        else:
            logger.warning("A drawn item of the kind %s is no prompt: draw points, boxes or lines.", kind)
        if kind in (kinds.POINT, kinds.POLYLINE):
            categories.append(0 if item.get_category().strip().lower() in ("background", "0") else 1)
    # Matched to the strokes, not the points: a scribble has one label, whatever the number of its points.
    of_stroke = prompting.match_labels(labels, len(strokes)) if len(labels) else np.array(categories, np.int32)
    return prompting.make_prompts(
        np.concatenate(strokes) if strokes else np.zeros((0, 2), np.float32),
        np.repeat(of_stroke, [len(s) for s in strokes]).astype(np.int32),
        np.array(boxes, np.float32).reshape(-1, 4),
        image_hw,
        source=("drawn point", "drawn box"),
    )


@contextmanager
def existing_folder() -> Iterator[None]:
    """Import torch in the body of this context, though the current folder was deleted: MKL, which comes with torch (2.14.1),
    would end the process."""
    try:
        os.getcwd()
    except FileNotFoundError:
        here = os.open(".", os.O_RDONLY)
    else:
        yield
        return
    try:
        os.chdir(os.path.dirname(__file__))
        yield
    finally:
        os.fchdir(here)
        os.close(here)


class StopRequested(Exception):  # noqa: N818 - not an error, a wish
    """The user stopped the run."""


class OverlaidImage(dataprocess.CImageIO):
    """An image that shows masks over itself without darkening what is not masked.

    ikomia's own overlay (seen in 0.15.1 and 0.16.1) blends the background with its colour, black, and fails on images
    with an alpha channel.
    """

    def __init__(self) -> None:
        dataprocess.CImageIO.__init__(self, core.IODataType.IMAGE)

    def get_image_with_mask(self, mask_io: dataprocess.CSemanticSegmentationIO) -> np.ndarray:
        """(H, W, 3) uint8 RGB: the image with the masks of `mask_io` in their colours, or without any before a run."""
        if not self.is_data_available():
            raise ValueError("There is no image to show yet: run the workflow first.")
        image, labels = to_rgb8(self.get_image()), mask_io.get_mask()
        return overlay(image, labels, mask_io.get_colors()) if labels.shape == image.shape[:2] else image


class InferSegmentAnything2(dataprocess.CSemanticSegmentationTask):
    """Segment Anything 2 as a task of an Ikomia workflow.

    Inputs: 0 the image, 1 drawn graphics. Outputs: 0 the image, 1 the label image (with multimask_output and a prompt
    1, 2 and 3), last the instances if asked for.
    """

    def __init__(self, name: str, param: InferSegmentAnything2Param | None) -> None:
        dataprocess.CSemanticSegmentationTask.__init__(self, name)
        self.set_param_object(InferSegmentAnything2Param() if param is None else copy.deepcopy(param))
        self.set_output(OverlaidImage(), 0)
        self._segmenter = None
        self._warned_of_cuda = False
        self._names_not_meant: dict[str, str] = {}
        self._stop_requested = False
        self._masks: list[Masks] = []  #: of the last run
        self._progress: StudioProgress | None = None  #: of the run that is under way

    def set_parameters(self, params: dict[str, str]) -> None:
        """Take new values, as text; RuntimeError for a value or a name that is not accepted, and then nothing is changed."""
        not_meant = dict(self._names_not_meant)
        try:
            params = as_meant(self._parameters(), params, not_meant)
        except ValueError as error:
            raise RuntimeError(str(error)) from error  # what Ikomia makes of an error in set_values
        super().set_parameters(params)
        self._names_not_meant = not_meant

    def get_progress_steps(self) -> int:
        """How far Studio's bar goes in one run."""
        return PROGRESS_STEPS

    def init_long_process(self) -> None:
        """Download the model if it is not there and load it: call it when deploying, or the first run does."""
        if self._progress is None:  # a run loads the model itself, where it can be stopped
            self._open_segmenter(self._parameters())
        super().init_long_process()

    def stop(self) -> None:
        """End a running download, or automatic mode within one batch."""
        super().stop()
        self._stop_requested = True

    def run(self) -> None:
        """Segment the image of input 0."""
        self._stop_requested = False
        self._progress = progress = StudioProgress(self)
        try:
            with memory_errors():
                self.begin_task_run()
                self._segment()
        except StopRequested:
            logger.info("Stopped by the user.")
        finally:
            progress.close()
            self._progress = None
        progress.fill()
        self.end_task_run()

    def _segment(self) -> None:
        parameters = self._parameters()
        image = self._image()
        prompts = self._prompts(parameters, image)
        if not prompts:
            check_search(parameters)
        segmenter = self._open_segmenter(parameters)
        self._progress.check()
        with blamed_on_config(parameters.config_file):
            if prompts:
                candidates = segmenter.predict(
                    image,
                    prompts,
                    multimask_output=parameters.multimask_output,
                    mask_threshold=as_logit(parameters.mask_threshold),
                    input_size_percent=parameters.input_size_percent,
                )
            else:
                candidates = [self._everything(segmenter, image, parameters)]
        self._publish(candidates, parameters, image)

    def get_image_with_mask(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB: the image with the masks of output 1 in their colours, its background untouched."""
        return self.get_output(0).get_image_with_mask(self.get_output(1))

    def get_masks(self) -> list[Masks]:
        """The masks of the last run: one set, or with multimask_output and a prompt three, one for each candidate."""
        # Ikomia empties the outputs before each run: after one that failed nothing of an earlier image is left to be saved.
        return list(self._masks) if self.get_output(1).is_data_available() else []

    def save_coco(self, path: str, file_name: str = "image", candidate: int = 0) -> None:
        """Write all masks of the last run with scores and boxes as a COCO JSON file.

        Args:
            path: the file to write; one that is there is replaced.
            file_name: what the file says the image is called.
            candidate: 0, 1 or 2 with multimask_output and a prompt.
        """
        save_coco(path, {file_name: self._candidate(candidate)})

    def save_labels(self, path: str, candidate: int = 0) -> None:
        """Write all masks of the last run as one PNG of labels; of 16 bits a pixel beyond 255 masks."""
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

    def _image(self) -> np.ndarray:
        source = self.get_input(0)
        if not source.is_data_available():
            raise ValueError("The input image is empty or missing. Accepted is an image of one pixel or more.")
        return to_rgb8(source.get_image())

    def _prompts(self, parameters: Parameters, image: np.ndarray) -> prompting.Prompts:
        """What the parameters point at, or else what is drawn; empty for automatic mode."""
        points = prompting.parse_points(parameters.input_point)
        boxes = prompting.parse_boxes(parameters.input_box)
        labels = prompting.parse_labels(parameters.input_point_label)
        graphics = self.get_input(1)
        if len(points) or len(boxes) or not graphics.is_data_available():
            return prompting.make_prompts(points, labels, boxes, image.shape[:2])
        return drawn_prompts(graphics.get_items(), labels, image.shape[:2])

    def _open_segmenter(self, parameters: Parameters):
        """The shared segmenter that `parameters` ask for, loaded if nobody in this process holds it."""
        with existing_folder():
            from infer_segment_anything_2.segmentation.segmenter import open_segmenter  # imports torch and sam2

        check_files(parameters.model_weight_file, parameters.config_file)
        use_cuda = parameters.cuda and cuda_is_available()
        if parameters.cuda and not use_cuda and not self._warned_of_cuda:
            logger.warning("cuda: no CUDA device was found, the CPU computes instead.")
            self._warned_of_cuda = True
        with blamed_on_config(parameters.config_file):
            self._segmenter = open_segmenter(
                parameters.model_name,
                model_weight_file=parameters.model_weight_file,
                config_file=parameters.config_file,
                device="cuda" if use_cuda else "cpu",
                apply_postprocessing=parameters.apply_postprocessing,
                on_download=self._progress and self._progress.downloaded,
            )
        return self._segmenter

    def _everything(self, segmenter, image: np.ndarray, parameters: Parameters) -> Masks:
        from infer_segment_anything_2.segmentation.mask_generator import AutomaticSettings

        settings = AutomaticSettings(
            points_per_side=parameters.points_per_side,
            point_grids=prompting.parse_point_grids(parameters.point_grids),
            points_per_batch=parameters.points_per_batch,
            pred_iou_thresh=parameters.iou_thresh,
            stability_score_thresh=parameters.stability_score_thresh,
            stability_score_offset=as_logit(parameters.stability_score_offset),
            mask_threshold=as_logit(parameters.mask_threshold),
            box_nms_thresh=parameters.box_nms_thresh,
            crop_n_layers=parameters.crop_n_layers,
            crop_nms_thresh=parameters.crop_nms_thresh,
            crop_overlap_ratio=parameters.crop_overlap_ratio,
            crop_n_points_downscale_factor=parameters.crop_n_points_downscale_factor,
            min_mask_region_area=min(parameters.min_mask_region_area, image.size),
            use_m2m=parameters.use_m2m,
            multimask_output=parameters.multimask_output,
        )
        masks = segmenter.generate(
            image, settings, input_size_percent=parameters.input_size_percent, progress=self._progress
        )
        if not len(masks):
            logger.warning(
                "No mask was found: lower iou_thresh (%g) or stability_score_thresh (%g), or raise points_per_side.",
                parameters.iou_thresh,
                parameters.stability_score_thresh,
            )
        return ranked(masks)

    def _publish(self, candidates: list[Masks], parameters: Parameters, image: np.ndarray) -> None:
        """Fill outputs 1, 2, … with one label image each and the last with instances; none of an earlier run stays."""
        self._masks = candidates
        while self.get_output_count() > 2:
            self.remove_output(self.get_output_count() - 1)
        for index, masks in enumerate(candidates, start=1):
            if index > 1:
                self.add_output(dataprocess.CSemanticSegmentationIO())
            if len(masks) > MAX_LABELS:
                logger.warning(
                    "A label image holds %d masks: %d of the %d are not painted. instance_output = True gives all of them.",
                    MAX_LABELS,
                    len(masks) - MAX_LABELS,
                    len(masks),
                )
            names = class_names(masks.scores)
            output = self.get_output(index)
            output.clear_data()
            output.set_class_names(names)
            output.set_class_colors(class_colours(len(names) - 1))
            output.set_mask(label_image(masks))
        if parameters.instance_output:
            self._publish_instances(candidates, image)

    def _publish_instances(self, candidates: list[Masks], image: np.ndarray) -> None:
        instances = dataprocess.CInstanceSegmentationIO()
        self.add_output(instances)
        height, width = image.shape[:2]
        instances.init(self.name, 0, width, height)
        number = 0
        for masks in candidates:
            colours = class_colours(len(masks))
            for k, (mask, (x0, y0, x1, y1)) in enumerate(zip(masks, masks.boxes_xyxy.tolist(), strict=True), start=1):
                instances.add_object(
                    number,
                    0,
                    k,
                    f"mask {k}",
                    float(masks.scores[k - 1]),
                    x0,
                    y0,
                    x1 - x0,
                    y1 - y0,
                    np.ascontiguousarray(mask, np.uint8),
                    colours[k],
                )
                number += 1


class StudioProgress:
    """Studio's bar in one run, and a tqdm bar where there is a terminal.

    A download takes the first half of the bar, the batches of automatic mode what is left. Its methods raise
    :class:`StopRequested` once the task was asked to stop.
    """

    def __init__(self, task: InferSegmentAnything2) -> None:
        self._task = task
        self._steps = 0
        self._start = 0
        self._bar: tqdm | None = None

    def check(self) -> None:
        """End the run if the user wants it to."""
        if self._task._stop_requested:
            raise StopRequested

    def downloaded(self, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes have arrived; None: nobody knows how many come."""
        if total:
            self._advance(PROGRESS_STEPS // 2 * done // total)
        self._start = self._steps
        self.check()

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` batches are done."""
        if self._bar is None:
            self._bar = tqdm(total=total, desc="Segmenting", unit="batch", disable=None, leave=False)
        self._bar.update(done - self._bar.n)
        self._advance(self._start + (PROGRESS_STEPS - self._start) * done // max(total, 1))
        self.check()

    def fill(self) -> None:
        """Bring Studio's bar to its end, whatever was done."""
        self._advance(PROGRESS_STEPS)

    def close(self) -> None:
        """Take the terminal's bar away."""
        if self._bar is not None:
            self._bar.close()

    def _advance(self, steps: int) -> None:
        for _ in range(steps - self._steps):
            self._task.emit_step_progress()
        self._steps = max(steps, self._steps)


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
