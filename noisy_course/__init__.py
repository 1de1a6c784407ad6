"""Learning with noisy labels: five papers derived, implemented, checked and re-run, in notebooks

Modules:

- `noisy_course.lab.batch`: Train a table: python -m noisy_course.lab.batch PAPER TABLE [--dataset mnist] [--scale paper] …
- `noisy_course.lab.carried`: Data sets as they travel: packed here, and made again, to the last bit, on a machine without internet.
- `noisy_course.lab.cells`: The cells of published tables, ours beside them, and Welch's test of their difference.
- `noisy_course.lab.forecast`: How long blocks take on a machine: from what was recorded there, else from their networks' arithmetic.
- `noisy_course.lab.grid`: Which runs a table asks for, and which of them train together: plans, blocks and their names.
- `noisy_course.lab.identity`: What a result is the result of: setting and recipe, methods and hyper-parameters, versions of the code.
- `noisy_course.lab.job`: One block of runs: its data, noise and networks, how it is trained, and the notebook that trains it.
- `noisy_course.lab.locks`: Locks and places that the operating system gives back when their holder ends, however it ends.
- `noisy_course.lab.pictures`: A picture beside every plotly figure, for pages without scripts: python -m noisy_course.lab.pictures FILE…
- `noisy_course.lab.protocols`: The words in which a paper is written down: parts, grids, scales, methods, and the paper itself.
- `noisy_course.lab.results`: Result files: where their numbers come from, how they are written, read and checked, and which are missing.
- `noisy_course.lab.tidy`: Notebooks as they are committed: cleaned by nbdev, with pictures: python -m noisy_course.lab.tidy [FILE…]"""

from importlib import import_module

__version__ = "0.1.0"

# For `from noisy_course import …`: names that fit a screen, each loaded when it is asked for.
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
