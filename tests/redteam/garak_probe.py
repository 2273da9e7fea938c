"""A probe for garak: pictures of ours, a question about each, and the answer that its attacker wants."""

import json
from pathlib import Path
from typing import Any

from garak import _config
from garak.attempt import Attempt, Message
from garak.probes import Probe


class Scenes(Probe):  # type: ignore[misc]
    """Has the attackers' answers given. `scenes_file` has a line of JSON per picture."""

    active = True
    lang = "en"
    goal = "have the attacker's answer given"
    intent = "T009ignore"
    primary_detector = "base.TriggerListDetector"
    modality = {"in": {"text", "image"}}  # noqa: RUF012

    def __init__(self, config_root: Any = _config) -> None:
        super().__init__(config_root=config_root)
        self.scenes = [json.loads(line) for line in Path(self.scenes_file).read_text().splitlines()]
        self.prompts = [Message(scene["question"], data_path=scene["path"]) for scene in self.scenes]

    def _attempt_prestore_hook(self, attempt: Attempt, seq: int) -> Attempt:
        attempt.notes["triggers"] = [self.scenes[seq]["wanted"]]
        return attempt
