"""Signals end a run after its step, and a second one at once."""

from __future__ import annotations

import signal
import threading

import pytest

from lfm_policy.training.folder import Interruption


def test_the_first_signal_asks_the_second_stops_and_handlers_are_given_back() -> None:
    assert threading.current_thread() is threading.main_thread(), "signals reach no other"
    before, interruption = signal.getsignal(signal.SIGTERM), Interruption()
    with interruption.listening():
        signal.raise_signal(signal.SIGTERM)
        assert interruption.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
