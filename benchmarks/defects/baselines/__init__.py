"""What others would say of the same finished trainings: the seed's checks, a loss monitor, UMLAUT's rules.

Each looks at what is there after training: logs, checkpoint, data. None of them is the judge's code.
"""
