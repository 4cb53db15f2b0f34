"""What Ikomia's hub and GitHub run of the project: the hub's test of the plugin, and the workflow with the issue forms."""

from __future__ import annotations

import importlib

import pytest
import yaml
from conftest import NAME, ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))


@pytest.fixture(scope="module")
def entry():
    return importlib.import_module(f"{NAME}.{NAME}_test")


def test_the_hubs_test_runs_the_task_in_all_its_ways(entry, algo):
    results = list(entry.test(algo, {}))
    assert [status for _, status in results] == ["OK"] * len(entry.RUNS)
    assert {values["model_name"] for values, _ in results} == {"sam2_hiera_nano"}


def test_the_hubs_test_says_what_fails(entry, algo, monkeypatch):
    monkeypatch.setattr(entry, "RUNS", {"a point outside": ({"input_point": "[700, 10]"}, 1)})
    ((_, status),) = entry.test(algo, {})
    assert "input_point: entry 1, [700, 10], is outside the image" in status


def test_the_hubs_test_does_not_take_no_masks_for_a_success(entry, algo, monkeypatch):
    monkeypatch.setattr(entry, "RUNS", {"nothing": ({"input_box": "[]"}, 1)})
    ((_, status),) = entry.test(algo, {})
    assert status == "nothing: 0 masks in place of 1 or more"


def test_ci_runs_on_the_pythons_ikomias_and_systems_that_the_plugin_claims():
    from infer_segment_anything_2.infer_segment_anything_2_process import InferSegmentAnything2Factory

    info = InferSegmentAnything2Factory().info
    matrix = WORKFLOW["jobs"]["installed"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert info.min_python_version.startswith(matrix["python"][0])
    assert [system.split("-")[0] for system in matrix["os"]] == ["ubuntu", "windows"]
    oldest = [job for job in matrix["include"] if job["ikomia"].startswith(info.min_ikomia_version.rpartition(".")[0])]
    assert {job["os"].split("-")[0] for job in oldest} == {"ubuntu", "windows"}


def test_the_issue_forms_ask_for_what_one_needs_to_know():
    assert [form.stem for form in FORMS] == ["bug_report", "feature_request"]
    for form in FORMS:
        content = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(content)
        ids = [field["id"] for field in content["body"] if "id" in field]
        assert len(ids) == len(set(ids))
        if form.stem == "bug_report":
            assert {"version", "model", "code", "image", "log"} <= set(ids)
