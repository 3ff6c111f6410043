for (const part of document.querySelectorAll("#gallery")) {
  const selects = ["dataset", "method", "threat"].map(name => part.querySelector(`select[name=${name}]`));
  const articles = [...part.querySelectorAll("article")], said = part.querySelector("[role=status]");
  const [back, on] = ["back", "on"].map(name => part.querySelector(`button[name=${name}]`));
  const gain = part.querySelector("input[type=range]"), output = part.querySelector("output");
  let at = 0;

  for (const select of selects) {
    const values = unique(articles.map(each => each.dataset[select.name]));
    offer(select, ["", ...values], ["all", ...values]);
    select.parentElement.hidden = values.length < 2;
    select.addEventListener("change", () => { at = 0; show(); });
  }

  function show() {
    const chosen = articles.filter(each => selects.every(select => !select.value || each.dataset[select.name] === select.value));
    at = chosen.length ? (at + chosen.length) % chosen.length : 0;
    articles.forEach(each => { each.hidden = each !== chosen[at]; });
    said.textContent = chosen.length ? `${at + 1} of ${chosen.length}` : "No image has all of these.";
    back.disabled = on.disabled = chosen.length < 2;
  }

  const turn = step => { at += step; show(); };
  back.addEventListener("click", () => turn(-1));
  on.addEventListener("click", () => turn(1));
  part.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.target.matches("select, input")) return;
    event.preventDefault();
    turn(step);
  });
  gain.addEventListener("input", () => {
    // The image holds 0.5 + 10 d, and contrast(k) makes it 0.5 + 10 k d.
    part.style.setProperty("--contrast", Number(gain.value) / 10);
    for (const text of [output, ...part.querySelectorAll(".gain")]) text.textContent = `× ${gain.value}`;
  });
  show();
}
