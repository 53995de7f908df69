"""The published decoding loops, transcribed from their descriptions in the plainest way, with all that they compute.

LLaDA's `generate`, Fast-dLLM's (no cache, prefix cache, dual cache) and Dream's `diffusion_generate`. Like the releases they
project every position to the vocabulary, take the softmax of all rows, and draw by Gumbel noise in float64 (LLaDA and
Fast-dLLM). Without cache and at a number of steps, Fast-dLLM's loop computes what LLaDA's does.

Probabilities are taken in the logits' own precision, where releases take float64 here and there: the cheaper of the two.
"""

import torch


class Plain:
    """The library's layers, one by one, and the logits of every position given; keys and values as releases keep them.

    Parameters:
        network: LlamaForCausalLM, used without causal mask.
        shift: whether the law of a position is read one before it.
    """

    def __init__(self, network, shift=False):
        self.network, self.shift, self.kept, self.mode, self.span = network, shift, [], None, (0, 0)

    def update(self, keys, values, layer):
        """Keep or use keys and values (B, H, F, D) of a layer; called by its attention."""
        begin, end = self.span
        if self.mode == "record":
            self.kept.append((keys, values))
            return keys, values
        old = self.kept[layer]
        if self.mode == "prefix":
            return tuple(torch.cat((past[:, :, :begin], new), 2) for past, new in zip(old, (keys, values), strict=True))
        for past, new in zip(old, (keys, values), strict=True):
            past[:, :, begin:end] = new
        return old

    @torch.no_grad()
    def __call__(self, ids, mode=None, begin=0):
        """Return the logits (B, N, V) of ids (B, N), the first of which is at position `begin`."""
        self.mode, self.span = mode, (begin, begin + ids.shape[1])
        if mode == "record":
            self.kept = []
        model = self.network.model
        places = torch.arange(*self.span, device=ids.device)[None]
        states = model.embed_tokens(ids)
        turns = model.rotary_emb(states, places)
        for layer in model.layers:
            states = layer(
                states,
                position_ids=places,
                position_embeddings=turns,
                past_key_values=None if mode is None else self,
                is_causal=False,
            )
        logits = self.network.lm_head(model.norm(states))
        return torch.cat((logits[:, :1], logits[:, :-1]), 1) if self.shift else logits


def noisy(logits, temperature):
    """Add Gumbel noise in float64, so that the largest is a draw at that temperature."""
    if temperature == 0:
        return logits
    wide = logits.to(torch.float64)
    return wide.exp() / (-torch.log(torch.rand_like(wide))) ** temperature


def choose(logits, x, mask, temperature, sizes, end):
    """LLaDA's step: guess everywhere, and write the `sizes` (B,) most confident guesses of masked positions before `end`."""
    masks = x == mask
    guess = noisy(logits, temperature).argmax(-1)
    confidence = torch.softmax(logits, -1).gather(-1, guess[..., None])[..., 0]
    confidence[:, end:] = -torch.inf
    guess = torch.where(masks, guess, x)
    confidence = torch.where(masks, confidence, -torch.inf)
    chosen = torch.zeros_like(masks)
    for row in range(len(x)):
        chosen[row, confidence[row].topk(sizes[row]).indices] = True
    x[chosen] = guess[chosen]


def even(count, steps):
    """Sizes of each step, the larger ones first, for a count of masked positions per row."""
    return [[n // steps + (step < n % steps) for n in count] for step in range(steps)]


def llada_generate(network, x, *, prompt, block, steps, temperature, mask):
    """LLaDA, low confidence: every step sees and projects the whole row."""
    blocks = (x.shape[1] - prompt) // block
    for number in range(blocks):
        begin, end = prompt + number * block, prompt + (number + 1) * block
        for sizes in even((x[:, begin:end] == mask).sum(1).tolist(), steps // blocks):
            choose(network(x), x, mask, temperature, sizes, end)
    return x


def fast_dllm_generate(network, x, *, prompt, block, steps, temperature, mask, cache):
    """Fast-dLLM with a cache: one whole pass per block, then the suffix ("prefix") or the block alone ("dual")."""
    blocks = (x.shape[1] - prompt) // block
    for number in range(blocks):
        begin, end = prompt + number * block, prompt + (number + 1) * block
        for turn, sizes in enumerate(even((x[:, begin:end] == mask).sum(1).tolist(), steps // blocks)):
            if turn == 0:
                choose(network(x, "record"), x, mask, temperature, sizes, end)
                continue
            part = x[:, begin:] if cache == "prefix" else x[:, begin:end]  # a view: what is written there is in x
            choose(network(part, cache, begin), part, mask, temperature, sizes, block)
    return x


def dream_sizes(length, steps, eps=1e-3):
    """How many tokens each step writes: a linear clock from 1 to eps, rounded down, the rest at the last step."""
    times, left, sizes = torch.linspace(1, eps, steps + 1).tolist(), length, []
    for step in range(steps):
        sizes.append(left if step == steps - 1 else int(left * (1 - times[step + 1] / times[step])))
        left -= sizes[-1]
    return sizes


def dream_generate(network, x, *, prompt, steps, temperature, mask):
    """Dream, `entropy`: the most certain of all masked positions."""
    for size in dream_sizes(x.shape[1] - prompt, steps):
        masks = x == mask
        logits = network(x)[masks]
        if temperature:
            logits = logits / temperature
        probabilities = torch.softmax(logits, -1)
        guess = torch.multinomial(probabilities, 1)[:, 0] if temperature else probabilities.max(-1).indices
        confidence = torch.sum(probabilities * torch.log(probabilities + 1e-10), -1)
        everywhere = torch.full(x.shape, -torch.inf, device=x.device, dtype=confidence.dtype)
        everywhere[masks] = confidence
        written = x.clone()
        written[masks] = guess
        chosen = everywhere.topk(size, dim=1).indices
        x.scatter_(1, chosen, written.gather(1, chosen))
    return x
