"""Wrong versions of the formulas of chapter 12: what is wrong, the right code, the wrong code."""
MUTANTS = {
    "by hand, reverse: sign": (
        "return -(z.softmax(-1) * wrong * A)", "return (z.softmax(-1) * wrong * A)"),
    "by hand, reverse: the right class": (
        "wrong = 1 - one_hot(y, z.shape[-1])", "wrong = one_hot(y, z.shape[-1])"),
    "by hand, reverse: A ignored": ("(z.softmax(-1) * wrong * A)", "(z.softmax(-1) * wrong * -4.)"),
    "by hand, reverse: scores": ("-(z.softmax(-1) * wrong * A)", "-(z * wrong * A)"),
    "by hand, gradient: sign": (
        "return -A * p.gather(-1, y[..., None]) *", "return A * p.gather(-1, y[..., None]) *"),
    "by hand, gradient: without p_y": ("return -A * p.gather(-1, y[..., None]) *", "return -A *"),
    "by hand, gradient: p_j for p_y": ("return -A * p.gather(-1, y[..., None]) *", "return -A * p *"),
    "by hand, sum: weights swapped": (
        "return alpha * ce(z, y) + beta * rce(z, y, A)", "return beta * ce(z, y) + alpha * rce(z, y, A)"),
    "by hand, sum: A ignored": ("+ beta * rce(z, y, A)", "+ beta * rce(z, y)"),
    "logarithms of labels: A ignored": (
        "return q.where(~small, 1.).log().where(~small, A)",
        "return q.where(~small, 1.).log().where(~small, -4.)"),
    "logarithms of labels: A without exp": ("small = q <= math.exp(A)", "small = q <= 0"),
    "logarithms of labels: base 10": (
        "return q.where(~small, 1.).log()",
        "return q.where(~small, 1.).log10()"),
    "reverse: A ignored": (
        "log_q = log_labels(soft_labels(logits, target), A)\n",
        "log_q = log_labels(soft_labels(logits, target), -4.)\n"),
    "reverse: sign": (
        "return -(logits.softmax(-1) * log_q).sum(-1)",
        "return (logits.softmax(-1) * log_q).sum(-1)"),
    "reverse: not reversed": (
        "return -(logits.softmax(-1) * log_q).sum(-1)",
        "return -(logits.log_softmax(-1) * soft_labels(logits, target)).sum(-1)"),
    "reverse: gradient cut": (
        "return -(logits.softmax(-1) * log_q)",
        "return -(logits.detach().softmax(-1) * log_q)"),
    "derivative of softmax: sign": (
        "def softmax_jacobian(p): return p.diag() - torch",
        "def softmax_jacobian(p): return p.diag() + torch"),
    "derivative of softmax: p squared": (
        "def softmax_jacobian(p): return p.diag() - torch",
        "def softmax_jacobian(p): return (p * p).diag() - torch"),
    "gradient of reverse: A ignored": (
        "log_q, p = log_labels(soft_labels(logits, target), A), logits",
        "log_q, p = log_labels(soft_labels(logits, target), -4.), logits"),
    "gradient of reverse: sign": (
        "return p * ((p * log_q).sum(-1, keepdim=True) - log_q)",
        "return p * (log_q - (p * log_q).sum(-1, keepdim=True))"),
    "gradient of reverse: p dropped": ("return p * ((p * log_q)", "return ((p * log_q)"),
    "gradient of reverse: mean term lost": (
        "return p * ((p * log_q).sum(-1, keepdim=True) - log_q)",
        "return -p * log_q"),
    "gradient of the sum: alpha ignored": (
        "return alpha * (logits.softmax(-1) - y) + beta",
        "return (logits.softmax(-1) - y) + beta"),
    "gradient of the sum: beta ignored": (
        "+ beta * rce_gradient(logits, target, A)",
        "+ rce_gradient(logits, target, A)"),
    "gradient of the sum: A ignored": (
        "+ beta * rce_gradient(logits, target, A)",
        "+ beta * rce_gradient(logits, target)"),
    "gradient of the sum: sign": (
        "return alpha * (logits.softmax(-1) - y)",
        "return alpha * (y - logits.softmax(-1))"),
    "gradient of the sum: weights on other classes": (
        "return alpha * (logits.softmax(-1) - y)",
        "return alpha * (logits.softmax(-1) * y - y)"),
    "symmetric: weights swapped": (
        "alpha * cross_entropy.each(logits, target) + beta * reverse",
        "beta * cross_entropy.each(logits, target) + alpha * reverse"),
    "symmetric: alpha ignored": (
        "alpha * cross_entropy.each(logits, target) + beta",
        "cross_entropy.each(logits, target) + beta"),
    "symmetric: beta ignored": (
        "+ beta * reverse_cross_entropy.each(logits, target, A)",
        "+ reverse_cross_entropy.each(logits, target, A)"),
    "symmetric: A ignored": (
        "+ beta * reverse_cross_entropy.each(logits, target, A)",
        "+ beta * reverse_cross_entropy.each(logits, target)"),
    "smoothing: over the other classes": (
        "+ smoothing / logits.shape[-1]",
        "+ smoothing / (logits.shape[-1] - 1)"),
    "smoothing: label not reduced": (
        "return (1 - smoothing) * soft_labels(logits, target) +",
        "return soft_labels(logits, target) +"),
    "smoothing: amount ignored": (
        "smoothed(logits, target, smoothing))",
        "smoothed(logits, target, .1))"),
    "smoothed sum: A ignored": (
        "smoothed(logits, target, smoothing), alpha, beta, A)",
        "smoothed(logits, target, smoothing), alpha, beta)"),
    "smoothed sum: smoothing ignored": (
        "smoothed(logits, target, smoothing), alpha, beta, A)",
        "smoothed(logits, target, 0.), alpha, beta, A)"),
    "smoothed sum: weights swapped": (
        "smoothed(logits, target, smoothing), alpha, beta, A)",
        "smoothed(logits, target, smoothing), beta, alpha, A)"),
    "dimension: sign": ("return -1 / (r / r[..., -1:]", "return 1 / (r / r[..., -1:]"),
    "dimension: counts the point itself": ("[..., 1:k + 1]", "[..., :k + 1]"),
    "dimension: nearest for farthest": ("(r / r[..., -1:].clamp", "(r / r[..., :1].clamp"),
    "dimension: k ignored": ("[..., 1:k + 1]", "[..., 1:21]"),
    "dimension: one neighbour fewer": ("[..., 1:k + 1]", "[..., 1:k]"),
    "dimension: squared distances": (
        "return -1 / (r / r[..., -1:]",
        "return -1 / (r.square() / r[..., -1:].square()"),
    "dimension: base 2": (".clamp(min=1e-8).log().mean(-1)", ".clamp(min=1e-8).log2().mean(-1)"),
    "dimension: fast distances": (
        'torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sort',
        'torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist").sort'),
    "turn: one deviation": ("> 2 * before.std", "> before.std"),
    "turn: three deviations": ("> 2 * before.std", "> 3 * before.std"),
    "turn: looks at the first epochs": (
        "[..., start:-1, :], lids[..., start + window:]",
        "[..., :-1, :], lids[..., window:]"),
    "turn: falls": ("(now - before.mean(-1) > 2", "(before.mean(-1) - now > 2"),
    "turn: only now": ("correction=0)).any(-1)", "correction=0))[..., -1]"),
    "weight of labels: an epoch late": (
        "epoch = (~lids.isnan()).sum(-1)\n",
        "epoch = (~lids.isnan()).sum(-1) + 1\n"),
    "weight of labels: largest dimension": (
        "lids.nan_to_num(torch.inf).amin(-1)",
        "lids.nan_to_num(0.).amax(-1)"),
    "weight of labels: sign": ("(-epoch.to(lids.dtype) / lids", "(epoch.to(lids.dtype) / lids"),
    "weight of labels: growth dropped": ("/ lids.shape[-1] * growth).exp()", "/ lids.shape[-1]).exp()"),
    "weight of labels: always": (
        "torch.where(turned(lids), (-epoch",
        "torch.where(turned(lids) | True, (-epoch"),
    "D2L: shares swapped": ("a * given + (1 - a) * said", "(1 - a) * given + a * said"),
    "D2L: the least probable class": (
        "said = soft_labels(logits, logits.argmax(-1))",
        "said = soft_labels(logits, logits.argmin(-1))"),
    "neighbours: the point itself": (".fill_diagonal_(torch.inf)", ""),
    "neighbours: the farthest": ("topk(k, largest=False)", "topk(k)"),
    "neighbours: k ignored": ("topk(k, largest=False)", "topk(1, largest=False)"),
    "accuracy of classes: by prediction": (
        "right[y == c].double().mean()",
        "right[state.probabilities('last', state.dataset.test_x).argmax(1) == c].double().mean()"),
    "accuracy of classes: best network": (
        'state.probabilities("last", state.dataset.test_x)',
        'state.probabilities("best", state.dataset.test_x)'),
    "confidence: wrong labels too": ("own[~wrong & (y == c)]", "own[y == c]"),
    "confidence: in any class": (
        'own = p.gather(1, y[:, None])[:, 0]\n    return {f"sure',
        'own = p.max(1).values\n    return {f"sure'),
    "true positives: by given labels": ("correct=said[said == y]", "correct=said[said == state.run.labels]"),
    "true positives: images of the class": ("predicted=said.bincount", "predicted=y.bincount"),
    "exercise, noisy risk: column": ("return losses @ T[y]", "return losses @ T[:, y]"),
    "exercise, tolerant: columns": ("T.diagonal() > rest.max(1).values", "T.diagonal() > rest.max(0).values"),
    "exercise, tolerant: ties": ("T.diagonal() > rest.max(1).values", "T.diagonal() >= rest.max(1).values"),
    "exercise, pull: sign of A": (
        "(1 - p_y) * (alpha - beta * A * p_y)",
        "(1 - p_y) * (alpha + beta * A * p_y)"),
    "exercise, crossing: inverted": (
        "min(1., alpha / (-beta * A)) if beta",
        "min(1., -beta * A / alpha) if beta"),
}
