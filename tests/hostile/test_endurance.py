"""A long session, in little: `tests/benchmarks/endurance.py` is the long one."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks import endurance


@pytest.mark.slow
def test_nothing_grows_and_masks_stay_what_they_were(tmp_path):
    report = endurance.endure(120, count=4, quiet=True)
    assert report.compared > 60
    assert report.worst <= 1e-3
    assert not report.grows(), (report.growth(), report.files[::20], report.threads[::20])
    endurance.draw(report, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


@pytest.mark.slow
def test_nothing_grows_in_a_long_video_and_its_beginning_followed_again_is_the_same():
    report = endurance.endure_video(2000, quiet=True)
    assert (report.compared, report.different) == (50, 0)
    assert not report.grows(), (report.growth(), report.files[::200], report.threads[::200])


def test_what_grows_is_seen():
    steady = [600.0 + k % 7 * 20 for k in range(100)]
    report = endurance.Report(memory=steady, files=[7] * 100, threads=[4, 5] * 50)
    assert not report.grows()
    assert endurance.Report(list(steady + np.arange(100)), report.files, report.threads).grows()
    assert endurance.Report(steady, list(range(100)), report.threads).grows()
    assert endurance.Report(steady, report.files, list(range(100))).grows()
