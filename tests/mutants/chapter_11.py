"""Wrong versions of the formulas of chapter 11: what is wrong, the right code, the wrong code."""
MUTANTS = {
    "by hand, MAE: the unhinged loss": ("return 2 - 2 * z.softmax(-1)", "return 1 - z.softmax(-1)"),
    "by hand, MAE: scores": ("2 * z.softmax(-1).gather", "2 * z.gather"),
    "by hand, MAE: another axis": ("2 * z.softmax(-1).gather", "2 * z.softmax(0).gather"),
    "by hand, L_q: not divided by q": (
        "f_y = z.softmax(-1).gather(-1, y[..., None])[..., 0]\n    return (1 - f_y ** q) / q",
        "f_y = z.softmax(-1).gather(-1, y[..., None])[..., 0]\n    return 1 - f_y ** q"),
    "by hand, L_q: q ignored": (
        "f_y = z.softmax(-1).gather(-1, y[..., None])[..., 0]\n    return (1 - f_y ** q) / q",
        "f_y = z.softmax(-1).gather(-1, y[..., None])[..., 0]\n    return (1 - f_y ** .7) / .7"),
    "by hand, truncated: k ignored": (".clamp(min=k)\n", ".clamp(min=.5)\n"),
    "by hand, truncated: the other side": (".clamp(min=k)\n", ".clamp(max=k)\n"),
    "by hand, truncated: not at all": (".clamp(min=k)\n", "\n"),
    "by hand, pruned: what is believed goes": (
        "w = (p.gather(1, y[:, None])[:, 0] > k)", "w = (p.gather(1, y[:, None])[:, 0] <= k)"),
    "MAE: half": ("return 2 - 2 * (soft_labels", "return 1 - (soft_labels"),
    "MAE: sign": ("return 2 - 2 * (soft_labels", "return 2 + 2 * (soft_labels"),
    "MAE: scores": (
        "2 * (soft_labels(logits, target) * logits.softmax(-1))",
        "2 * (soft_labels(logits, target) * logits)"),
    "Box-Cox: sign": ("return -torch.expm1(q * log_p) / q", "return torch.expm1(q * log_p) / q"),
    "Box-Cox: not divided by q": ("return -torch.expm1(q * log_p) / q", "return -torch.expm1(q * log_p)"),
    "Box-Cox: 1 − q for q": (
        "return -torch.expm1(q * log_p) / q",
        "return -torch.expm1((1 - q) * log_p) / (1 - q)"),
    "Box-Cox: base 2": ("return -torch.expm1(q * log_p) / q", "return (1 - torch.exp2(q * log_p)) / q"),
    "Box-Cox: exp for expm1": ("return -torch.expm1(q * log_p) / q", "return (1 - torch.exp(q * log_p)) / q"),
    "L_q: q ignored": ("box_cox(logits.log_softmax(-1), q))", "box_cox(logits.log_softmax(-1), .7))"),
    "L_q: gradient cut": (
        "box_cox(logits.log_softmax(-1), q))",
        "box_cox(logits.log_softmax(-1).detach(), q))"),
    "L_q: powers of p": ("box_cox(logits.log_softmax(-1), q))", "(1 - logits.softmax(-1) ** q) / q)"),
    "truncated: k ignored": (".clamp(min=math.log(k))", ".clamp(min=math.log(.5))"),
    "truncated: the wrong side": (".clamp(min=math.log(k))", ".clamp(max=math.log(k))"),
    "truncated: k without logarithm": (".clamp(min=math.log(k))", ".clamp(min=-k)"),
    "truncated: q ignored": ("box_cox(log_p, q)).sum(-1)", "box_cox(log_p, .7)).sum(-1)"),
    "truncated: not at all": ("logits.log_softmax(-1).clamp(min=math.log(k))", "logits.log_softmax(-1)"),
    "weighted: constant lost": (" - (1 - k ** q) / q\n    if not (isinstance", "\n    if not (isinstance"),
    "weighted: k ignored": (
        "- (1 - k ** q) / q\n    if not (isinstance",
        "- (1 - .5 ** q) / q\n    if not (isinstance"),
    "weighted: q ignored": (
        "generalized_cross_entropy.each(logits, target, q) - (1",
        "generalized_cross_entropy.each(logits, target) - (1"),
    "weighted: weight ignored": ("return weight * losses", "return losses"),
    "weighted: no truncation without weights": (
        "return truncated_gce.each(logits, target, q, k)",
        "return generalized_cross_entropy.each(logits, target, q)"),
    "weighted: k ignored without weights": (
        "return truncated_gce.each(logits, target, q, k)",
        "return truncated_gce.each(logits, target, q)"),
    "prune: keeps what is not believed": (
        "state.run.labels[:, None])[:, 0] > k).float())",
        "state.run.labels[:, None])[:, 0] < k).float())"),
    "prune: k ignored": (
        "state.run.labels[:, None])[:, 0] > k).float())",
        "state.run.labels[:, None])[:, 0] > .5).float())"),
    "prune: the latest network": ('state.probabilities("best")', 'state.probabilities("last")'),
    "prune: any class": ("p.gather(1, state.run.labels[:, None])[:, 0] > k", "p.max(1).values > k"),
    "prune: an epoch late": (
        "if not (state.epoch == start or again)",
        "if not (state.epoch == start + 1 or again)"),
    "prune: counts from 0": ("(state.epoch - start) % every == 0", "state.epoch % every == 0"),
    "prune: only once": ("again = every and", "again = False and"),
    "pruned: q ignored": ("dict(start=start, every=every, q=q, k=k)", "dict(start=start, every=every, k=k)"),
    "pruned: k ignored": ("dict(start=start, every=every, q=q, k=k)", "dict(start=start, every=every, q=q)"),
    "pruned: start ignored": ("dict(start=start, every=every, q=q, k=k)", "dict(every=every, q=q, k=k)"),
    "pruned: nothing kept at first": (
        "weight=torch.ones(len(run.labels))",
        "weight=torch.zeros(len(run.labels))"),
    "beliefs: right and wrong swapped": (
        "belief_right=own[~wrong].mean().item(), belief_wrong=own[wrong]",
        "belief_right=own[wrong].mean().item(), belief_wrong=own[~wrong]"),
    "bounds (7): exponent": (
        "return (C - C ** (1 - q)) / q, (C - 1) / q",
        "return (C - C ** q) / q, (C - 1) / q"),
    "bounds (7): q dropped": (
        "return (C - C ** (1 - q)) / q, (C - 1) / q",
        "return (C - C ** (1 - q)) / q, C - 1"),
    "bound (8): sign": ("def A(eta, q, C): return eta * (1 - C", "def A(eta, q, C): return eta * (C - 1"),
    "bound (8): denominator": ("/ (q * (C - 1 - eta * C))", "/ (q * (C - 1) * (1 - eta))"),
    "bound (8): q dropped": ("/ (q * (C - 1 - eta * C))", "/ (C - 1 - eta * C)"),
    "bound (8): rate dropped": ("def A(eta, q, C): return eta * (1", "def A(eta, q, C): return (1"),
    "noisy minimiser: exponent": (
        "def noisy_minimiser(t, q): return (t.log() / (1 - q))",
        "def noisy_minimiser(t, q): return (t.log() / q)"),
    "noisy minimiser: no exponent": (
        "def noisy_minimiser(t, q): return (t.log() / (1 - q))",
        "def noisy_minimiser(t, q): return (t.log())"),
    "bound (10): d": (
        "def d(q, k): return max(1, (1 - q) ** (1 / q) / k)",
        "def d(q, k): return max(1, (1 - q) ** q / k)"),
    "bound (10): d below 1": (
        "def d(q, k): return max(1, (1 - q) ** (1 / q) / k)",
        "def d(q, k): return (1 - q) ** (1 / q) / k"),
    "bound (10): one class too many": ("+ (C - d(q, k)) * level(k, q)", "+ C * level(k, q)"),
    "lowest sum: a class left out": (
        "for m in range(1, C + 1) if 1 / m > k)",
        "for m in range(2, C + 1) if 1 / m > k)"),
    "width (11): of the untruncated": ("< (C ** (1 - q) - 1) / q\n", "< (C - 1) / q\n"),
    "width (11): d dropped": (
        "return d(q, k) * (level(k, q) - level(1 / d(q, k), q)) <",
        "return (level(k, q) - level(1 / d(q, k), q)) <"),
    "exercise, gradient: q − 1": (
        "y[..., None]) ** q * (p - one_hot",
        "y[..., None]) ** (q - 1) * (p - one_hot"),
    "exercise, gradient: sign": (
        "** q * (p - one_hot(y, z.shape[-1]))",
        "** q * (one_hot(y, z.shape[-1]) - p)"),
    "exercise, minimiser: 1/q": (
        "power = math.inf if q == 1 else 1 / (1 - q)",
        "power = math.inf if q == 1 else 1 / q"),
    "exercise, prune: ties kept": (
        "w = (p.gather(1, y[:, None])[:, 0] > k).float()",
        "w = (p.gather(1, y[:, None])[:, 0] >= k).float()"),
}
