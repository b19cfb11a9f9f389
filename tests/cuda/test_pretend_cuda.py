"""What the pretended GPU of the other tests notices."""

import pytest
import torch
from pretend_cuda import PretendCuda
from torch.nn import functional


@pytest.fixture
def gpu():
    with PretendCuda() as active:
        yield active


def test_numbers_are_right_and_gradients_are_there(gpu):
    x = torch.arange(6.0).view(2, 3).to("cuda:0").requires_grad_()
    assert x.device == torch.device("cuda:0") and x.is_cuda
    (x.square().sum() + (x[:, 1:] @ torch.ones(2, 1, device="cuda")).sum()).backward()
    assert x.grad.device == x.device
    assert x.grad.tolist() == [[0.0, 3.0, 5.0], [6.0, 9.0, 11.0]]


def test_launches_are_counted_and_views_are_not(gpu):
    x = torch.zeros(4, 6, device="cuda:0")
    before = len(gpu.launches)
    x.view(2, 12).t()[0].add_(1.0)
    assert gpu.launches[before:] == ["add_"]
    assert x.sum().item() == 2.0


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: torch.zeros(3).copy_(x),
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
    ],
)
def test_what_makes_the_host_wait_is_noticed(gpu, read):
    x = torch.arange(3.0, device="cuda:0")
    assert gpu.reads == []
    read(x)
    assert len(gpu.reads) == 1


def test_a_copy_to_the_device_is_counted(gpu):
    torch.tensor([1, 2], device="cuda:0")
    torch.zeros(2).to("cuda:0", non_blocking=True)
    assert len(gpu.sent) == 2 and gpu.reads == []


def test_tensors_of_two_devices_do_not_mix(gpu):
    x = torch.zeros(3, device="cuda:0")
    assert (x + torch.tensor(1.0)).tolist() == [1.0] * 3  # a single number may come from the host
    with pytest.raises(RuntimeError, match="expected all tensors on one device"):
        x + torch.zeros(3)


def test_the_grouped_product_is_as_choosy_as_cudas(gpu):
    x, ends = torch.zeros(5, 16, device="cuda:0"), torch.tensor([2, 5], dtype=torch.int32, device="cuda:0")
    matrices = torch.zeros(2, 16, 8, device="cuda:0")
    assert functional.grouped_mm(x.bfloat16(), matrices.bfloat16(), offs=ends).shape == (5, 8)
    for wrong in (x, x[:, :12].bfloat16()):
        with pytest.raises(RuntimeError, match=r"bfloat16 in rows of 16 bytes|must match|contraction"):
            functional.grouped_mm(wrong, matrices.to(wrong.dtype), offs=ends)


def test_attention_is_one_kernel(gpu):
    q = torch.randn(2, 4, 5, 8, device="cuda:0", generator=None).requires_grad_()
    k = torch.randn(2, 2, 5, 8, device="cuda:0")
    before = len(gpu.launches)
    out = functional.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
    assert len(gpu.launches) == before + 1
    plain = [tensor.detach().cpu() for tensor in (q, k)]
    expected = functional.scaled_dot_product_attention(plain[0], plain[1], plain[1], is_causal=True, enable_gqa=True)
    assert torch.allclose(out.detach().cpu(), expected, atol=1e-6)
    out.sum().backward()
    assert q.grad.shape == q.shape
