"""Importing this module repairs the imports of transformers and torchvision in this process.

Every package with modules that import transformers imports it first, in its `__init__`, because the
third-party imports of a module run before those of Smoothgate.
"""

from smoothgate.compat import torch_extensions

torch_extensions.install()
