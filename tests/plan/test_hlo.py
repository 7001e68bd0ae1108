"""The reading of compiled programs, on small ones."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.plan import hlo as hlo_lib

N = 256  # an array of N x N floats is 262,144 bytes


def compiled(function, *shapes):
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return hlo_lib.traffic(jax.jit(function).lower(*inputs).compile().as_text())


def test_a_product_reads_two_arrays_and_writes_one():
    assert compiled(jnp.matmul, (N, N), (N, N)).hbm == 3 * 4 * N * N


def test_loops_count_as_often_as_they_run():
    def loop(x, w):
        return jax.lax.fori_loop(0, 7, lambda i, x: jnp.sin(x @ w), x)

    one = 4 * N * N
    assert 7 * 3 * one <= compiled(loop, (N, N), (N, N)).hbm <= 7 * 7 * one


def test_of_a_stack_that_is_scanned_each_layer_is_read_once():
    def scan(x, stack):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, stack)[0]

    one = 4 * N * N
    assert compiled(scan, (N, N), (20, N, N)).hbm <= 20 * 8 * one


def test_the_costliest_branch_is_counted():
    def choose(i, x):
        return jax.lax.switch(i, [lambda x: x, lambda x: jnp.sin(x) @ jnp.cos(x), lambda x: x], x)

    program = jax.jit(choose).lower(
        jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((N, N), jnp.float32)
    )
    assert hlo_lib.traffic(program.compile().as_text()).hbm >= 3 * 4 * N * N


def test_collectives_of_a_mesh():
    """A sum over 8 devices of arrays of 8 x 16 floats, and a gather of 64 x 16."""
    mesh = mesh_lib.make_mesh(fsdp=8)

    def run(x):
        return jax.lax.with_sharding_constraint(x.reshape(8, 8, 16).sum(0), PartitionSpec())

    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    with jax.set_mesh(mesh):
        x = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=rows)
        summed = jax.jit(run).lower(x).compile().as_text()
        whole = NamedSharding(mesh, PartitionSpec())
        gathered = jax.jit(jnp.sin, out_shardings=whole).lower(x).compile().as_text()
    assert hlo_lib.traffic(summed).collectives["all-reduce"] == 4 * 8 * 16
    assert hlo_lib.traffic(gathered).collectives["all-gather"] == 4 * 64 * 16


def test_asynchronous_collectives_count_what_they_make():
    """An all-gather's result holds its operand, an all-reduce's does not."""
    hlo = """
ENTRY %main (p: f32[8]) -> f32[64] {
  %p = f32[8]{0} parameter(0)
  %all-reduce-start = f32[8]{0} all-reduce-start(%p), channel_id=1, to_apply=%add
  %all-reduce-done = f32[8]{0} all-reduce-done(%all-reduce-start)
  %all-gather-start = (f32[8]{0}, f32[64]{0}) all-gather-start(%all-reduce-done), channel_id=2
  ROOT %all-gather-done = f32[64]{0} all-gather-done(%all-gather-start)
}
"""
    found = hlo_lib.traffic(hlo).collectives
    assert found == {"all-reduce": 32, "all-gather": 256}


def test_collectives_that_share_a_channel_all_count():
    """As all-to-alls of shard_map do; one of several fusions (start, carry, end) counts once."""
    hlo = """
%start (q: f32[8]) -> f32[64] {
  %q = f32[8]{0} parameter(0)
  ROOT %all-gather.1 = f32[64]{0} all-gather(%q), channel_id=1, metadata={op_name="weights"}
}

%end (r: f32[8]) -> f32[64] {
  %r = f32[8]{0} parameter(0)
  ROOT %all-gather.2 = f32[64]{0} all-gather(%r), channel_id=1, metadata={op_name="weights"}
}

ENTRY %main (p: f32[8]) -> f32[64] {
  %p = f32[8]{0} parameter(0)
  %begun = f32[64]{0} fusion(%p), kind=kCustom, calls=%start
  %ended = f32[64]{0} fusion(%p), kind=kCustom, calls=%end
  %there = f32[8]{0} all-to-all(%p), channel_id=1, metadata={op_name="heads"}
  %back = f32[8]{0} all-to-all(%there), channel_id=1, metadata={op_name="heads"}
  ROOT %sum = f32[64]{0} add(%begun, %ended)
}
"""
    assert hlo_lib.traffic(hlo).collectives == {"all-gather": 256, "all-to-all": 64}
