"""The state of a vote, without a sampler and without vLLM."""

import pytest
import torch

from smoothgate.certify.votes import VoteTerms
from smoothgate.gate import voting
from smoothgate.gate.vote_plan import VotePlan

PLAN = VotePlan(VoteTerms(0.5, 0.001), n_select=16, budget=4096)


@pytest.mark.parametrize("images", [1, 2])
def test_features_that_wait_for_answers_take_a_limited_part_of_memory(images: int) -> None:
    """LLaVA-1.5's are 9 MiB each."""
    vote = voting._Vote(PLAN, images)
    units = torch.empty(1, 576 * 4096)
    for image in range(images):
        vote.complete(image, 0, units)
    assert vote.wanted * images * units.nbytes <= voting.AHEAD_BYTES
    assert vote.wanted >= PLAN.n_select


def test_small_features_are_drawn_far_enough_ahead_that_vllm_need_not_wait() -> None:
    vote = voting._Vote(PLAN, 1)
    assert vote.wanted >= PLAN.n_select
    vote.complete(0, 0, torch.empty(1, 36 * 128))
    assert vote.wanted == voting.AHEAD
