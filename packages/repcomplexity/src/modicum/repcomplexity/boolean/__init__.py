"""How complex a Boolean function is: spectrum, certificates, normal forms, trees, diagrams, bounds.

Takes truth tables and black boxes; knows nothing of decision processes.
"""
