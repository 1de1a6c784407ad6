"""What trains a block lies beside the lessons, in nbs/experiments; a wheel has it inside of the package, in noisy_course/workflow."""
from pathlib import Path
from shutil import copytree, ignore_patterns

from setuptools import setup
from setuptools.command.build_py import build_py


class WithWorkflow(build_py):
    "Build the package, and put the workflow into it."

    def run(self):
        super().run()
        if self.editable_mode: return
        inside = Path(self.build_lib, "noisy_course", "workflow")
        copytree("nbs/experiments", inside, dirs_exist_ok=True, ignore=ignore_patterns("__pycache__", ".*"))


setup(cmdclass=dict(build_py=WithWorkflow))
