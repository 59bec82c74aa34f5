"""Benchmarks of fx against its peers: `python -m pytest -m bench -s`.

Order of reading: paired (the arithmetic) → side and worker (one warm process per competitor) → fx, peers_*, forward
(what is timed) → load (what is watched) → material (what it is timed on) → report (the table and bench.json) → test_*
(one part each). Scripts: rounding, cost, peer_detector and ideas.
"""
