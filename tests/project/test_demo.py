"""`make demo`: what it writes, what it says, and what it leaves alone."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RUNS = {"automatic": [""], "point": ["_mask_1", "_mask_2", "_mask_3"], "box_and_points": [""], "detector": [""]}


def run_demo(checkout: Path, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """demo.py in a process and an Ikomia home of its own."""
    home.mkdir(parents=True, exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if name not in ("TORCH_HOME", "XDG_CACHE_HOME")}
    return subprocess.run(
        [sys.executable, str(checkout / "tests" / "tools" / "demo.py"), *arguments],
        env=clean | {"HOME": str(home)} | environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def git_status(checkout: Path) -> str:
    """What git sees in the checkout, caches and other ignored files too; nothing where it is no clone."""
    command = ["git", "--no-optional-locks", "status", "--porcelain", "--ignored", "--untracked-files=all"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False).stdout


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def scene_run(tmp_path_factory, checkout):
    """The demo on the sample scene: its folder, its process and the checkout's state before and after."""
    folder = tmp_path_factory.mktemp("demo")
    before = git_status(checkout)
    process = run_demo(checkout, folder / "home", "--out", str(folder / "out"), "--no-photo")
    assert process.returncode == 0, process.stderr
    return folder, process, before, git_status(checkout)


def test_the_demo_writes_pictures_masks_legends_and_json_of_four_workflows(scene_run, checkout):
    out = scene_run[0] / "out"
    scene = read(checkout / "images" / "sample_scene.png")
    expected = {"overview.png", "summary.json"}
    for kind, outputs in RUNS.items():
        expected.add(f"scene_{kind}_instances.json")
        for output in outputs:
            stem = f"scene_{kind}{output}"
            expected |= {f"{stem}_overlay.png", f"{stem}_labels.png", f"{stem}_legend.png"}
            expected |= {f"{stem}.json", f"{stem}_coco.json"}
    assert {path.name for path in out.iterdir()} == expected

    for path in out.glob("*_overlay.png"):
        assert read(path).shape == scene.shape
        assert (read(path) != scene).any()
    for path in out.glob("*_labels.png"):
        labels = read(path)
        assert labels.shape == scene.shape[:2]
        assert labels.dtype == np.uint8
        assert labels.any()
    for path in out.glob("*_legend.png"):
        assert read(path).ndim == 3
    assert read(out / "overview.png").shape[1] > 1500
    for path in out.glob("*.json"):
        json.loads(path.read_text())


def test_the_summary_agrees_with_the_masks(scene_run):
    out = scene_run[0] / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["model"] == "sam2_hiera_nano"
    assert summary["load_seconds"] > 0
    runs = {run["name"].removeprefix("scene_"): run for run in summary["runs"]}
    assert list(runs) == list(RUNS)
    assert runs["automatic"]["parameters"]["input_point"] == ""
    assert runs["point"]["parameters"]["multimask_output"] == "True"
    assert len(json.loads(runs["box_and_points"]["parameters"]["input_point"])) == 2
    assert len(json.loads(runs["box_and_points"]["parameters"]["input_box"])) == 1

    assert len(runs["automatic"]["masks"]) > 3
    assert [mask["output"] for mask in runs["point"]["masks"]] == [1, 2, 3]
    assert len(runs["box_and_points"]["masks"]) == 1
    for kind, run in runs.items():
        assert run["seconds"] > 0
        assert all((out / file).is_file() for file in run["files"])
        for mask in run["masks"]:
            assert 0 <= mask["score"] <= 1
            assert mask["area"] > 0
            if kind in ("point", "box_and_points"):  # the masks of the others cover one another
                stem = f"scene_{kind}" + (f"_mask_{mask['output']}" if kind == "point" else "")
                on = read(out / f"{stem}_labels.png") == mask["label"]
                ys, xs = np.nonzero(on)
                assert mask["area"] == on.sum()
                assert mask["box"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_the_masks_behind_the_detector_have_its_names_in_every_file(scene_run):
    out = scene_run[0] / "out"
    summary = json.loads((out / "summary.json").read_text())
    names = [mask["name"] for mask in summary["runs"][-1]["masks"]]
    assert len(names) > 4
    assert {"red thing", "blue thing", "pink thing"} <= set(names)  # the tomato, the ribbon and the palette
    coco = json.loads((out / "scene_detector_coco.json").read_text())
    categories = {category["id"]: category["name"] for category in coco["categories"]}
    assert [categories[annotation["category_id"]] for annotation in coco["annotations"]] == names
    assert [image["file_name"] for image in coco["images"]] == ["sample_scene.png"]
    assert set(np.unique(read(out / "scene_detector_labels.png"))) == set(range(len(names) + 1))
    assert names[0] in (out / "scene_detector.json").read_text()
    assert names[0] in (out / "scene_detector_instances.json").read_text()
    others = json.loads((out / "scene_automatic_coco.json").read_text())
    assert [category["name"] for category in others["categories"]] == ["object"]


def test_the_detector_finds_areas_of_one_colour_where_they_are():
    from tools.faces_and_blobs import find_blobs

    image = np.full((300, 600, 3), 245, np.uint8)
    image[50:150, 100:300] = (220, 20, 40)
    image[180:240, 400:500] = (30, 100, 220)
    image[20:24, :] = (20, 20, 20)  # thinner than anything that counts
    red, blue = find_blobs(image)
    assert (red.colour, blue.colour) == ("red", "blue")
    np.testing.assert_allclose(red.box, (100, 50, 200, 100), atol=5)
    np.testing.assert_allclose(blue.box, (400, 180, 100, 60), atol=5)
    assert 0.8 < red.fills <= 1
    assert [blob.colour for blob in find_blobs(image, most=1)] == ["red"]


@pytest.mark.parametrize("height_width", [(1, 1), (1, 3000), (3000, 2), (200, 300)])
def test_a_picture_of_one_colour_has_no_areas_and_no_faces(height_width):
    from tools.faces_and_blobs import find_blobs, find_faces

    image = np.full((*height_width, 3), 90, np.uint8)
    assert find_blobs(image) == []
    assert find_faces(image) == []


def test_the_detector_finds_a_face_where_it_is():
    from skimage import data
    from tools.faces_and_blobs import find_faces

    ((x, y, width, height),) = find_faces(data.astronaut())
    assert 150 < x < 185
    assert 45 < y < 80
    assert 90 < width == height < 130


def test_the_demo_prints_each_result_with_its_score_and_where_the_files_are(scene_run):
    folder, process = scene_run[:2]
    for kind in RUNS:
        assert kind in process.stdout
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert f"{summary['runs'][-1]['masks'][0]['score']:.2f}" in process.stdout
    assert str(folder / "out") in process.stdout
    assert "Traceback" not in process.stderr


def test_the_demo_leaves_the_checkout_as_it_was_and_writes_nowhere_else(scene_run, checkout):
    folder, _, before, after = scene_run
    assert after == before
    assert {path.name for path in folder.iterdir()} == {"home", "out"}
    link = folder / "home" / "Ikomia" / "Plugins" / "Python" / "infer_segment_anything_2"
    assert link.is_symlink()
    assert link.resolve() == checkout


@pytest.fixture(scope="module")
def own_run(tmp_path_factory, checkout):
    """The demo on a picture of one's own, in which a detector finds nothing: the folder of its results and its process."""
    folder = tmp_path_factory.mktemp("own")
    photo, out = folder / "holiday photo.tif", folder / "out"
    lines = np.full((300, 512), 900, np.uint16)
    lines[100:102] = 5000
    Image.fromarray(lines).save(photo)
    out.mkdir()
    (out / "before.png").write_text("of an earlier demo")
    (out / "mine.png").write_text("of the user")
    (out / "summary.json").write_text('{"runs": [{"files": ["before.png"]}]}')
    where = ("--point", "250,140", "--box", "20,30,200,180.5")
    process = run_demo(checkout, folder / "home", "--out", str(out), "--image", str(photo), *where)
    assert process.returncode == 0, process.stderr
    return out, process


def test_a_picture_of_ones_own_is_segmented(own_run):
    out, process = own_run
    assert not (out / "before.png").exists()
    assert (out / "mine.png").exists()
    assert "make demo MODEL=sam2.1_hiera_small" in process.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert [run["name"] for run in summary["runs"]] == [f"holiday_photo_{kind}" for kind in RUNS]
    assert read(out / "holiday_photo_point_mask_2_overlay.png").shape == (300, 512, 3)
    first = read(out / "overview.png")[40:150, 30:300].astype(int)  # the picture as the model saw it, and not all white
    assert first.min() < 90 < 150 < first.max()
    assert summary["runs"][1]["parameters"]["input_point"] == "[[250.0, 140.0]]"
    assert summary["runs"][2]["parameters"]["input_box"] == "[[20.0, 30.0, 200.0, 180.5]]"
    assert summary["runs"][2]["parameters"]["input_point"] == ""


def test_a_video_of_ones_own_is_followed(tmp_path, checkout):
    from tools.video import frames_of, moving_window, write_video

    out = tmp_path / "out"
    video = write_video(tmp_path / "holiday.avi", moving_window(9))
    where = ("--track", str(video), "--box", "70,20,190,130")
    process = run_demo(checkout, tmp_path / "home", "--out", str(out), *where)
    assert process.returncode == 0, process.stderr
    (line,) = [line for line in process.stdout.splitlines() if "follow" in line and "frames" in line]
    assert line.startswith("holiday")
    assert "1 in 9 frames" in line
    files = {"clip_followed.mp4", "clip_followed_coco.json"}
    assert {path.name for path in out.iterdir()} == {"overview.png", "summary.json", *files}
    followed = frames_of(out / "clip_followed.mp4")
    assert len(followed) == 9
    assert (
        np.abs(followed[0].astype(int) - frames_of(video)[0]).max(axis=2)[30:120, 80:180] > 40
    ).mean() > 0.2  # the mask
    coco = json.loads((out / "clip_followed_coco.json").read_text())
    assert len(coco["images"]) == 9
    assert {annotation["track_id"] for annotation in coco["annotations"]} == {0}
    (run,) = json.loads((out / "summary.json").read_text())["runs"]
    assert set(run["files"]) == files


def test_a_video_that_is_none_leaves_the_results_of_before(tmp_path, checkout):
    out = tmp_path / "out"
    out.mkdir()
    (out / "before.png").write_text("of an earlier demo")
    (out / "summary.json").write_text('{"runs": [{"files": ["before.png"]}]}')
    (tmp_path / "text.mp4").write_text("no video")
    process = run_demo(checkout, tmp_path / "home", "--out", str(out), "--track", str(tmp_path / "text.mp4"))
    assert process.returncode == 1
    assert "text.mp4 is not a video that OpenCV can read" in process.stderr
    assert (out / "before.png").exists()


@pytest.mark.usefixtures("tools")
def test_what_an_earlier_demo_wrote_can_be_the_input_unless_it_would_be_written_over(tmp_path):
    import demo

    clip = demo.sample_clip(tmp_path).path
    old, followed = tmp_path / "old.png", tmp_path / "clip_followed.mp4"
    followed.write_bytes(clip.read_bytes())
    old.touch()
    (tmp_path / "summary.json").write_text(json.dumps({"runs": [{"files": [clip.name, old.name, followed.name]}]}))
    given = argparse.Namespace(image=None, track=followed, point=None, box=None, no_photo=False)
    with pytest.raises(demo.DemoError, match=r"clip_followed\.mp4 is what the demo itself writes"):
        demo.own_pictures(given, tmp_path)
    given.track = clip
    own = demo.own_pictures(given, tmp_path)
    assert old.exists()
    assert demo.samples_of(given, tmp_path, *own)[1].path == clip
    assert {path.name for path in tmp_path.iterdir()} == {clip.name, "summary.json"}


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("name", ["photo.png", "clip.mp4", "overview.png"])
@pytest.mark.parametrize("summary", [None, {"runs": [{"files": ["before.png"]}]}], ids=["another folder", "a demo's"])
def test_a_file_of_the_users_that_is_called_as_one_of_the_demo_stays(tmp_path, name, summary):
    import demo

    (tmp_path / name).write_text("my holiday")
    if summary:
        (tmp_path / "summary.json").write_text(json.dumps(summary))
    given = argparse.Namespace(image=None, track=None, point=None, box=None, no_photo=False)
    if summary and name == "overview.png":  # that of the demo
        demo.own_pictures(given, tmp_path)
        return
    with pytest.raises(demo.DemoError, match=rf"{name} is there, and no demo wrote it"):
        demo.own_pictures(given, tmp_path)
    assert (tmp_path / name).read_text() == "my holiday"


@pytest.mark.usefixtures("tools")
def test_a_demo_that_was_interrupted_can_be_run_again_and_leaves_nothing_of_its_samples(tmp_path):
    import demo

    given = argparse.Namespace(image=None, track=None, point=None, box=None, no_photo=False)
    for _ in range(2):
        demo.samples_of(given, tmp_path, *demo.own_pictures(given, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "clip.mp4", "summary.json"}
    given.no_photo = True
    demo.samples_of(given, tmp_path, None, None)
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json"}


@pytest.mark.usefixtures("tools")
def test_corners_in_the_wrong_order_are_taken_as_the_plugin_takes_them(tmp_path):
    import samples

    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    assert samples.own_sample(tmp_path / "a.png", None, (200.0, 180.0, 20.0, 30.0)).box_and_points.boxes
    with pytest.raises(ValueError, match="has no area"):
        samples.own_sample(tmp_path / "a.png", None, (20.0, 30.0, 20.0, 180.0))


@pytest.mark.parametrize(
    ("name", "where", "told"),
    [
        ("a.png", ("--point=700,100",), "input_point: entry 1, [700, 100], is outside the image"),
        ("a.png", ("--box=-90,-90,-5,-5",), "input_box: entry 1, [-90, -90, -5, -5], is outside the image"),
        ("a.jfif", (), "Ikomia goes by the suffix of a file and does not read .jfif"),
    ],
)
def test_a_mistake_with_a_picture_of_ones_own_is_told_before_anything_runs(tmp_path, checkout, name, where, told):
    Image.new("RGB", (90, 60)).save(tmp_path / name, "PNG")
    out = tmp_path / "out"
    process = run_demo(checkout, tmp_path / "home", "--out", str(out), "--image", str(tmp_path / name), *where)
    assert process.returncode == 1
    assert told in process.stderr
    assert not out.exists()


@pytest.mark.usefixtures("tools")
def test_a_user_without_a_home_is_nobody_whose_home_is_at_stake(monkeypatch, tmp_path):
    import pwd

    import demo

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert demo.prepare_home() == tmp_path
    assert demo.path_of_user("~/photo.jpg") == tmp_path / "photo.jpg"


@pytest.mark.usefixtures("tools")
def test_the_clip_of_the_demo_shows_what_its_prompt_points_at(tmp_path):
    import clip
    import demo
    from tools.video import frames_of

    made = demo.sample_clip(tmp_path)
    frames = frames_of(made.path)
    assert len(frames) == clip.FRAMES
    first, truth = next(clip.frames())
    assert np.abs(frames[0].astype(int) - first).mean() < 4  # but for the compression
    for box, label in zip(made.prompt.boxes, (1, 3), strict=True):
        ys, xs = np.nonzero(truth == label)
        np.testing.assert_allclose(box, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), atol=3)


def test_a_picture_in_which_the_detector_finds_nothing_has_an_empty_result_and_the_demo_says_so(own_run):
    out, process = own_run
    (line,) = [line for line in process.stdout.splitlines() if "detector" in line]
    assert "nothing found" in line
    assert "found nothing to segment" in process.stderr
    assert not read(out / "holiday_photo_detector_labels.png").any()
    assert json.loads((out / "holiday_photo_detector_coco.json").read_text())["annotations"] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--image", "photo.jpg", "--point", "1;2"], "'1;2' is not accepted; accepted is x,y, in pixels"),
        (["--image", "photo.jpg", "--box", "1,2"], "'1,2' is not accepted; accepted is x,y,x,y, in pixels"),
        (["--point", "1,2"], "--point and --box lie in a picture or video of your own"),
        (["--image", "photo.jpg", "--track", "video.mp4"], "--image and --track are one or the other"),
    ],
)
@pytest.mark.usefixtures("tools")
def test_where_to_point_is_read_from_the_command_line_or_refused(tmp_path, capsys, options, said):
    import demo

    with pytest.raises(SystemExit):
        demo.main(["--out", str(tmp_path), *options])
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("tools")
def test_a_tilde_is_the_users_own_home_though_the_demo_has_another(monkeypatch, tmp_path):
    import pwd

    monkeypatch.setenv("HOME", str(tmp_path))
    import demo

    assert demo.path_of_user("~/photo.jpg") == Path(pwd.getpwuid(os.getuid()).pw_dir, "photo.jpg")


@pytest.mark.usefixtures("tools")
def test_without_a_point_and_a_box_the_centre_counts(tmp_path):
    import samples

    Image.fromarray(np.zeros((300, 512, 3), np.uint8)).save(tmp_path / "a.png")
    sample = samples.own_sample(tmp_path / "a.png")
    assert sample.point.points == [(256, 150)]
    assert sample.box_and_points.boxes == [(128, 75, 384, 225)]


def test_a_link_to_another_checkout_is_replaced_but_an_installed_plugin_is_not(tmp_path, checkout):
    plugins = tmp_path / "home" / "Ikomia" / "Plugins" / "Python"
    link = plugins / "infer_segment_anything_2"
    plugins.mkdir(parents=True)
    link.symlink_to(tmp_path / "gone")
    arguments = ("--out", str(tmp_path / "out"), "--image", str(tmp_path / "no_such_picture.png"))
    process = run_demo(checkout, tmp_path / "home", *arguments)
    assert process.returncode == 1
    assert "no_such_picture.png does not exist" in process.stderr
    assert link.resolve() == checkout

    link.unlink()
    link.mkdir()
    (link / "precious.txt").write_text("mine")
    process = run_demo(checkout, tmp_path / "home", *arguments)
    assert process.returncode == 1
    assert "move it away" in process.stderr
    assert (link / "precious.txt").read_text() == "mine"


def test_the_users_own_home_is_refused_unless_it_was_named(tmp_path, checkout):
    import pwd

    own = Path(pwd.getpwuid(os.getuid()).pw_dir)
    process = run_demo(checkout, own, "--out", str(tmp_path / "out"))
    assert process.returncode == 1
    assert "is your own home" in process.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "said"),
    [("sam2.1_hiera_tiny", "could not be downloaded"), ("sam2_hiera_gigantic", "is not accepted")],
)
def test_a_model_that_cannot_be_had_is_explained_in_the_plugins_own_words(tmp_path, checkout, model, said):
    process = run_demo(
        checkout,
        tmp_path / "home",
        *("--out", str(tmp_path / "out"), "--no-photo", "--model", model),
        SAM2_CHECKPOINT_MIRROR="http://127.0.0.1:9",
    )
    assert process.returncode == 1
    assert said in process.stderr
    assert "sam2_hiera_nano" in process.stderr
    assert "Traceback" not in process.stderr
    assert 'File "' not in process.stderr
