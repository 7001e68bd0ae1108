"""`qoq plan`: what a config needs on a topology, without the hardware.

Instant, from shapes alone: devices (the table of devices.json, topologies), case (a config on a
topology, its shapes), flops, traffic and memory (the formulas), instant (the plan of each stage),
advice (what to change), search (meshes that fit), cost (hours and money), show (the terminal and
JSON). With the compilers: programs (the package's own programs, lowered), compiled (what they need,
as compiled), hlo (the bytes that they move).
"""
