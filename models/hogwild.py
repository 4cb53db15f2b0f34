"""The loop of a stage of training: workers share the weights without locks (Hogwild), a step each at a time.

A stage lives in the cache folder: `NAME.pt` is the moving average of the weights, `NAME.ckpt` everything needed to go
on and `NAME.log` the log. It goes on where it stopped, after a kill as well, on the same schedule; a finished stage goes
on with a larger --minutes. While a file named PAUSE lies in the cache folder, training sleeps.

The learning rate warms up over 100 steps and then falls along a cosine of the time trained.
"""

import argparse
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
import torch.multiprocessing as mp
from data import CACHE
from torch import Tensor, nn

WARM_UP_STEPS = 100
PAUSE = CACHE / "PAUSE"
WEIGHT_DECAY = 0.05
SMALLEST_MATRIX = 16  # rows and columns that Muon asks for: tokens and last layers of a few rows are no matrices to it
SAVE_EVERY_S = 60
LOG_EVERY_STEPS = 50
logger = logging.getLogger(__name__)


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What every stage can be asked for."""
    add = p.add_argument
    add("--minutes", type=float, help="length of the stage, pauses not counted")
    add("--lr", type=float, help="highest learning rate")
    add("--last-lr", type=float, default=0.01, help="learning rate at the end, as a share of --lr")
    add("--beta2", type=float, default=0.98, help="AdamW's decay of the mean of squared gradients")
    add("--muon", action="store_true", help="matrices learn by Muon, everything else still by AdamW")
    add("--workers", type=int, default=2, help="processes of one thread each")
    add("--keep", type=float, default=0.998, help="decay of the moving average of the weights per step")
    add("--seed", type=int, default=0)


def stage_file(stage: str, ending: str = ".pt") -> Path:
    """Where a stage keeps its weights, or with another ending its checkpoint or log."""
    return CACHE / (stage + ending)


def learning_rate(args: argparse.Namespace, step: int, done: float) -> float:
    """Learning rate of a step since the start of the process, when a share `done` of the stage is over."""
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return args.lr * min(1, (step + 1) / WARM_UP_STEPS) * (cosine * (1 - args.last_lr) + args.last_lr)


def make_optimizers(args: argparse.Namespace, parameters: Sequence[nn.Parameter]) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters; with --muon Muon for the matrices, in steps as large as AdamW's, and AdamW for the others."""
    matrices = [p for p in parameters if args.muon and p.ndim == 2 and min(p.shape) >= SMALLEST_MATRIX]
    known = {id(p) for p in matrices}
    others = [p for p in parameters if id(p) not in known]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=args.lr, weight_decay=WEIGHT_DECAY, betas=(0.9, args.beta2), fused=True)
    ]
    if matrices:
        muon = torch.optim.Muon(matrices, lr=args.lr, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)
    return optimizers


def save(content: dict, path: Path) -> None:
    """torch.save, atomically."""
    partial = path.with_name(path.name + ".part")
    torch.save(content, partial)
    os.replace(partial, path)


def wait_while_paused() -> float:
    """Sleep while the file PAUSE exists; return the seconds slept."""
    start = time.time()
    while PAUSE.exists():
        time.sleep(2)
    return time.time() - start


def prepare_worker(rank: int, args: argparse.Namespace) -> None:
    """One thread, the lowest priority, and from worker 0 a log."""
    os.nice(19 - os.nice(0))
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(args.seed + rank)
    if rank == 0:
        handlers = [logging.FileHandler(stage_file(args.stage, ".log")), logging.StreamHandler()]
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=handlers)


def initial_weights(args: argparse.Namespace, stages: Collection[str], model: nn.Module) -> dict[str, Any]:
    """Put the weights of --init, a file or a stage's name, into the model; what else lies beside them is returned too."""
    given = torch.load(stage_file(args.init) if args.init in stages else args.init, weights_only=True)
    model.load_state_dict(given["model"])
    return given


def start(
    work: Callable[..., None], args: argparse.Namespace, model: nn.Module, head: nn.Module, state: dict[str, Any]
) -> None:
    """Start the workers, which share the weights, and wait for them."""
    counts = state.get("counts", torch.zeros(args.workers))
    model.share_memory()
    head.share_memory()
    mp.spawn(work, (args, model, head, state, counts.share_memory_()), nprocs=args.workers)


def load_state(args: argparse.Namespace, model: nn.Module, head: nn.Module) -> dict[str, Any]:
    """What a stage that has begun goes on from, its weights put into the modules; empty where none has.

    Raises:
        SystemExit: the stage is over.
    """
    path = stage_file(args.stage, ".ckpt")
    if not path.exists():
        return {}
    state = torch.load(path, weights_only=True)
    if state["elapsed"] >= args.minutes * 60:
        raise SystemExit(
            f"{path} has had its {args.minutes:g} minutes: more --minutes go on, without the file it starts anew."
        )
    model.load_state_dict(state["live"])
    head.load_state_dict(state["dense"])
    return state


def train(
    rank: int,
    args: argparse.Namespace,
    model: nn.Module,
    head: nn.Module,
    parameters: Sequence[nn.Parameter],
    step_loss: Callable[[int, float], tuple[Tensor, Tensor]],
    names: Sequence[str],
    state: dict[str, Any],
    counts: Tensor,
) -> None:
    """Step until the time is up; worker 0 also keeps the moving average, logs, saves.

    Args:
        model, head: what is trained, the latter thrown away after training.
        parameters: those of both that learn.
        step_loss: gives for a seed, and the share of the stage that is over, the loss and what is logged of it, in
            the order of `names`.
        state: as `load_state` gives it.
        counts: (workers,) steps made by each worker, shared.
    """
    optimizers = make_optimizers(args, parameters)
    for optimizer, kept in zip(optimizers, state.get("optimizers", []), strict=bool(state)):
        optimizer.load_state_dict(kept)
    before, seconds = state.get("elapsed", 0.0), args.minutes * 60
    seed = int(time.time()) * 1000 + rank * 10**12  # a resumed run goes on with new scenes
    live = model.state_dict()
    mean = state.get("mean") or {name: value.clone() for name, value in live.items()}
    floats = [name for name, value in mean.items() if value.is_floating_point()]
    recent: list[Tensor] = []
    start = saved = time.time()
    step = 0

    def write() -> None:
        weights = {"model": mean, "dense": head.state_dict()}
        save(weights, stage_file(args.stage))
        everything = {"live": live, "counts": counts.clone(), "elapsed": elapsed}
        everything["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
        save({"mean": mean, "dense": head.state_dict()} | everything, stage_file(args.stage, ".ckpt"))

    while (elapsed := before + time.time() - start) < seconds:
        start += wait_while_paused()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(args, step, elapsed / seconds)
        seed += 1
        loss, figures = step_loss(seed, elapsed / seconds)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 3.0, foreach=True)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        counts[rank] += 1
        if rank:
            continue
        recent.append(figures)
        keep = min(args.keep, (counts[0].item() + 1) / (counts[0].item() + 10))
        with torch.no_grad():
            torch._foreach_lerp_([mean[name] for name in floats], [live[name] for name in floats], 1 - keep)
        if step % LOG_EVERY_STEPS == 0:
            values = torch.stack(recent).nanmean(0).tolist()
            recent.clear()
            known = [(name, value) for name, value in zip(names, values, strict=True) if not math.isnan(value)]
            listed = ", ".join(f"{name} {value:.3f}" for name, value in known)
            logger.info("%d steps, %.1f of %g min: %s", counts.sum(), elapsed / 60, args.minutes, listed)
        if time.time() - saved > SAVE_EVERY_S:
            saved = time.time()
            write()
    if rank == 0:
        write()
