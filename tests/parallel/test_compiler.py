"""Options of the compiler: added to what the user set, never over it."""

from qoq_jax.parallel import compiler


def test_options_are_added_and_those_of_the_user_stay():
    name = "xla_jf_spmd_threshold_for_windowed_einsum_mib"
    environment = {}
    compiler.prepare(environment)
    assert environment["LIBTPU_INIT_ARGS"] == f"--{name}=1000000"
    compiler.prepare(environment)
    assert environment["LIBTPU_INIT_ARGS"] == f"--{name}=1000000"
    environment = {"LIBTPU_INIT_ARGS": f"--other=1 --{name}=0"}
    compiler.prepare(environment)
    assert environment["LIBTPU_INIT_ARGS"] == f"--other=1 --{name}=0"
