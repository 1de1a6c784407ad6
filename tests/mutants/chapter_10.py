"""Wrong versions of the formulas of chapter 10: what is wrong, the right code, the wrong code."""
MUTANTS = {
    "inverse: transposed": ("return moved(inverse, T.device)", "return moved(inverse.mT, T.device)"),
    "inverse: condition by columns": (
        "condition = inverse.abs().sum(-1).max()",
        "condition = inverse.abs().sum(-2).max()"),
    "inverse: no warning of its condition": ("if condition > 100:", "if condition > 1e9:"),
    "backward: column for row of the inverse": (
        "T_inverse).to(logits), logits), target)",
        "T_inverse).mT.to(logits), logits), target)"),
    "backward: T for its inverse": ("_each((invert(T) if T_inverse", "_each((T if T_inverse"),
    "backward: a known inverse ignored": ("is None else T_inverse).to", "is None else T).to"),
    "backward: sign": ("return -(weights * log_p).sum(-1)", "return (weights * log_p).sum(-1)"),
    "backward: clip ignored": ("if clip: log_p =", "if False: log_p ="),
    "backward: clip above ignored": (
        "log_p.clamp(math.log(clip), math.log1p(-clip))",
        "log_p.clamp(math.log(clip))"),
    "backward: clip without logarithm": ("log_p.clamp(math.log(clip), math", "log_p.clamp(-clip, math"),
    "backward: gradient cut": (
        "log_p = logits.log_softmax(-1)\n    if clip",
        "log_p = logits.detach().log_softmax(-1)\n    if clip"),
    "rows: soft labels mix columns": (
        "(target.unsqueeze(-1) * M).sum(-2)",
        "(target.unsqueeze(-2) * M).sum(-1)"),
    "identity: shares swapped": (
        "return amount * torch.eye(T.shape[-1]).to(T) + (1 - amount) * T",
        "return (1 - amount) * torch.eye(T.shape[-1]).to(T) + amount * T"),
    "identity: too much of T": (".to(T) + (1 - amount) * T", ".to(T) + T"),
    "bias: T and its mixture swapped": (
        "(T @ mix_with_identity(T, amount).inverse()",
        "(mix_with_identity(T, amount) @ T.inverse()"),
    "bias: not halved": (".abs().sum(-1).max().item() / 2", ".abs().sum(-1).max().item()"),
    "condition: norm of T": ("def condition(T): return T.inverse()", "def condition(T): return T"),
    "forward: row for column of T": ("_rows(log_T.mT, target)", "_rows(log_T, target)"),
    "forward: T for its transpose, soft labels": (
        "(log_p.unsqueeze(-1) + log_T).logsumexp(-2)",
        "(log_p.unsqueeze(-2) + log_T).logsumexp(-1)"),
    "forward: sign": ("return -(log_p + _rows", "return (log_p + _rows"),
    "forward: T without logarithm": ("T.where(T > 0, 1).log().to(logits)", "T.where(T > 0, 1).to(logits)"),
    "forward: logarithm of base 2": (
        "T.where(T > 0, 1).log().to(logits)",
        "T.where(T > 0, 1).log2().to(logits)"),
    "forward: zeros of T count": ("lowest = torch.finfo(logits.dtype).min / 2", "lowest = -9."),
    "forward: gradient cut": (
        "log_p, log_T = logits.log_softmax(-1),",
        "log_p, log_T = logits.log_softmax(-1).detach(),"),
    "forward: scores for probabilities": ("log_p, log_T = logits.log_softmax(-1),", "log_p, log_T = logits,"),
    "estimate: transposed": (
        "    return T / T.sum(-1, keepdim=True)",
        "    return (T / T.sum(-1, keepdim=True)).mT"),
    "estimate: columns normalised": (
        "    return T / T.sum(-1, keepdim=True)",
        "    return T / T.sum(-2, keepdim=True)"),
    "estimate: nothing normalised": ("    return T / T.sum(-1, keepdim=True)", "    return T"),
    "estimate: rank off by one": ("probs.kthvalue(rank + 1, -2)", "probs.kthvalue(max(rank, 1), -2)"),
    "estimate: percentile ignored": ("rank = last if percentile is None else", "rank = last if True else"),
    "estimate: percentile rounded down": (
        "math.ceil(last * percentile / 100)",
        "math.floor(last * percentile / 100)"),
    "estimate: percentile from the top": (
        "math.ceil(last * percentile / 100)",
        "math.ceil(last * (100 - percentile) / 100)"),
    "auto: percentile alone": (
        'if percentile == "auto": return _of_each_class(probs)',
        'if percentile == "auto": percentile = 97'),
    "auto: maximum alone": (
        'if percentile == "auto": return _of_each_class(probs)',
        'if percentile == "auto": percentile = None'),
    "auto: all of a class": ("(predicted // 2)", "predicted"),
    "auto: 30 % of all": ("share=.03", "share=.3"),
    "auto: the worst for the best": ("take_along_dim((last - better)", "take_along_dim(better"),
    "two stages: correction ignored": (
        "return fit(partial(correction, T=T)), T",
        "return fit(cross_entropy), T"),
    "two stages: T ignored": ("if T is None: T = estimate_transition", "T = estimate_transition"),
    "two stages: percentile ignored": ("(x).softmax(-1).detach(), percentile)", "(x).softmax(-1).detach())"),
    "two stages: estimate by scores": (
        "fit(cross_entropy)(x).softmax(-1).detach()",
        "fit(cross_entropy)(-x).softmax(-1).detach()"),
    "soft bootstrap: beta ignored": (
        "beta * soft_labels(logits, target) + (1 - beta) * logits.softmax(-1)",
        ".95 * soft_labels(logits, target) + .05 * logits.softmax(-1)"),
    "soft bootstrap: shares swapped": (
        "beta * soft_labels(logits, target) + (1 - beta) * logits.softmax(-1)",
        "(1 - beta) * soft_labels(logits, target) + beta * logits.softmax(-1)"),
    "soft bootstrap: belief detached": (
        "(1 - beta) * logits.softmax(-1)",
        "(1 - beta) * logits.softmax(-1).detach()"),
    "hard bootstrap: beta ignored": (
        "beta * soft_labels(logits, target) + (1 - beta) * soft_labels(",
        ".8 * soft_labels(logits, target) + .2 * soft_labels("),
    "hard bootstrap: the least probable class": (
        "soft_labels(logits, logits.argmax(-1))",
        "soft_labels(logits, logits.argmin(-1))"),
    "hard bootstrap: soft": ("soft_labels(logits, logits.argmax(-1))", "logits.softmax(-1)"),
    "unhinged: sign": (
        "(1 - soft_labels(logits, target) * logits).mean(-1)",
        "(1 + soft_labels(logits, target) * logits).mean(-1)"),
    "unhinged: sum for mean": (
        "(1 - soft_labels(logits, target) * logits).mean(-1)",
        "(1 - soft_labels(logits, target) * logits).sum(-1)"),
    "unhinged: constant lost": (
        "(1 - soft_labels(logits, target) * logits).mean(-1)",
        "(-soft_labels(logits, target) * logits).mean(-1)"),
    "sigmoid: sign": (
        "(-soft_labels(logits, target) * logits).sigmoid()",
        "(soft_labels(logits, target) * logits).sigmoid()"),
    "sigmoid: the label alone": (
        "(-soft_labels(logits, target) * logits).sigmoid().mean(-1)",
        "(-soft_labels(logits, target) * logits).sum(-1).sigmoid() / logits.shape[-1]"),
    "savage: factor 2": (
        "(-2 * soft_labels(logits, target) * logits.softmax(-1))",
        "(-soft_labels(logits, target) * logits.softmax(-1))"),
    "savage: not squared": (".sigmoid().square().mean(-1)", ".sigmoid().mean(-1)"),
    "savage: scores": (
        "(-2 * soft_labels(logits, target) * logits.softmax(-1))",
        "(-2 * soft_labels(logits, target) * logits)"),
    "exercise, undo: row vectors": (
        "torch.linalg.solve(T, losses.unsqueeze(-1))",
        "torch.linalg.solve(T.mT, losses.unsqueeze(-1))"),
    "exercise, undo: the batch for the classes": (
        "return torch.linalg.solve(T, losses.unsqueeze(-1)).squeeze(-1)",
        "return torch.linalg.solve(T, losses)"),
    "exercise, forward's gradient: row of T": ("q = p * T.T[y]", "q = p * T[y]"),
    "exercise, found: rows": ("T.diagonal() > others.amax(0)", "T.diagonal() > others.amax(1)"),
    "exercise, found: ties": ("T.diagonal() > others.amax(0)", "T.diagonal() >= others.amax(0)"),
    "exercise, sum over labels: mean of the samples": (
        '(len(z),), i), reduction="none") for',
        '(len(z),), i), reduction="mean") for'),
}
