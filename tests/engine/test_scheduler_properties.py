"""The scheduler and the KV manager under random loads, watched by a runner that knows what every slot must hold."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from paged_runner import SchedulerDriver

# Three documents of which prompts are beginnings: they share prefixes, and ends at all places in a block.
_DOCUMENTS = [[(3 * i * i + i) % 11 for i in range(40)], [(3 * i * i + i) % 11 for i in range(17)] + [9] * 23, [5] * 40]

_configurations = st.fixed_dictionaries(
    {
        "num_blocks": st.integers(4, 24),
        "block_size": st.integers(1, 8),
        "max_num_batched_tokens": st.integers(1, 24),
        "max_num_seqs": st.integers(1, 6),
        "max_model_len": st.integers(20, 60),
        "policy": st.sampled_from(["fcfs", "priority"]),
        "enable_chunked_prefill": st.sampled_from([True, True, False]),
        "long_prefill_token_threshold": st.sampled_from([0, 0, 3, 100]),
        "enable_prefix_caching": st.sampled_from([True, True, False]),
        "num_stages": st.sampled_from([1, 1, 2, 3]),
    }
)
_samplings = st.fixed_dictionaries(
    {
        "max_tokens": st.sampled_from([0, 1, 10, 24]),
        "min_tokens": st.integers(0, 5),
        "ignore_eos": st.booleans(),
        "eos_token_ids": st.sampled_from([(), (2,)]),
        "stop_token_ids": st.sampled_from([(), (3,), (4, 2)]),
        "logprobs": st.sampled_from([None, 0]),
        "prompt_logprobs": st.sampled_from([None, None, 0]),
    }
)


class SchedulerMachine(RuleBasedStateMachine):
    """Requests come, go and break while steps are made one at a time or one ahead."""

    @initialize(configuration=_configurations)
    def start(self, configuration: dict) -> None:  # type: ignore[type-arg]
        self.driver = SchedulerDriver(**configuration)
        self.num_requests = 0

    @rule(
        document=st.sampled_from(_DOCUMENTS),
        length=st.integers(1, 20),
        ending=st.lists(st.integers(0, 10), max_size=3),
        priority=st.integers(-1, 1),
        cache_salt=st.sampled_from([None, None, "", "tenant"]),
        sampling=_samplings,
        choices=st.integers(1, 6),
        queue_timeout_s=st.sampled_from([None, None, 3.0, 20.0]),
    )
    def add(self, document, length, ending, priority, cache_salt, sampling, choices, queue_timeout_s) -> None:  # type: ignore[no-untyped-def]
        for _ in range(choices):
            prompt = document[:length] + ending
            name = f"r{self.num_requests}"
            self.driver.add(name, prompt, priority=priority, cache_salt=cache_salt, queue_timeout_s=queue_timeout_s, **sampling)
            self.num_requests += 1

    @rule(count=st.integers(1, 10))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.driver.step()

    @rule()
    def step_ahead(self) -> None:
        """Plans the next step before the result of the last one is there, and so will all steps behind it."""
        self.driver.schedule()
        self.driver.schedule()
        self.driver.finish_step()

    @rule()
    def catch_up(self) -> None:
        while self.driver.num_under_way:
            self.driver.finish_step()

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        ids = st.sampled_from([f"r{i}" for i in range(self.num_requests + 1)])
        self.driver.abort(*data.draw(st.lists(ids, max_size=4)))

    @precondition(lambda self: self.driver.runner.rows)
    @rule(data=st.data())
    def break_row(self, data: st.DataObject) -> None:
        self.driver.runner.breaks.add(data.draw(st.sampled_from(sorted(self.driver.runner.rows))))

    @rule()
    def reset_prefix_cache(self) -> None:
        self.driver.kv.reset_prefix_cache()

    @rule()
    def preempt_all(self) -> None:
        self.driver.scheduler.preempt_all()
        assert self.driver.kv.num_used_blocks == 0

    @invariant()
    def is_consistent(self) -> None:
        if hasattr(self, "driver"):
            self.driver.scheduler.check()

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        driver = self.driver
        driver.run()
        for request_id, deltas in driver.deltas.items():
            assert [delta.finish_reason is not None for delta in deltas].count(True) == 1, request_id
        # The rows that are left are exactly those that the next plan would remove.
        driver.add("last", [1], max_tokens=1)
        driver.run()
        if any(item.request_id == "last" for plan in driver.plans for item in plan.scheduled):
            assert set(driver.runner.rows) == {"last"}


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
