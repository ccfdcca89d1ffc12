"""The states of a run: what ended stays, and every state can be left or is final."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_backup.domain.run import RunState, allowed, states_before

FINAL = {state for state in RunState if state.final}


@given(st.lists(st.sampled_from(RunState), max_size=30))
def test_whatever_is_tried_a_run_ends_once_and_only_succeeds_from_running(tries: list[RunState]) -> None:
    state, ends = RunState.QUEUED, 0
    for wanted in tries:
        if not allowed(state, wanted):
            continue
        assert not state.final
        if wanted in (RunState.SUCCEEDED, RunState.WAITING):
            assert state is RunState.RUNNING
        assert wanted is not RunState.QUEUED
        state = wanted
        ends += state.final
    assert ends == (1 if state.final else 0)


@pytest.mark.parametrize("state", [state for state in RunState if not state.final])
def test_what_has_not_ended_can_always_be_cancelled_fail_or_be_interrupted(state: RunState) -> None:
    assert all(allowed(state, end) for end in FINAL - {RunState.SUCCEEDED})


def test_no_state_follows_itself() -> None:
    assert not any(allowed(state, state) for state in RunState)


def test_the_states_before_a_state_are_those_that_may_move_to_it() -> None:
    for before, after in product(RunState, RunState):
        assert (before in states_before(after)) == allowed(before, after)
