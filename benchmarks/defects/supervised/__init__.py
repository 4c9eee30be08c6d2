"""Classifiers and regressors of the benchmark: their data, programs, defects and clean variations."""
