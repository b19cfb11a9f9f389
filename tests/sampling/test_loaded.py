"""Adapters in a server: never more than it holds, the next ones loaded while others answer, and nothing left over."""

import threading

import pytest
import torch
from safetensors.torch import load_file

from seal_lightning.errors import ConfigError
from seal_lightning.models.lora import LoRA
from seal_lightning.models.random_models import build_tiny
from seal_lightning.sampling.loaded import loaded_in_turn
from seal_lightning.sampling.server import _served


class Server:
    """Notes what is loaded and where; `gate` holds up the adapters from `waits_from` on."""

    def __init__(self, *, waits_from: int = 1000, refuses: int = 1000) -> None:
        self.held: dict[str, int] = {}
        self.most, self.asked = 0, 0
        self.gate = threading.Event()
        self.stopped = threading.Event()
        self.waits_from, self.refuses = waits_from, refuses
        self._lock = threading.Lock()

    def load(self, name, folder, rank, on_wait):
        with self._lock:
            number, self.asked = self.asked, self.asked + 1
        if number >= self.refuses:
            raise ConfigError("no more")
        while number >= self.waits_from and not self.gate.wait(0.01):
            try:
                on_wait()
            except BaseException:
                self.stopped.set()
                raise
        assert (folder / "adapter_config.json").is_file()
        with self._lock:
            self.held[name] = rank
            self.most = max(self.most, len(self.held))

    def unload(self, names):
        for name in names:
            del self.held[name]


def lora(rank: int = 2) -> LoRA:
    layer = "base_model.model.model.layers.0.self_attn.v_proj"
    draw = torch.Generator().manual_seed(rank)
    state = {f"{layer}.lora_A.weight": torch.randn(rank, 32, generator=draw)}
    return LoRA(state | {f"{layer}.lora_B.weight": torch.randn(16, rank, generator=draw)}, 2.0)


def loading(server, folder, sizes, *, ahead=True, on_wait=lambda: None, make=lora):
    return loaded_in_turn(
        [[make] * size for size in sizes],
        loader=server,
        folder=folder,
        base="base",
        model=build_tiny("llama")[0],
        ahead=ahead,
        on_wait=on_wait,
    )


@pytest.mark.parametrize(("ahead", "most"), [(True, 4), (False, 2)])
def test_groups_come_in_order_and_leave_as_soon_as_they_were_used(tmp_path, ahead, most):
    server = Server()
    with loading(server, tmp_path / "sent", [2, 2, 2, 1], ahead=ahead) as groups:
        for number, names in enumerate(groups):
            assert set(names) <= set(server.held) and len(names) == [2, 2, 2, 1][number]
    assert server.asked == 7 and server.most <= most and server.held == {}
    assert list(tmp_path.iterdir()) == []


def test_the_next_group_is_loaded_while_one_is_used(tmp_path):
    server = Server(waits_from=2)
    with loading(server, tmp_path / "sent", [2, 2]) as groups:
        first = next(groups)
        assert sorted(first) == sorted(server.held)
        server.gate.set()
        while len(server.held) < 4:  # without a further call
            threading.Event().wait(0.01)
        assert not set(first) & set(next(groups))
        assert not set(first) & set(server.held)


def test_the_model_itself_needs_no_adapter(tmp_path):
    server = Server()
    with loading(server, tmp_path / "sent", [1], make=lambda: None) as groups:
        assert next(groups) == ["base"]
    assert server.asked == 0


def test_what_cannot_be_loaded_ends_all_and_leaves_nothing(tmp_path):
    server = Server(refuses=3)
    with pytest.raises(ConfigError, match="no more"), loading(server, tmp_path / "sent", [2, 2]) as groups:
        list(groups)
    assert server.held == {} and list(tmp_path.iterdir()) == []


def test_whoever_stops_waiting_stops_what_is_being_loaded(tmp_path):
    server = Server(waits_from=0)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), loading(server, tmp_path / "sent", [1], on_wait=stop) as groups:
        next(groups)
    assert server.stopped.is_set() and server.held == {} and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("base", "written"), [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32)])
def test_a_server_in_half_precision_gets_half_of_the_bytes(tmp_path, base, written):
    seen = []

    class Reading(Server):
        def load(self, name, folder, rank, on_wait):
            seen.append(load_file(folder / "adapter_model.safetensors"))
            super().load(name, folder, rank, on_wait)

    with loading(Reading(), tmp_path / "sent", [1], make=lambda: _served(lora(), base)) as groups:
        next(groups)
    (state,) = seen
    assert {tensor.dtype for tensor in state.values()} == {written}
    assert all(torch.equal(state[name], value.to(written)) for name, value in lora().state.items())
