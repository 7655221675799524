"""The draft tree: what verification needs of it, and greedy verification.

Of each request's N draft tokens, token 0 is the root (the last accepted token) and the others are
the N - 1 best candidates in ascending order of candidate number. Candidates 0 .. topk - 1 are the
root's children. Candidate c >= topk is a child of `parents[c // topk]`, a candidate number: every
step expands topk parents into topk candidates each.
"""

import torch
from torch import Tensor

QLEN_ONLY = 1  # SGLang's TreeMaskMode: N x N masks over the draft tokens, without the prefix
NONE = -1


def build(
    parent_list: Tensor,
    selected_index: Tensor,
    verified_seq_len: Tensor,
    tree_mask: Tensor,
    positions: Tensor,
    retrieve_index: Tensor,
    retrieve_next_token: Tensor,
    retrieve_next_sibling: Tensor,
    topk: int,
    depth: int,
    draft_token_num: int,
    tree_mask_mode: int,
) -> None:
    """Link the draft tokens, and say what each may attend to and where it stands.

    A token whose parent was not selected (only equal scores can bring that about) stays unlinked,
    is never accepted, and sees itself and the root.

    Args:
        parent_list: [B, candidates / topk] (see the module); entry 0 is not read.
        selected_index: [B, N - 1], the candidates that are draft tokens, ascending.
        verified_seq_len: [B], tokens before the root.
        tree_mask: B * N * N, flat, overwritten: 1 where the column's token is the row's token, an
            ancestor of it, or the root.
        positions: B * N, flat, overwritten: verified_seq_len plus the distance from the root.
        retrieve_index: [B, N], overwritten: each token's place in the flattened batch.
        retrieve_next_token, retrieve_next_sibling: [B, N], overwritten: first child and next
            sibling, children in ascending order, -1 for none.
        depth: steps of the draft; not needed.
        tree_mask_mode: must be QLEN_ONLY, the only one the CPU backend asks for.
    """
    if tree_mask_mode != QLEN_ONLY:
        raise NotImplementedError(f"the CPU engine has no tree mask of mode {tree_mask_mode}")
    batch, n = verified_seq_len.shape[0], draft_token_num
    retrieve_index.copy_(torch.arange(batch * n).view(batch, n))
    masks, places = tree_mask.view(-1, n, n), positions.view(-1, n)
    for row, selected in enumerate(selected_index.tolist()):
        parents = _parents(selected, parent_list[row].tolist(), topk)
        retrieve_next_token[row], retrieve_next_sibling[row] = _links(parents)

        mask = torch.eye(n, dtype=torch.bool)
        distance = torch.ones(n, dtype=torch.long)
        distance[0] = 0
        mask[:, 0] = True
        for token, parent in enumerate(parents):
            if parent != NONE:
                mask[token] |= mask[parent]
                distance[token] = distance[parent] + 1
        masks[row] = mask.to(masks.dtype)
        places[row] = verified_seq_len[row] + distance


def verify_greedy(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrieve_index: Tensor,
    retrieve_next_token: Tensor,
    retrieve_next_sibling: Tensor,
    target_predict: Tensor,
) -> None:
    """Walk down from the root while a child is the token that the target predicts.

    Args:
        predicts: [B * N]; at the place of every token on the path, overwritten with the target's
            prediction there. The last of them is the bonus token.
        accept_index: [B, depth + 1], its beginning overwritten with the places of the path.
        accept_token_num: [B], overwritten with the length of the path without the root.
        candidates: [B, N], draft tokens.
        retrieve_index, retrieve_next_token, retrieve_next_sibling: [B, N], as `build` writes them.
        target_predict: [B, N], what the target predicts after each draft token.
    """
    tables = (candidates, retrieve_index, retrieve_next_token, retrieve_next_sibling)
    longest = accept_index.shape[1]
    for row, (tokens, places, children, siblings, targets) in enumerate(
        zip(*(table.tolist() for table in (*tables, target_predict)), strict=True)
    ):
        path = [0]
        while len(path) < longest:
            child = children[path[-1]]
            while child != NONE and tokens[child] != targets[path[-1]]:
                child = siblings[child]
            if child == NONE:
                break
            path.append(child)
        for step, token in enumerate(path):
            accept_index[row, step] = places[token]
            predicts[places[token]] = targets[token]
        accept_token_num[row] = len(path) - 1


def _parents(selected: list[int], parent_list: list[int], topk: int) -> list[int]:
    """The draft token that is each draft token's parent, NONE for the root and the unlinked."""
    token_of = {candidate: token for token, candidate in enumerate(selected, start=1)}
    parents = [NONE]
    for candidate in selected:
        step_and_branch = candidate // topk
        is_roots_child = step_and_branch == 0
        parents.append(0 if is_roots_child else token_of.get(parent_list[step_and_branch], NONE))
    return parents


def _links(parents: list[int]) -> tuple[Tensor, Tensor]:
    next_token = torch.full((len(parents),), NONE)
    next_sibling = torch.full((len(parents),), NONE)
    last_child: dict[int, int] = {}
    for token, parent in enumerate(parents):
        if parent == NONE:
            continue
        if parent in last_child:
            next_sibling[last_child[parent]] = token
        else:
            next_token[parent] = token
        last_child[parent] = token
    return next_token, next_sibling
