const data = JSON.parse(document.getElementById("data").textContent);

/** The values of a select as the first of its kind; keeps what was chosen, if it is still there. */
function offer(select, values, texts = values) {
  const chosen = select.value;
  select.replaceChildren(...values.map((value, at) => new Option(texts[at], value)));
  if (values.includes(chosen)) select.value = chosen;
  select.parentElement.hidden = values.length < 2;
}

const unique = values => [...new Set(values)];
const percent = value => value.toFixed(1);
const interval = three => three ? `${percent(three[0])} [${percent(three[1])}, ${percent(three[2])}]` : "—";

function row(name, cells) {
  const line = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.append(...(Array.isArray(name) ? name : [name]));
  line.append(head);
  for (const cell of cells) {
    const place = document.createElement("td");
    place.append(cell);
    line.append(place);
  }
  return line;
}

document.getElementById("copy").addEventListener("click", async () => {
  const said = document.getElementById("copied");
  const block = document.getElementById("verdict-text");
  try {
    await navigator.clipboard.writeText(block.innerText);
    said.textContent = "Copied.";
  } catch {  // no permission: it is marked, so that it can be copied by hand
    getSelection().selectAllChildren(block);
    said.textContent = "Marked: press Ctrl+C.";
  }
});

for (const part of document.querySelectorAll("#heatmap")) {
  const select = part.querySelector("select");
  const grids = [...part.querySelectorAll("div.grid")];
  const robust = select.querySelector("option[data-robust]");
  if (robust) select.value = robust.value;
  const show = () => grids.forEach((grid, at) => { grid.hidden = String(at) !== select.value; });
  select.addEventListener("change", show);
  show();
}
