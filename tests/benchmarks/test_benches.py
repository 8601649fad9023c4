"""The benches run as a person would run them; nothing here hangs on how fast they were."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.pixels.utils import pixel_array

from benchmarks.decoders import SYNTAXES, DecodersBenchConfig, draw_pixels, fault, plugins_of, syntax_table, wrap
from benchmarks.inputs import NUM_DRAWN, InputPlan, make_inputs, vary
from benchmarks.sharding import CEILING, CODECS_8, CODECS_16, OURS, PLAINLY
from benchmarks.sharding_cases import decode_ours, find_batches
from tests.conftest import Cxr


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_bench_sharding_through_the_console(cxr: Cxr, tmp_path: Path) -> None:
    words = ["--num_images", 6, "--num_dicoms", 2, "--num_run_images", 12, "--num_codec_images", 2, "--side_px", 128]
    done = cxr(
        "bench", "sharding", "--rounds", 1, *words, "--work", tmp_path / "work", "--json", tmp_path / "rows.json"
    )
    assert done.returncode == 0, done.stderr
    arms: dict[str, set[str]] = {}
    for row in _rows(tmp_path / "rows.json"):
        if row["kind"] == "row":
            assert row["round"] == 1
            arms.setdefault(row["table"], set()).add(row["arm"])
    kinds = {
        "png": 6,
        "jpeg": 6,
        "dicom Explicit VR Little Endian": 2,
        "dicom JPEG 2000 Image Compression (Lossless Only)": 2,
    }
    for kind, number in kinds.items():
        (table,) = (name for name in arms if name.startswith(f"{kind}, {number} files"))
        assert arms.pop(table) >= {OURS, PLAINLY, CEILING, "decode alone", "bare codecs"}
        assert f"{table}: {OURS} is" in done.stdout
    for bits, codecs in ((8, CODECS_8), (16, CODECS_16)):
        for what in ("encode", "decode"):
            (table,) = (name for name in arms if name.startswith(f"{what}, {bits} bits"))
            assert arms.pop(table) == set(codecs)
    (whole,) = arms
    assert whole == "the whole run, 12 x png, 12 shards"
    assert arms[whole] >= {"1 process", "2 processes"}
    left = {path.name for path in (tmp_path / "work").iterdir()}
    assert len(left) == 1, "only the inputs are kept"
    assert left.pop().startswith("inputs-")


def test_own_files_that_cannot_be_used_are_named(cxr: Cxr, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    done = cxr("bench", "sharding", "--rounds", 1, "--source", tmp_path, "--num_codec_images", 0, "--num_run_images", 0)
    assert done.returncode == 2
    assert "source: broken.png cannot be used" in done.stderr


def test_inputs_are_what_they_say(tmp_path: Path) -> None:
    plan = InputPlan(num_images=NUM_DRAWN + 2, num_dicoms=2, side_px=128, seed=3)
    root = make_inputs(tmp_path, plan)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.*")}
    assert make_inputs(tmp_path, plan) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.*")} == times, "made once"
    batches = {batch.kind: batch for batch in find_batches(root, 100, 100)}
    assert list(batches) == [
        "png",
        "jpeg",
        "dicom Explicit VR Little Endian",
        "dicom JPEG 2000 Image Compression (Lossless Only)",
    ]
    assert [len(batch.images) for batch in batches.values()] == [10, 10, 2, 2]
    assert decode_ours(batches["png"].read()[0], False).shape == (128, 128)
    assert len({bytes(data) for data in batches["png"].read()}) == 10
    plain, compressed = list(batches.values())[2:]
    for one, other in zip(plain.read(), compressed.read(), strict=True):
        np.testing.assert_array_equal(decode_ours(one, True), decode_ours(other, True))
    (root / "png" / "00001.png").unlink()
    make_inputs(tmp_path, plan)
    assert (root / "png" / "00001.png").is_file()


def test_a_varied_image_has_the_same_values() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(6, 10)
    assert vary(image, 0) is image
    for number in (NUM_DRAWN, 2 * NUM_DRAWN + 1):
        other = vary(image, number)
        assert not np.array_equal(other, image)
        np.testing.assert_array_equal(np.sort(other, axis=None), np.sort(image, axis=None))


PIXELS = draw_pixels(DecodersBenchConfig(height_px=200, width_px=160))


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.uid.keyword)
def test_every_syntax_has_a_decoder_that_gives_its_pixels(syntax: Any) -> None:
    missing: list[str] = []
    table = syntax_table(syntax, PIXELS, missing)
    assert table is not None, missing
    assert [arm.work() for arm in table.arms] == [1] * len(table.arms)


def test_a_decoder_that_gives_other_pixels_is_told() -> None:
    syntax = next(s for s in SYNTAXES if s.encode is not None and s.tolerance == 0)
    dataset = wrap(syntax, PIXELS)
    plugin = plugins_of(syntax)[0]
    assert fault(dataset, plugin, PIXELS, 0) == ""
    assert np.array_equal(pixel_array(dataset, decoding_plugin=plugin), PIXELS)
    other = PIXELS.copy()
    other[3, 5] ^= 4
    assert fault(dataset, plugin, other, 0) == "values are off by up to 4"
    assert fault(dataset, "no such plugin", PIXELS, 0) != ""


def test_bench_decoders_through_the_console(cxr: Cxr, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    done = cxr("bench", "decoders", "--rounds", 1, "--height_px", 200, "--width_px", 160, "--json", rows)
    assert done.returncode == 0, done.stderr
    measured = {row["table"].split(", ")[0] for row in _rows(rows) if row["kind"] == "row"}
    assert {syntax.uid.name.split(", ")[0] for syntax in SYNTAXES} == measured
