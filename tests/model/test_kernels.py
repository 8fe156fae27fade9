"""The Triton kernel of the gate of experts, which Triton's interpreter runs on the processor."""

import os
from importlib.util import module_from_spec, spec_from_file_location
from types import SimpleNamespace

import pytest
import torch
from support.tiny_backbones import SUPPORTED, expert_modules, tiny_model
from torch import nn
from transformers import GptOssConfig, MixtralConfig, NemotronHConfig
from transformers.activations import ACT2FN
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.minimax_m3_vl.modeling_minimax_m3_vl import MiniMaxM3VLExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

from moee_hf.model import kernels_moee

triton = pytest.importorskip("triton", reason="pip install triton: it runs the kernel without a GPU as well")
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # exp of the interpreter

GENERATOR = torch.Generator().manual_seed(0)
EXPERTS = 3
# names of transformers that the kernel computes; others run eager
COMPUTED = {"silu", "swish", "quick_gelu", "relu", "relu2", "gelu", "gelu_python"} | {
    *("gelu_pytorch_tanh", "gelu_python_tanh", "gelu_new", "gelu_fast", "gelu_accurate"),
}
# experts without transformers' interface, and those whose gate caps softly
OWN_EXPERTS = {
    "dbrx",
    "jetmoe",
    "llama4",
    "llama4_text",
    "longcat_flash",
    "nllb-moe",
    "step3p7",
    "switch_transformers",
}
EAGER = {"inkling2", "inkling2_text"}


@pytest.fixture(scope="module")
def interpreted():
    """The module once more: Triton decides where it runs a kernel when a file is imported."""
    spec = spec_from_file_location("interpreted_kernels", kernels_moee.__file__)
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def ran(interpreted, monkeypatch):
    """The values that the kernel was given."""
    values, launch = [], interpreted._launch
    monkeypatch.setattr(interpreted, "_launch", lambda gate, x, *rest: values.append(x) or launch(gate, x, *rest))
    return lambda x: any(x is value for value in values)


def experts_of(kind, size):
    """A real module of experts with intermediates of any size."""
    sizes = dict(hidden_size=4, intermediate_size=size, num_local_experts=EXPERTS)
    if kind is NemotronHExperts:
        sizes = dict(hidden_size=4, moe_intermediate_size=size, n_routed_experts=EXPERTS)
    config = {GptOssExperts: GptOssConfig, MixtralExperts: MixtralConfig, NemotronHExperts: NemotronHConfig}[kind]
    experts = kind(config(**sizes))
    for parameter in experts.parameters():
        nn.init.normal_(parameter, generator=GENERATOR)
    return experts.requires_grad_(False)


def rows_of(experts, num_rows, size, dtype):
    """Values, float32 weights and experts of rows; the values lie on both sides of every limit."""
    width = 2 * size if experts.has_gate else size
    values = 5 * torch.randn(num_rows, width, generator=GENERATOR)
    weights = torch.rand(num_rows, generator=GENERATOR)
    return values.to(dtype), weights, torch.randint(EXPERTS, (num_rows,), generator=GENERATOR)


def expected(experts, values, weights, expert_of_row):
    """The experts' own operations, in float64."""
    hidden = values.double()
    if experts.has_bias:
        hidden = hidden + experts.gate_up_proj_bias.double()[expert_of_row]
    hidden = experts._apply_gate(hidden) if experts.has_gate else experts.act_fn(hidden)
    return hidden if weights is None else hidden * weights.double()[:, None]


def assert_rounded_once(got, exact, dtype):
    """Equal but for one rounding: a unit of the last place of bfloat16, a few of float32's."""
    assert got.dtype == dtype
    tolerance = {torch.float32: dict(rtol=1e-6, atol=1e-6), torch.bfloat16: dict(rtol=2**-7, atol=1e-30)}[dtype]
    torch.testing.assert_close(got, exact.to(dtype), equal_nan=True, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [GptOssExperts, MixtralExperts, NemotronHExperts])
@pytest.mark.parametrize(("num_rows", "size"), [(7, 1), (2, 3), (1, 100), (3, 1000), (2, 2049)])
def test_odd_sizes(interpreted, ran, kind, num_rows, size, dtype):
    experts = experts_of(kind, size).to(dtype)
    values, weights, expert_of_row = rows_of(experts, num_rows, size, dtype)
    values[0, 0] = torch.nan
    for given in (weights, weights.to(dtype), None):
        got = interpreted.activate(experts, values, given, expert_of_row)
        assert got.shape == (num_rows, size)
        assert_rounded_once(got, expected(experts, values, given, expert_of_row), dtype)
    assert ran(values)


@pytest.mark.parametrize("name", ACT2FN)
def test_activations(interpreted, ran, name):
    experts = SimpleNamespace(act_fn=ACT2FN[name], has_gate=False, has_bias=False)
    values = torch.linspace(-12, 12, 200)[None]
    with torch.no_grad():
        got = interpreted.activate(experts, values, None, torch.zeros(1, dtype=torch.int64))
        if name in COMPUTED:
            assert_rounded_once(got, experts.act_fn(values.double()), torch.float32)
        else:
            assert torch.equal(got, experts.act_fn(values))
    assert ran(values) == (name in COMPUTED)


@pytest.mark.parametrize("model_type", [name for name in SUPPORTED if name not in OWN_EXPERTS])
def test_architectures(interpreted, ran, model_type):
    experts = expert_modules(tiny_model(model_type))[0]
    size = experts.down_proj.shape[1 if experts.is_transposed else 2]
    rows = rows_of(experts, 3, size, torch.float32)
    with torch.no_grad():
        got = interpreted.activate(experts, *rows)
        assert_rounded_once(got, expected(experts, *rows), torch.float32)
    assert ran(rows[0]) == (model_type not in EAGER)


def test_a_limit_of_each_layer(interpreted, ran):
    """Layers share a gate, but not what it reads."""
    experts = experts_of(GptOssExperts, 20)
    rows = rows_of(experts, 4, 20, torch.float32)
    for experts.limit, experts.alpha in ((7.0, 1.702), (2.0, 1.702), (1e6, 1.0)):
        rows = (rows[0].clone(), *rows[1:])
        assert_rounded_once(interpreted.activate(experts, *rows), expected(experts, *rows), torch.float32)
        assert ran(rows[0])


def test_a_limit_under_two_names(interpreted):
    config = dict(num_local_experts=EXPERTS, hidden_size=4, intermediate_size=20, swiglu_alpha=1.702, swiglu_limit=7.0)
    experts = MiniMaxM3VLExperts(SimpleNamespace(**config)).requires_grad_(False)
    rows = rows_of(experts, 4, 20, torch.float32)
    for experts.swiglu_limit in (7.0, 2.0):  # its limit stays 7, and is not read
        got = interpreted.activate(experts, *rows)
        torch.testing.assert_close(got, expected(experts, *rows).float())


class OtherConstant(MixtralExperts):
    def _apply_gate(self, gate_up):
        gate, up = gate_up.chunk(2, dim=-1)
        return self.act_fn(gate) * (up + 0.01)


class FarLimit(MixtralExperts):
    def _apply_gate(self, gate_up):
        return MixtralExperts._apply_gate(self, gate_up).clamp(-2e4, 2e4)


class OtherLayout(MixtralExperts):
    def _apply_gate(self, gate_up):
        return self.act_fn(gate_up[:, ::2]) * gate_up[:, 1::2]


class OtherShape(MixtralExperts):
    def _apply_gate(self, gate_up):
        return self.act_fn(gate_up)


class OtherAttribute(MixtralExperts):
    def _apply_gate(self, gate_up):
        return MixtralExperts._apply_gate(self, gate_up) * self.num_experts


class LearnedLimit(MixtralExperts):
    limit = nn.Parameter(torch.ones(()), requires_grad=False)


@pytest.mark.parametrize("kind", [OtherConstant, FarLimit, OtherLayout, OtherShape, OtherAttribute, LearnedLimit])
def test_other_gates_stay_eager(interpreted, ran, kind):
    experts = experts_of(MixtralExperts, 20)
    experts.__class__ = kind
    rows = rows_of(experts, 4, 20, torch.float32)
    rows[0].mul_(1000)
    torch.testing.assert_close(interpreted.activate(experts, *rows), expected(experts, *rows).float())
    assert not ran(rows[0])


def test_a_gate_of_one_module_alone(interpreted, ran):
    experts = experts_of(MixtralExperts, 20)
    experts._apply_gate = lambda gate_up: 2 * MixtralExperts._apply_gate(experts, gate_up)
    rows = rows_of(experts, 4, 20, torch.float32)
    torch.testing.assert_close(interpreted.activate(experts, *rows), expected(experts, *rows).float())
    assert not ran(rows[0])


@pytest.mark.parametrize("trained", ["values", "weights", "bias"])
def test_gradients(interpreted, ran, trained):
    experts = experts_of(GptOssExperts, 20)
    values, weights, expert_of_row = rows_of(experts, 4, 20, torch.float32)
    leaf = {"values": values, "weights": weights, "bias": experts.gate_up_proj_bias}[trained].requires_grad_()
    rows = (values, weights, expert_of_row)
    gradients = [
        torch.autograd.grad(f(experts, *rows).double().square().sum(), leaf)[0]
        for f in (interpreted.activate, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    assert not ran(values)
    with torch.no_grad():
        interpreted.activate(experts, *rows)
    assert ran(values)


def test_tensors_that_the_kernel_does_not_read(interpreted, ran):
    experts = experts_of(GptOssExperts, 20)
    values, weights, expert_of_row = rows_of(experts, 4, 20, torch.float32)
    strided = values.T.contiguous().T
    torch.testing.assert_close(
        interpreted.activate(experts, strided, weights, expert_of_row),
        expected(experts, values, weights, expert_of_row).float(),
    )
    double = interpreted.activate(experts, values.double(), weights, expert_of_row)
    torch.testing.assert_close(double, expected(experts, values, weights, expert_of_row))
    assert interpreted.activate(experts, values[:0], weights[:0], expert_of_row[:0]).shape == (0, 20)
    assert not ran(strided)
    assert not ran(values)


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(kernels_moee, "_launch", None)
    experts = experts_of(GptOssExperts, 20)
    rows = rows_of(experts, 4, 20, torch.float32)
    torch.testing.assert_close(kernels_moee.activate(experts, *rows), expected(experts, *rows).float())


def test_where_triton_does_not_compile(interpreted, monkeypatch, caplog):
    """It needs a C compiler, which many a container lacks."""
    monkeypatch.setattr(interpreted, "_reproduced", {})
    monkeypatch.setattr(interpreted, "_kernel", SimpleNamespace())
    experts = experts_of(MixtralExperts, 20)
    rows = rows_of(experts, 4, 20, torch.float32)
    torch.testing.assert_close(interpreted.activate(experts, *rows), expected(experts, *rows).float())
    assert "Triton does not run on cpu" in caplog.text


@pytest.mark.skipif(bool(os.environ.get("TRITON_INTERPRET")), reason="TRITON_INTERPRET is set: nothing is compiled")
@pytest.mark.parametrize(
    ("activation", "is_interleaved", "target"),
    [
        ("swish", True, ("cuda", 90, 32)),
        ("swish", False, ("cuda", 80, 32)),
        ("gelu", False, ("cuda", 90, 32)),
        ("gelu_tanh", True, ("hip", "gfx942", 64)),
        ("relu2", False, ("hip", "gfx1100", 32)),
    ],
)
def test_compiles_for_gpus(activation, is_interleaved, target, monkeypatch, tmp_path):
    """The interpreter lets pass what a compiler does not; to compile takes no GPU."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    names = kernels_moee._kernel.arg_names
    constants = dict(ACTIVATION=activation, SHIFT=1.0, IS_GATED=True, IS_INTERLEAVED=is_interleaved, BLOCK=1024)
    constants["weights" if is_interleaved else "bias"] = None
    types = dict(values="*bf16", bias="*bf16", weights="*fp32", expert_of_row="*i64", output="*bf16", size="i32")
    types |= dict(alpha="fp32", limit="fp32")
    source = triton.compiler.ASTSource(
        kernels_moee._kernel,
        signature={name: "constexpr" if name in constants else types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    compiled = triton.compile(source, target=triton.backends.compiler.GPUTarget(*target))
    assert compiled.asm["cubin" if target[0] == "cuda" else "hsaco"]
