"""Half precision on a processor without such arithmetic: products are those of float32, rounded."""

import pytest
import torch
import torch.nn.functional as F
from support.common import CHECKPOINT, TEXTS
from support.tiny_backbones import SUPPORTED, tiny_model

from moee_hf import MoEEModel
from moee_hf.model import products_moee
from moee_hf.model.products_moee import arithmetic

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture
def widened(monkeypatch):
    """How often a product was computed in float32, on a processor that is said to be without AVX-512."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    calls, in_float32 = [], products_moee._in_float32
    monkeypatch.setattr(products_moee, "_in_float32", lambda value: calls.append(value) or in_float32(value))
    return calls


@pytest.fixture(params=HALF)
def half(request):
    """A model in half precision."""
    return MoEEModel.from_pretrained(CHECKPOINT, dtype=request.param)


def random(*shape, dtype=torch.bfloat16):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


@pytest.mark.parametrize("dtype", HALF.values(), ids=HALF)
@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (F.linear, [(5, 64), (32, 64), (32,)]),
        (F.conv1d, [(2, 8, 16), (8, 1, 4)]),
        (F.scaled_dot_product_attention, [(1, 2, 5, 16)] * 3),
        (torch.matmul, [(3, 4, 64), (64, 8)]),
        (torch.Tensor.__matmul__, [(4, 64), (64, 8)]),
        (torch.bmm, [(3, 4, 64), (3, 64, 8)]),
        (torch.mm, [(4, 64), (64, 8)]),
    ],
)
def test_a_product_is_that_of_float32_rounded(half, widened, function, shapes, dtype):
    tensors = [random(*shape, dtype=dtype) for shape in shapes]
    options = {"groups": 8} if function is F.conv1d else {}
    with arithmetic(half.model):
        got, exact = function(*tensors, **options), function(*(tensor.float() for tensor in tensors), **options)
    assert got.dtype == dtype
    assert exact.dtype == torch.float32
    assert torch.equal(got, exact.to(dtype))
    assert widened


def test_two_dtypes_are_refused_as_ever(half, widened):
    with arithmetic(half.model), pytest.raises(RuntimeError, match="dtype"):
        F.linear(random(2, 8), random(4, 8, dtype=torch.float16))
    assert not widened


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_other_numbers_are_multiplied_as_ever(half, widened, dtype):
    values = torch.arange(6).reshape(2, 3).to(dtype)
    with arithmetic(half.model):
        assert torch.equal(values @ values.T, torch.matmul(values, values.T))
        assert (values @ values.T).dtype == dtype
    assert not widened


def test_embeddings_are_those_of_these_weights(half, widened):
    """In float32, the rounded weights give the same to the rounding of what stands between products."""
    exact = MoEEModel.from_pretrained(CHECKPOINT, dtype=half.dtype).float()
    got = half.encode(TEXTS, convert_to_tensor=True, normalize_embeddings=True)
    assert widened
    widened.clear()
    expected = exact.encode(TEXTS, convert_to_tensor=True, normalize_embeddings=True)
    assert not widened
    assert ((got.float() * expected).sum(-1) > 0.99).all()


def test_gradients_are_those_of_half_precision(half, widened):
    inputs = half.tokenizer(TEXTS[:2], padding=True, return_tensors="pt")
    half.train()
    half(**inputs).pooled_hidden_state.sum().backward()
    assert widened
    weights = [weight for name, weight in half.named_parameters() if name.endswith("q_proj.weight")]
    assert all(weight.grad.dtype == half.dtype and weight.grad.isfinite().all() for weight in weights)
    assert any(weight.grad.abs().sum() > 0 for weight in weights)


@pytest.mark.parametrize("capability", ["AVX512", "DEFAULT"])
def test_other_processors_multiply_as_they_do(half, widened, monkeypatch, capability):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    half.encode(TEXTS[:2])
    assert not widened


# but for routers that are kept in float32, as `from_pretrained` does and `to` does not
@pytest.mark.slow
@pytest.mark.parametrize("model_type", [name for name in SUPPORTED if not name.startswith("inkling2")])
def test_architectures_keep_their_dtypes(model_type, widened):
    """Whatever they cast between products: a pass ends, and what it gives is near that of torch's own products."""
    model = tiny_model(model_type).to(torch.bfloat16)
    inputs = {"input_ids": torch.arange(3, 19)[None] % 60 + 5, "attention_mask": torch.ones(1, 16, dtype=torch.long)}
    with torch.no_grad():
        got = model(**inputs)
        assert widened
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
            expected = model(**inputs)
    got, expected = got.pooled_hidden_state, expected.pooled_hidden_state
    assert got.dtype == expected.dtype
    assert F.cosine_similarity(got.float(), expected.float()).item() > 0.5  # 0.95, but where experts tie
