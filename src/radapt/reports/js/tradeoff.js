for (const part of document.querySelectorAll("#tradeoff")) {
  const [dataset, threat, attack] = ["dataset", "threat", "attack"].map(name => part.querySelector(`select[name=${name}]`));
  const figure = part.querySelector("figure"), said = part.querySelector("[role=status]");
  const ticks = part.querySelector(".ticks");
  const names = { "": "all together: the worst case" };

  for (const at of unique(data.views.flatMap(view => view.points.map(point => point[0]))).sort((a, b) => a - b)) {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.value = at;
    const text = document.createElement("span");
    text.textContent = data.methods[at];
    label.append(box, marker(at), text);
    ticks.append(label);
  }
  const boxes = [...ticks.querySelectorAll("input")];

  const pick = (select, key, views) => {
    const values = unique(views.map(view => view[key]));
    offer(select, values, values.map(value => key === "attack" ? names[value] || value : value));
    return views.filter(view => view[key] === select.value);
  };

  const describe = (view, [at, clean, , , over, marks], end, kind) => {
    const share = over < view.total ? `\non ${over} of ${view.total} data sets` : "";
    const flags = kind === "white-box" && marks.length ? `\nflags ${marks.join(", ")}: not to be trusted` : "";
    return `${data.methods[at]}\n${kind} ${interval(end)} %\nclean ${interval(clean)} %${share}${flags}`;
  };

  function show() {
    const view = pick(attack, "attack", pick(threat, "threat", pick(dataset, "dataset", data.views)))[0];
    const shown = new Set(boxes.filter(box => box.checked).map(box => Number(box.value)));
    const points = view.points.filter(point => shown.has(point[0]));
    const missing = [...shown].filter(at => !points.some(point => point[0] === at)).length;
    said.textContent = `${points.length} of ${boxes.length} methods shown` + (missing ? `; ${missing} without results here.` : ".");
    if (!points.length) {
      figure.replaceChildren();
      return;
    }
    const ends = points.flatMap(point => [
      point[2] && { point, end: point[2], kind: "transfer" }, point[3] && { point, end: point[3], kind: "white-box" },
    ]).filter(Boolean);
    const clean = points.flatMap(point => point[1]);
    const pad = Math.max(4, .08 * (d3.max(clean) - d3.min(clean)));
    const x = [d3.min(clean) - pad, d3.max(clean) + pad];
    const top = Math.max(10, 1.06 * d3.max(ends, each => each.end[2]));
    const diagonal = [{ x1: Math.max(0, x[0]), x2: Math.min(x[1], top) }].filter(line => line.x1 < line.x2);
    const own = each => each.point[0];
    const byMethod = (rows, make) => unique(rows.map(each => each.point[0])).map(at =>
      make(rows.filter(each => each.point[0] === at), { stroke: "var(--mark)", className: classOf(at) }));
    const placed = { x: each => each.point[1][0], y: each => each.end[0], at: own, text: each => describe(view, each.point, each.end, each.kind) };
    const plot = draw(figure, `Trade-off of ${view.dataset}, ${view.threat}; the numbers are in the table of results`, {
      x: { domain: x, label: `clean ${view.noun}`, tickFormat: asPercent, grid: true, labelAnchor: "center", labelArrow: "none" },
      y: { domain: [0, top], label: `${view.noun} under attack`, tickFormat: asPercent, grid: true, labelArrow: "none" },
      marks: [
        Plot.ruleY([0], { stroke: "var(--muted)" }),
        Plot.link(diagonal, { x1: "x1", y1: "x1", x2: "x2", y2: "x2", stroke: "var(--muted)", strokeDasharray: "2 4" }),
        ...byMethod(ends, (rows, look) => Plot.ruleX(rows, { x: placed.x, y1: each => each.end[1], y2: each => each.end[2], strokeOpacity: .35, ...look })),
        ...byMethod(ends, (rows, look) => Plot.ruleY(rows, { y: placed.y, x1: each => each.point[1][1], x2: each => each.point[1][2], strokeOpacity: .35, ...look })),
        ...byMethod(ends.filter(each => each.point[2] && each.point[3]), (rows, look) =>
          Plot.ruleX(rows.slice(0, 1), { x: placed.x, y1: each => each.point[2][0], y2: each => each.point[3][0], strokeWidth: 2, ...look })),
        ...dots(ends.filter(each => each.kind === "transfer"), { ...placed, filled: false }),
        ...dots(ends.filter(each => each.kind === "white-box"), { ...placed, filled: true }),
      ],
    });
    nameDots(plot, ends);
    lift(figure, plot);
  }

  /** Names beside the lower end of each method, moved up or down where two would meet. */
  function nameDots(plot, ends) {
    if (plot.clientWidth < 480) return;
    const lowest = unique(ends.map(each => each.point)).map(point => ({ point, end: point[3] || point[2] }));
    const places = lowest.map(({ point, end }) => ({ at: point[0], flagged: point[3] && point[5].length, x: plot.scale("x").apply(point[1][0]), y: plot.scale("y").apply(end[0]) }));
    const group = document.createElementNS(SVG, "g");
    group.setAttribute("class", "names");
    plot.append(group);
    const taken = [];
    const marks = ends.map(each => [plot.scale("x").apply(each.point[1][0]), plot.scale("y").apply(each.end[0])]);
    for (const place of d3.sort(places, each => each.y)) {
      const text = document.createElementNS(SVG, "text");
      text.textContent = data.methods[place.at] + (place.flagged ? " (flagged)" : "");
      group.append(text);
      const rooms = [plot.clientWidth - place.x - 12, place.x - 12 - 58];  // beside the axis
      const right = text.getComputedTextLength() <= rooms[0] || rooms[0] >= rooms[1];
      shorten(text, rooms[right ? 0 : 1]);
      const length = text.getComputedTextLength();
      const left = right ? place.x + 12 : place.x - 12 - length;
      const covers = top => marks.some(([x, y]) => left - 8 < x && x < left + length + 8 && Math.abs(y - top) < 13);
      const meets = top => covers(top) || taken.some(box => box.left < left + length + 4 && left < box.left + box.length + 4 && Math.abs(box.top - top) < 13);
      const tops = d3.range(0, 9).flatMap(step => [place.y + 13 * step, place.y - 13 * step]);
      const top = tops.find(each => !meets(each) && each > 30 && each < plot.clientHeight - 46) ?? place.y;
      taken.push({ left, length, top });
      text.setAttribute("x", left);
      text.setAttribute("y", top + 4);
    }
  }

  function shorten(text, room) {
    while (text.textContent.length > 2 && text.getComputedTextLength() > room) {
      text.textContent = text.textContent.slice(0, -2) + "…";
    }
  }

  for (const select of [dataset, threat, attack]) select.addEventListener("change", show);
  ticks.addEventListener("change", show);
  for (const button of part.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      boxes.forEach(box => { box.checked = button.name === "all"; });
      show();
    });
  }
  whenResized(figure, show);
  show();
}
