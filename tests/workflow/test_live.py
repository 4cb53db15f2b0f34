"""Live drawing on the real task: what Studio calls with every stroke, from threads of its own."""

from __future__ import annotations

import json
import logging
import threading

import numpy as np
import pytest
from conftest import NAME
from ikomia import core, dataprocess
from ikomia.dataprocess.workflow import Workflow

pytestmark = pytest.mark.qt

FACE, ROCKET = (220, 110), (400, 430)
#: Automatic mode that is quick and finds something.
LOOSE = {"points_per_side": "2", "use_m2m": "False", "iou_thresh": "0", "stability_score_thresh": "0"}


def point(x: float, y: float, category: str = ""):
    item = core.CGraphicsPoint(core.CPointF(x, y))
    if category:
        item.set_category(category)
    return item


def box(x: float, y: float, width: float, height: float, category: str = ""):
    item = core.CGraphicsRectangle(x, y, width, height)
    if category:
        item.set_category(category)
    return item


def draw(algo, *items) -> None:
    """What Studio does at the release of the mouse: the items are there, and the task is asked whether it listens."""
    graphics = dataprocess.CGraphicsInput()
    graphics.set_items(list(items))
    algo.set_input(graphics, 1)
    if algo.is_graphics_changed_listening():
        algo.graphics_changed()


def labels_of(algo) -> np.ndarray:
    return algo.get_output(1).get_mask().copy()


def typed(image, **parameters) -> np.ndarray:
    """The label image of what is typed, from a task of its own."""
    workflow = Workflow("typed")
    algo = workflow.add_task(name=NAME, auto_connect=True)
    text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in parameters.items()}
    algo.set_parameters({"model_name": "sam2_hiera_nano"} | text)
    workflow.run_on(array=image)
    return labels_of(algo)


@pytest.fixture
def live(workflow, algo, astronaut):
    """The task after a first run, which loaded the model and found something in automatic mode."""
    algo.set_parameters(LOOSE)
    workflow.run_on(array=astronaut)
    assert labels_of(algo).any()
    return algo


def test_a_stroke_segments_at_once_as_the_same_prompt_typed(live, astronaut, monkeypatch):
    shown = []
    monkeypatch.setattr(live, "emit_output_changed", lambda: shown.append(labels_of(live)))
    draw(live, point(*FACE))
    np.testing.assert_array_equal(labels_of(live), typed(astronaut, input_point=FACE))
    draw(live, point(*FACE), point(150, 400, "Background"))
    corrected = typed(astronaut, input_point=[FACE, (150, 400)], input_point_label=[1, 0])
    np.testing.assert_array_equal(labels_of(live), corrected)
    assert len(shown) == 2  # Studio is told of each new result, once it is there
    np.testing.assert_array_equal(shown[1], corrected)
    np.testing.assert_array_equal(live.get_masks()[0][0], corrected > 0)
    assert live.get_output(0).is_data_available()


def test_a_stroke_encodes_nothing_and_has_the_values_that_were_applied_last(live, astronaut):
    encoded = live._segmenter.predictor.encoded
    draw(live, point(*FACE))
    live.set_parameters({"multimask_output": "True", "mask_id": "3"})
    draw(live, point(*FACE))
    np.testing.assert_array_equal(
        labels_of(live), typed(astronaut, input_point=FACE, multimask_output="True", mask_id="3")
    )
    assert live._segmenter.predictor.encoded == encoded


def test_before_any_run_nothing_happens(workflow, algo, astronaut, monkeypatch):
    from infer_segment_anything_2.segmentation import segmenter

    monkeypatch.setattr(segmenter, "load_model", lambda *_: pytest.fail("a stroke loads a model"))
    draw(algo, point(*FACE))
    algo.graphics_changed()  # though it does not listen
    assert not algo.is_graphics_changed_listening()
    assert not algo.get_output(1).is_data_available()


def test_a_model_that_was_chosen_but_not_run_is_neither_downloaded_nor_loaded(live, workflow, astronaut, monkeypatch):
    before = labels_of(live)
    for other in ({"model_name": "sam2_hiera_large"}, {"apply_postprocessing": "False"}):
        live.set_parameters({"model_name": "sam2_hiera_nano", "apply_postprocessing": "True"} | other)
        draw(live, point(*FACE))
        live.graphics_changed()
        assert not live.is_graphics_changed_listening()
        np.testing.assert_array_equal(labels_of(live), before)
    workflow.run_on(array=astronaut)
    assert live.is_graphics_changed_listening()


def test_switched_off_a_stroke_waits_for_a_run(live, workflow, astronaut):
    live.set_parameters({"live": "False"})
    before = labels_of(live)
    draw(live, point(*FACE))
    live.graphics_changed()
    np.testing.assert_array_equal(labels_of(live), before)
    workflow.run_on(array=astronaut)
    np.testing.assert_array_equal(labels_of(live), typed(astronaut, input_point=FACE))


def test_removing_the_last_drawn_item_empties_the_result_and_a_run_searches(live, workflow, astronaut, caplog):
    draw(live, point(*FACE))
    with caplog.at_level(logging.WARNING):
        draw(live)
        draw(live)
    assert labels_of(live).shape == astronaut.shape[:2]
    assert not labels_of(live).any()
    assert live.get_output(1).get_class_names() == ["background"]
    assert [len(masks) for masks in live.get_masks()] == [0]
    assert caplog.text.count("Nothing is drawn for this algorithm: the result is empty.") == 1
    workflow.run_on(array=astronaut)
    assert labels_of(live).any()


def test_removing_the_last_drawn_item_empties_the_result_also_with_labels_for_drawn_points(live, workflow, astronaut):
    live.set_parameters({"input_point_label": "[1]"})
    draw(live, point(*FACE))
    assert labels_of(live).any()
    for nothing in ([], [core.CGraphicsText("a note", 5, 5)]):
        draw(live, *nothing)
        assert not labels_of(live).any()
        assert live.get_param_object().news.text.startswith("Nothing is drawn for this algorithm: the result is empty.")
        with pytest.raises(RuntimeError, match=r"input_point_label: 1 label\(s\) for 0 point\(s\)"):
            workflow.run_on(array=astronaut)
        draw(live, point(*FACE))
        assert labels_of(live).any()


def test_of_a_box_of_the_background_a_stroke_says_that_it_is_no_prompt(live):
    draw(live, box(150, 20, 150, 180))
    assert labels_of(live).any()
    draw(live, box(150, 20, 150, 180, "Background"))
    assert not labels_of(live).any()
    assert live.get_param_object().news.text == (
        "Drawn, and not used: a box on the background, which takes points and lines only. Draw points, boxes or lines."
    )


def test_without_any_drawing_a_stroke_never_searches_the_image(live, monkeypatch):
    monkeypatch.setattr(type(live._segmenter), "generate", lambda *_, **__: pytest.fail("automatic mode"))
    live.graphics_changed()  # of an input that has no layer of drawings yet
    assert not labels_of(live).any()
    assert "If you see a drawing, click the drawing input of the algorithm" in live.get_param_object().news.text


def test_what_is_typed_wins_over_strokes_and_the_panel_hears_of_it(live, astronaut, monkeypatch):
    told = []
    monkeypatch.setattr(live, "emit_parameters_changed", lambda: told.append(live.get_param_object().news.text))
    live.set_parameters({"input_point": str(list(ROCKET))})
    draw(live, point(*FACE))
    draw(live, point(*FACE), point(10, 10))
    np.testing.assert_array_equal(labels_of(live), typed(astronaut, input_point=ROCKET))
    assert told == [
        "The prompt that is typed counts; what is drawn is not used. Empty input_box and input_point to use it."
    ]
    live.set_parameters({"input_point": ""})
    draw(live, point(*FACE))
    assert told[1:] == [""]


def test_a_fault_goes_to_the_log_and_the_panel_and_the_next_stroke_works(live, astronaut, caplog, monkeypatch):
    told = []
    monkeypatch.setattr(live, "emit_parameters_changed", lambda: told.append(live.get_param_object().news.text))
    draw(live, point(*FACE))
    before = labels_of(live)
    with caplog.at_level(logging.ERROR):
        draw(live, point(*FACE), point(600, 10))
    sentence = "drawn item 2, a point, [600, 10], is outside the image"
    assert sentence in caplog.text
    assert "Traceback" not in caplog.text
    assert told[0].startswith(sentence)
    np.testing.assert_array_equal(labels_of(live), before)
    draw(live, point(*FACE), point(500, 10))
    assert told[1:] == [""]
    assert (labels_of(live) != before).any()


# --- taking turns


def start(*functions) -> list[threading.Thread]:
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def end(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def gate(live, monkeypatch):
    """Holds the first computation until it is opened; `calls` has the number of objects of each."""
    segmenter = type(live._segmenter)
    compute = segmenter.segment

    class Gate:
        reached, opened, calls = threading.Event(), threading.Event(), []

    def segment(self, image, request, progress=None):
        Gate.calls.append(len(request.objects))
        Gate.reached.set()
        assert Gate.opened.wait(60)
        return compute(self, image, request, progress)

    monkeypatch.setattr(segmenter, "segment", segment)
    return Gate


def waiting(live, count: int) -> None:
    """Return once so many strokes have asked for their turn."""
    for _ in range(6000):
        if live._turns._asked >= count:
            return
        threading.Event().wait(0.01)
    pytest.fail("the strokes do not come")


def test_strokes_that_come_while_one_is_computed_are_done_as_one_and_the_last_one_wins(live, astronaut, gate):
    items = [box(150, 20, 150, 180), box(290, 340, 200, 150), box(20, 20, 100, 100), box(10, 350, 150, 150)]
    threads = start(lambda: draw(live, items[0]))
    assert gate.reached.wait(60)
    for k in (2, 3, 4):
        threads += start(lambda k=k: draw(live, *items[:k]))
        waiting(live, k)
    gate.opened.set()
    end(threads)
    assert gate.calls == [1, 4]
    boxes = [[x, y, x + width, y + height] for x, y, width, height in (i.get_bounding_rect() for i in items)]
    np.testing.assert_array_equal(labels_of(live), typed(astronaut, input_box=boxes))


def test_a_stroke_waits_for_the_run_that_is_under_way(live, workflow, astronaut, gate):
    threads = start(lambda: workflow.run_on(array=astronaut))  # automatic mode
    assert gate.reached.wait(60)
    graphics = dataprocess.CGraphicsInput()
    graphics.set_items([point(*FACE)])
    live.set_input(graphics, 1)
    threads += start(live.graphics_changed)
    waiting(live, 1)
    gate.opened.set()
    end(threads)
    assert gate.calls == [0, 1]
    np.testing.assert_array_equal(labels_of(live), typed(astronaut, input_point=FACE))


def test_stop_ends_a_stroke_and_those_that_wait_and_the_next_one_works(live, astronaut, gate, monkeypatch):
    shown = []
    monkeypatch.setattr(live, "emit_output_changed", lambda: shown.append(1))
    before = labels_of(live)
    threads = start(lambda: draw(live, point(*FACE)))
    assert gate.reached.wait(60)
    threads += start(live.graphics_changed)
    waiting(live, 2)
    live.stop()
    gate.opened.set()
    end(threads)
    assert (gate.calls, shown) == ([1], [])
    np.testing.assert_array_equal(labels_of(live), before)
    draw(live, point(*FACE))
    assert (gate.calls, shown) == ([1, 1], [1])


def test_next_object_gives_none_of_the_names_that_are_drawn(live, astronaut):
    draw(live, point(*FACE, "object 4"), box(150, 20, 150, 180, "object x"))
    assert live.get_param_object().objects == 4


def test_stop_ends_a_run_that_waits_for_a_stroke(live, astronaut, gate, monkeypatch):
    asked, turn = threading.Event(), live._turns.run
    monkeypatch.setattr(live._turns, "run", lambda: (asked.set(), turn())[1])
    threads = start(lambda: draw(live, point(*FACE)))
    assert gate.reached.wait(60)
    threads += start(live.run)
    assert asked.wait(60)
    live.stop()
    gate.opened.set()
    end(threads)
    assert gate.calls == [1]
    live.run()
    assert gate.calls == [1, 1]


def test_strokes_of_four_threads_end_with_what_is_drawn(live, astronaut):
    graphics = dataprocess.CGraphicsInput()
    live.set_input(graphics, 1)
    items, lock = [], threading.Lock()

    def strokes(k: int) -> None:
        for i in range(3):
            with lock:
                items.append(box(60 * i + 10, 90 * k + 10, 50, 80))
                graphics.set_items(list(items))
            live.graphics_changed()

    end(start(*(lambda k=k: strokes(k) for k in range(4))))
    assert len(live.get_masks()[0]) == 12
    boxes = [[x, y, x + width, y + height] for x, y, width, height in (i.get_bounding_rect() for i in items)]
    np.testing.assert_array_equal(labels_of(live), typed(astronaut, input_box=boxes))


# --- with a detector in front


def test_a_connected_detector_wins_over_strokes(astronaut):
    class Detector(dataprocess.CObjectDetectionTask):
        def get_progress_steps(self) -> int:
            return 1

        def run(self) -> None:
            self.begin_task_run()
            self.set_names(["pot"])
            self.add_object(7, 0, 0.9, 150.0, 20.0, 150.0, 180.0)
            self.end_task_run()

    detector, workflow = Detector("detector"), Workflow("detected")
    workflow.add_task(task=detector, auto_connect=True)
    algo = workflow.add_task(name=NAME)
    algo.set_parameters({"model_name": "sam2_hiera_nano"})
    workflow.connect_tasks(detector, algo, [(0, 0), (1, 2)])  # input 1 is left to the user
    workflow.run_on(array=astronaut)
    found = labels_of(algo)
    for _ in range(2):
        draw(algo, point(*ROCKET))
        np.testing.assert_array_equal(labels_of(algo), found)
        assert algo.get_output(1).get_class_names() == ["background", "pot"]
        assert algo.get_masks()[0].ids == [7]
    assert algo.get_param_object().news.text == "What is drawn is not used: the detections of the connected task count."


# --- named objects


def test_two_named_objects_with_background_strokes_keep_their_names(live, astronaut):
    live.set_parameters({"instance_output": "True"})
    draw(
        live,
        point(*FACE, "face"),
        point(150, 400, "Background"),
        box(290, 340, 220, 170, "rocket"),
        point(480, 500, "Background"),
        point(200, 140, "face"),
    )
    expected = typed(
        astronaut,
        input_point=[[FACE, (150, 400), (200, 140)]],
        input_point_label=[[1, 0, 1]],
    )
    rocket = typed(astronaut, input_box=[290, 340, 510, 510], input_point=[480, 500], input_point_label=0)
    (masks,) = live.get_masks()
    assert masks.names == ["face", "rocket"]
    np.testing.assert_array_equal(masks[0], expected > 0)
    np.testing.assert_array_equal(masks[1], rocket > 0)
    assert live.get_output(1).get_class_names() == ["background", "face", "rocket"]
    assert [(o.label, o.class_index) for o in live.get_output(2).get_objects()] == [("face", 0), ("rocket", 1)]
    assert live.get_output(1).get_legend().any()
