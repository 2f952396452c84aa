"""Models with a planted token, after which, and only there, the next-token distribution is known."""

from __future__ import annotations

from pathlib import Path

PLANTED = 65
CERTAIN = 66


def plant(kind: str, folder: Path) -> Path:
    """Save an untied random model in which token 65 is followed by token 66 with near certainty.

    The planted token's embedding dwarfs what the layers add, so that the last hidden state after it points the same
    way wherever it stands; the row of the output layer for the certain token points that way too.
    """
    import torch

    from verl_ext.toy.models import build_model, save

    model = build_model(kind, tied=False, seed=3)
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        head = model.get_output_embeddings().weight
        head.mul_(4)  # spread the other distributions, so that entropies differ from token to token
        context = torch.randint(0, head.shape[0], (64, 40), generator=torch.Generator().manual_seed(0))
        states = model(context, output_hidden_states=True).hidden_states[-1].flatten(0, 1)
        likely = torch.linalg.lstsq(states, torch.ones(len(states), 1)).solution[:, 0]
        head[PLANTED] += 6 * likely  # about 6 more on its logit in every context: it must occur often enough
        embedding[PLANTED] *= 200
        direction = model(torch.tensor([[PLANTED]]), output_hidden_states=True).hidden_states[-1][0, -1]
        head[CERTAIN] = 20 * direction / direction.norm() ** 2
    save(model, folder)
    return folder


FORK = 70
BRANCHES = (80, 90)
DELIMITER = "FP"  # bytes 70 and 80


def plant_bigram(kind: str, folder: Path) -> Path:
    """Save a bigram model in which the successors of token 70 are exactly two-way uniform: entropy ln 2.

    Its layers add nothing to the embeddings, so a distribution depends on the last token alone. The embedding of
    token 70 points along a direction of its own, in which two rows of the output layer are equal and far above all
    others.
    """
    import torch

    from verl_ext.toy.models import build_model, save

    model = build_model(kind, tied=False, seed=4)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            for name, parameter in layer.mlp.named_parameters():
                if "down_proj" in name:  # the layer's own, or those of all its experts
                    parameter.zero_()
        embedding = model.get_input_embeddings().weight
        head = model.get_output_embeddings().weight
        embedding.copy_(torch.randn(embedding.shape, generator=generator))
        head.copy_(0.1 * torch.randn(head.shape, generator=generator))
        # Directions 0 and 1 are kept for what is planted: where to go after the fork, and how often it is taken.
        embedding[:, :2] = torch.tensor([0.0, 1.0])
        embedding[FORK] = 0
        embedding[FORK, 0] = 1
        head[:, :2] = 0
        head[BRANCHES, 0] = 10
        head[FORK, 1] = 4  # one token in ten
    save(model, folder)
    return folder
