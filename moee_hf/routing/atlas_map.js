// the map: points of a canvas, with what is pointed at in words below
const map = data.map, places = map.places, points = map.texts.length, canvas = find("canvas"), MARGIN = 12;
const reading = map.projection === "UMAP" ? "by UMAP, which keeps neighbours together" :
  "by PCA, the two main directions in which embeddings differ: what lies apart differs, what lies together may too";
find("map-help").textContent = `${numbers(points)} different texts. Those that the model finds similar lie near each ` +
  `other, as far as a flat picture can show it (${reading}). The colour is the group. Point at the map, or move ` +
  "over it with the arrow keys; choose a group to show it alone.";
const HINT = "Point at the map to read a text; click for the ten texts near it on this picture.";
let shownGroup = null, matches = null, cursor = null;

const groupName = (group) => data.textGroups[group].words.slice(0, 3).join(", ") || "no words of its own";
data.textGroups.forEach((group, number) => {
  const button = make("button", { type: "button", "aria-pressed": "false", onclick: () => {
    shownGroup = shownGroup === number ? null : number;
    [...find("legend").children].forEach((other, index) => other.setAttribute("aria-pressed", index === shownGroup));
    draw();
  } }, mark(number), `${number + 1}: ${groupName(number)} (${numbers(group.size)})`);
  find("legend").append(button);

  const item = (point, more = "") => make("li", {}, map.texts[point], more);
  const looked = Math.min(10, points - 1);
  const elsewhere = (other, often, nearest) => make("span", { class: "faint" },
    ` — ${often} of its ${looked} nearest texts are in group ${other + 1} (${groupName(other)}), the nearest of them: ` +
    `“${map.texts[nearest]}”`);
  const between = group.between.map(([point, ...where]) => item(point, elsewhere(...where)));
  find("group-list").append(make("section", { class: "card" },
    make("h3", {}, mark(number), `Group ${number + 1}: ${group.words.join(", ") || "no words of its own"}`),
    make("p", { class: "faint" }, `${numbers(group.size)} of the ${numbers(points)} texts on the map`),
    make("h4", {}, "Most typical"), make("ul", {}, ...group.central.map((point) => item(point))),
    make("h4", {}, "Nearest to another group: does it belong here?"), between.length ?
      make("ul", {}, ...between) : make("p", {}, "No text of this group is.")));
});

let width = 0, height = 0;
const RADIUS = points > 5000 ? 2 : points > 500 ? 3 : 5;
const position = (point) => [MARGIN + places[2 * point] / 1000 * (width - 2 * MARGIN),
  MARGIN + (1 - places[2 * point + 1] / 1000) * (height - 2 * MARGIN)];
const isShown = (point) => (shownGroup === null || map.group[point] === shownGroup) &&
  (matches === null || matches.has(point));

function draw() {
  canvas.style.height = `${Math.min(560, Math.max(320, Math.round(canvas.clientWidth * 0.6)))}px`;
  const scale = window.devicePixelRatio || 1, style = getComputedStyle(document.documentElement);
  [width, height] = [canvas.clientWidth, canvas.clientHeight];
  [canvas.width, canvas.height] = [width * scale, height * scale];
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const colors = Array.from({ length: 7 }, (_, index) => style.getPropertyValue(`--category-${index}`));
  const background = style.getPropertyValue("--background");
  for (const visible of [false, true]) {
    for (let point = 0; point < points; point++) {
      if (isShown(point) !== visible) continue;
      const group = map.group[point];
      context.globalAlpha = visible ? 0.8 : 0.1;
      context.fillStyle = context.strokeStyle = colors[group % 7];
      context.beginPath();
      context.arc(...position(point), RADIUS, 0, 2 * Math.PI);
      if (group < 7) context.fill();
      else { context.lineWidth = 1.2; context.stroke(); }
    }
  }
  context.globalAlpha = 1;
  const middles = data.textGroups.map(() => [0, 0]);
  for (let point = 0; point < points; point++) {
    const [x, y] = position(point), group = map.group[point];
    middles[group][0] += x / data.textGroups[group].size;
    middles[group][1] += y / data.textGroups[group].size;
  }
  const written = [];
  middles.forEach((middle, number) => {  // the number of each group, in its middle, or below one that is there
    if (shownGroup !== null && shownGroup !== number) return;
    const x = middle[0];
    let y = middle[1], above;
    while ((above = written.find((other) => Math.abs(other[0] - x) < 26 && Math.abs(other[1] - y) < 22)))
      y = above[1] + 22;
    written.push([x, y]);
    context.font = "bold 20px system-ui, sans-serif";
    context.lineWidth = 6;
    context.lineJoin = "round";
    context.textAlign = "center";
    context.strokeStyle = background;
    context.fillStyle = style.getPropertyValue("--text");
    context.strokeText(number + 1, x, y + 7);
    context.fillText(number + 1, x, y + 7);
  });
  ring();
}

// it lies above the canvas, which takes long to draw
function ring() {
  find("ring").hidden = cursor === null;
  if (cursor === null) return;
  const [x, y] = position(cursor), size = 2 * (RADIUS + 4);
  Object.assign(find("ring").style, { width: `${size}px`, height: `${size}px`,
    transform: `translate(${x - size / 2}px, ${y - size / 2}px)` });
}

function nearest(x, y, most) {
  const found = [];
  for (let point = 0; point < points; point++) {
    if (!isShown(point)) continue;
    const [left, top] = position(point);
    found.push([(left - x) ** 2 + (top - y) ** 2, point]);
  }
  if (most === 1) return found.length ? [found.reduce((a, b) => b[0] < a[0] ? b : a)[1]] : [];
  found.sort((a, b) => a[0] - b[0]);
  return found.slice(0, most).map(([, point]) => point);
}
function list(chosen) {
  find("near").replaceChildren(...chosen.map((point) => make("li", {}, mark(map.group[point]), map.texts[point])));
}
function point(chosen) {
  if (chosen === undefined || chosen === cursor) return;
  cursor = chosen;
  const group = map.group[chosen];
  find("pointed").replaceChildren(mark(group), map.texts[chosen],
    make("span", { class: "faint" }, ` (group ${group + 1}: ${groupName(group)})`));
  ring();
}
const of = (event) => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
canvas.addEventListener("pointermove", (event) => point(nearest(...of(event), 1)[0]));
canvas.addEventListener("click", (event) => list(nearest(...of(event), 10)));
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const [x, y] = cursor === null ? [width / 2, height / 2] : position(cursor);
  if (event.key === "Enter") list(nearest(x, y, 10));
  if (!step) return;
  event.preventDefault();
  // the nearest point in this direction
  let best = [Infinity, undefined];
  for (let other = 0; other < points; other++) {
    if (other === cursor || !isShown(other)) continue;
    const [left, top] = position(other), along = (left - x) * step[0] + (top - y) * step[1];
    const across = Math.abs((left - x) * step[1]) + Math.abs((top - y) * step[0]);
    if (along > 0.5 && along + 2 * across < best[0]) best = [along + 2 * across, other];
  }
  point(best[1]);
});
find("find-text").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  matches = wanted === "" ? null : new Set(lowerMap.flatMap((text, index) => text.includes(wanted) ? [index] : []));
  find("found-texts").textContent = matches === null ? "" : matches.size === 1 ? "1 text" :
    matches.size > 20 ? `20 of ${numbers(matches.size)} texts` : `${numbers(matches.size)} texts`;
  cursor = null;
  find("pointed").textContent = HINT;
  list(matches === null ? [] : [...matches].slice(0, 20));
  draw();
});
find("pointed").textContent = HINT;
new ResizeObserver(draw).observe(find("legend"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();

find("made").textContent = "Each text was read once, inside the prompt of the model. Texts of an expert: those with the " +
  "largest log-ratio (its routing weight in comparison with the others of its layer) at the last token, with which the " +
  "model sums a text up. Words: the average of this over the texts that have a word, less the average over all texts; " +
  "a word that few texts have counts less (n of n + 5). Pieces: the same at the piece itself. Experts go together when " +
  "their log-ratios rise and fall together over texts. Groups are made by k-means; of 6 to 14, that number is taken " +
  "which tells them apart best (the mean silhouette). Of very many texts, the map shows a random sample. Long texts " +
  "are shortened." +
  (data.numLeftOut ? ` ${numbers(data.numLeftOut)} of ${numbers(data.numTokens)} tokens are pieces that came late, ` +
    "for which there was no room: they are not shown." : "");
find("command").textContent = data.command;
find("command").hidden = !data.command;
