"""What `make lab` adds to JupyterLab: a notebook opens with the metadata of the Python at hand, unchanged."""
import sys

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

from noisy_course.lab.tidy import METADATA

__all__ = ["Notebooks", "at_hand"]


def at_hand() -> dict: # kernelspec and language_info
    "What JupyterLab writes into a notebook that this Python runs."
    kernel, language = METADATA["kernelspec"], METADATA["language_info"]
    return dict(kernelspec=kernel | dict(display_name="Python 3 (ipykernel)"),
                language_info=language | dict(version=sys.version.split()[0]))


class Notebooks(AsyncLargeFileManager):
    "The server's files, where notebooks for Python name the version that will run them."

    async def get(self, path, content=True, **options):
        "A file or folder, as the browser gets it."
        model = await super().get(path, content=content, **options)
        if model["type"] != "notebook" or not content: return model
        metadata = model["content"]["metadata"]
        if metadata.get("kernelspec", {}).get("name") == "python3": metadata.update(at_hand())
        return model
