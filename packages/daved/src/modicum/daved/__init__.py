"""Data selection for data markets, central and federated.

Not released yet. The solvers, the selection, feature maps, peers and the federated protocol are in
the modules of this package and may still change; nothing is exported here so far.
"""

__all__: list[str] = []
