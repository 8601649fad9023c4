import gzip
from pathlib import Path

import boto3
import pytest

from sharding.tables import find_table, read_list, read_table

ROWS = (("a.png", "Ödem", "1"), ("b.png", "", ""))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "path,finding,x\na.png,Ödem,1\nb.png,,\n",
        "path,finding,x\r\na.png,Ödem,1\r\n\r\nb.png",
        " path , finding,x \n a.png ,Ödem, 1\n,,\nb.png,\n",
        "path;finding;x\na.png;Ödem;1\nb.png;;\n",
        "path\tfinding\tx\na.png\tÖdem\t1\nb.png\n",
        "sep=;\npath;finding;x\na.png;Ödem;1\nb.png;;\n",
        'path,finding,x\n"a.png","Ödem",1\nb.png,,,,,\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_same_table_in_many_forms(text: str, encoding: str, pack: type, tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", pack(text.encode(encoding))), ["path", "finding"])
    assert (table.columns, table.rows) == (("path", "finding", "x"), ROWS)
    assert not table.too_long
    assert table.name == "t.csv"
    assert table.column("x") == ["1", ""]
    assert table.column("absent") == ["", ""]


def test_lines_and_rows_that_are_too_long(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", b'a,b\n1,2\n\n3,4,5\n"6\n7",8\n9\n')
    table = read_table(path, ["a"])
    assert table.rows == (("1", "2"), ("3", "4"), ("6\n7", "8"), ("9", ""))
    assert table.lines == (2, 4, 6, 7)
    assert table.too_long == {1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("path,x\na.png,1\nÖdem,2\n".encode("latin-1"), r"is not UTF-8 text: byte 0xD6 in line 3; save it as UTF-8"),
        ("path,x\na.png,1\n".encode("utf-16-le"), r"zero byte in line 1"),
        ("path,x\na.png,1\n".encode("utf-16") + b"\0", r"not UTF-16 text"),
        (b"path,x\na.png,1\0\n", r"zero byte in line 2"),
        (b'path,x\na.png,"1\nb.png,2\nc.png,3\n', r"is not a csv file: unexpected end of data"),
        (b'path,x\na.png,"1"2\n', r"is not a csv file: .*line 2"),
        (b"\x1f\x8b\x08\0broken", r"is damaged"),
        (gzip.compress(b"path,x\n" * 999)[:-9], r"is damaged: .*end-of-stream"),
        (b"", r"lacks the column 'path'; it has none"),
        (b"Path,x\n", r"lacks the column 'path' \(does it call 'Path' for 'path'\?\)"),
        (b"x;y\n1;2\n", r"lacks the column 'path'; it has 'x;y'"),
    ],
)
def test_what_is_not_certain_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", data)
    with pytest.raises(ValueError, match=message) as caught:
        read_table(path, ["path"])
    assert str(path) in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_list(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="is no file"):
        read_list(tmp_path)


def test_lists(tmp_path: Path) -> None:
    for data in (b"a.png\nb.png", b"\xef\xbb\xbfa.png\r\n\r\n b.png \r\n", gzip.compress(b"a.png\nb.png\n")):
        assert read_list(write(tmp_path / "l.txt", data)) == ["a.png", "b.png"]


def test_found_plain_first_or_packed(tmp_path: Path) -> None:
    assert find_table(tmp_path, ["b.csv", "a.csv"]) is None
    write(tmp_path / "a.csv.gz", b"")
    (tmp_path / "b.csv").mkdir()
    assert find_table(tmp_path, ["b.csv", "a.csv"]) == str(tmp_path / "a.csv.gz")
    write(tmp_path / "a.csv", b"")
    assert find_table(str(tmp_path), ["b.csv", "a.csv"]) == str(tmp_path / "a.csv")


def test_tables_in_an_object_store(s3: str) -> None:
    client = boto3.client("s3")
    client.put_object(Bucket="radiographs", Key="tables/t.csv.gz", Body=gzip.compress(b"path\na.png\n"))
    place = find_table(f"{s3}/tables", ["t.csv"])
    assert place == f"{s3}/tables/t.csv.gz"
    assert read_table(place, ["path"]).rows == (("a.png",),)
    assert find_table(f"{s3}/tables", ["u.csv"]) is None
    with pytest.raises(ValueError, match="does not exist"):
        read_table(f"{s3}/tables/none.csv", [])
