"""`cxr`: the verbs."""

import importlib.util

import pytest

from cluster import console


def test_every_verb_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main([]) == 0
    told = capsys.readouterr().out
    for verb, (module, line) in console.VERBS.items():
        assert verb in told
        assert line in told
        assert importlib.util.find_spec(module) is not None, f"{verb}: {module}"
    assert max(map(len, told.splitlines())) <= 120


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cxr 0.")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pretrian"], "'pretrian' is not a verb; did you mean 'pretrain'?"),
        (["xyz"], "'xyz' is not a verb; there are: phantom, shard"),
        (["--on"], "--on needs an address and a verb"),
        (["--on", "http://127.0.0.1:1", "pretrian"], "did you mean 'pretrain'?"),
        (["--on", "http://127.0.0.1:1", "doctor"], "nothing answers at 127.0.0.1:1"),
        (["--on", "ftp://127.0.0.1", "doctor"], "give the address of the cluster's dashboard"),
    ],
)
def test_mistakes(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(words) == 2
    assert told in capsys.readouterr().err
