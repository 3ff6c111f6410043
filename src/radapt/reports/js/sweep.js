for (const part of document.querySelectorAll("#sweep")) {
  const [sweep, dataset, threat] = ["sweep", "dataset", "threat"].map(name => part.querySelector(`select[name=${name}]`));
  const figure = part.querySelector("figure"), slider = part.querySelector("input"), output = part.querySelector("output");
  const caption = part.querySelector("caption"), body = part.querySelector("tbody");
  const texts = data.sweeps.map((each, at) => each.name || String(at));
  offer(sweep, texts.map((_, at) => String(at)), texts);

  function chosen() {
    const own = data.sweeps[Number(sweep.value)];
    offer(dataset, unique(own.charts.map(chart => chart.dataset)));
    const charts = own.charts.filter(chart => chart.dataset === dataset.value);
    offer(threat, unique(charts.map(chart => chart.threat)));
    return [own, charts.find(chart => chart.threat === threat.value)];
  }

  function show() {
    const [own, chart] = chosen();
    const values = own.values.filter(x => chart.lines.some(([, line]) => line.some(point => point[0] === x)));
    slider.max = values.length - 1;
    const x = values[Number(slider.value)];
    output.textContent = String(x);
    slider.setAttribute("aria-valuetext", `${own.name} ${x}`);
    caption.textContent = `${own.name} = ${x}: ${chart.dataset}, ${chart.threat}, in per cent`;
    body.replaceChildren(...chart.lines.flatMap(([name, line], at) => line.filter(point => point[0] === x).map(point =>
      row([marker(at), name], [1, 2, 3].map(end => interval(point[end]))))));
    const rows = chart.lines.flatMap(([name, line], at) => line.map(point => ({ name, at, point, x: point[0] })));
    const flat = kind => rows.filter(each => each.point[kind]).map(each => ({ ...each, end: each.point[kind] }));
    const perLine = (some, make) => unique(some.map(each => each.at)).map(at =>
      make(some.filter(each => each.at === at), { className: classOf(at), stroke: "var(--mark)" }));
    const y = each => each.end[0], x0 = each => each.x, at = each => each.at;
    const label = kind => each => `${each.name}\n${own.name} ${each.x}\n${kind} ${interval(each.end)} %`;
    const [clean, transfer, white] = [1, 2, 3].map(flat);
    const plot = draw(figure, `${own.name}: ${chart.dataset}, ${chart.threat}; the slider reads the numbers`, {
      x: { label: own.name, labelAnchor: "center", labelArrow: "none", grid: true, inset: 14, ticks: values, tickFormat: String },
      y: { label: chart.noun, tickFormat: asPercent, labelArrow: "none", grid: true, zero: true, nice: true },
      marks: [
        Plot.ruleY([0], { stroke: "var(--muted)" }),
        Plot.ruleX([x], { stroke: "var(--muted)", strokeWidth: 6, strokeOpacity: .25 }),
        ...perLine(white, (some, look) => Plot.areaY(some, { x: x0, y1: each => each.end[1], y2: each => each.end[2], className: look.className, fill: "var(--mark)", fillOpacity: .12 })),
        ...perLine(clean, (some, look) => Plot.lineY(some, { x: x0, y, strokeDasharray: "5 4", strokeWidth: 1.2, ...look })),
        ...perLine(transfer, (some, look) => Plot.lineY(some, { x: x0, y, strokeWidth: 1.2, ...look })),
        ...perLine(white, (some, look) => Plot.lineY(some, { x: x0, y, strokeWidth: 2.2, ...look })),
        ...dots(clean, { x: x0, y, at, text: label("clean"), filled: false, size: 2.5 }),
        ...dots(transfer, { x: x0, y, at, text: label("transfer"), filled: false, size: 5 }),
        ...dots(white, { x: x0, y, at, text: label("white-box"), filled: true, size: 5 }),
      ],
    });
    lift(figure, plot);
  }

  for (const select of [sweep, dataset, threat]) {
    select.addEventListener("change", () => {
      if (select === sweep) slider.value = 0;
      show();
    });
  }
  slider.addEventListener("input", show);
  whenResized(figure, show);
  show();
}
