"""Which image is for training, validation or test: by list, by a hash of patient or image, as the reference does."""

from __future__ import annotations

import hashlib
from collections import Counter
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


class PatientSides:
    """Which splits each patient is seen in, chunk by chunk: a reference and a small number for each patient."""

    def __init__(self) -> None:
        self._bits: dict[str, int] = {}
        self._sides: dict[str, int] = {}

    def see(self, patients: Iterable[str | None], splits: Iterable[str]) -> None:
        """Takes more images in; both go image by image, None is nobody, "" no split."""
        sides = self._sides
        for patient, split in zip(patients, splits, strict=True):
            if patient is not None:
                bit = self._bits.get(split) or self._bits.setdefault(split, 1 << len(self._bits))
                sides[patient] = sides.get(patient, 0) | bit

    def torn(self) -> dict[str, list[str]]:
        """Patients with images in several splits, and which, both in alphabetical order."""
        names = sorted(name for name in self._bits if name)
        all_bits = sum(self._bits[name] for name in names)
        several = sorted(
            patient for patient, side in self._sides.items() if (side & all_bits) & ((side & all_bits) - 1)
        )
        return {patient: [name for name in names if self._sides[patient] & self._bits[name]] for patient in several}

    def num_patients(self) -> dict[str, int]:
        """How many patients are in each split, "" (none) among them."""
        counts = Counter(self._sides.values())
        return {n: sum(c for side, c in counts.items() if side & bit) for n, bit in self._bits.items()}

    def check(self) -> None:
        """Raises ValueError, naming five of them, where images of one patient are in several splits."""
        torn = self.torn()
        if torn:
            some = ", ".join(f"{patient} ({' and '.join(where)})" for patient, where in list(torn.items())[:5])
            raise ValueError(f"split: {len(torn)} patients are on two sides: {some}")


def torn_patients(patients: Iterable[str | None], splits: Iterable[str]) -> dict[str, list[str]]:
    """Patients with images in several splits, and which; both go image by image, None is nobody, "" no split."""
    sides = PatientSides()
    sides.see(patients, splits)
    return sides.torn()


def check_patients(patients: Iterable[str | None], splits: Iterable[str]) -> None:
    """Raises ValueError, naming some, where images of one patient are in several splits."""
    sides = PatientSides()
    sides.see(patients, splits)
    sides.check()
