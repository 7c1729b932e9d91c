"""semclip-eval: what does choosing image regions buy a vision-language model, and at what cost?"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("semclip-eval")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
