"""The experiment on the order of completion in miniature, and the clock that it runs by."""

import asyncio
import time

import pytest

from modicum.core.experiment import Result, run_experiments
from modicum.testtime.experiments import EXPERIMENTS, order_bias
from modicum.testtime.experiments.order_bias import VirtualLoop, decide


def test_virtual_time_keeps_the_order_of_things():
    seen = []

    async def wake(seconds):
        await asyncio.sleep(seconds)
        seen.append((seconds, asyncio.get_running_loop().time()))

    async def main():
        await asyncio.gather(*map(wake, [3600.0, 0.5, 7.25, 0.5]))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 100.0)
        # Real waiting, for a thread, still works.
        await asyncio.to_thread(time.sleep, 0.01)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        end = runner.run(main())
    assert [seconds for seconds, _ in seen] == [0.5, 0.5, 7.25, 3600.0]
    assert all(now == pytest.approx(seconds, abs=1e-6) for seconds, now in seen)
    assert end == pytest.approx(3700.0, abs=1e-3)


@pytest.fixture(scope="module")
def found():
    return {
        (order, ratio): decide(ratio, order, 40, seed=3)
        for order in order_bias.ORDERS
        for ratio in order_bias.RATIOS
    }


def test_orders_see_the_same_answers(found):
    """At equal times either order decides well; at twice the time completion decides wrongly."""
    even, slow = found["submission", 1.0], found["submission", 2.0]
    assert (slow.right_R == even.right_R).all()
    assert (slow.used_R == even.used_R).all()
    assert found["completion", 1.0].accuracy > 0.5
    assert found["completion", 2.0].accuracy < 0.2
    assert (found["completion", 2.0].seconds_R <= slow.seconds_R + 1e-9).all()


def test_claims_say_what_was_found(found):
    claims = {claim.name: claim for claim in order_bias._claims(found)}
    assert claims["submission_unchanged"].holds and claims["submission_unchanged"].measured == 0
    drop = found["submission", 1.0].accuracy - found["completion", 2.0].accuracy
    assert claims["completion_drop_2"].measured == pytest.approx(drop)
    assert claims["no_bias_when_times_are_alike"].holds
    assert claims["price_in_time"].measured > 1
    assert len(order_bias._table(found).rows) == len(found) == 8
    # A claim that fails says so.
    broken = found | {("submission", 2.0): found["completion", 2.0]}
    assert not order_bias._claims(broken)[0].holds
    kind = found | {("completion", 2.0): found["submission", 2.0]}
    claims = {claim.name: claim for claim in order_bias._claims(kind)}
    assert not claims["completion_drop_2"].holds


@pytest.mark.slow  # describing the hardware loads torch
def test_the_experiment_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(order_bias, "QUICK_PROMPTS", 40)
    (experiment,) = [e for e in EXPERIMENTS if e.name == "order_bias"]
    (result,) = run_experiments([experiment], tmp_path, quick=True, seed=1)
    assert result.status == "ok", result.error
    written = tmp_path / "modicum-testtime" / "order_bias" / "result.json"
    assert Result.load(written).to_json() == result.to_json()
    assert result.figures and len(result.tables[0].rows) == 8
