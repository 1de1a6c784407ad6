"""What `make lab` adds to JupyterLab: a notebook that is opened has the metadata of the Python at hand, so opening does not change it."""
import sys

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

from noisy_course.lab.tidy import METADATA

__all__ = ["Notebooks"]


class Notebooks(AsyncLargeFileManager):
    "The server's files, where notebooks for Python name the version that will run them."

    async def get(self, path, content=True, **options):
        "A file or folder, as the browser gets it."
        model = await super().get(path, content=content, **options)
        if model["type"] != "notebook" or not content: return model
        metadata = model["content"]["metadata"]
        if metadata.get("kernelspec", {}).get("name") == "python3":
            metadata.update(METADATA, language_info=METADATA["language_info"] | dict(version=sys.version.split()[0]))
        return model
