from __future__ import annotations

from typing import Any

from tests.support.fake_device import PLENTY, fake_residency

#: As in a cascade: "decoder" is used twice, "encoder" twice in a row.
ORDER = ("encoder", "encoder", "first", "decoder", "second", "decoder")


def models(torch: Any, *names: str) -> dict[str, Any]:
    """Models of 512 bytes each."""
    return {name: torch.nn.Linear(10, 10, bias=False) for name in names}


def placed(torch: Any, size: int = PLENTY) -> tuple[Any, Any, Any, dict[str, Any]]:
    residency, copies, memory = fake_residency(torch, size)
    made = models(torch, *ORDER)
    for name, module in made.items():
        residency.add(name, module, is_on_device=False)
        residency.keep_on_host(name)
    copies.to_host = 0
    return residency, copies, memory, made


def use(made: dict[str, Any], order: tuple[str, ...] = ORDER) -> None:
    for name in order:
        made[name].to("cpu")  # the fake device
        made[name].cpu()


def test_each_model_is_copied_once_a_stage_and_the_next_one_ahead(torch: Any) -> None:
    residency, copies, _, made = placed(torch)
    for _ in range(2):
        residency.expect(ORDER)
        use(made)
        assert residency.device_bytes == 0
        residency.finish()
    assert copies.to_device == [512] * 8
    assert copies.ahead == [False, True, True, True] * 2
    assert copies.to_host == 0
    assert residency.was_ahead


def test_without_room_for_the_working_memory_models_are_copied_one_at_a_time(torch: Any) -> None:
    residency, copies, _, made = placed(torch, 512 + 1000)
    residency.demand = 1000
    residency.expect(ORDER)
    use(made)
    assert copies.to_device == [512] * 5  # the encoder is used twice with nothing in between
    assert not any(copies.ahead)
    assert not residency.was_ahead
    # With room for one more, the encoder keeps its copy, and one model is copied ahead.
    residency, copies, memory, made = placed(torch, 2 * 512 + 1000)
    residency.demand = 1000
    residency.expect(ORDER)
    largest = 0
    for name in ORDER:
        made[name].to("cpu")
        largest = max(largest, residency.device_bytes)
        made[name].cpu()
    assert largest == 2 * 512
    assert memory.size - largest >= residency.demand
    assert len(copies.to_device) < 6


def test_a_kept_copy_makes_room_for_a_model_that_has_to_run(torch: Any) -> None:
    residency, _, memory, made = placed(torch)
    residency.expect(ORDER)
    use(made, ORDER[:4])
    assert residency.device_bytes == 2 * 512  # the decoder's is kept, the second's is ahead
    residency.finish()
    residency.expect(ORDER)
    use(made, ORDER[:1])
    memory.size, residency.demand = residency.device_bytes + 100, 200
    made["second"].to("cpu")
    assert residency.device_bytes == 512


def test_strictly_nothing_but_the_running_model_is_on_the_device(torch: Any) -> None:
    residency, copies, _, made = placed(torch)
    residency.is_strict = True
    residency.expect(ORDER)
    for name in ORDER:
        made[name].to("cpu")
        assert residency.device_bytes == 512
        made[name].cpu()
        assert residency.device_bytes == 0
    assert len(copies.to_device) == len(ORDER)
    assert not residency.was_ahead


def test_a_copy_ahead_that_does_not_fit_is_no_error_of_the_stage(torch: Any) -> None:
    residency, copies, _, made = placed(torch)
    residency.expect(ORDER)
    upload = copies.upload

    def fail_ahead(slabs: Any, *, ahead: bool = False) -> Any:
        copies.fails = int(ahead)
        return upload(slabs, ahead=ahead)

    copies.upload = fail_ahead
    use(made)
    assert residency.device_bytes == 0
    assert residency.is_strict  # for the rest of the stage
    assert not residency.was_ahead


def test_an_order_that_is_not_kept_only_costs_copies(torch: Any) -> None:
    residency, copies, _, made = placed(torch)
    residency.expect(("first", "unknown"))
    use(made, ("second", "first", "second"))
    residency.finish()
    assert residency.device_bytes == 0
    assert len(copies.to_device) == 3


def test_a_stage_that_stops_anywhere_leaves_nothing_on_the_device(torch: Any) -> None:
    residency, _, _, made = placed(torch)
    for stop in range(len(ORDER)):
        residency.expect(ORDER)
        use(made, ORDER[:stop])
        made[ORDER[stop]].to("cpu")
        residency.finish()
        residency.finish()
        assert residency.device_bytes == 0


def test_the_working_peak_is_what_is_used_besides_weights(torch: Any) -> None:
    residency, _, memory, made = placed(torch)
    residency.expect(ORDER)
    for name in ORDER:
        made[name].to("cpu")
        memory.peak = 700 if name == "second" else 300
        made[name].cpu()
    assert residency.working_peak == 700


def test_the_moves_of_a_module_take_its_usual_arguments(torch: Any) -> None:
    residency, copies, _, made = placed(torch)
    module = made["first"]
    assert module.to(torch.device("cpu"), non_blocking=True) is module
    assert module.cpu() is module
    assert module.cuda() is module
    assert len(copies.to_device) == 2
    assert residency.device_bytes == 512


def test_the_name_of_the_cpu_means_the_host_for_other_devices(torch: Any) -> None:
    residency, copies, _ = fake_residency(torch)
    copies.device = "cuda:1"
    module = models(torch, "first")["first"]
    residency.add("first", module, is_on_device=False)
    for target in ("cuda", "cuda:1", torch.device("cuda")):
        module.to(target)
        assert residency.device_bytes == 512
        module.to("cpu")
        assert residency.device_bytes == 0
