"""What goes wrong reaches the user as a sentence, not as a trace."""

from __future__ import annotations

import gc
import logging
import re
import weakref

import numpy as np
import pytest

from infer_segment_anything_2.bridge.errors import in_a_sentence

IMAGE = np.zeros((50, 60, 3), np.uint8)


def set_a_bad_value(workflow, algo) -> None:
    algo.set_parameters({"iou_thresh": "3"})


def run_with_a_point_outside(workflow, algo) -> None:
    algo.set_parameters({"input_point": "[500, 5]"})
    workflow.run_on(array=IMAGE)


def load_missing_weights(workflow, algo) -> None:
    algo.set_parameters({"model_weight_file": "/nowhere/my.pt"})
    algo.init_long_process()


def run_with_missing_weights(workflow, algo) -> None:
    algo.set_parameters({"model_weight_file": "/nowhere/my.pt"})
    workflow.run_on(array=IMAGE)


FAULTS = {
    set_a_bad_value: "iou_thresh: '3' is not accepted; accepted is a number from 0 to 1.",
    run_with_a_point_outside: "input_point: entry 1, [500, 5], is outside the image; accepted is x from 0 to below 60",
    load_missing_weights: "model_weight_file: /nowhere/my.pt does not exist. Accepted: the path of a .pt file",
    run_with_missing_weights: "model_weight_file: /nowhere/my.pt does not exist. Accepted: the path of a .pt file",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_an_error_is_its_sentence_and_at_most_one_line_of_trace(workflow, algo, fault, caplog):
    with caplog.at_level(logging.DEBUG), pytest.raises(Exception, match=re.escape(FAULTS[fault])) as caught:
        fault(workflow, algo)
    if isinstance(caught.value, RuntimeError) and "(Code" in str(caught.value):  # as Ikomia writes it
        trace = str(caught.value).partition("  File ")[2]
        assert trace.count("  File ") == 0  # no second frame
        assert len(trace) < 200
    # Who looks for the fault in the code finds the trace in the log.
    assert any(record.exc_info for record in caplog.records)


def test_after_an_error_the_next_run_works(workflow, algo):
    for fault in FAULTS:
        with pytest.raises(Exception, match=r"[Aa]ccepted"):
            fault(workflow, algo)
    algo.set_parameters({"input_point": "[30, 5]", "model_weight_file": ""})
    workflow.run_on(array=IMAGE)
    assert algo.get_output(1).get_mask().shape == IMAGE.shape[:2]


def test_an_error_holds_nothing_of_what_the_run_had_made(caplog):
    """Images and tensors would stay until the next garbage collection, and a run that had no memory would find less the next
    time."""
    made = []

    @in_a_sentence
    def run() -> None:
        large = np.zeros(9)
        made.append(weakref.ref(large))
        try:
            raise RuntimeError("of torch")
        except RuntimeError as error:
            raise MemoryError("a sentence") from error

    caplog.set_level(logging.INFO, "infer_segment_anything_2")  # or caplog itself would hold the trace
    gc.disable()
    try:
        with pytest.raises(MemoryError, match="a sentence"):
            run()
        assert made[0]() is None
    finally:
        gc.enable()
