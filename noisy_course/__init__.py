"""Learning with noisy labels. The names below fit a screen and are loaded when they are asked for; the rest is in the modules.

    from noisy_course import GeneralizedCrossEntropyLoss, estimate_transition, symmetric, corrupt
"""
from importlib import import_module

__version__ = "0.1.0"

_NAMES = dict(
    loss_correction="ForwardCrossEntropyLoss BackwardCrossEntropyLoss UnhingedLoss SigmoidLoss SavageLoss "
                    "BootstrapSoftLoss BootstrapHardLoss estimate_transition",
    generalized_cross_entropy="GeneralizedCrossEntropyLoss TruncatedGCELoss MeanAbsoluteErrorLoss",
    symmetric_cross_entropy="SymmetricCrossEntropyLoss ReverseCrossEntropyLoss LabelSmoothingLoss",
    nnaqc="NNAQCLoss NoiseLayerLoss NonlinearNoiseLayer LinearNoiseLayer DropoutNoiseLayer",
    joint_optimization="JointLoss update_soft update_hard",
    noise="symmetric asymmetric pair_flips random_simplex sparse corrupt realised",
    data="Dataset load human_labels",
    training="Method Run Recipe train")
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = [*_MODULE_OF, "__version__"]


def __getattr__(name):
    if name not in _MODULE_OF: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(f".{_MODULE_OF[name]}", __name__), name))


def __dir__(): return sorted({*globals(), *__all__})
