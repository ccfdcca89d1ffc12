"""rsync's own figures, read from its output."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kvm_backup.repository.ssh.transfer import Moved, Progress, figures

PRINTED = (
    "\r              2   0%    0.00kB/s    0:00:00 (xfr#1, to-chk=2/4)\n"
    "\r       60358660  19%   53.90MB/s    0:00:04  \r      314572804 100%   50.00MB/s    0:00:06 (xfr#2)\n"
    "\nTotal bytes sent: 12 34%\n"
)


@given(st.lists(st.integers(0, len(PRINTED)), max_size=12))
def test_progress_is_the_same_however_the_output_is_cut_into_pieces(cuts: list[int]) -> None:
    seen: list[int] = []
    progress = Progress(seen.append)
    places = [0, *sorted(cuts), len(PRINTED)]
    for start, end in pairwise(places):
        progress.heard(PRINTED[start:end])
    assert seen == [2, 60358660, 314572804]


def test_figures_are_read_and_missing_ones_are_zero() -> None:
    said = "Literal data: 148020872 bytes\nMatched data: 166551928 bytes\nTotal bytes sent: 148108800\n"
    assert figures(said) == Moved(sent=148108800, received=0, literal=148020872, matched=166551928)
