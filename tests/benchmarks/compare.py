"""Speed and memory beside sam2 itself, as a table: `make bench`.

Each row does the same work twice in one process, this project's way and sam2's, in turn, after a round that is not counted. Its
figures are the median time of each and the median, least and greatest ratio of the pairs. What both give is compared: a row
whose masks differ ends the run with an error. Peak memory is measured in processes of their own.

sam2 has all cores here. Inside an Ikomia workflow it has fewer the busier the machine has been (see `steady_threads`). With
--device cuda it has bfloat16 autocast, as its authors recommend.

Two models: the bundled nano, and random weights in the architecture of sam2_hiera_tiny, shaped as `tiny_checkpoint` says, since
Meta's weights are not part of this project and time does not depend on them otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import logging
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
import conftest  # noqa: F401, E402 - a private home in which this checkout is the installed plugin

with contextlib.suppress(ImportError):  # a machine without Ikomia measures the rest
    import ikomia  # noqa: F401 - before cv2, which comes with it
import numpy as np  # noqa: E402
import oracle  # noqa: E402
import sam2  # noqa: E402
import torch  # noqa: E402
from pycocotools import mask as coco  # noqa: E402
from skimage import data, transform  # noqa: E402

from infer_segment_anything_2.segmentation.masks import encode  # noqa: E402
from infer_segment_anything_2.segmentation.model_loader import load_model  # noqa: E402
from infer_segment_anything_2.segmentation.objects import Object  # noqa: E402
from infer_segment_anything_2.segmentation.search import AutomaticSettings  # noqa: E402
from infer_segment_anything_2.segmentation.segmenter import Segmenter, open_segmenter  # noqa: E402
from infer_segment_anything_2.segmentation.threads import steady_threads  # noqa: E402

TINY = "configs/sam2/sam2_hiera_t.yaml"
LARGE = "configs/sam2/sam2_hiera_l.yaml"
# nano is small and rates its masks low: with sam2's defaults it finds few in a photograph.
NANO_THRESHOLDS = {"pred_iou_thresh": 0.4, "stability_score_thresh": 0.7}


@dataclass
class Row:
    """One comparison: `ours` and `theirs` do the same work, `same` compares what they return. With no repeats the first round
    counts: for work that takes minutes."""

    work: str
    model: str
    against: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    same: Callable[[Any, Any], None]
    repeats: int
    prepare: Callable[[], Any] = lambda: None  #: before `ours`, not timed


def photograph(height: int, width: int) -> np.ndarray:
    """A cup of coffee at any size, (height, width, 3) uint8."""
    return (transform.resize(data.coffee(), (height, width), anti_aliasing=True) * 255).astype(np.uint8)


def tiny_checkpoint(folder: Path) -> Path:
    """Random weights in sam2_hiera_tiny's architecture whose masks pass the default thresholds as often as trained ones.

    Plain random weights predict an IoU of about 0.5 for everything, so that every mask is dropped at once, and their masks
    are noise. Here masks are patches, stable ones and unstable ones, and about half of the predicted IoUs lie above 0.8.
    """
    path = folder / "sam2_hiera_tiny.pt"
    if path.exists():
        return path
    torch.manual_seed(0)
    model = oracle.released_model(TINY, None)
    decoder = model.sam_mask_decoder
    with torch.no_grad():
        for layer in (
            decoder.output_upscaling[0],
            decoder.output_upscaling[3],
        ):  # the same in all four pixels of a kernel
            layer.weight.copy_(layer.weight.mean(dim=(2, 3), keepdim=True).expand_as(layer.weight))
        for layer in (decoder.conv_s0, decoder.conv_s1):
            layer.weight.mul_(0.05)
        predictor = oracle.predictor(model)
        predictor.set_image(photograph(768, 1024))
        points = torch.from_numpy(np.random.default_rng(0).uniform(0, 1024, (64, 1, 2))).float()
        pixels: list[torch.Tensor] = []
        hook = decoder.output_upscaling[4].register_forward_hook(
            lambda *call: pixels.append(call[2].mean(dim=(0, 2, 3)))
        )

        def predict() -> tuple[torch.Tensor, torch.Tensor]:
            return predictor._predict(points, torch.ones(64, 1), multimask_output=True, return_logits=True)[:2]

        predict()
        hook.remove()
        common = pixels[0] / pixels[0].norm()  # what all pixels have in common would make masks that are full or empty
        last = [mlp.layers[-1] for mlp in decoder.output_hypernetworks_mlps]
        for layer in last:
            layer.weight.sub_(torch.outer(common, common @ layer.weight))
            layer.bias.sub_(common * (common @ layer.bias))
        scale = 100 / predict()[0].std()
        for layer in last:
            layer.weight.mul_(scale)
            layer.bias.mul_(scale).sub_(common * 75 / pixels[0].norm())  # below zero but for patches
        head = decoder.iou_prediction_head.layers[-1]
        logits = torch.logit(predict()[1])
        scale = 1 / logits.std(dim=0)  # of each of the three masks
        middle = logits.median(dim=0).values
        scale, middle = (torch.cat([values[:1], values]) for values in (scale, middle))
        head.weight.mul_(scale[:, None])
        head.bias.mul_(scale).add_(np.log(0.8 / 0.2) - scale * middle)
    torch.save({"model": model.state_dict()}, path)
    return path


class Model:
    """One set of weights, loaded by this project and by sam2."""

    def __init__(self, name: str, folder: Path, device: str) -> None:
        self.name = name
        self.device = device
        if name == "nano":
            self.segmenter = open_segmenter("sam2_hiera_nano", device=device)
            self.sam2 = oracle.nano_model().to(device)
            self.params = {"model_name": "sam2_hiera_nano"}
            self.thresholds = NANO_THRESHOLDS
        else:
            weights = tiny_checkpoint(folder)
            self.segmenter = Segmenter(load_model(weights, TINY, device, True))
            self.sam2 = oracle.released_model(TINY, weights).to(device)
            self.params = {"model_name": "sam2_hiera_tiny", "model_weight_file": str(weights)}
            self.thresholds = {}

    def autocast(self):
        """The precision that sam2's authors run it in."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")


def same_mask(mine: np.ndarray, theirs: np.ndarray) -> None:
    """Equal pixel for pixel, and a mask of something."""
    assert np.array_equal(mine > 0, theirs > 0), "the masks differ"
    assert 0 < theirs.sum() < theirs.size, "the mask is empty or full: nothing was compared"


def prompts_again(model: Model, repeats: int) -> list[Row]:
    """The second prompt on an image: a whole run of an Ikomia workflow, with the parameters set as a user sets them."""
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow("benchmark")
    task = workflow.add_task(name="infer_segment_anything_2", auto_connect=True)
    task.set_parameters(model.params | {"cuda": str(model.device == "cuda")})
    image = photograph(768, 1024)
    point = {"input_point": "[[500, 400]]"}
    task.set_parameters(point)
    workflow.run_on(array=image)
    where = {"point_coords": np.array([[500, 400]]), "point_labels": np.array([1]), "multimask_output": False}
    kept = oracle.predictor(model.sam2)
    with model.autocast():
        kept.set_image(image)

    def ours() -> np.ndarray:
        task.set_parameters(point)
        workflow.run()
        return task.get_output(1).get_mask()

    def fresh() -> np.ndarray:
        predictor = oracle.predictor(model.sam2)
        with model.autocast():
            predictor.set_image(image)
            return predictor.predict(**where)[0][0]

    def alone() -> np.ndarray:
        with model.autocast():
            return kept.predict(**where)[0][0]

    what = "second prompt on an image, whole workflow run"
    return [
        Row(what, model.name, "a fresh SAM2ImagePredictor for each", ours, fresh, same_mask, repeats),
        Row(what, model.name, "`predict` alone, image set", ours, alone, same_mask, 5 * repeats),
    ]


def stroke(model: Model, repeats: int) -> Row:
    """A point drawn in Studio, from the call of the task to its new result: live drawing."""
    from ikomia import core, dataprocess
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow("strokes")
    task = workflow.add_task(name="infer_segment_anything_2", auto_connect=True)
    task.set_parameters(model.params | {"cuda": str(model.device == "cuda"), "input_point": "[10, 10]"})
    image = photograph(768, 1024)
    workflow.run_on(array=image)  # loads the model
    task.set_parameters({"input_point": ""})
    graphics = dataprocess.CGraphicsInput()
    graphics.set_items([core.CGraphicsPoint(core.CPointF(500, 400))])
    task.set_input(graphics, 1)
    kept = oracle.predictor(model.sam2)
    with model.autocast():
        kept.set_image(image)

    def ours() -> np.ndarray:
        task.graphics_changed()
        return task.get_output(1).get_mask()

    def alone() -> np.ndarray:
        with model.autocast():
            return kept.predict(np.array([[500, 400]]), np.array([1]), multimask_output=False)[0][0]

    return Row("a stroke in Studio", model.name, "`predict` alone, image set", ours, alone, same_mask, 10 * repeats)


def same_masks(ours, theirs: list[dict]) -> None:
    """As many masks, and for each one of sam2's with an IoU of 0.999 or more."""
    assert len(ours) == len(theirs), f"{len(ours)} masks, of sam2 {len(theirs)}"
    assert len(ours) >= 1, "no mask to compare"
    overlap = coco.iou(ours.rles, [encode(mask["segmentation"]) for mask in theirs], [0] * len(theirs))
    assert overlap.max(axis=1).min() >= 0.999, "the masks differ"
    assert overlap.max(axis=0).min() >= 0.999, "the masks differ"


def automatic(model: Model, work: str, repeats: int, height: int = 768, width: int = 1024, **settings: Any) -> Row:
    image = photograph(height, width)
    settings = model.thresholds | settings

    def ours():
        model.segmenter.forget_images()  # an image seen for the first time
        return model.segmenter.generate(image, AutomaticSettings(**settings))

    def theirs() -> list[dict]:
        with model.autocast():
            return oracle.mask_generator(model.sam2, **settings).generate(image)

    return Row(work, model.name, "SAM2AutomaticMaskGenerator", ours, theirs, same_masks, repeats)


def other_thresholds(model: Model, repeats: int) -> list[Row]:
    """Automatic mode again on the same image, beside a fresh search with the same thresholds."""
    image = data.chelsea()
    first = {"pred_iou_thresh": 0.5, "stability_score_thresh": 0.8} if model.name == "nano" else {}
    first = AutomaticSettings(**first, points_per_side=16)
    stricter = replace(
        first,
        pred_iou_thresh=first.pred_iou_thresh + 0.05,
        stability_score_thresh=(1 + first.stability_score_thresh) / 2,
        box_nms_thresh=0.5,
    )
    laxer = [
        replace(
            first,
            pred_iou_thresh=first.pred_iou_thresh - 0.05 * k,
            stability_score_thresh=first.stability_score_thresh - 0.05 * k,
        )
        for k in (1, 2, 3)
    ]
    segmenter = model.segmenter

    def row(work: str, *searches: AutomaticSettings) -> Row:
        def before() -> None:
            segmenter.forget_images()
            for search in searches[:-1]:
                segmenter.generate(image, search)

        def fresh():
            segmenter.forget_images()
            return segmenter.generate(image, searches[-1])

        def same(mine, theirs) -> None:
            assert mine.rles == theirs.rles, "the masks differ"

        def ours():
            return segmenter.generate(image, searches[-1])

        return Row(work, model.name, "a first search", ours, fresh, same, repeats, before)

    return [
        row("automatic mode, stricter thresholds on the same image", first, stricter),
        row("automatic mode, laxer thresholds on the same image, first step", first, laxer[0]),
        row("automatic mode, laxer thresholds on the same image, third step", first, *laxer),
    ]


def embedding(model: Model, repeats: int) -> Row:
    image = photograph(768, 1024)
    theirs = oracle.predictor(model.sam2)
    predictor = model.segmenter.predictor

    def ours() -> torch.Tensor:
        predictor.forget_images()
        with model.autocast():
            return predictor.embed(image).image_embed

    def of_sam2() -> torch.Tensor:
        with model.autocast():
            theirs.set_image(image)
        return theirs._features["image_embed"]

    def same(mine: torch.Tensor, other: torch.Tensor) -> None:
        assert (mine - other).abs().max() <= 1e-5 * other.abs().max(), "the features differ"

    return Row("embedding an image", model.name, "SAM2ImagePredictor.set_image", ours, of_sam2, same, 2 * repeats)


def boxes(model: Model, repeats: int, count: int = 100) -> Row:
    """Boxes of a detector on an image that is embedded already: masks at the size of the image, ours as run lengths."""
    image = photograph(768, 1024)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 600, (count, 2))
    where = np.hstack([corners, corners + rng.uniform(40, 160, (count, 2))]).astype(np.float32)
    kept = oracle.predictor(model.sam2)
    with model.autocast():
        kept.set_image(image)

    def ours():
        return model.segmenter.predict(image, [Object(box=box) for box in where])[0]

    def theirs() -> np.ndarray:
        with model.autocast():
            return kept.predict(box=where, multimask_output=False)[0][:, 0]

    def same(mine, others: np.ndarray) -> None:
        assert all(np.array_equal(mask, other > 0) for mask, other in zip(mine, others, strict=True)), (
            "the masks differ"
        )

    return Row(
        f"{count} boxes on an image", model.name, "`predict` with all of them, image set", ours, theirs, same, repeats
    )


def following(folder: Path, device: str, count: int, repeats: int) -> Row:
    """The next frame of a video in which objects are followed, with as much remembered as there can be: both are told that
    they have seen the first frame sixteen times. sam2 has its frames loaded and scaled; each call takes the next one."""
    weights = torch.load(tiny_checkpoint(folder), weights_only=True)["model"]
    model = oracle.video_model(Path(sam2.__file__).parent / TINY, weights)
    with torch.no_grad():  # random weights: every object is seen
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.add_(10)
    segmenter = Segmenter(model.to(device))
    remembered = 16
    image = photograph(768, 1024)
    frames = [np.ascontiguousarray(np.roll(image, 8 * k, axis=1)) for k in range(repeats + 1)]
    where = np.random.default_rng(0).uniform(100, 700, (count, 2)).astype(np.float32)
    objects = [Object(box=np.concatenate([corner, corner + 200])) for corner in where]

    tracker = segmenter.tracker()
    segmenter.follow(tracker, image)
    segmenter.begin(tracker, image, objects)
    (group,) = tracker._groups
    group.recent = [replace(group.prompted, frame=k) for k in range(1, remembered)]
    tracker._frame = remembered - 1
    tracker._forget(group)
    state = oracle.video_state(model, [image] * remembered + frames)
    for number, thing in enumerate(objects):
        model.add_new_points_or_box(state, 0, number, box=thing.box)
    model.propagate_in_video_preflight(state)
    for kept in state["output_dict_per_obj"].values():
        kept["non_cond_frame_outputs"] = dict.fromkeys(range(1, remembered), kept["cond_frame_outputs"][0])
    each, coming = iter(frames), model.propagate_in_video(state, remembered)

    def theirs() -> np.ndarray:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return (next(coming)[2][:, 0] > 0).cpu().numpy()

    def same(mine, others: np.ndarray) -> None:
        assert (others.sum(axis=(1, 2)) > 0).all(), "the masks are empty: nothing was compared"
        worst = min(oracle.iou(a, b) for a, b in zip(mine, others, strict=True))
        assert worst >= 0.995, f"the masks differ: IoU {worst}"

    return Row(
        f"a frame of a video, {count} object(s) followed",
        "tiny",
        "SAM2VideoPredictor.propagate_in_video",
        lambda: segmenter.follow(tracker, next(each)),
        theirs,
        same,
        repeats,
    )


def loading(folder: Path, repeats: int) -> Row:
    path = folder / "sam2_hiera_large.pt"

    def ours() -> torch.nn.Module:
        if not path.exists():  # before the round that counts
            torch.save({"model": oracle.released_model(LARGE, None).state_dict()}, path)
        return load_model(path, LARGE, "cpu", True)

    def same(mine: torch.nn.Module, theirs: torch.nn.Module) -> None:
        others = theirs.state_dict()
        assert all(torch.equal(value, others[name]) for name, value in mine.state_dict().items()), "the weights differ"

    return Row(
        "loading a model",
        "large",
        "build_sam2",
        ours,
        lambda: oracle.released_model(LARGE, path),
        same,
        repeats,
    )


def measure(row: Row) -> str:
    """The row's line of the table."""
    results, first = timed(row)
    row.same(*results)
    pairs = [timed(row)[1] for _ in range(row.repeats)] or [first]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(theirs / ours for ours, theirs in pairs)
    spread = f" ({ratios[0]:.2f} to {ratios[-1]:.2f})" if len(ratios) > 1 else ""
    times = f"{seconds_text(ours)} | {seconds_text(theirs)}"
    return f"| {row.work} | {row.model} | {row.against} | {times} | {statistics.median(ratios):.2f}x{spread} |"


def timed(row: Row) -> tuple[list[Any], list[float]]:
    """What both give, and the seconds that each takes."""
    results, seconds = [], []
    row.prepare()
    for work in (row.ours, row.theirs):
        start = time.perf_counter()
        results.append(work())
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return results, seconds


def seconds_text(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def growth(model: Model) -> list[str]:
    """How the time of automatic mode grows with the points."""
    image = photograph(768, 1024)
    lines = []
    for side in (8, 16, 32, 64):
        settings = AutomaticSettings(**model.thresholds, points_per_side=side)
        start = time.perf_counter()
        model.segmenter.generate(image, settings)
        seconds = time.perf_counter() - start
        lines.append(
            f"| {side} x {side} | {model.name} | {seconds_text(seconds)} | {1000 * seconds / side**2:.1f} ms |"
        )
    return lines


def peak_memory(whose: str, name: str, folder: Path) -> float:
    """Megabytes that automatic mode takes at its peak on 12 megapixels, above the loaded model and the image. One batch of
    sam2's, 64 points, is enough to see it: it takes as much for each."""
    image = photograph(3000, 4000)
    settings = {"points_per_side": 8} | (NANO_THRESHOLDS if name == "nano" else {})
    model = Model(name, folder, "cpu")
    small = photograph(300, 400)

    def run(image: np.ndarray, **settings: Any) -> None:
        if whose == "ours":
            model.segmenter.generate(image, AutomaticSettings(**settings))
        else:
            oracle.mask_generator(model.sam2, **settings).generate(image)

    run(small, **(settings | {"points_per_side": 1}))  # libraries are loaded now
    ctypes.CDLL(None).malloc_trim(0)  # what malloc holds back would take the place of what is needed
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on (proc(5))
    before = status_megabytes("VmRSS")
    run(image, **settings)
    return status_megabytes("VmHWM") - before


def status_megabytes(name: str) -> float:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def memory_line(name: str, folder: Path) -> str:
    """Peaks of both, each in a process of its own."""
    ours, theirs = (
        float(
            subprocess.run(
                [sys.executable, __file__, "--folder", str(folder), "--memory-of", whose, "--only", name],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout.split()[-1]
        )
        for whose in ("ours", "theirs")
    )
    work = "peak memory of automatic mode, 4000 x 3000"
    return f"| {work} | {name} | SAM2AutomaticMaskGenerator | {ours:.0f} MB | {theirs:.0f} MB | 1/{theirs / ours:.0f} |"


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    if Path("/proc/cpuinfo").exists():
        cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    return f"{gpu}{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def rows(models: list[Model], folder: Path, repeats: int):
    """All rows, made one at a time."""
    for model in models:
        if importlib.util.find_spec("ikomia"):
            yield from prompts_again(model, repeats)
            yield stroke(model, repeats)
        yield embedding(model, repeats)
        yield boxes(model, repeats)
    yield from other_thresholds(models[0], repeats)
    for model in models:
        side = 32 if model.name == "nano" else 16
        points = {"points_per_side": side}
        single = {"use_m2m": False, "multimask_output": True}
        # The defaults of the plugin: a single mask for each point, refined.
        default = {"use_m2m": True, "multimask_output": False}
        yield automatic(model, f"automatic mode, {side} x {side} points", repeats, **points, **default)
        yield automatic(
            model, f"automatic mode, {side} x {side}, use_m2m off, three masks", repeats, **points, **single
        )
        points = {"points_per_side": side // 2}
        crops = {"crop_n_layers": 1}
        yield automatic(
            model, f"automatic mode, {side // 2} x {side // 2}, crop_n_layers 1", repeats, **points, **default, **crops
        )
        if model.name == "tiny":
            yield automatic(model, "automatic mode, all settings at their defaults", 0, **default)
    for model in models:
        if model.name == "tiny":
            yield following(folder, model.device, 1, 2 * repeats)
            yield following(folder, model.device, 8, repeats - 1)
    yield loading(folder, 2 * repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table there as well")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of a long row; short ones have more")
    parser.add_argument("--only", choices=["nano", "tiny"], help="one model")
    parser.add_argument(
        "--rows", default="", help="a regular expression: the rows whose work or opponent it is found in"
    )
    parser.add_argument("--folder", type=Path, help="keep the random weights there")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where both compute")
    parser.add_argument("--memory-of", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary, steady_threads():
        folder = options.folder or Path(temporary)
        names = [options.only] if options.only else ["nano", "tiny"]
        if options.memory_of:
            print(peak_memory(options.memory_of, options.only, folder))
            return
        lines = []

        def say(line: str) -> None:
            print(line, flush=True)
            lines.append(line)

        models = [Model(name, folder, options.device) for name in names]
        say(f"Measured on {machine()}.\n")
        say("| work | model | against | ours | theirs | faster |\n| --- | --- | --- | --- | --- | --- |")
        for row in rows(models, folder, options.repeats):
            if re.search(options.rows, f"{row.work} {row.against}"):
                say(measure(row))
        if re.search(options.rows, "memory"):
            for name in names:
                say(memory_line(name, folder))
        if re.search(options.rows, "growth"):
            say("\n| points | model | time | each |\n| --- | --- | --- | --- |")
            for model in models:
                for line in growth(model):
                    say(line)
        if options.out:
            options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
