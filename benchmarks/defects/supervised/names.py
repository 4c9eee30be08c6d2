"""Which programs a defect or a variation goes into."""

from __future__ import annotations

SCALED = ("digits_mixer", "wine_mlp", "cells_mlp", "digits_cnn", "cancer_mlp", "diabetes_mlp")
TABLES = ("wine_mlp", "cells_mlp", "cancer_mlp", "diabetes_mlp")
IMAGES = ("digits_mixer", "digits_cnn")
REGRESSORS = ("cells_mlp", "diabetes_mlp")
CLASSIFIERS = ("digits_mixer", "wine_mlp", "digits_cnn", "text_encoder", "cancer_mlp")
TEMPLATE = (*CLASSIFIERS, *REGRESSORS)
"""Trained by templates/supervised/train.py."""
PARALLEL = ("wine_ddp", "digits_ddp")
"""Trained by two processes."""

DEEP_CHECKER = "TheDeepChecker, arXiv 2204.00694"
DEEP_CRIME = "DeepCrime, ISSTA 2021, doi 10.1145/3460319.3464825"
UMLAUT = "UMLAUT, CHI 2021, doi 10.1145/3411764.3445538"
DEFAULT = "DEFault, ICSE 2025, arXiv 2411.08232"
LEAKAGE = "Kapoor & Narayanan, Patterns 2023, doi 10.1016/j.patter.2023.100804"
TRAINCHECK = "TrainCheck, OSDI 2025, arXiv 2506.14813"
TAXONOMY = "Humbatova et al., ICSE 2020, arXiv 1910.11015"
INTEGRITY = "RewardHackingAgents; ARIS: claims that the evidence does not carry"
