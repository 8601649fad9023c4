"""Random truths and predictions that are hard on a matcher: ties, near misses, empty images, absent findings."""

import numpy as np

from eval.predictions import Predictions
from eval.truth import Truth

FINDINGS = ("Atelectasis", "Cardiomegaly", "Nodule/Mass", "Pneumothorax", "Pleural effusion")


def random_truth(rng: np.random.Generator, num_images: int = 12, findings: tuple[str, ...] = FINDINGS) -> Truth:
    """Images of 100 to 200 px with 0 to 4 boxes; the last finding never occurs; two images a patient."""
    counts = rng.integers(0, 5, num_images)
    sizes = rng.integers(100, 200, (num_images, 2))
    boxes = _boxes(rng, np.repeat(sizes, counts, axis=0))
    return Truth(
        findings=findings,
        keys=tuple(f"image{i:05d}" for i in range(num_images)),
        sizes_N2=sizes,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        finding_K=rng.integers(0, max(1, len(findings) - 1), len(boxes)).astype(np.int16),
        boxes_K4=boxes,
        group_N=np.arange(num_images) // 2,
        grouped_by="patient",
        split="valid",
    )


def random_predictions(
    rng: np.random.Generator, truth: Truth, num_levels: int = 8, shift_px: int = 12, max_extra: int = 6
) -> Predictions:
    """Some true boxes, shifted (a few kept exactly, a few doubled), and others anywhere; scores tie on a grid."""
    boxes, findings, counts = [], [], []
    for image in range(len(truth.keys)):
        mine = slice(truth.offsets[image], truth.offsets[image + 1])
        kept = np.flatnonzero(rng.random(mine.stop - mine.start) < 0.8)
        kept = np.concatenate([kept, rng.permutation(kept)[: len(kept) // 2]])
        shift = rng.integers(-shift_px, shift_px + 1, (len(kept), 4)) * (rng.random((len(kept), 1)) < 0.8)
        near = np.maximum(truth.boxes_K4[mine][kept] + shift, 0)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        far = _boxes(rng, np.repeat(truth.sizes_N2[image : image + 1], rng.integers(0, max_extra), axis=0))
        boxes += [near, far]
        findings += [truth.finding_K[mine][kept], rng.integers(0, len(truth.findings), len(far))]
        counts.append(len(near) + len(far))
    num_boxes = sum(counts)
    return Predictions(
        findings=truth.findings,
        keys=truth.keys,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        finding_D=np.concatenate(findings).astype(np.int16),
        score_D=((rng.integers(0, num_levels, num_boxes) + 1) / num_levels).astype(np.float32),
        boxes_D4=np.concatenate(boxes).astype(np.float32).reshape(-1, 4),
    )


def _boxes(rng: np.random.Generator, sizes_K2: np.ndarray) -> np.ndarray:
    height, width = sizes_K2.T
    x_min, y_min = rng.integers(0, width - 40), rng.integers(0, height - 40)
    return np.stack([x_min, y_min, x_min + rng.integers(5, 40, len(width)), y_min + rng.integers(5, 40, len(width))], 1)
