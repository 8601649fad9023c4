"""DALI's own webdataset reader and random operators, on the CPU.

`about`: tars, indexes, ending, filter, size_px, batch, threads; "decode_only": true ends the graph after the decoder,
which takes encoded images from memory.
"""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types

from benchmarks.peers.serve import About, Batch, serve

FILTERS = {"cubic": types.INTERP_CUBIC, "linear": types.INTERP_LINEAR}
BLUR, SOLARIZE = (1.0, 0.1), (0.0, 0.2)


def one_view(image: Any, number: int, about: About) -> Any:
    """A view by DALI's own random numbers."""
    size = about["size_px"]
    view = fn.random_resized_crop(
        image,
        size=[size, size],
        random_area=[0.08, 1.0],
        random_aspect_ratio=[3 / 4, 4 / 3],
        interp_type=FILTERS[about["filter"]],
        antialias=True,
    )
    view = fn.flip(view, horizontal=fn.random.coin_flip(probability=0.5))
    if fn.random.coin_flip(probability=0.8, dtype=types.BOOL):
        brightness, contrast = fn.random.uniform(range=[0.6, 1.4]), fn.random.uniform(range=[0.6, 1.4])
        mean = fn.reductions.mean(view)
        view = fn.brightness_contrast(view, brightness=brightness, contrast=contrast, contrast_center=mean)
    if BLUR[number] == 1 or fn.random.coin_flip(probability=BLUR[number], dtype=types.BOOL):
        view = fn.gaussian_blur(view, sigma=fn.random.uniform(range=[0.1, 2.0]))
    if SOLARIZE[number] > 0 and fn.random.coin_flip(probability=SOLARIZE[number], dtype=types.BOOL):
        view = view ^ fn.cast((view >= 128) * 255, dtype=types.UINT8)
    return view


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def two_views(about: About) -> Any:
    """The whole loader."""
    encoded = fn.readers.webdataset(
        paths=about["tars"],
        index_paths=about["indexes"],
        ext=[about["ending"]],
        random_shuffle=True,
        initial_fill=about["shuffle"],
        name="reader",
    )
    image = fn.decoders.image(encoded, device="cpu", output_type=types.GRAY)
    return one_view(image, 0, about), one_view(image, 1, about)


@pipeline_def  # type: ignore[untyped-decorator]
def decoded(source: Any) -> Any:
    """Decoding and nothing else."""
    encoded = fn.external_source(source=source, dtype=types.UINT8, ndim=1)
    return fn.decoders.image(encoded, device="cpu", output_type=types.GRAY)


def batches(about: About, passes: int) -> Iterator[Batch]:
    """The stream of this program. Batches of `decode_only` are DALI's own tensor lists: nothing is copied out."""
    options = {"batch_size": about["batch"], "num_threads": about["threads"], "device_id": None}
    if about.get("decode_only"):
        pipeline = decoded(memory(about, passes), **options, prefetch_queue_depth=2)
        pipeline.build()
        while True:
            try:
                yield pipeline.run()
            except StopIteration:
                return
    pipeline = two_views(about, **options, seed=1, prefetch_queue_depth=2)
    pipeline.build()
    total = pipeline.epoch_size("reader") if passes == 1 else 0
    taken = 0
    while passes == 0 or taken < total:  # the last batch of a pass is filled up from the next one
        views = [np.asarray(output.as_tensor()) for output in pipeline.run()]
        yield [view[: total - taken] for view in views] if passes == 1 else views
        taken += len(views[0])


def memory(about: About, passes: int) -> Iterator[list[Any]]:
    """Batches of encoded images out of the tars, held in memory."""
    images: list[Any] = []
    for path in about["tars"]:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name.endswith("." + about["ending"]) else None
                if file is not None:
                    images.append(np.frombuffer(file.read(), np.uint8))
    if passes == 1:
        for begin in range(0, len(images), about["batch"]):
            yield images[begin : begin + about["batch"]]
        return
    endless = itertools.cycle(images)
    while True:
        yield list(itertools.islice(endless, about["batch"]))


if __name__ == "__main__":
    serve(batches)
