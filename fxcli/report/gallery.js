"use strict";
// Sorts and filters the table. Text is only ever read and compared: nothing of a row becomes markup.
const body = document.querySelector("tbody");
const rows = Array.from(body.rows);
const texts = rows.map((row) => Array.from(row.cells, (cell) => cell.textContent.trim()));
const place = new Map(rows.map((row, number) => [row, number]));
const heads = Array.from(document.querySelectorAll("thead th"));
const search = document.getElementById("search");
const selects = Array.from(document.querySelectorAll("select"));
const count = document.getElementById("count");
const collator = new Intl.Collator(undefined, { numeric: true });

function compare(a, b, column, sign) {
  const [one, other] = [texts[place.get(a)][column], texts[place.get(b)][column]];
  // What is not known stands at the end, whichever way.
  if (one === "" || other === "") return (one === "") - (other === "") || place.get(a) - place.get(b);
  const [x, y] = [Number(one), Number(other)];
  const order = Number.isNaN(x) || Number.isNaN(y) ? collator.compare(one, other) : x - y;
  return sign * order || place.get(a) - place.get(b);
}

function sort(head, column) {
  const down = head.getAttribute("aria-sort") === "ascending";
  heads.forEach((each) => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...Array.from(rows).sort((a, b) => compare(a, b, column, down ? -1 : 1)));
}

function filter() {
  const wanted = search.value.trim().toLowerCase();
  let shown = 0;
  rows.forEach((row, number) => {
    const cells = texts[number];
    const fits = selects.every((each) => each.value === "" || cells[Number(each.dataset.column)] === each.value);
    row.hidden = !fits || (wanted !== "" && !cells.some((text) => text.toLowerCase().includes(wanted)));
    shown += row.hidden ? 0 : 1;
  });
  count.textContent = `${shown} of ${rows.length}`;
}

heads.forEach((head, column) => {
  const button = head.querySelector("button");
  if (button) button.addEventListener("click", () => sort(head, column));
});
search.addEventListener("input", filter);
selects.forEach((each) => each.addEventListener("change", filter));
document.getElementById("controls").hidden = false;
filter();
