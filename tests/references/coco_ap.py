"""COCO's average precision in plain Python loops, over a list of images that may hold the same image several times."""

import math


def average_precision(images: list[tuple[int, list[tuple[float, bool]]]]) -> float:
    """AP over 101 recalls, from per image (number of true boxes, [(score, hit)]); NaN without a true box.

    An image that stands several times stands so with the same tuple object; the copies of one of its boxes directly
    follow that box in the ranking. Different images rank in list order where scores tie.
    """
    num_truth = sum(count for count, _ in images)
    if not num_truth:
        return math.nan
    first: dict[int, int] = {}
    ranking = []
    for copy, image in enumerate(images):
        place = first.setdefault(id(image), copy)
        for number, (score, hit) in enumerate(image[1]):
            ranking.append((-score, place, number, copy, hit))
    ranking.sort(key=lambda entry: entry[:4])
    precision, recall = [], []
    hits = 0
    for rank, entry in enumerate(ranking, start=1):
        hits += entry[4]
        precision.append(hits / rank)
        recall.append(hits / num_truth)
    total = 0.0
    for step in range(101):
        # COCO's grid is step * 0.01 in floating point: 70 of them is a little over .7, so a recall of 7/10 misses it.
        beyond = [p for p, r in zip(precision, recall, strict=True) if r >= step * 0.01]
        total += max(beyond, default=0.0)
    return total / 101
