"""Plans: warnings from made-up collectives; estimates without a compiler; real pods where libtpu is installed."""

import dataclasses
import json
import math

import pytest

from experiments.scale import sizes
from scratchpatch import cli, config as config_lib
from scratchpatch.accounting import chips
from scratchpatch.accounting.parameters import parameters
from scratchpatch.config_fields import REMAT
from scratchpatch.errors import UserError
from scratchpatch.kernels import attention
from scratchpatch.kernels.cost import Pass
from scratchpatch.model import weights as weights_lib
from scratchpatch.planning import ahead_of_time, hlo, layout_warnings, plan, step_cost as step_cost_lib, topology
from tests import runs, tiny

MESH = {"slice": 1, "data": 16, "fsdp": 16, "tensor": 1, "sequence": 1}
FIELDS = {
    *("topology", "chips", "fits", "bytes_per_chip", "hbm_bytes", "flops_per_chip", "collective_bytes_per_chip"),
    *("collectives", "seconds_estimate", "mfu_estimate", "warnings"),
}
pytestmark = pytest.mark.usefixtures("libtpu_without_flags")
needs_libtpu = pytest.mark.skipif(
    not ahead_of_time.available(), reason="libtpu is not installed, and there is none for this machine"
)


@pytest.fixture(scope="module")
def config():
    made = sizes.scratchpads("1b")
    made.training.batch_rows = 2048
    made.mesh.update(MESH)
    return made


@pytest.fixture
def no_activations(monkeypatch):
    """Counting activations traces the model, which takes seconds."""
    monkeypatch.setattr(step_cost_lib, "_kept", lambda *_: 0)


@pytest.fixture
def cost(config, no_activations):
    with attention.platform("tpu"):
        return step_cost_lib.step_cost(config, 1)


def collective(kind, axes, shapes, size, times=1, operation=""):
    return hlo.Collective(kind, axes, shapes, ("bf16",) * len(shapes), size, times, operation)


def said(config, cost, collectives, **changes):
    planned = {"fits": True, "bytes_per_chip": {"total": 10 << 30}, "hbm_bytes": 16 << 30}
    planned |= {"seconds": {"compute": 1.0, "memory": 0.5, "ici": 0.2, "dcn": 0.0}} | changes
    return layout_warnings.layout_warnings(config, 1, cost, collectives, planned)


def test_a_sound_layout_has_no_warning(config, cost):
    weights, gradients = layout_warnings.weight_bytes(config), layout_warnings.gradient_bytes(config)
    collectives = [
        collective("all-gather", "fsdp", ((2048, 2048),), 2.0 * weights),
        collective("reduce-scatter", "fsdp", ((2048, 2048),), 1.0 * gradients),
        collective("all-reduce", "data", ((128, 2048),), 0.1 * gradients),
    ]
    assert said(config, cost, collectives) == []


@pytest.mark.parametrize(
    "sent, message",
    [
        (("all-gather", "fsdp", ((2048, 2048),), 2.2), "all-gathers carry 2.2x the weights per part, above 2.1"),
        (("all-reduce", "fsdp", ((2048, 2048),), 2.0), "carry 2.0x the gradients per part, above 1.1"),
        (("all-to-all", "data", ((16, 16),), 0.001), "1 all-to-alls: something is resharded"),
        (
            ("all-reduce", "data", ((128, 8192, 1024),), 0.01),
            "all-reduce over data carries 128x8192x1024, a batch's axes",
        ),
    ],
)
def test_what_a_layout_must_not_send_is_named(config, cost, sent, message):
    kind, axes, shapes, times = sent
    weights, gradients = layout_warnings.weight_bytes(config), layout_warnings.gradient_bytes(config)
    gathers = kind == "all-gather"
    usual = collective("all-gather", "fsdp", ((2048, 2048),), 0.0 if gathers else 1.0 * weights)
    size = times * (weights if gathers else gradients)
    warnings = said(config, cost, [usual, collective(kind, axes, shapes, size, operation="jit(advance)/somewhere")])
    assert any(message in warning for warning in warnings), warnings


def test_a_chip_that_hides_its_collectives_is_said(config, cost):
    collectives = [collective("all-reduce", "data+fsdp", ((2048,),), 4e3, 20)]
    assert "the program hides its collectives" in said(config, cost, collectives)[0]


def test_positions_may_travel_along_their_own_axis(config, cost):
    assert said(config, cost, [collective("all-gather", "sequence", ((128, 8192, 1024),), 1e10)]) == []


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"fits": False, "bytes_per_chip": {"total": 20 << 30}}, "does not fit: 20.00 of 16.00 GiB; raise mesh.fsdp"),
        (
            {"seconds": {"compute": 0.1, "memory": 0.1, "ici": 0.3, "dcn": 0.0}},
            "too few bytes per chip for FSDP to hide",
        ),
        ({"seconds": {"compute": 0.1, "memory": 0.1, "ici": 0.1, "dcn": 0.3}}, "network between slices takes longer"),
    ],
)
def test_what_does_not_fit_or_hide_is_said_with_a_fix(config, cost, changes, message):
    assert message in said(config, cost, [], **changes)[0]


def test_empty_slots_are_said(config, cost):
    padded = dataclasses.replace(cost, padding=0.2)
    assert "padding: 20% of the trunk's slots stay empty" in said(config, padded, [])[0]


def test_a_device_is_estimated_without_a_compiler(config):
    planned = plan.plan_device(config, chips.named("h200"), 256)
    assert FIELDS <= set(planned) and planned["chips"] == 256 and planned["fits"]
    held, collectives = planned["bytes_per_chip"], planned["collectives"]
    assert held["activations"] > 0
    assert held["total"] == sum(size for kind, size in held.items() if kind != "total")
    # All weights gathered twice in bfloat16, all gradients scattered once in float32, but for a chip's own sixteenth.
    count = sum(parameters(config).values())
    gathered, scattered = collectives["all-gather"]["fsdp"], collectives["reduce-scatter"]["fsdp"]
    assert gathered == scattered == pytest.approx(4 * count * 15 / 16)
    mfu = planned["useful_flops_per_chip"] / planned["seconds_estimate"] / 989e12
    assert planned["mfu_estimate"] == pytest.approx(mfu) and "MFU" in plan.text(planned)


@pytest.fixture
def one_h200(monkeypatch):
    """The plan of sp_1b on one H200, on which a policy keeps so many GiB."""
    kept = {"none": 140, "dots": 60, "ffn": 40, "offload": 40, "full": 10}
    monkeypatch.setattr(step_cost_lib, "_kept", lambda config, parts: kept[config.training.remat] << 30)
    made = sizes.scratchpads("1b")
    made.training.batch_rows = 8
    made.mesh.fsdp = 1
    return plan.plan_device(made, chips.named("h200"), 1)


def test_policies_are_compared_and_the_fastest_that_fits_is_named(one_h200):
    policies, rest = one_h200["remat"], one_h200["bytes_per_chip"]["total"] - (10 << 30)
    totals = {name: x["total"] - rest for name, x in policies.items()}
    assert totals == {name: size << 30 for name, size in zip(REMAT, (140, 60, 40, 10, 10), strict=True)}
    assert [name for name, x in policies.items() if not x["fits"]] == ["none"]
    seconds = {name: x["seconds"] for name, x in policies.items()}
    assert seconds["full"] == one_h200["seconds_estimate"]
    assert seconds["dots"] < seconds["ffn"] < seconds["full"]
    # 30 GiB there and back at 64 GB/s, of which four fifths are reached, take longer than the work.
    assert seconds["offload"] == pytest.approx((30 << 30) / (0.8 * 64e9))
    said = plan.text(one_h200)
    assert "none                     159.5" in said and "does not fit" in said
    assert "fastest that fits: training.remat = 'dots'" in said


def test_of_equally_fast_policies_the_smaller_one_is_named_and_of_unknown_ones_none():
    def policy(seconds, total, fits=True):
        return {"seconds": seconds, "total": total, "fits": fits, "mfu": 0.5}

    policies = {"a": policy(1.0, 9), "b": policy(1.0, 5), "c": policy(None, 1), "d": policy(0.5, 99, False)}
    assert plan.fastest(policies) == "b"
    assert plan.fastest({"c": policy(None, 1)}) is None


def test_a_kernel_that_waits_for_memory_or_for_exponentials_takes_longer():
    made, chip = Pass(visits=1, flops=989e12, exponentials=0.0, moved=1e9), chips.named("h200")
    assert plan.kernel_seconds(made, chip) == pytest.approx(1 / 0.8)
    assert plan.kernel_seconds(dataclasses.replace(made, moved=9.6e12), chip) == pytest.approx(2 / 0.8)
    assert plan.kernel_seconds(dataclasses.replace(made, exponentials=3.9e12), chip) == pytest.approx(2 / 0.8)
    assert plan.kernel_seconds(made, chip, times=16) == pytest.approx(16 / 0.8)


@pytest.mark.usefixtures("no_activations")
def test_gradients_in_bfloat16_are_half_of_what_is_sent(config):
    halved = config_lib.from_flat(config_lib.flat(config) | {"training.gradient_dtype": "bfloat16"})
    plans = (plan.plan_device(c, chips.named("h200"), 256, policies=False) for c in (config, halved))
    whole, half = (planned["collectives"] for planned in plans)
    assert half["all-gather"] == whole["all-gather"]
    assert half["reduce-scatter"]["fsdp"] == whole["reduce-scatter"]["fsdp"] / 2
    assert half["all-reduce"]["data"] == whole["all-reduce"]["data"] / 2


@pytest.mark.parametrize("chip, times", [("h200", 16), ("v5p", 6)])
def test_products_of_float32_take_their_time(no_activations, chip, times):
    config, seconds = sizes.scratchpads("150m"), []
    for config.training.dtype in ("bfloat16", "float32"):
        seconds.append(plan.plan_device(config, chips.named(chip), 64, policies=False)["seconds"]["compute"])
    # Attention in bfloat16 waits for exponentials and memory too.
    assert 0.8 * times * seconds[0] < seconds[1] < 1.001 * times * seconds[0]


@pytest.mark.usefixtures("no_activations")
def test_a_model_that_is_too_large_for_a_device_does_not_fit():
    config = sizes.scratchpads("8b")
    config.mesh.fsdp = 1
    config.training.batch_rows = 8
    planned = plan.plan_device(config, chips.named("a100"), 1, policies=False)
    assert not planned["fits"] and "does not fit" in planned["warnings"][0]


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "plan needs one of --topology=KIND:SHAPE and --device=CHIP"),
        (["--topology=v5q:4x4"], "wanted KIND:SHAPE"),
        (["--device=h200", "--full"], "--slices and --full go with --topology alone"),
        (["--topology=v5e:4x4", "--count=3"], "--count goes with --device"),
    ],
)
def test_wrong_usage_is_named(capsys, flags, message):
    assert cli.main(["plan", "--config=experiments/scale/sp_1b.py", *flags]) == cli.WRONG_USAGE
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The plan of a small model for 4 x 2 slices of v5e, as the command line prints it."""
    folder = tmp_path_factory.mktemp("plan")
    fields = {
        "model.entropy_head.weight": 0.0,
        "trigger.kind": "stride",
        "training.batch_rows": 32,
        "mesh.fsdp": 4,
        "mesh.data": -1,
        "training.dtype": "bfloat16",
        "training.remat": "full",
    }
    path = runs.write_config(folder / "small.py", runs.config(folder, fields))
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *args, **_: lines.append(args[0]))
        assert cli.main(["plan", f"--config={path}", "--topology=v5e:2x4", "--slices=2", "--json"]) == 0
    return json.loads(lines[-1])


@needs_libtpu
def test_a_pod_of_two_slices_is_planned_with_the_real_compiler(planned):
    assert FIELDS <= set(planned) and (planned["topology"], planned["chips"]) == ("v5e:2x4", 16)
    assert planned["mesh"] == {"slice": 2, "data": 2, "fsdp": 4, "tensor": 1, "sequence": 1}
    assert planned["fits"] and planned["hbm_bytes"] == int(15.75 * 2**30)
    assert planned["bytes_per_chip"]["total"] >= planned["bytes_per_chip"]["parameters"] * 3
    sent = math.fsum(size for by_axes in planned["collectives"].values() for size in by_axes.values())
    assert sent == planned["collective_bytes_per_chip"]
    assert planned["collectives"]["send"]["slice"] > 0 and planned["collectives"]["all-gather"]["fsdp"] > 0
    assert planned["smallest_topology"] == "v5e:2x2"


@needs_libtpu
@pytest.mark.parametrize("summed_in, type_", [("float32", "f32"), ("bfloat16", "bf16")])
def test_gradients_are_sent_in_the_type_that_is_named_and_matrices_as_they_are_used(summed_in, type_):
    """Over data and over fsdp; a TPU's compiler leaves the types of collectives as they are, a CPU's does not."""
    fields = {
        "trigger.kind": "stride",
        "model.entropy_head.weight": 0.0,
        "training.batch_rows": 8,
        "training.dtype": "bfloat16",
        "training.remat": "full",
        "training.gradient_dtype": summed_in,
        "mesh.data": 2,
        "mesh.fsdp": 4,
    }
    config = tiny.config(fields)
    compiled = ahead_of_time.compile_step(config, topology.parse("v5e:2x4"))
    shapes = weights_lib.shapes(weights_lib.abstract(config)[1]["params"])
    # A layer's own, and what one of four devices keeps of it.
    kernels = {shape[-2:] for path, shape in shapes.items() if path.endswith("kernel")}
    kernels |= {(a // 4, b) for a, b in kernels} | {(a, b // 4) for a, b in kernels}
    types = {"data": set(), "fsdp": set(), "gathered": set()}
    mesh = {"slice": 1, "data": 2, "fsdp": 4, "tensor": 1, "sequence": 1}
    for c in hlo.collectives(compiled.program, mesh):
        for shape, element in zip(c.shapes, c.types, strict=True):
            if c.kind in ("all-gather", "all-reduce", "reduce-scatter") and shape in kernels:
                # A stack of one layer is no loop, and XLA may gather it before it is rounded.
                if c.kind != "all-gather" or c.times > 1:
                    types["gathered" if c.kind == "all-gather" else c.axes].add(element)
    assert types == {"data": {type_}, "fsdp": {type_}, "gathered": {"bf16"}}


@needs_libtpu
def test_what_the_compiler_refuses_is_said_in_one_line():
    config = sizes.scratchpads("150m")
    config.training.batch_rows = 12
    config.mesh.fsdp = 4
    message = r"v5e:4x4: training.batch_rows = 12 is not divisible by mesh.data=4 x mesh.fsdp=4 = 16"
    with pytest.raises(UserError, match=message):
        ahead_of_time.compile_step(config, topology.parse("v5e:4x4"))


def test_a_missing_compiler_is_named_with_what_installs_it(monkeypatch, config):
    monkeypatch.setattr(ahead_of_time, "available", lambda: False)
    with pytest.raises(UserError, match="bash launch/setup.sh tpu"):
        plan.plan_tpu(config, topology.parse("v5e:4x4"))
