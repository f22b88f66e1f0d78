// The classes of one or two models: colour, name, share of the pixels, and whether they are shown.

const element = (id) => document.getElementById(id);
const hidden = new Set(); // names of the classes that are switched off
const rows = new Map(); // class name -> its label

export const isShown = (name) => !hidden.has(name);

// One row a class name; where two models have it, the row is of both.
export function listClasses(models) {
  rows.clear();
  for (const { classes } of models) {
    for (const { name, color } of classes) {
      if (rows.has(name)) rows.get(name).colors.push(color);
      else rows.set(name, { ...makeRow(name), colors: [color], largest: 0 });
    }
  }
  for (const row of rows.values()) row.swatch.style.background = background(row.colors);
  element("rest").hidden = true; // until shares are known
  element("present").replaceChildren();
  element("heads").textContent = models.length > 1 ? "share left, right" : "share of pixels";
}

// Shares of the pixels that one or two models predict. A moving image keeps the order, so that nothing jumps.
export function showShares(predictions, isMoving) {
  const names = predictions.map(({ model, shares }) => new Map(model.classes.map((info, i) => [info.name, shares[i]])));
  for (const [name, row] of rows) {
    const found = names.map((shares) => shares.get(name));
    row.shares.replaceChildren(...found.map((share) => make("span", "share", inPercent(share))));
    row.largest = Math.max(...found.map((share) => share ?? 0), isMoving ? row.largest && 1e-9 : 0);
  }
  order(isMoving);
}

function order(isMoving) {
  const focused = document.activeElement;
  const all = [...rows.values()];
  const present = all.filter((row) => row.largest > 0);
  if (!isMoving) present.sort((a, b) => b.largest - a.largest);
  const absent = all.filter((row) => row.largest === 0);
  place(element("present"), present);
  place(element("absent"), absent);
  const rest = element("rest");
  rest.hidden = absent.length === 0;
  const [count, verb] = absent.length === 1 ? ["1 class", "is"] : [`${absent.length} classes`, "are"];
  rest.firstElementChild.textContent = `${count} ${verb} not here`;
  if (rest.contains(focused) || element("present").contains(focused)) focused.focus();
}

function place(parent, wanted) { // without a change where all stand as they should
  const labels = wanted.map((row) => row.label);
  if (labels.length !== parent.children.length || labels.some((label, i) => label !== parent.children[i])) {
    parent.replaceChildren(...labels);
  }
}

// changed() is called after classes were switched on or off.
export function onToggle(changed) {
  element("present").parentElement.addEventListener("change", (event) => {
    const { name } = event.target.dataset;
    if (event.target.checked) hidden.delete(name);
    else hidden.add(name);
    changed();
  });
  const setAll = (visible) => () => {
    for (const [name, row] of rows) {
      row.box.checked = visible;
      if (visible) hidden.delete(name);
      else hidden.add(name);
    }
    changed();
  };
  element("all").addEventListener("click", setAll(true));
  element("none").addEventListener("click", setAll(false));
}

export function point(name) { // marks the row of that class, none for null
  for (const [own, row] of rows) row.label.classList.toggle("pointed", own === name);
}

function makeRow(name) {
  const label = make("label", "class");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: isShown(name) });
  box.dataset.name = name;
  const [swatch, shares] = [make("span", "swatch"), make("span", "shares")];
  label.append(box, swatch, make("span", "name", name.trim() || "(no name)"), shares);
  return { label, box, swatch, shares };
}

function make(tag, className, textContent = "") {
  return Object.assign(document.createElement(tag), { className, textContent });
}

function background(colors) { // of two models side by side
  const [first, last] = [colors[0], colors[colors.length - 1]].map(([r, g, b]) => `rgb(${r} ${g} ${b})`);
  return `linear-gradient(90deg, ${first} 50%, ${last} 50%)`;
}

function inPercent(share) {
  if (share === undefined) return "none";
  if (share === 0) return "0%";
  return share < 0.001 ? "<0.1%" : `${(100 * share).toFixed(1)}%`;
}
