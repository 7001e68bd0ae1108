"""Flags of the compiler: every one is known, and a misspelt one is found."""

from __future__ import annotations

import pytest

from qoq_jax.base.errors import ConfigError
from qoq_jax.launch import flags
from qoq_jax.launch.spec import Job
from qoq_jax.parallel import compiler
from qoq_jax.plan import devices


def job(topology="v5e:4x4", **fields):
    return Job(name="a", command="qoq train", topology=topology, **fields)


@pytest.mark.parametrize("name", flags.sets())
def test_every_flag_of_a_set_is_known(name):
    one = flags.sets()[name]
    assert one.values
    assert flags.lint(one.text, one.variable) == []


def test_every_flag_has_a_reason_and_a_source_and_is_used():
    used = {name for one in flags.sets().values() for name in one.values}
    assert used == set(flags.about())
    assert all(
        about["reason"] and "https://" in about["source"] for about in flags.about().values()
    )


def test_sets_are_of_accelerators_that_exist_and_none_has_two():
    found = [name for one in flags.sets().values() for name in one.devices]
    assert sorted(found) == sorted(set(found))
    assert set(found) <= set(devices.table())


def test_no_set_contradicts_what_the_package_sets_itself():
    assert not {name for one in flags.sets().values() for name in one.values} & set(
        compiler.TPU_OPTIONS
    )


def test_the_package_adds_its_own_flag_to_those_of_a_set():
    environment = flags.flags_for(job())
    given = environment["LIBTPU_INIT_ARGS"]
    compiler.prepare(environment)
    assert environment["LIBTPU_INIT_ARGS"].startswith(given)
    assert flags.lint(environment["LIBTPU_INIT_ARGS"], "LIBTPU_INIT_ARGS") == []


@pytest.mark.parametrize(
    "topology, variables",
    [
        ("v4:2x2x2", ["LIBTPU_INIT_ARGS"]),
        ("v5e:4x4", ["LIBTPU_INIT_ARGS"]),
        ("v5p:2x2x4", ["LIBTPU_INIT_ARGS"]),
        ("v6e:4x4", ["LIBTPU_INIT_ARGS"]),
        ("tpu7x:2x2x1", ["LIBTPU_INIT_ARGS"]),
        ("h100:8x8", ["XLA_FLAGS"]),
        ("a100:1x8", ["XLA_FLAGS"]),
        ("h200:1x8", []),
        ("cpu:2", []),
    ],
)
def test_an_accelerator_has_flags_in_the_variable_that_its_library_reads(topology, variables):
    assert list(flags.flags_for(job(topology))) == variables


def test_none_is_no_flags():
    assert flags.flags_for(job(xla_flags="none")) == {}


def test_a_set_can_be_named():
    found = flags.flags_for(job("v5e:4x4", xla_flags="v6e"))
    assert found["LIBTPU_INIT_ARGS"] == flags.sets()["v6e"].text


def test_a_set_that_does_not_exist_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'v5e'"):
        flags.flags_for(job(xla_flags="v5ee"))


def test_a_set_of_another_library_is_refused():
    with pytest.raises(ConfigError, match="is for h100"):
        flags.flags_for(job(xla_flags="h100"))


def test_a_misspelt_flag_is_found_with_the_right_name():
    (fault,) = flags.lint("--xla_tpu_scoped_vmem_limit_kb=65536", "LIBTPU_INIT_ARGS")
    assert "did you mean 'xla_tpu_scoped_vmem_limit_kib'?" in fault


def test_a_flag_in_the_wrong_variable_is_found():
    (fault,) = flags.lint("--xla_tpu_scoped_vmem_limit_kib=65536", "XLA_FLAGS")
    assert "belongs into LIBTPU_INIT_ARGS" in fault


@pytest.mark.parametrize("text", ["xla_dump_to=/tmp/x", "'", "--xla_dump_to=a b"])
def test_what_is_no_flag_is_found(text):
    assert len(flags.lint(text, "XLA_FLAGS")) == 1


def test_flags_that_exist_pass():
    assert flags.lint("--xla_dump_to=/tmp/x --xla_gpu_enable_triton_gemm=false", "XLA_FLAGS") == []


def test_flags_in_the_environment_of_a_job_are_looked_at():
    faults = flags.check(
        job(
            env={"XLA_FLAGS": "--xla_dump_too=/x", "LIBTPU_INIT_ARGS": "--xla_tpuu=1", "OTHER": "-"}
        )
    )
    assert [fault.partition(":")[0] for fault in faults] == ["LIBTPU_INIT_ARGS", "XLA_FLAGS"]
