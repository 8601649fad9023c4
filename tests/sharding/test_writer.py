"""A shard is what the WebDataset library, DALI's reader and DALI's index maker take it for."""

import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from sharding.build import run
from sharding.folder import FolderConfig
from sharding.index import ShardSet
from sharding.pixels import bytes_digest, pixel_digest, shrink
from tests.sharding.cohorts import draw, write_key, write_pngs

NAMES = [f"image{number}.png" for number in range(6)]


def hexes(digests_N16: npt.NDArray[np.uint8]) -> list[str]:
    return [digest.tobytes().hex() for digest in digests_N16]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("writer")
    write_pngs(folder / "root", NAMES)
    run(
        FolderConfig(
            root=folder / "root",
            out=folder / "set",
            key_file=write_key(folder / "key"),
            processes=1,
            levels=(55, 32),
            keep_names=True,
        )
    )
    return ShardSet.open(folder / "set")


def test_webdataset_reads_it(shards: ShardSet) -> None:
    import webdataset

    samples = list(webdataset.WebDataset(str(shards.shard_path(0)), shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == shards.column("key").tolist()
    for number, sample in enumerate(samples):
        assert {name for name in sample if not name.startswith("__")} == {"jpg", "l1.jpg", "l2.jpg", "json"}
        pixels = np.asarray(Image.open(io.BytesIO(sample["jpg"]))).astype(int)
        assert pixels.shape == (60, 50)
        assert np.abs(pixels - draw(number)).mean() < 2
        assert json.loads(sample["json"])["key"] == f"image{number}"


def test_dali_reads_it_and_makes_the_same_index(shards: ShardSet, tmp_path: Path) -> None:
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def
    from wds2idx import IndexCreator

    tar = shards.shard_path(0)
    index = tar.with_suffix(".idx")
    with IndexCreator(str(tar), str(tmp_path / "own.idx"), verbose=False) as creator:
        creator.create_index()
    assert (tmp_path / "own.idx").read_text() == index.read_text()

    @pipeline_def(batch_size=6, num_threads=1, device_id=None)  # type: ignore[misc]
    def pipeline() -> object:
        encoded, small = fn.readers.webdataset(paths=[str(tar)], index_paths=[str(index)], ext=["jpg", "l2.jpg"])
        return encoded, small

    made = pipeline()
    made.build()
    encoded, small = made.run()
    assert [bytes_digest(bytes(np.asarray(encoded.at(row)))) for row in range(6)] == hexes(shards.level(0).digest)
    assert [bytes_digest(bytes(np.asarray(small.at(row)))) for row in range(6)] == hexes(shards.level(2).digest)


def test_the_index_knows_pixels_places_and_digests(shards: ShardSet) -> None:
    data = shards.shard_path(0).read_bytes()
    for row in range(len(shards)):
        assert shards.column("digest")[row] == pixel_digest(draw(row), f"image{row}")
        for number in range(3):
            level = shards.level(number)
            jpeg = data[level.offset[row] : level.offset[row] + level.length[row]]
            assert bytes_digest(jpeg) == level.digest[row].tobytes().hex()
            assert np.asarray(Image.open(io.BytesIO(jpeg))).shape == (level.height[row], level.width[row])


def test_shrinking_keeps_the_ratio_and_never_enlarges() -> None:
    gray = draw(1, 300, 200)
    assert shrink(gray, 0) is gray
    assert shrink(gray, 300) is gray
    assert shrink(gray, 150).shape == (150, 100)
    assert shrink(draw(1, 3, 300), 30).shape == (1, 30)
    assert abs(float(shrink(gray, 150).mean()) - float(gray.mean())) < 0.5


def test_a_level_no_smaller_than_the_image_is_the_image(tmp_path: Path) -> None:
    write_pngs(tmp_path / "root", NAMES[:1])
    run(FolderConfig(root=tmp_path / "root", out=tmp_path / "set", processes=1, levels=(100, 30)))
    shards = ShardSet.open(tmp_path / "set")
    assert shards.level(1).offset[0] == shards.level(0).offset[0]
    assert shards.level(2).height[0] == 30
    assert b"l1.jpg" not in shards.shard_path(0).read_bytes()
