"""Learning with noisy labels: five papers derived, implemented, checked and re-run, in notebooks

Modules:

- `noisy_course.lab.batch`: Train a table: python -m noisy_course.lab.batch PAPER TABLE [--dataset mnist] [--scale paper] …
- `noisy_course.lab.cells`: The cells of published tables, ours beside them, and Welch's test of their difference.
- `noisy_course.lab.forecast`: How long blocks take on a machine: from what was recorded there, else from the arithmetic of their networks.
- `noisy_course.lab.grid`: Which runs a table asks for, and which of them train together: plans, blocks and their names.
- `noisy_course.lab.job`: One block of runs: its data, noise and networks, how it is trained, and the notebook that trains it.
- `noisy_course.lab.locks`: Locks and places that the operating system gives back when their holder ends, however it ends.
- `noisy_course.lab.results`: Result files: where their numbers come from, how they are written, read and checked, and which are missing."""

__version__ = "0.1.0"
