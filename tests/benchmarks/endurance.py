"""Hundreds of runs in one process, as in a long session: memory, open files and threads, and whether masks stay what they were.

Real Ikomia workflows change the mode, the image and the model from run to run; now and then a workflow is dropped and another
one built. Prints a line every 50 runs, draws the curve of the memory, and ends with an error where something grows or a result
differs from the first one of its kind:

    python tests/benchmarks/endurance.py --runs 500 --picture endurance.png
    python tests/benchmarks/endurance.py --frames 2000 --picture video.png

With --frames two objects are followed through one video of so many frames, the beginning of which is then followed again.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
import conftest  # noqa: E402 - a private home in which this checkout is the installed plugin
import numpy as np  # noqa: E402
from ikomia.dataprocess.workflow import Workflow  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402
from skimage import data  # noqa: E402

from infer_segment_anything_2.bridge.wire import ALIASES  # noqa: E402

SIZES = [(512, 512), (240, 320), (700, 1200), (900, 180)]
MODES = {
    "a box": {"input_box": "[20, 30, 150, 170]"},
    "three masks": {"input_point": "[90, 110]", "multimask_output": "True"},
    "many boxes, instances": {
        "input_box": "[[20, 30, 150, 170], [5, 5, 60, 60], [70, 80, 170, 200]]",
        "instance_output": "True",
    },
    "everything": {"points_per_side": "4", "iou_thresh": "0.3", "stability_score_thresh": "0.3", "use_m2m": "False"},
    "everything, refined, instances": {
        "points_per_side": "3",
        "iou_thresh": "0.3",
        "stability_score_thresh": "0.3",
        "use_m2m": "True",
        "multimask_output": "True",
        "instance_output": "True",
        "input_size_percent": "70",
    },
}


@dataclass
class Report:
    """What was seen: in MB and counts after each run, and how many pixels of label images changed."""

    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    kinds: int = 0
    compared: int = 0
    different: int = 0
    worst: float = 0.0

    def growth(self) -> float:
        """MB by which the least memory of the last quarter of the runs is above that of the second quarter. The least: what
        one run needs besides, the C library gives back now or later."""
        quarter = len(self.memory) // 4
        return min(self.memory[-quarter:]) - min(self.memory[quarter : 2 * quarter])

    def grows(self) -> bool:
        """Whether memory, open files or threads grow with the runs, beyond what comes and goes."""
        half = len(self.memory) // 2
        return (
            self.growth() > 25
            or max(self.files[half:]) > max(self.files[:half]) + 2
            or max(self.threads[half:]) > max(self.threads[:half]) + 2
        )


def memory_mb() -> float:
    """Memory of this process that is not shared with files, in MB."""
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6


def another_model(folder: Path) -> dict[str, str]:
    """Parameters of a second model of the bundled one's architecture, with weights that give other masks."""
    import oracle
    import torch

    model = oracle.nano_model()
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.data += 0.02 * weight.data.std(correction=0) * torch.randn(weight.shape, generator=generator)
    torch.save({"model": model.state_dict()}, folder / "other.pt")
    config = conftest.ROOT / "models/sam2_hiera_nano.yaml"
    return {"model_weight_file": str(folder / "other.pt"), "config_file": str(config)}


def images(count: int) -> list[np.ndarray]:
    """Photographs of several sizes; more of them than a model keeps embeddings of, if `count` is above 8."""
    photos = [data.astronaut(), data.coffee(), data.chelsea()]
    made = []
    for k in range(count):
        height, width = SIZES[k % len(SIZES)]
        picture = Image.fromarray(np.roll(photos[k % 3], 17 * k, axis=1))
        made.append(np.array(picture.resize((width, height), Image.Resampling.BILINEAR)))
    return made


def new_task(number: int):
    workflow = Workflow(f"session {number}")
    return workflow, workflow.add_task(name=conftest.NAME, auto_connect=True)


def endure(runs: int, count: int = 12, quiet: bool = False) -> Report:
    """Do `runs` runs on `count` images and say what was seen."""
    report, first, pictures, rng = Report(), {}, images(count), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        models = [{"model_weight_file": "", "config_file": ""}, another_model(Path(folder))]
        held, held_task = new_task(-1)  # whose model stays loaded while the others change
        held_task.set_parameters({"model_name": "sam2_hiera_nano", "input_box": "[20, 30, 150, 170]"})
        held.run_on(array=pictures[0])
        workflow, task = new_task(0)
        # Without the other name of iou_thresh, whose 0.8 would count where 0.3 is what was set before.
        defaults = {name: value for name, value in task.get_parameters().items() if name not in ALIASES}
        start = time.perf_counter()
        for run in range(runs):
            if run % 40 == 39:
                workflow, task = new_task(run)
            kind = (rng.choice(list(MODES)), int(rng.integers(len(pictures))), int(rng.integers(2)))
            task.set_parameters(defaults | {"model_name": "sam2_hiera_nano"} | models[kind[2]] | MODES[kind[0]])
            workflow.run_on(array=pictures[kind[1]])
            outputs = [task.get_output(k).get_mask() for k in range(1, 4 if kind[0] == "three masks" else 2)]
            labels = np.stack(outputs).astype(np.uint8)
            task.get_image_with_mask()
            if kind in first:
                report.compared += 1
                if hashlib.md5(labels).digest() != first[kind][0]:
                    report.different += 1
                    changed = float((labels != np.array(Image.open(first[kind][1])).reshape(labels.shape)).mean())
                    report.worst = max(report.worst, changed)
            else:
                path = Path(folder) / f"{len(first)}.png"
                Image.fromarray(labels.reshape(-1, labels.shape[2])).save(path)
                first[kind] = hashlib.md5(labels).digest(), path
            del outputs, labels
            if run % 10 == 9:
                gc.collect()
            note(report)
            if not quiet and run % 50 == 49:
                print(f"{run + 1} runs, {time.perf_counter() - start:.0f} s: {last_of(report)}", flush=True)
    report.kinds = len(first)
    return report


def endure_video(frames: int, quiet: bool = False) -> Report:
    """Follow two objects through a video of so many frames, then through its beginning again, and say what was seen."""
    import oracle
    import torch
    from tools.video import that_sees, window

    report, first = Report(kinds=1), []
    beginning = min(50, frames)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "seeing.pt"
        torch.save({"model": that_sees(oracle.nano_model()).state_dict()}, weights)
        workflow, task = new_task(0)
        task.set_parameters({"model_name": "sam2_hiera_nano", "model_weight_file": str(weights), "track": "True"})
        task.set_parameters({"input_box": "[[70, 20, 190, 130], [160, 90, 310, 230]]"})
        start = time.perf_counter()
        for number in (*range(frames), *range(beginning)):
            if number == 0:
                task.start_video()
            workflow.run_on(array=window(number))
            labels = task.get_output(1).get_mask()
            if len(report.memory) < beginning:
                first.append(labels.copy())
            elif len(report.memory) >= frames:
                report.compared += 1
                report.different += not np.array_equal(labels, first[number])
                report.worst = max(report.worst, float((labels != first[number]).mean()))
            note(report)
            if not quiet and len(report.memory) % 50 == 0:
                print(
                    f"{len(report.memory)} frames, {time.perf_counter() - start:.0f} s: {last_of(report)}", flush=True
                )
    return report


def note(report: Report) -> None:
    """Add what the process takes now."""
    report.memory.append(memory_mb())
    report.files.append(len(os.listdir("/proc/self/fd")))
    report.threads.append(len(os.listdir("/proc/self/task")))


def last_of(report: Report) -> str:
    return (
        f"{report.memory[-1]:.0f} MB, {report.files[-1]} files, {report.threads[-1]} threads, "
        f"{report.compared} compared, {report.different} different"
    )


def draw(report: Report, path: Path) -> None:
    """The memory, run by run, as a PNG."""
    width, height, left, top, bottom = 1000, 360, 80, 50, 40
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    pen.font = ImageFont.load_default(15)
    most = max(report.memory) * 1.1
    runs = len(report.memory)

    def place(run: float, megabytes: float) -> tuple[float, float]:
        across = left + (width - left - 30) * run / max(runs - 1, 1)
        return across, height - bottom - (height - bottom - top) * megabytes / most

    for line in range(0, int(most) + 1, 200):
        pen.line([place(0, line), place(runs - 1, line)], fill=(220, 220, 220))
        pen.text((left - 10, place(0, line)[1]), f"{line} MB", fill="black", anchor="rm")
    for run in range(0, runs + 1, max(runs // 100 * 10, 10)):
        pen.text((place(run, 0)[0], height - bottom + 18), f"{run}", fill="black", anchor="mm")
    pen.line([place(run, megabytes) for run, megabytes in enumerate(report.memory)], fill=(200, 30, 30), width=2)
    title = f"Memory of the process after each of {runs} runs"
    pen.text((left, 12), f"{title}; from the second to the last quarter {report.growth():+.1f} MB", fill="black")
    picture.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--frames", type=int, help="follow objects through a video of so many frames instead")
    parser.add_argument("--picture", type=Path, help="PNG to draw the curve of the memory into")
    arguments = parser.parse_args()
    report = endure_video(arguments.frames) if arguments.frames else endure(arguments.runs)
    if arguments.picture:
        draw(report, arguments.picture)
    half = len(report.memory) // 2
    memory, files, threads = report.memory[half:], report.files[half:], report.threads[half:]
    print(
        f"{len(report.memory)} runs of {report.kinds} kinds. In the second half: {min(memory):.0f} to {max(memory):.0f} MB, "
        f"{min(files)} to {max(files)} files, {min(threads)} to {max(threads)} threads. From the second to the last quarter: "
        f"{report.growth():+.1f} MB. {report.compared} compared with the first of their kind, {report.different} different, "
        f"at most {100 * report.worst:.4f}% of the pixels."
    )
    # With another number of threads sums are rounded otherwise: a few pixels at the edges of masks may change sides.
    if report.grows() or report.worst > 1e-3:
        raise SystemExit("Something grows, or masks changed.")


if __name__ == "__main__":
    main()
