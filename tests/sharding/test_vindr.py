import os
from collections import Counter
from pathlib import Path

import pytest

from sharding.findings import VINDR_ALL_FINDINGS, VINDR_FINDINGS
from sharding.fusion import FusionConfig
from sharding.sample import Box, Cohort, SourceImage
from sharding.vindr import VindrConfig, read_vindr
from tests.sharding.cohorts import SECRET, write_csv, write_vindr
from tests.sharding.vindr_cohorts import edit_csv, key, write_physionet

HEART, OTHER, EFFUSION = (VINDR_FINDINGS.index(name) for name in ("Cardiomegaly", "Other lesion", "Pleural effusion"))


def read(root: Path, **options: object) -> Cohort:
    return read_vindr(VindrConfig(root=root, out=root / "x", **options), SECRET)  # type: ignore[arg-type]


def by_key(cohort: Cohort) -> dict[str, SourceImage]:
    return {image.key: image for image in cohort.images}


def names(image: SourceImage) -> set[str]:
    assert image.findings is not None
    return {VINDR_ALL_FINDINGS[number] for number in image.findings}


def test_three_readers_become_one(tmp_path: Path) -> None:
    keys = write_vindr(tmp_path)
    cohort = read(tmp_path)
    assert not cohort.refusals
    assert [image.key for image in cohort.images] == keys
    assert cohort.images[0].boxes == (Box(3, 6.0, 10.0, 30.0, 41.0),)
    assert cohort.images[0].findings == (HEART,)
    assert (cohort.images[3].findings, cohort.images[3].boxes) == ((), ())
    assert len({image.split for image in cohort.images}) == 3
    assert {image.split for image in read(tmp_path, split="none").images} == {"train"}
    assert {image.split for image in read(tmp_path, split="patient").images} == {"train"}
    shares = {"split": "hash", "valid_share": 0.0, "test_share": 0.999}
    assert {image.split for image in read(tmp_path, **shares).images} == {"test"}
    (tmp_path / "train.csv").rename(tmp_path / "Train.csv")
    with pytest.raises(ValueError, match=r"neither edition"):
        read(tmp_path)


def test_other_fusions(tmp_path: Path) -> None:
    keys = write_vindr(tmp_path)
    every = read(tmp_path, fusion=FusionConfig(method="none"))
    assert every.images[0].boxes == tuple(Box(HEART, 5 + n, 10, 30, 40 + n) for n in range(3))
    assert read(tmp_path, fusion=FusionConfig(method="nms")).images[0].boxes == (Box(HEART, 7, 10, 30, 42),)
    one = read(tmp_path, fusion=FusionConfig(method="reader", reader="R1"))
    assert one.images[0].boxes == (Box(HEART, 6, 10, 30, 41),)
    assert one.images[3].boxes == ()
    lines = (tmp_path / "train.csv").read_text().splitlines()
    kept = [line for line in lines if not (line.startswith(keys[0]) and ",R1," in line)]
    (tmp_path / "train.csv").write_text("\n".join(kept))
    unread = read(tmp_path, fusion=FusionConfig(method="reader", reader="R1")).images[0]
    assert (unread.key, unread.findings, unread.boxes) == (keys[0], None, None)
    with pytest.raises(ValueError, match="nobody is called 'R9'; readers are R0, R1, R2"):
        read(tmp_path, fusion=FusionConfig(method="reader", reader="R9"))


def test_wrong_rows_and_sizes_are_named(tmp_path: Path) -> None:
    keys = write_vindr(tmp_path, 24)
    path = tmp_path / "train.csv"
    box = "5,10,30,40"
    named: dict[str, tuple[str, ...]] = {}
    for number, (old, new, part) in {
        0: (box, "30,10,5,40", "box 30 10 5 40 is empty or its corners are swapped"),
        1: (box, "5,10,300,40", "box 5 10 300 40"),
        2: (box, "nan,10,30,40", "x_min is nan"),
        4: ("Cardiomegaly", "Cardiomegally", "did you mean 'Cardiomegaly'"),
        5: ("Cardiomegaly,3", "Cardiomegaly,4", "class 4; that is 3"),
        6: (box, ",,,", "its box is empty"),
        8: (box, "5,-10,30,40", "box 5 -10 30 40 is below 0"),
        9: (box, "5,ten,30,40", "y_min is 'ten'"),
        10: (box, "5,10,5,40", "is empty"),
        12: ("R0", "", "rad_id is empty"),
        13: (box, "5,10,inf,40", "x_max is inf"),
    }.items():
        row = edit_csv(path, keys[number], old, new)
        named[keys[number]] = (part, f"row {row}")
    with open(path, "a") as file:
        row = len(path.read_text().splitlines())
        file.write(f"{'f' * 32},No finding,14,R1,,,,\n")
        file.write(f"{keys[14]},No finding,14,R1,,,,\n")
        file.write(",No finding,14,R1,,,,\n")
        file.write(f"{keys[16]},Cardiomegaly,3,R0,5,10,30,40\n")
        file.write(f"{keys[20]},Cardiomegaly,3,R0,nan,nan,nan,nan\n")
        file.write("../up,No finding,14,R1,,,,\n")
    named[keys[14]] = ("the same reader says that there is no finding", f"in row {row + 2}")
    named["train.csv row " + str(row + 3)] = ("image_id is empty",)
    named[keys[16]] = (f"row {row + 4} repeats row",)
    named[keys[20]] = ("x_min is nan", f"row {row + 5}")
    named["../up"] = ("may hold letters", f"row {row + 6}")
    (tmp_path / "train" / f"{keys[17]}.dicom").unlink()
    (tmp_path / "train" / f"{keys[18]}.dicom").rename(tmp_path / "train" / "other.dcm")
    (tmp_path / "train" / f"{keys[21]}.dicom").write_bytes(b"")
    (tmp_path / f"{keys[22]}.DCM").write_bytes(b"")
    named |= {name: ("train.csv names it", "no such file") for name in (keys[17], keys[18], "f" * 32)}
    named |= {"train/other.dcm": ("no row for it in train.csv",), keys[21]: ("0 bytes",)}
    named[f"{keys[22]}.DCM"] = (f"train/{keys[22]}.dicom is the same image",)
    cohort = read(tmp_path)
    reasons = {
        refusal.name.removeprefix("train/").removesuffix(".dicom"): refusal.reason for refusal in cohort.refusals
    }
    reasons["train/other.dcm"] = reasons.pop("other.dcm")
    assert set(reasons) == set(named)
    for name, parts in named.items():
        for part in parts:
            assert part in reasons[name], (name, reasons[name])
    # A repeated row and a second file leave the image itself as it is.
    whole = {keys[16], keys[22]}
    assert set(by_key(cohort)) == set(keys) - (set(named) - whole)
    assert by_key(cohort)[keys[16]].boxes == (Box(3, 6.0, 10.0, 30.0, 41.0),)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write_vindr(tmp_path)
    (tmp_path / "train" / os.fsdecode(b"\xe4.dicom")).touch()
    cohort = read_vindr(VindrConfig(root=tmp_path, out=tmp_path / "x"), SECRET)
    assert [refusal.name for refusal in cohort.refusals] == [r"train/\xe4.dicom"]


def test_wrong_sizes_are_named(tmp_path: Path) -> None:
    keys = write_vindr(tmp_path, 8)
    rows = [[name, 60, 50] for name in keys]
    rows[0][1:] = ["sixty", 50]
    rows[1][1:] = ["nan", "inf"]
    rows[2][1:] = [60.5, 50]
    rows[4][1:] = [0, 50]
    rows[5][1:] = [40, 50]
    write_csv(tmp_path / "train_meta.csv", [["Image ID", "dim0", "dim1"], *rows, [keys[6], 60, 51], ["other", "x", 1]])
    cohort = read(tmp_path)
    reasons = {refusal.name.split("/")[-1].split(".")[0]: refusal.reason for refusal in cohort.refusals}
    assert set(reasons) == {keys[n] for n in (0, 1, 2, 4, 5, 6)}
    assert reasons[keys[0]] == "train_meta.csv row 2: dim0 'sixty' and dim1 '50' are not whole numbers of pixels"
    assert "row 10: 60 high and 51 wide, but an earlier row says 60 and 50" in reasons[keys[6]]
    assert reasons[keys[5]].startswith("train.csv row 18: box 6 10 30 41")
    assert reasons[keys[5]].endswith("inside an image 50 wide and 40 high; and 1 more")
    assert [image.size_hint for image in cohort.images] == [(60, 50)] * 2


@pytest.mark.parametrize(
    ("annotations", "packed", "ending"),
    [("annotations", False, ".dicom"), (".", False, ".dcm"), ("annotations", True, ".DCM")],
)
def test_physionet_in_every_layout(tmp_path: Path, annotations: str, packed: bool, ending: str) -> None:
    write_physionet(tmp_path, annotations, packed, ending)
    cohort = read(tmp_path)
    assert not cohort.refusals
    assert cohort.findings == VINDR_FINDINGS
    assert [image.key for image in cohort.images] == [key(number) for number in range(12)]
    assert [image.name for image in cohort.images[7:9]] == [f"train/{key(7)}{ending}", f"test/{key(8)}{ending}"]
    images = by_key(cohort)
    assert {images[key(n)].split for n in range(8, 12)} == {"test"}
    assert {images[key(n)].split for n in range(8)} <= {"train", "valid"}
    assert images[key(0)].boxes == (Box(HEART, 6.0, 10.0, 30.0, 41.0),)
    assert images[key(1)].boxes == (Box(OTHER, 10.0, 10.0, 20.0, 20.5), Box(EFFUSION, 30, 40, 48, 58))
    assert (images[key(2)].findings, images[key(2)].boxes) == ((), ())
    # The test part is a consensus already: fractions stay, nothing is fused.
    assert images[key(8)].boxes == (Box(HEART, 5.25, 10, 30, 40), Box(OTHER, 10, 10, 20, 20))
    assert sorted(str(table).split("/")[-1].split(".")[0] for table in cohort.tables) == [
        "annotations_test",
        "annotations_train",
        "image_labels_test",
        "image_labels_train",
    ]


def test_all_findings_and_votes(tmp_path: Path) -> None:
    write_physionet(tmp_path)
    images = by_key(read(tmp_path, labels="all"))
    assert read(tmp_path, labels="all").findings == VINDR_ALL_FINDINGS
    wanted = {0: {"Cardiomegaly"}, 1: {"Rib fracture", "Other lesion", "Pleural effusion"}, 2: {"Pneumonia"}, 3: set()}
    wanted |= {
        4: {"Lung Opacity", "Other disease"},
        8: {"Cardiomegaly", "Rib fracture", "COPD"},
        9: set(),
        10: {"Edema"},
    }
    assert {number: names(images[key(number)]) for number in wanted} == wanted
    assert images[key(2)].boxes == ()
    one = by_key(read(tmp_path, labels="all", label_votes=1))
    assert names(one[key(2)]) == {"Pneumonia", "Tuberculosis"}
    three = by_key(read(tmp_path, labels="all", label_votes=3))
    assert names(three[key(2)]) == set()
    assert names(three[key(4)]) == {"Lung Opacity", "Other disease"}
    assert names(three[key(8)]) == wanted[8]
    sole = by_key(read(tmp_path, labels="all", fusion=FusionConfig(method="reader", reader="R2")))
    assert names(sole[key(2)]) == {"Pneumonia", "Tuberculosis"}
    assert names(sole[key(4)]) == {"Other disease"}
    agreed = by_key(read(tmp_path, labels="all", fusion=FusionConfig(min_readers=2)))
    assert names(agreed[key(1)]) == set()
    assert names(agreed[key(8)]) == wanted[8]


def test_splits_that_an_edition_lacks_are_refused(tmp_path: Path) -> None:
    write_vindr(tmp_path / "kaggle")
    write_physionet(tmp_path / "physionet")
    with pytest.raises(ValueError, match="split: official needs the PhysioNet edition"):
        read(tmp_path / "kaggle", split="official")
    with pytest.raises(ValueError, match=r"labels: all needs the PhysioNet edition .*Other lesion"):
        read(tmp_path / "kaggle", labels="all")
    with pytest.raises(ValueError, match=r"split: .* order of the rows in Kaggle's train\.csv"):
        read(tmp_path / "physionet", split="reference")
    with pytest.raises(ValueError, match="label_votes: 0"):
        read(tmp_path / "physionet", label_votes=0)
    official = read(tmp_path / "physionet", split="official", valid_share=0.5)
    assert Counter(image.split for image in official.images)["test"] == 4
    hashed = read(tmp_path / "physionet", split="hash", valid_share=0.0, test_share=0.999)
    assert {image.split for image in hashed.images} == {"test"}


def test_wrong_label_rows_are_named(tmp_path: Path) -> None:
    write_physionet(tmp_path)
    labels = tmp_path / "annotations" / "image_labels_train.csv"
    lines = labels.read_text().splitlines()
    (pneumonia,) = (n for n, column in enumerate(lines[0].split(",")) if column == "Pneumonia")
    cells = lines[1].split(",")
    cells[pneumonia] = "2"
    lines[1] = ",".join(cells)
    lines.append(lines[4])
    kept = [line for line in lines if not line.startswith(key(5))]
    labels.write_text("\n".join(kept))
    double = len(kept)
    test = tmp_path / "annotations" / "annotations_test.csv"
    test.write_text(f"{test.read_text()}{key(6)},Edema,1,2,40,50\n{key(10)},Tuberculosis,1,2,40,50\n")
    cohort = read(tmp_path, labels="all")
    reasons = {refusal.name.split("/")[-1].split(".")[0]: refusal.reason for refusal in cohort.refusals}
    assert set(reasons) == {key(n) for n in (0, 1, 5, 6, 10)}
    assert reasons[key(0)] == "image_labels_train.csv row 2: Pneumonia is '2'; expected 0 or 1"
    assert reasons[key(1)] == f"image_labels_train.csv row {double}: reader R1 has row 5 already"
    assert reasons[key(5)] == "image_labels_train.csv has no row for it"
    assert "annotations_test.csv row 7: the image is in the train part too" in reasons[key(6)]
    assert "row 8: unknown finding 'Tuberculosis'" in reasons[key(10)]
    assert {key(0), key(5)} <= set(by_key(read(tmp_path)))


def test_a_copy_of_one_part(tmp_path: Path) -> None:
    write_physionet(tmp_path)
    for path in (tmp_path / "test").iterdir():
        path.unlink()
    cohort = read(tmp_path)
    assert len(cohort.images) == 8
    (refusal,) = cohort.refusals
    assert refusal.name == "annotations_test.csv"
    assert "no file of its 4 images is there" in refusal.reason
    for name in ("annotations_test.csv", "image_labels_test.csv"):
        (tmp_path / "annotations" / name).unlink()
    cohort = read(tmp_path)
    assert (len(cohort.images), cohort.refusals) == (8, ())


def test_columns_may_be_spelled_otherwise(tmp_path: Path) -> None:
    write_physionet(tmp_path)
    expected = read(tmp_path, labels="all")
    for path in (tmp_path / "annotations").iterdir():
        header, *lines = path.read_text().splitlines()
        header = header.replace("rad_id", "Rad ID").replace("x_min", "xMin").replace("Lung tumor", "lung_tumor")
        path.write_text("\n".join([header.replace("Other diseases", "other_disease"), *lines]))
    assert read(tmp_path, labels="all") == expected
    folder = tmp_path / "annotations"
    folder.joinpath("annotations_train.csv").rename(tmp_path / "train.csv")
    folder.joinpath("annotations_test.csv").rename(tmp_path / "test.csv")
    renamed = read(tmp_path, labels="all")
    assert renamed.images == expected.images
    assert {str(table).split("/")[-1] for table in renamed.tables} > {"train.csv", "test.csv"}


def test_layouts_that_are_almost_right_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"neither edition.*train\.csv.*Found is in root: no file\. .*cxr shard folder"
    ):
        read(tmp_path)
    write_physionet(tmp_path)
    labels = tmp_path / "annotations" / "image_labels_test.csv"
    labels.rename(tmp_path / "labels_test.csv")
    with pytest.raises(
        ValueError, match=r"lacks image_labels_test\.csv of .*labels_test\.csv, annotations/, test/, train/"
    ):
        read(tmp_path)
    (tmp_path / "labels_test.csv").rename(labels)
    annotations = tmp_path / "annotations" / "annotations_test.csv"
    text = annotations.read_text()
    annotations.write_text(text.replace("x_min", "left"))
    with pytest.raises(ValueError, match=r"annotations_test\.csv lacks the column 'x_min'; it has .*'left'"):
        read(tmp_path)
    annotations.unlink()
    labels.unlink()
    with pytest.raises(ValueError, match=r"lacks annotations_test\.csv and image_labels_test\.csv"):
        read(tmp_path)  # for there are files in test/
    annotations.write_text(text)
    write_vindr(tmp_path)
    with pytest.raises(ValueError, match=r"holds train\.csv and annotations_train\.csv.*both editions"):
        read(tmp_path)
    for folder in ("annotations", "train", "test"):
        for path in (tmp_path / folder).iterdir():
            path.unlink()
    with pytest.raises(ValueError, match=r"no DICOM file .* Found is in root: train\.csv"):
        read(tmp_path)
    write_csv(tmp_path / "train.csv", [["image_id", "class_name"]])
    write_vindr(tmp_path / "other")
    (tmp_path / "other" / "train").rename(tmp_path / "Train")
    (tmp_path / "Train").rename(tmp_path / "new")
    for path in (tmp_path / "new").iterdir():
        path.rename(tmp_path / path.name)
    with pytest.raises(ValueError, match="lacks the columns 'rad_id', 'x_min'"):
        read(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("annotations_train.csv", [["image_id", "rad_ID", "class_name", "x_min"]]),
        (
            "annotations_train.csv",
            [["image_id", "class_name", "rad_id"], ["a", "Cardiomegaly", "R1"], ["b", "Boot-shaped heart", "R1"]],
        ),
        (
            "annotations_train.csv",
            [
                ["image_id", "rad_ID", "class_name", "x_min", "y_min", "x_max", "y_max", "class_id"],
                ["a", "R1", "Edema"],
            ],
        ),
        ("image_labels_test.csv", [["image_id", "rad_ID", "No finding", "Bronchitis", "Pneumonia"]]),
    ],
)
@pytest.mark.parametrize("folder", ["annotations", "."])
def test_the_childrens_data_set_is_refused_by_name(
    tmp_path: Path, name: str, rows: list[list[str]], folder: str
) -> None:
    write_physionet(tmp_path, folder)
    write_csv(tmp_path / folder / name, rows)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is VinDr-PCXR"):
        read(tmp_path)


def test_a_copy_with_the_childrens_spelling_is_read(tmp_path: Path) -> None:
    write_physionet(tmp_path)
    edit_csv(tmp_path / "annotations" / "annotations_train.csv", "image_id", "rad_id", "rad_ID")
    edit_csv(tmp_path / "annotations" / "image_labels_train.csv", "image_id", "rad_id", "rad_ID")
    assert len(read(tmp_path).images) == 12
