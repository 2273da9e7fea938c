"""Runs garak with one probe more, `scenes.Scenes`. Runs in the environment of the tools, without our code.

Usage: garak_attack.py ARGUMENTS, those of garak's own command. The one probe of garak's that sends pictures
asks a question of its own; ours asks what a scene shows. All else is garak's: the generator, the harness, the
detector and the report.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from garak import _config, _plugins, cli

NAME = "garak.probes.scenes"

if __name__ == "__main__":
    _config.load_base_config()
    spec = spec_from_file_location(NAME, Path(__file__).parent / "garak_probe.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[NAME] = module_from_spec(spec)
    spec.loader.exec_module(module)
    # garak lists the probes of its own folder only.
    _plugins.PluginCache.instance()["probes"]["probes.scenes.Scenes"] = _plugins.plugin_info(module.Scenes)
    cli.main(sys.argv[1:])
