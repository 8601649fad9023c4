"""Which image is for training, validation or test: by list, by a hash of patient or image, as the reference does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

REFERENCE_SHARES: tuple[float, float] = (0.15, 0.15)
"""Valid and test shares of the reference's split of VinDr-CXR; the rest is train."""

REFERENCE_SEED = 123


def hash_split(name: str, valid_share: float, test_share: float) -> str:
    """ "train", "valid" or "test" by a hash of the name alone: adding or removing others never moves it."""
    number = int.from_bytes(hashlib.blake2b(f"split\0{name}".encode(), digest_size=8).digest(), "big") / 2**64
    if number < test_share:
        return "test"
    return "valid" if number < test_share + valid_share else "train"


def listed_split(key: str, patient: str, train_valid: frozenset[str], test: frozenset[str], valid_share: float) -> str:
    """Split by the two official lists; of train_valid the hashed `valid_share` of patients is "valid"; else ""."""
    if key in test:
        return "test"
    if key in train_valid:
        return hash_split(patient, valid_share, 0.0)
    return ""


def reference_split(keys: Sequence[str]) -> dict[str, str]:
    """The reference's split of the images with boxes, in order of their first row in train.csv: .7 / .15 / .15.

    On the real train.csv that is 3,075 / 659 / 660. Raises ValueError for fewer than four images.
    """
    if len(keys) < 4:
        raise ValueError(
            f"split: the reference's split needs at least 4 images with boxes, here are {len(keys)}; "
            "take --split hash or --split none"
        )
    from sklearn.model_selection import train_test_split  # a second of import that no other split needs

    train, rest = train_test_split(list(keys), test_size=0.3, random_state=REFERENCE_SEED)
    valid, test = train_test_split(rest, test_size=0.5, random_state=REFERENCE_SEED)
    return {key: split for split, part in (("train", train), ("valid", valid), ("test", test)) for key in part}


def torn_patients(patients: Iterable[str | None], splits: Iterable[str]) -> dict[str, list[str]]:
    """Patients with images in several splits, and which; both go image by image, None is nobody, "" no split."""
    seen: dict[str, set[str]] = {}
    for patient, split in zip(patients, splits, strict=True):
        if patient is not None and split:
            seen.setdefault(patient, set()).add(split)
    return {patient: sorted(where) for patient, where in seen.items() if len(where) > 1}


def check_patients(patients: Iterable[str | None], splits: Iterable[str]) -> None:
    """Raises ValueError, naming some, where images of one patient are in several splits."""
    torn = torn_patients(patients, splits)
    if torn:
        some = ", ".join(f"{patient} ({' and '.join(where)})" for patient, where in sorted(torn.items())[:5])
        raise ValueError(f"split: {len(torn)} patients are on two sides: {some}")
