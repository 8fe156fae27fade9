const letters = data.texts.map((text) => Array.from(text)); // places are code points, not UTF-16
const state = { first: data.shown[0], second: data.shown[1], layer: 0, expert: 0, token: null };

function show(value) {
  const text = Math.abs(value) >= 0.01 || value === 0 ? value.toFixed(3) : Number(value.toPrecision(2)).toString();
  return text.replace("-", "−");
}

const isSigned = data.experts.some((text) => text.some((row) => row.some((value) => value < 0)));
const pairOf = () => data.pairs.find((pair) => pair.first === state.first && pair.second === state.second);
const product = () => data.experts[state.first].map((row, layer) =>
  row.map((value, expert) => value * data.experts[state.second][layer][expert]));

function bar(name, start, amount, low, high, color, share = "") {
  const place = (value) => `${(100 * (value - low)) / (high - low)}%`;
  const inner = make("div");
  inner.style.left = place(Math.min(start, start + amount));
  inner.style.width = `${(100 * Math.abs(amount)) / (high - low)}%`;
  inner.style.background = `var(--${color})`;
  return make("div", { class: "row" }, make("span", {}, name), make("div", { class: "track" }, inner),
    make("span", { class: "value" }, show(amount) + share));
}

function showParts() {
  const { first, second } = state;
  const [hidden, routing] = [data.hidden[first][second], data.routing[first][second]];
  const [headline, sentence] = data.words.pairs[data.pairs.indexOf(pairOf())];
  find("headline").textContent = headline;
  find("parts").textContent = sentence;
  find("alone").textContent = data.words.alone;
  find("measures").textContent = data.words.measures;
  const [low, high] = [Math.min(0, hidden, hidden + routing), Math.max(1, hidden)];
  const share = (part) => Math.min(hidden, routing) >= 0 && hidden + routing > 0
    ? ` (${Math.round((100 * part) / (hidden + routing))} %)` : "";
  find("bars").replaceChildren(bar(data.words.names.hidden, 0, hidden, low, high, "hidden", share(hidden)),
    bar(data.words.names.routing, hidden, routing, low, high, "routing", share(routing)));
  const of = (part) => `${show(data[`${part}_weight`][first][second])} × ${show(data[`${part}_cosine`][first][second])}`;
  find("sum").textContent =
    `${show(data.similarity[first][second])} = ${of("hidden")} + ${of("routing")}: ` +
    "how much each part counts, times how alike the texts are in it (a cosine, −1 to 1).";
  const amounts = pairOf().layers;
  const [least, most] = [Math.min(0, ...amounts), Math.max(1e-12, ...amounts)];
  find("layers").replaceChildren(...amounts.map((amount, layer) =>
    bar(`layer ${data.layers[layer]}`, 0, amount, least, most, "routing")));
  for (const side of ["for", "against"])
    find(side).replaceChildren(...pairOf()[side].map((part) => {
      const layer = data.layers.indexOf(part.layer);
      const isAvoided = [first, second].every((text) => data.experts[text][layer][part.expert] < 0);
      return make("button", { class: "expert", type: "button", onclick: () => choose(layer, part.expert) },
        `layer ${part.layer}, expert ${part.expert}: ${show(part.amount)}${isAvoided ? ` (${data.words.avoided})` : ""}`);
    }));
}

// parts of one character, as those of an emoji, are one piece
function pieces(text) {
  const found = [];
  for (const token of data.tokens[text]) {
    const last = found.at(-1);
    if (last && token.begin < last.end) {
      last.end = Math.max(last.end, token.end);
      last.experts.push(token.experts);
    } else found.push({ begin: token.begin, end: token.end, experts: [token.experts] });
  }
  return found;
}

const chooses = (piece, layer, expert) => piece.experts.some((layers) => layers[layer].includes(expert));
const slice = (text, begin, end) => letters[text].slice(begin, end).join("");

function showTexts() {
  find("texts").replaceChildren(...[state.first, state.second].map((text) => {
    const item = make("div");
    let end = 0;
    for (const piece of data.tokens ? pieces(text) : []) {
      const lit = () => { state.token = { text, piece }; drawMaps(); };
      const element = make("span", { class: "token", tabindex: "0", onmouseenter: lit, onfocus: lit },
        slice(text, piece.begin, piece.end));
      element.piece = piece;
      item.append(slice(text, end, piece.begin), element);
      end = piece.end;
    }
    item.append(slice(text, end, letters[text].length));
    item.addEventListener("mouseleave", () => { state.token = null; drawMaps(); });
    item.addEventListener("focusout", () => { state.token = null; drawMaps(); });
    return make("div", { class: "text" }, make("span", { class: "faint" }, String(text + 1)), item);
  }));
}

function wordsThatChoose(text) {
  const words = pieces(text).filter((piece) => chooses(piece, state.layer, state.expert));
  return words.length ? words.map((piece) => `“${slice(text, piece.begin, piece.end).trim()}”`).join(" ") : "none";
}

function showDetails() {
  const { first, second, layer, expert } = state;
  const [a, b] = [data.experts[first][layer][expert], data.experts[second][layer][expert]];
  let text = `MoE layer ${data.layers[layer]}, expert ${expert}: ${show(a)} in text ${first + 1}, ` +
    `${show(b)} in text ${second + 1}; multiplied ${show(a * b)} of the similarity.`;
  if (isSigned && a * b > 0) text += ` Both favour it ${a > 0 ? "more" : "less"} than usual, which makes them alike.`;
  if (a * b < 0) text += " One favours it more than usual, the other one less, which makes them differ.";
  if (data.tokens)
    text += ` Words that choose it: in text ${first + 1} ${wordsThatChoose(first)}; ` +
      `in text ${second + 1} ${wordsThatChoose(second)}.`;
  find("details").textContent = text;
  for (const element of document.querySelectorAll(".token"))
    element.classList.toggle("lit", chooses(element.piece, layer, expert));
}

function choose(layer, expert) {
  state.layer = Math.max(0, Math.min(data.layers.length - 1, layer));
  state.expert = Math.max(0, Math.min(data.num_experts - 1, expert));
  showDetails();
  drawMaps();
}

function color(name) {
  const value = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  return [1, 3, 5].map((place) => parseInt(value.slice(place, place + 2), 16));
}

function drawMap(canvas, values, most, names, text) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const context = canvas.getContext("2d");
  const [width, height] = [canvas.width / data.num_experts, canvas.height / data.layers.length];
  const [background, above, below] = [color("background"), color(names[0]), color(names[1])];
  values.forEach((row, layer) => row.forEach((value, expert) => {
    const share = Math.min(1, Math.abs(value) / most);
    const end = value < 0 ? below : above;
    const mixed = background.map((from, channel) => Math.round(from + share * (end[channel] - from)));
    context.fillStyle = `rgb(${mixed})`;
    context.fillRect(Math.floor(expert * width), Math.floor(layer * height), Math.ceil(width), Math.ceil(height));
  }));
  const mark = (layer, expert, line) => {
    context.lineWidth = line * ratio;
    context.strokeRect(expert * width, layer * height, width, height);
  };
  context.strokeStyle = `rgb(${color("text")})`;
  if (state.token && state.token.text === text) for (const layers of state.token.piece.experts)
    layers.forEach((experts, layer) => experts.forEach((expert) => mark(layer, expert, 1)));
  mark(state.layer, state.expert, 3);
}

const largest = (...maps) => Math.max(1e-12, ...maps.flat().map((row) => Math.max(...row.map(Math.abs))));

function drawMaps() {
  if (!data.layers.length) return;
  const [a, b] = [data.experts[state.first], data.experts[state.second]];
  const together = product();
  const [most, signs] = [largest(a, b), ["positive", "negative"]];
  const canvases = document.querySelectorAll("canvas");
  const names = isSigned ? signs : ["routing", "routing"];
  drawMap(canvases[0], a, most, names, state.first);
  drawMap(canvases[1], b, most, names, state.second);
  drawMap(canvases[2], together, largest(together), signs, null);
}

function pointed(event) {
  const box = event.target.getBoundingClientRect();
  choose(Math.floor(((event.clientY - box.top) / box.height) * data.layers.length),
    Math.floor(((event.clientX - box.left) / box.width) * data.num_experts));
}

function moved(event) {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  choose(state.layer + step[0], state.expert + step[1]);
}

function legend(most, above, below) {
  const swatch = (name) => {
    const box = make("span", { class: "swatch" });
    box.style.background = `var(--${name})`;
    return box;
  };
  return make("p", { class: "faint legend" }, swatch(above[0]), above[1],
    ...(isSigned ? [swatch(below[0]), below[1]] : []), ` (strongest colour: ${show(most)})`);
}

function makeMaps() {
  const height = Math.max(60, Math.min(300, 16 * data.layers.length));
  const step = Math.ceil(data.layers.length / (height / 15));
  const titles = [state.first, state.second].map((text) => `Text ${text + 1}: ${data.words.meaning}`);
  find("maps").replaceChildren(...[...titles, data.words.product].flatMap((title, place) => {
    const canvas = make("canvas", { tabindex: "0", role: "img", onmousemove: pointed, onclick: pointed,
      onkeydown: moved, "aria-label": `${title}. A row for each MoE layer, a column for each expert.` });
    canvas.style.height = `${height}px`;
    const names = make("div", { class: "names" });
    for (let layer = 0; layer < data.layers.length; layer += step) {
      const name = make("span", {}, String(data.layers[layer]));
      name.style.top = `${(100 * (layer + 0.5)) / data.layers.length}%`;
      names.append(name);
    }
    const experts = make("div", { class: "experts faint" });
    for (let expert = 0; expert < data.num_experts; expert += Math.max(4, Math.ceil(data.num_experts / 48) * 4)) {
      const name = make("span", {}, String(expert));
      name.style.left = `${(100 * (expert + 0.5)) / data.num_experts}%`;
      experts.append(name);
    }
    const key = place === 2
      ? legend(largest(product()), ["positive", "makes alike"], ["negative", "makes differ"])
      : legend(largest(data.experts[state.first], data.experts[state.second]),
        isSigned ? ["positive", "more than usual"] : ["routing", "favoured"], ["negative", "less than usual"]);
    const rule = place === 2 ? [make("p", {}, data.words.rule)] : [];
    return [make("h3", {}, title), ...rule, key, make("div", { class: "map" }, names, canvas, experts)];
  }));
}

function makeMatrix() {
  if (data.texts.length === 2) return;
  find("several").hidden = false;
  const head = make("tr", {}, make("th"), ...data.texts.map((_, number) => make("th", {}, String(number + 1))));
  // the palest is 0, or, where all are large, as far below the smallest as that is below the largest
  const values = data.similarity.flatMap((row, first) => row.filter((_, second) => first !== second));
  const high = Math.max(...values.map(Math.abs)), low = Math.max(0, 2 * Math.min(...values) - high);
  find("matrix").replaceChildren(head, ...data.texts.map((text, row) => make("tr", {},
    make("th", { title: text }, `${row + 1}  ${slice(row, 0, 80)}`),
    ...data.texts.map((_, column) => {
      if (row === column) return make("td", { class: "faint" }, "–");
      const [first, second] = [Math.min(row, column), Math.max(row, column)];
      const value = data.similarity[row][column];
      const button = make("button", { type: "button", "aria-pressed": first === state.first && second === state.second,
        "aria-label": `texts ${first + 1} and ${second + 1}: ${show(value)}`,
        onclick: () => { Object.assign(state, { first, second, token: null }); showAll(); } }, value.toFixed(3));
      const sign = value < 0 ? "negative" : "positive";
      button.style.background = `color-mix(in srgb, var(--${sign}) ${Math.round((60 * (Math.abs(value) - low)) / (high - low || 1))}%, transparent)`;
      return make("td", {}, button);
    }))));
}

function showAll() {
  makeMatrix();
  showParts();
  showTexts();
  find("routing").hidden = !data.layers.length;
  find("tokens-help").hidden = !data.tokens;
  if (!data.layers.length) return;
  makeMaps();
  const [best] = [...pairOf().for, ...pairOf().against];
  choose(best ? data.layers.indexOf(best.layer) : 0, best ? best.expert : 0);
}

showAll();
addEventListener("resize", drawMaps);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMaps);
