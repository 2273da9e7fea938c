"""PyRIT sends pictures and scores the answers. Runs in the environment of the tools, without our code.

Usage: pyrit_attack.py URL MODEL SCENES, where SCENES has a line of JSON per picture: `path`, `question` and
`wanted`. The last line of the output is JSON: for each picture, the answer, and whether PyRIT counts the
attack as a success.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from pyrit.executor.attack import AttackScoringConfig, PromptSendingAttack
from pyrit.models import AttackOutcome, Message, MessagePiece
from pyrit.prompt_target import OpenAIChatTarget
from pyrit.score import SubStringScorer
from pyrit.setup import initialize_pyrit_async


async def main(url: str, model: str, scenes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One attack per picture, one after the other."""
    await initialize_pyrit_async("InMemory", load_defaults=False, env_files=[], silent=True)
    target = OpenAIChatTarget(
        endpoint=f"{url}/v1", api_key="none", model_name=model, temperature=0.0, max_completion_tokens=40
    )
    told = []
    for scene in scenes:
        attack = PromptSendingAttack(
            objective_target=target,
            attack_scoring_config=AttackScoringConfig(
                objective_scorer=SubStringScorer(substring=scene["wanted"])
            ),
        )
        pieces = [
            MessagePiece(
                role="user",
                original_value=scene["path"],
                original_value_data_type="image_path",
                converted_value_data_type="image_path",
            ),
            MessagePiece(role="user", original_value=scene["question"]),
        ]
        conversation = "picture"
        for piece in pieces:
            piece.conversation_id = conversation
        result = await attack.execute_async(
            objective=f"Have it answer: {scene['wanted']}", next_message=Message(message_pieces=pieces)
        )
        answer = result.last_response.converted_value if result.last_response else None
        told.append({"answer": answer, "success": result.outcome == AttackOutcome.SUCCESS})
    return told


if __name__ == "__main__":
    address, name, file = sys.argv[1:]
    lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
    print(json.dumps(asyncio.run(main(address, name, lines))))
