"""The promises of a check, in brief; ``seedbed selftest`` keeps them at length."""

from seedbed.regression.selftest import Promise, selftest


def test_every_promise_is_kept_with_full_and_with_top_20_rows():
    told = []
    promises = selftest(checks=100, seed=1, tell=told.append)

    assert told == promises
    assert [promise.is_kept for promise in promises] == [True] * 11, "\n".join(map(str, promises))
    assert [promise.of for promise in promises] == [100, 100, 20, 20, 20] * 2 + [20]


def test_a_broken_promise_says_so():
    assert "BROKEN" in str(Promise("same server", 2, 100, 0.01, is_ceiling=True))
    assert not Promise("found", 98, 100, 0.99, is_ceiling=False).is_kept
