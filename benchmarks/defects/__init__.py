"""Planted defects and clean runs: what the judge catches, what it names, and how often it cries wolf.

``python -m benchmarks.defects`` runs it. A case is a program (a stand-alone path) with one defect or one
harmless variation; the judge is called on it exactly as the stages call it.
"""
