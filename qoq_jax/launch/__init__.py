"""Jobs on clusters: one specification (`spec`), checked before anything is paid for (`check`),
rendered for each engine (`engines/`). No JAX is imported here.
"""
