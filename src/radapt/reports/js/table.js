for (const table of document.querySelectorAll("table.results")) {
  const region = table.parentElement;
  new ResizeObserver(() => region.toggleAttribute("data-wide", region.scrollWidth > region.clientWidth + 1)).observe(region);
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== (at ? "descending" : "ascending") ? Boolean(at) : !at;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const compare = (one, two) => at
      ? Number(one.cells[at].dataset.value) - Number(two.cells[at].dataset.value)
      : one.cells[0].textContent.localeCompare(two.cells[0].textContent);
    for (const body of table.tBodies) {
      const rows = [...body.rows].slice(1).sort((one, two) => (down ? -1 : 1) * compare(one, two));
      body.append(...rows);
    }
  }));
}
