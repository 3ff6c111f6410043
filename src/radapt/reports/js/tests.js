for (const part of document.querySelectorAll("#paired")) {
  const [dataset, threat, method] = ["dataset", "threat", "method"].map(name => part.querySelector(`select[name=${name}]`));
  const caption = part.querySelector("caption"), body = part.querySelector("tbody");
  const signed = value => (value > 0 ? "+" : "") + percent(value);
  const small = p => p < .001 ? p.toExponential(1) : p.toFixed(3);

  function show() {
    const threats = unique(data.tests.map(each => each.threat));
    const first = !threat.value;
    offer(threat, threats);
    if (first) threat.value = data.tests.find(each => each.kind === "white-box")?.threat ?? threats[0];
    const under = data.tests.filter(each => each.threat === threat.value);
    offer(dataset, unique(under.map(each => each.name)));
    const family = under.find(each => each.name === dataset.value);
    const seen = unique(family.pairs.flatMap(pair => pair.slice(0, 2))).sort((a, b) => a - b);
    const able = seen.filter(at => family.pairs.filter(pair => pair[0] === at || pair[1] === at).length === seen.length - 1);
    offer(method, (able.length ? able : seen).map(String), (able.length ? able : seen).map(at => data.methods[at]));
    const own = Number(method.value), name = data.methods[own];
    caption.textContent = `Compared with ${name}: ${family.name}, ${family.threat}`;
    const rows = family.pairs.filter(pair => pair[0] === own || pair[1] === own).map(pair => {
      const turned = pair[0] === own;
      const [, , n, a, b, difference, low, high, p, adjusted] = pair;
      return turned
        ? { at: pair[1], n, alone: [b, a], three: [-difference, -high, -low], p, adjusted }
        : { at: pair[0], n, alone: [a, b], three: [difference, low, high], p, adjusted };
    });
    rows.sort((one, other) => one.at - other.at);
    body.replaceChildren(...rows.map(each => {
      const better = each.three[0] > 0;
      const doubt = family.flagged.includes(better ? each.at : own) ? ", but flagged" : "";
      const verdict = each.adjusted >= data.level ? "cannot be told apart" : (better ? "better" : "worse") + doubt;
      return row([marker(each.at), data.methods[each.at]], [
        `${signed(each.three[0])} [${signed(each.three[1])}, ${signed(each.three[2])}]`,
        `${each.alone[0]} against ${each.alone[1]} of ${each.n}`,
        `${small(each.p)}, corrected ${small(each.adjusted)}`,
        verdict,
      ]);
    }));
  }

  for (const select of [dataset, threat, method]) select.addEventListener("change", show);
  show();
}
