const SYMBOLS = ["circle", "square", "diamond", "triangle", "star", "hexagon", "wye"];
const symbolOf = at => SYMBOLS[at % SYMBOLS.length];
const classOf = at => `c${at % 8}`;
const SVG = "http://www.w3.org/2000/svg";
const tip = document.getElementById("tip");

/** A small drawing of the marker of the `at`-th method. */
function marker(at) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "-8 -8 16 16");
  svg.setAttribute("class", `marker ${classOf(at)}`);
  svg.setAttribute("aria-hidden", "true");
  const name = symbolOf(at);
  path.setAttribute("d", d3.symbol(d3[`symbol${name[0].toUpperCase()}${name.slice(1)}`] || plotHexagon, 70)());
  svg.append(path);
  return svg;
}

const plotHexagon = {
  draw(context, size) {
    const side = Math.sqrt(size / (1.5 * Math.sqrt(3)));
    for (let at = 0; at < 6; at++) {
      const angle = Math.PI / 3 * at + Math.PI / 6;
      context[at ? "lineTo" : "moveTo"](side * Math.cos(angle), side * Math.sin(angle));
    }
    context.closePath();
  },
};

/** Show what a mark says, a line for each part of it. */
function tell(target, text) {
  tip.replaceChildren(...text.split("\n").map(line => Object.assign(document.createElement("div"), { textContent: line })));
  tip.hidden = false;
  const box = target.getBoundingClientRect();
  const left = box.x + box.width / 2 + scrollX - tip.offsetWidth / 2;
  tip.style.left = `${Math.max(scrollX + 8, Math.min(left, scrollX + document.documentElement.clientWidth - tip.offsetWidth - 8))}px`;
  const above = box.y + scrollY - tip.offsetHeight - 10;
  tip.style.top = `${box.y < tip.offsetHeight + 20 ? box.bottom + scrollY + 10 : above}px`;
}
const hush = () => { tip.hidden = true; };
addEventListener("keydown", event => { if (event.key === "Escape") hush(); });

const asPercent = value => `${value} %`;

/** Draw into a figure; its dots tell what they are when they are pointed at or have the focus. */
function draw(figure, name, options) {
  const width = Math.max(260, figure.clientWidth);
  const plot = Plot.plot({
    width, height: Math.round(Math.min(460, Math.max(300, width * .62))), marginLeft: 52, marginBottom: 42, marginTop: 26,
    style: { background: "none", color: "var(--ink)", fontFamily: "var(--font)", fontSize: "12px", overflow: "visible" },
    ...options,
  });
  plot.setAttribute("role", "group");
  plot.setAttribute("aria-label", name);
  // Every mark says its numbers itself; the axes are for the eye.
  for (const group of plot.querySelectorAll("g[aria-label]")) {
    if (/^[xy]-/.test(group.getAttribute("aria-label"))) group.setAttribute("aria-hidden", "true");
    group.removeAttribute("aria-label");
    group.removeAttribute("aria-description");
  }
  for (const dot of plot.querySelectorAll(".dot > [aria-label]")) {
    const text = dot.getAttribute("aria-label");
    dot.setAttribute("aria-label", text.replaceAll("\n", ", "));
    dot.setAttribute("role", "img");
    dot.setAttribute("tabindex", "0");
    for (const event of ["pointerenter", "focus"]) dot.addEventListener(event, () => tell(dot, text));
    for (const event of ["pointerleave", "blur"]) dot.addEventListener(event, hush);
  }
  figure.replaceChildren(plot);
  return plot;
}

/** Put the texts of a plot before it, as elements of the page: those are sharp, wrap nothing, and have a background. */
function lift(figure, plot) {
  const box = plot.getBoundingClientRect();
  for (const text of plot.querySelectorAll("text")) {
    const own = text.getBoundingClientRect();
    const span = document.createElement("span");
    span.textContent = text.textContent.trim();
    span.setAttribute("aria-hidden", "true");
    span.style.left = `${own.left - box.left}px`;
    span.style.top = `${own.top - box.top}px`;
    span.style.lineHeight = `${own.height}px`;
    figure.append(span);
    text.remove();
  }
}

/** Dots of one kind: `at` gives the method of a row, `text` what it says; hollow unless filled. */
function dots(rows, { x, y, at, text, filled, size = 6 }) {
  return unique(rows.map(at)).flatMap(own => Plot.dot(rows.filter(each => at(each) === own), {
    x, y, r: size, symbol: symbolOf(own), className: `dot ${classOf(own)}`, ariaLabel: text, strokeWidth: 2,
    stroke: "var(--mark)", fill: filled ? "var(--mark)" : "var(--surface)",
  }));
}

/** Draw again when there is more or less room. */
function whenResized(figure, again) {
  let width = figure.clientWidth;
  new ResizeObserver(() => {
    if (figure.clientWidth && figure.clientWidth !== width) {
      width = figure.clientWidth;
      again();
    }
  }).observe(figure);
}
