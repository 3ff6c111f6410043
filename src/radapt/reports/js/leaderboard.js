{
  const part = document.getElementById("choose");
  const selects = [...part.querySelectorAll("select")];
  const boards = [...document.querySelectorAll("table.board tbody")];
  const show = () => {
    for (const board of boards)
      board.hidden = selects.some(select => select.value && board.dataset[select.name] !== select.value);
    const shown = boards.filter(board => !board.hidden).length;
    part.querySelector("[role=status]").textContent = `${shown} of ${boards.length} boards shown.`;
  };
  for (const select of selects) {
    select.parentElement.hidden = select.options.length < 3;
    select.addEventListener("change", show);
  }
  part.hidden = boards.length < 2;
  show();
}
