"""What a person may have meant by a word that is not known."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence


def near(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The one of `known` that is most like `word`, letter case and marks aside, or None where none is.

    `likeness` is difflib's ratio: 0 takes anything, 1 the same letters alone.
    """
    plain = {_plain(one): one for one in known}
    found = difflib.get_close_matches(_plain(word), list(plain), n=1, cutoff=likeness)
    return plain[found[0]] if found else None


def nearest(word: str, words: Sequence[str]) -> str:
    """`; did you mean 'x'?` with the most similar of `words`, or their list where none is similar."""
    found = near(word, words)
    return f"; did you mean {found!r}?" if found else f"; there are: {', '.join(words)}"


def _plain(word: str) -> str:
    return re.sub(r"[\W_]", "", word.casefold())
