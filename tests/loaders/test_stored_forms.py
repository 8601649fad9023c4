"""Whatever a shard set's images are stored as, the loader gives the same pictures; and of them, those asked for."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cluster.world import World
from loaders.config import DataConfig
from loaders.loader import open_predict_loader
from loaders.views import PlainViewConfig
from sharding.build import run
from sharding.codecs import Codec
from sharding.folder import FolderConfig
from sharding.index import ShardSet
from tests.loaders.conftest import write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms") / "images"
    write_images(folder, range(16, 25))  # four with a box, five healthy
    return folder


def shard(images: Path, out: Path, codec: Codec, bits: int) -> Path:
    config = FolderConfig(
        root=images,
        out=out,
        csv=images / "about.csv",
        codec=codec,
        bits=bits,  # type: ignore[arg-type]
        levels=(64,),
        processes=1,
        keep_names=True,
    )
    run(config)
    return out


def pictures(shard_set: Path, *only: str) -> dict[int, npt.NDArray[np.int64]]:
    view = PlainViewConfig(size_px=128)
    data = DataConfig(shards=(shard_set,), only=only)
    found: dict[int, npt.NDArray[np.int64]] = {}
    with open_predict_loader(data, view, 4, World(0, 1, 0, "cpu")) as loader:
        for batch in loader:
            for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
                found[row] = image.numpy().astype(np.int64)
    return found


def test_every_codec_and_depth_gives_the_same_pictures(images: Path, tmp_path: Path) -> None:
    wanted = pictures(shard(images, tmp_path / "png8", "png", 8))
    assert len(wanted) == 9
    for codec, bits, most in (("htj2k", 8, 0), ("jpeg2000", 8, 0), ("png", 16, 1), ("htj2k", 16, 1), ("jpeg", 8, 24)):
        found = pictures(shard(images, tmp_path / f"{codec}{bits}", codec, bits))  # type: ignore[arg-type]
        assert found.keys() == wanted.keys()
        assert max(int(np.abs(found[row] - wanted[row]).max()) for row in wanted) <= most, (codec, bits)


def test_a_filter_chooses(images: Path, tmp_path: Path) -> None:
    shards = shard(images, tmp_path / "set", "jpeg", 8)
    findings = ShardSet.open(shards).table(["findings"]).column("findings").to_pylist()
    shown = {row for row, numbers in enumerate(findings) if numbers}
    assert set(pictures(shards, "finding=Nodule/Mass")) == shown
    assert set(pictures(shards, "finding!=Nodule/Mass")) == set(range(9)) - shown
    with pytest.raises(ValueError, match="that `only` takes"):
        pictures(shards, "sex=F")
    with pytest.raises(ValueError, match=r"no field 'sax' \(the nearest is sex\)"):
        DataConfig(shards=(shards,), only=("sax=F",))
