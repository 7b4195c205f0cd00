// Ties the page's controls, lesion table and keys to a view.
"use strict";

// The page's controls are the state; views read it when they start.
volad.checkbox = (name) => document.querySelector(`input[type=checkbox][data-layer=${name}]`);
volad.slider = (name) => document.querySelector(`input[type=range][data-layer=${name}]`);
volad.opacity = (name) => (volad.checkbox(name).checked ? Number(volad.slider(name).value) : 0);
volad.outlined = () => document.getElementById("outline").checked;

volad.connect = (view, page, volumes) => {
  const $$ = (selector) => [...document.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const digits = (value) => Number(value.toPrecision(3)).toString();

  const { checkbox, slider } = volad;
  const showLayer = (name) => view.setLayer(name, volad.opacity(name));
  for (const name of ["image", "healthy", "score", "mask"]) {
    if (!volumes[name]) {
      checkbox(name).closest(".layer").hidden = true;
      continue;
    }
    checkbox(name).addEventListener("change", () => showLayer(name));
    slider(name).addEventListener("input", () => {
      checkbox(name).checked = true;
      showLayer(name);
    });
  }

  const { low, high, shown_from: from, shown_to: to } = page.score;
  const scoreFrom = byId("score-from");
  const toScore = (step) => low + ((high - low) * step) / 200;
  const nameScale = (value) => {
    byId("score-from-value").textContent = digits(value);
    byId("scale-low").textContent = digits(value);
  };
  scoreFrom.value = Math.round((200 * (from - low)) / (high - low));
  nameScale(from);
  byId("scale-high").textContent = digits(to);
  scoreFrom.addEventListener("input", () => {
    const value = toScore(Number(scoreFrom.value));
    nameScale(value);
    view.setScoreFrom(value);
  });

  for (const [id, set] of [
    ["outline", view.setOutline], ["neurological", view.setNeurological], ["render", view.setRender],
  ]) {
    if (set) byId(id).addEventListener("change", () => set(byId(id).checked));
    else byId(id).closest("label").remove();
  }

  const windowText = document.createElement("output");
  for (const [name, range] of Object.entries(page.windows)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => view.setWindow(...range));
    byId("windows").append(button);
  }
  byId("windows").append(windowText);
  view.onwindow = (first, last) => {
    windowText.textContent = `Window: ${digits(first)} to ${digits(last)}${page.unit}`;
  };
  view.onwindow(...page.window);

  const rows = $$("tr.lesion");
  let current = -1;
  const show = (index) => {
    if (!rows.length) return;
    rows[current]?.classList.remove("current");
    current = (index + rows.length) % rows.length;
    rows[current].classList.add("current");
    // Within the table only: scrollIntoView would move the page away from the viewer.
    const { offsetTop: top, offsetHeight: height } = rows[current];
    const box = document.querySelector(".rows");
    box.scrollTop = Math.min(Math.max(box.scrollTop, top + height - box.clientHeight), top - height);
    view.jump(rows[current].dataset.mm.split(",").map(Number));
  };
  rows.forEach((row, index) => {
    row.addEventListener("click", () => show(index));
    row.addEventListener("keydown", (event) => { if (event.key === "Enter") show(index); });
  });

  const field = (name, text) => {
    const span = document.createElement("span");
    const em = document.createElement("em");
    em.textContent = name;
    span.append(em, ` ${text} `);
    return span;
  };
  view.onmove = (mm) => {
    const voxel = volad.apply(page.from_world, mm).map(Math.round);
    const native = volad.apply(page.to_native, voxel).map(Math.round);
    const fields = [field("mm", mm.map((v) => v.toFixed(1)).join(", ")), field("voxel", native.join(", "))];
    fields.push(field("input", digits(volad.valueAt(volumes.image, voxel)) + page.unit));
    if (volumes.healthy) {
      fields.push(field("healthy", digits(volad.valueAt(volumes.healthy, voxel)) + page.unit));
    }
    fields.push(field("score", digits(volad.valueAt(volumes.score, voxel))));
    if (volad.valueAt(volumes.mask, voxel)) fields.push(field("in the lesion mask", ""));
    byId("readout").replaceChildren(...fields);
  };

  const toggle = (name) => { if (volumes[name]) checkbox(name).click(); };
  const keys = {
    ArrowUp: () => view.step(2, 1), ArrowDown: () => view.step(2, -1),
    ArrowRight: () => view.step(0, -volad.right()), ArrowLeft: () => view.step(0, volad.right()),
    PageUp: () => view.step(1, 1), PageDown: () => view.step(1, -1),
    n: () => show(current + 1), p: () => show(Math.max(current, 0) - 1),
    i: () => toggle("image"), h: () => toggle("healthy"),
    s: () => toggle("score"), m: () => toggle("mask"),
  };
  // The crosshair follows the arrow on the screen, whichever side right is on.
  volad.right = () => (byId("neurological").checked ? -1 : 1);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.target.type === "range" && event.key.startsWith("Arrow")) return;
    event.stopPropagation(); // niivue has keys of its own
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }, true);

  if (rows.length) show(0);
  else view.onmove(view.position());
};
