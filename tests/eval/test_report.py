"""The report: a study folder and a lone evaluation become one page that needs nothing else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from eval import gallery, measure, page, prior, report
from eval.gallery import GalleryItem, Mark
from tests.eval.cases import random_predictions, random_truth


class Tags(HTMLParser):
    """Collects what a page refers to and checks that its tags close."""

    VOID = ("meta", "br", "link", "img", "rect", "image", "path", "use")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.seen.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    return tags


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    truth = random_truth(rng, num_images=40)
    found = [random_predictions(rng, truth, num_levels=100, shift_px=shift) for shift in (2, 8)]
    known = prior.predict(prior.fit(truth), truth)
    for name, one in zip("ab", found, strict=True):
        (folder / name).mkdir()
        measure.write(folder / name / "metrics.json", measure.evaluate(truth, one, known, num_resamples=50))
    lines = [{"kind": "train", "step": s, "seconds": 0, "loss": 10 / s, "epoch": 0} for s in (1, 2, 3, 2)]
    lines += [{"kind": "valid", "step": 3, "seconds": 0, "map50": 0.25}]
    (folder / "a" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "tra')
    image = rng.integers(0, 256, (32, 32)).astype(np.uint8)
    marks = (Mark("Nodule/Mass", (1, 1, 9, 9)), Mark("Nodule/Mass", (2, 2, 9, 9), 0.5))
    items = [GalleryItem("k", image, marks[:1], marks[1:], "", image.astype(np.float32) / 255, "EigenCAM of layer4")]
    gallery.save_gallery(folder / "gallery", items)
    arms = [
        {"name": n, "title": f"Arm {n} & co", "run": n, "metrics": f"{n}/metrics.json", "predictions": ""} for n in "ab"
    ]
    content = {
        "schema_version": 1,
        "title": "A <study>",
        "about": "Two arms.",
        "phantom": True,
        "seed": 7,
        "stages": [{"name": "shard", "seconds": 3.0}, {"name": "pretrain", "seconds": 64.0}],
        "arms": arms,
        "pretrain_run": "a",
        "comparison": {"a": "a", "b": "b", "metrics": measure.compare(truth, *found, num_resamples=50)},
        "versions": {"torch": "2.11"},
        "machine": {"cores": 2},
        "config": {"epochs": 3},
        "notes": ["One seed."],
    }
    (folder / "study.json").write_text(json.dumps(content))
    return folder


def test_a_study(study: Path, tmp_path: Path) -> None:
    assert report.main(["--study", str(study), "--out", str(tmp_path / "page.html")]) == 0
    html = (tmp_path / "page.html").read_text()
    tags = parsed(html)
    assert all(link.startswith(("data:", "#")) for link in tags.links)
    assert not re.search(r"https?://(?!www\.w3\.org/)", html)
    assert not {"script", "link", "iframe"} & tags.seen
    assert len(tags.ids) == len(set(tags.ids))
    for text in (
        "A &lt;study&gt;",
        page.PHANTOM_NOTE,
        "Arm a &amp; co",
        "Location prior",
        "“Arm a &amp; co” is better than",
        "Pretraining loss",
        "Detection loss",
        "Validation split",
        "EigenCAM of layer4",
        "1 min 04 s",
        "&#34;epochs&#34;: 3",
        "Seed of the study: 7.",
        "not defined on these images",
        "2.11",
    ):
        assert text in html, text
    metrics = json.loads((study / "a" / "metrics.json").read_text())["metrics"]["map50"]
    assert f"{metrics['value']:.3f}" in html
    assert f"{metrics['low']:.3f} to {metrics['high']:.3f}" in html
    assert page.build(report.load(study)) == html


def test_one_evaluation(study: Path, tmp_path: Path) -> None:
    assert report.main(["--study", str(study / "b"), "--out", str(tmp_path / "b.html"), "--run", str(study / "a")]) == 0
    html = (tmp_path / "b.html").read_text()
    parsed(html)
    assert page.PHANTOM_NOTE not in html
    assert "Detection loss" in html
    assert "What it sees" not in html
    metrics = measure.read(study / "b" / "metrics.json")
    for numbers in (metrics, *metrics["per_finding"].values()):
        numbers |= {}
    metrics["prior"] = metrics["difference_to_prior"] = None
    alone = page.build(page.ReportData(title="t", arms=(page.Arm("Detector", metrics),)))
    parsed(alone)
    assert "location prior" not in alone.lower()


def test_the_log_keeps_the_last_attempt(study: Path) -> None:
    log = report.read_log(study / "a")
    assert list(log["train"]) == [1, 2, 3]
    assert report.curve("a", log, "valid", "map50") == report.Curve("a", (3,), (0.25,))
    assert report.curve("a", log, "valid", "loss") is None
    assert report.read_log(study) == {}


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.1, 0.3, "“A” is better than “B”"),
        (-0.3, -0.1, "“A” is worse than “B”"),
        (-0.1, 0.1, "No difference is shown"),
        (None, None, "cannot be told apart"),
    ],
)
def test_a_difference_is_told_as_it_is(low: float | None, high: float | None, told: str) -> None:
    assert told in page.sentence("A", "B", {"value": 0.0, "low": low, "high": high, "p": 0.2, "reason": "3 images"})


def test_what_is_wrong_is_named(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--study", str(tmp_path)]) == 2
    assert "neither study.json" in capsys.readouterr().err
    content = json.loads((study / "study.json").read_text())
    for change, told in (
        ({"schema_version": 2}, "schema_version 2"),
        ({"arms": []}, "arms is empty"),
        ({"comparison": {"a": "a", "b": "x", "metrics": {}}}, "comparison of 'a' and 'x'"),
    ):
        (tmp_path / "study.json").write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=told):
            report.load(tmp_path)
    del content["stages"]
    (tmp_path / "study.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="stages is missing"):
        report.load(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        report.load(tmp_path)


@pytest.mark.parametrize(("seconds", "told"), [(4.21, "4.2 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations(seconds: float, told: str) -> None:
    assert page.duration(seconds) == told
