"""spikeguard: why are there spikes in my loss curve, and how does an unstable model never ship?

The public names below load on first use, so that `import spikeguard` costs milliseconds and imports neither
TensorFlow nor Beam.

>>> import spikeguard
>>> "SpikeEvaluator" in dir(spikeguard)
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from spikeguard.components.artifacts import ClassWeights, HtmlReport, OutlierModel, SpikeEvaluation
    from spikeguard.components.curve_readers.reading import read_curve, read_curves
    from spikeguard.components.errors import InvalidArgumentError, InvalidDataError, SpikeguardError
    from spikeguard.components.guarded_trainer.balancing import PriorCorrection, balanced_batches
    from spikeguard.components.guarded_trainer.component import GuardedTrainer
    from spikeguard.components.guarded_trainer.guard import SpikeGuard
    from spikeguard.components.guarded_trainer.guard_action import GuardAction
    from spikeguard.components.guarded_trainer.guard_state import GuardEvent
    from spikeguard.components.guarded_trainer.losses import GeneralizedCrossEntropy, Huber, SmoothedCrossEntropy
    from spikeguard.components.guarded_trainer.range_test import LearningRateRange, learning_rate_range
    from spikeguard.components.guarded_trainer.recipe import Recipe
    from spikeguard.components.guarded_trainer.recorder import CurveRecorder
    from spikeguard.components.guarded_trainer.replay_keeper import ReplayBudget
    from spikeguard.components.guarded_trainer.schedule import GuardedSchedule, warmup_steps_for
    from spikeguard.components.imbalance_detector.batch_composition import BatchFinding, check_batches
    from spikeguard.components.imbalance_detector.class_balance import ClassBalance, read_class_weights
    from spikeguard.components.imbalance_detector.component import ImbalanceDetector
    from spikeguard.components.imbalance_detector.config import ImbalanceConfig
    from spikeguard.components.normalization_validator.component import NormalizationValidator
    from spikeguard.components.outlier_detector.component import OutlierDetector
    from spikeguard.components.outlier_detector.config import DetectorConfig
    from spikeguard.components.outlier_detector.model import FittedDetector, read_outlier_model
    from spikeguard.components.outlier_detector.summary import read_outliers
    from spikeguard.components.preprocessing.choosing import PreprocessingChoice, choose_preprocessing, preprocess
    from spikeguard.components.preprocessing.example_ids import example_id
    from spikeguard.components.preprocessing.winsorizing import winsorize
    from spikeguard.components.spike_evaluator.advice import Advice, advise
    from spikeguard.components.spike_evaluator.component import SpikeEvaluator
    from spikeguard.components.spike_evaluator.detection import DetectionConfig, detect_spikes
    from spikeguard.components.spike_evaluator.policy import SpikePolicy
    from spikeguard.components.stability_report.component import StabilityReport
    from spikeguard.components.stability_report.report import Report, explain, read_report
    from spikeguard.components.training_curve import TrainingCurve
    from spikeguard.components.training_statistics.component import TrainingStatistics
    from spikeguard.components.training_statistics.reading import SplitStatistics, read_training_statistics
    from spikeguard.components.training_statistics.results import PositionStatistics, RobustStatistics
    from spikeguard.components.training_statistics.robust_statistics import Fences

_MODULE_OF = {
    "Advice": "components.spike_evaluator.advice",
    "BatchFinding": "components.imbalance_detector.batch_composition",
    "ClassBalance": "components.imbalance_detector.class_balance",
    "ClassWeights": "components.artifacts",
    "CurveRecorder": "components.guarded_trainer.recorder",
    "DetectionConfig": "components.spike_evaluator.detection",
    "DetectorConfig": "components.outlier_detector.config",
    "Fences": "components.training_statistics.robust_statistics",
    "FittedDetector": "components.outlier_detector.model",
    "GeneralizedCrossEntropy": "components.guarded_trainer.losses",
    "GuardAction": "components.guarded_trainer.guard_action",
    "GuardEvent": "components.guarded_trainer.guard_state",
    "GuardedSchedule": "components.guarded_trainer.schedule",
    "GuardedTrainer": "components.guarded_trainer.component",
    "HtmlReport": "components.artifacts",
    "Huber": "components.guarded_trainer.losses",
    "ImbalanceConfig": "components.imbalance_detector.config",
    "ImbalanceDetector": "components.imbalance_detector.component",
    "InvalidArgumentError": "components.errors",
    "InvalidDataError": "components.errors",
    "LearningRateRange": "components.guarded_trainer.range_test",
    "NormalizationValidator": "components.normalization_validator.component",
    "OutlierDetector": "components.outlier_detector.component",
    "OutlierModel": "components.artifacts",
    "PositionStatistics": "components.training_statistics.results",
    "PreprocessingChoice": "components.preprocessing.choosing",
    "PriorCorrection": "components.guarded_trainer.balancing",
    "Recipe": "components.guarded_trainer.recipe",
    "ReplayBudget": "components.guarded_trainer.replay_keeper",
    "Report": "components.stability_report.report",
    "RobustStatistics": "components.training_statistics.results",
    "SmoothedCrossEntropy": "components.guarded_trainer.losses",
    "SpikeEvaluation": "components.artifacts",
    "SpikeEvaluator": "components.spike_evaluator.component",
    "SpikeGuard": "components.guarded_trainer.guard",
    "SpikePolicy": "components.spike_evaluator.policy",
    "SpikeguardError": "components.errors",
    "SplitStatistics": "components.training_statistics.reading",
    "StabilityReport": "components.stability_report.component",
    "TrainingCurve": "components.training_curve",
    "TrainingStatistics": "components.training_statistics.component",
    "advise": "components.spike_evaluator.advice",
    "balanced_batches": "components.guarded_trainer.balancing",
    "check_batches": "components.imbalance_detector.batch_composition",
    "choose_preprocessing": "components.preprocessing.choosing",
    "detect_spikes": "components.spike_evaluator.detection",
    "example_id": "components.preprocessing.example_ids",
    "explain": "components.stability_report.report",
    "learning_rate_range": "components.guarded_trainer.range_test",
    "preprocess": "components.preprocessing.choosing",
    "read_class_weights": "components.imbalance_detector.class_balance",
    "read_curve": "components.curve_readers.reading",
    "read_curves": "components.curve_readers.reading",
    "read_outlier_model": "components.outlier_detector.model",
    "read_outliers": "components.outlier_detector.summary",
    "read_report": "components.stability_report.report",
    "read_training_statistics": "components.training_statistics.reading",
    "warmup_steps_for": "components.guarded_trainer.schedule",
    "winsorize": "components.preprocessing.winsorizing",
}

__all__ = [
    "Advice",
    "BatchFinding",
    "ClassBalance",
    "ClassWeights",
    "CurveRecorder",
    "DetectionConfig",
    "DetectorConfig",
    "Fences",
    "FittedDetector",
    "GeneralizedCrossEntropy",
    "GuardAction",
    "GuardEvent",
    "GuardedSchedule",
    "GuardedTrainer",
    "HtmlReport",
    "Huber",
    "ImbalanceConfig",
    "ImbalanceDetector",
    "InvalidArgumentError",
    "InvalidDataError",
    "LearningRateRange",
    "NormalizationValidator",
    "OutlierDetector",
    "OutlierModel",
    "PositionStatistics",
    "PreprocessingChoice",
    "PriorCorrection",
    "Recipe",
    "ReplayBudget",
    "Report",
    "RobustStatistics",
    "SmoothedCrossEntropy",
    "SpikeEvaluation",
    "SpikeEvaluator",
    "SpikeGuard",
    "SpikePolicy",
    "SpikeguardError",
    "SplitStatistics",
    "StabilityReport",
    "TrainingCurve",
    "TrainingStatistics",
    "advise",
    "balanced_batches",
    "check_batches",
    "choose_preprocessing",
    "detect_spikes",
    "example_id",
    "explain",
    "learning_rate_range",
    "preprocess",
    "read_class_weights",
    "read_curve",
    "read_curves",
    "read_outlier_model",
    "read_outliers",
    "read_report",
    "read_training_statistics",
    "warmup_steps_for",
    "winsorize",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'spikeguard' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"spikeguard.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
