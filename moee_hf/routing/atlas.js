const numbers = (value) => value.toLocaleString("en");

// seven colours, each filled, then hollow
function colours(target, group) {
  target.style.setProperty("--mark", `var(--category-${group % 7})`);
  target.style.setProperty("--fill", group < 7 ? "var(--mark)" : "var(--background)");
  return target;
}
const mark = (group, kind = "") => colours(make("span", { class: `mark ${kind}`, "aria-hidden": "true" }), group);

function times(hundredths) {
  const ratio = Math.exp(hundredths / 100);
  return ratio > 1000 ? "×1,000+" : `×${ratio.toPrecision(ratio < 100 ? 2 + (ratio < 2) : 3)}`;
}
function pairs(flat) {
  const found = [];
  for (let i = 0; i < flat.length; i += 2) found.push([flat[i], flat[i + 1]]);
  return found;
}

const experts = data.experts, count = data.numExperts, total = experts.group.length;
const layerOf = (expert) => data.layers[Math.floor(expert / count)];
const nameOf = (expert) => `Layer ${layerOf(expert)}, expert ${expert % count}`;
// groups of experts have letters, groups of texts numbers
const letter = (group) => String.fromCharCode(65 + group);
const wordsOf = (group) => group.words.map((word) => data.words[word]);

find("title").textContent = `What the experts read: ${data.model}`;
find("summary").textContent = `${numbers(data.numTexts)} texts of ${numbers(data.numTokens)} tokens (words and pieces ` +
  `of words), ${numbers(total)} experts in ${data.layers.length} layers, ${data.expertGroups.length} groups of ` +
  `experts, ${data.textGroups.length} groups of texts.`;
find("layers-help").textContent = `Here are the ${data.layers.length} layers that embeddings with routing read, ` +
  `with ${count} experts each` + (data.chosen ? `, of which ${data.chosen} are chosen for each piece.` : ".") +
  " Layers and experts are counted from 0.";

const firstWords = (expert, most) => pairs(experts.words[expert]).slice(0, most).map(([word]) => data.words[word])
  .join(", ");

// the grid, one stop of the tabulator key
const squares = [];
let selected = 0;
find("grid").style.gridTemplateColumns = `max-content repeat(${count}, minmax(0.75rem, 1fr))`;
// numbers of the columns, where there is room
const head = make("div", { "aria-hidden": "true" }, make("span", {}, "expert"));
for (let column = 0; column < count; column++) head.append(make("span", { class: "column" }, column % 4 ? "" : `${column}`));
find("grid").append(head);
data.layers.forEach((layer, row) => {
  const line = make("div", { role: "row" }, make("span", { role: "rowheader" }, `Layer ${layer}`));
  for (let column = 0; column < count; column++) {
    const expert = row * count + column;
    const square = make("button", { type: "button", role: "gridcell", tabindex: "-1", "aria-selected": "false",
      "aria-label": nameOf(expert), title: `${nameOf(expert)}: ${firstWords(expert, 3)}`,
      onclick: () => select(expert) });
    squares.push(colours(square, experts.group[expert]));
    line.append(square);
  }
  find("grid").append(line);
});
find("grid").addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -count, ArrowDown: count };
  const next = event.key === "Home" ? 0 : event.key === "End" ? total - 1 : selected + steps[event.key];
  if (!(next >= 0 && next < total)) return;
  event.preventDefault();
  select(next);
  squares[next].focus();
});

function expertButton(expert, more = "") {
  return make("button", { type: "button", class: "small", onclick: () => {
    select(expert);
    find("card").scrollIntoView({ block: "center" });
  } }, mark(experts.group[expert], "square"), nameOf(expert), more);
}
function chip(word, value) {
  const made = make("span", { class: "word" }, word);
  if (value !== undefined) made.append(" ", make("small", {}, times(value)));
  return made;
}

function select(expert) {
  squares[selected].setAttribute("aria-selected", "false");
  squares[selected].tabIndex = -1;
  selected = expert;
  squares[expert].setAttribute("aria-selected", "true");
  squares[expert].tabIndex = 0;
  const group = experts.group[expert], share = experts.share[expert];
  const texts = pairs(experts.texts[expert]);
  const card = find("card");
  card.replaceChildren(make("h3", {}, nameOf(expert)));
  card.append(make("p", {}, mark(group, "square"), `One of group ${letter(group)}: `,
    wordsOf(data.expertGroups[group]).join(", ") || "no words in common"));
  const chips = (words) => make("p", {}, ...(words.length ?
    pairs(words).map(([word, value]) => chip(data.words[word], value)) : ["none: its weight hardly changes"]));
  card.append(make("h4", {}, `What it is about: ${clarity(expert)}`), chips(experts.words[expert]),
    make("p", { class: "faint" }, "Texts with these words light it up most, on average. Of the texts below, " +
      `${experts.withWords[expert]} of ${texts.length} have one of them.`));
  card.append(make("h4", {}, "It lights up most at these texts"), make("ol", {},
    ...texts.map(([text, value]) => make("li", {}, data.texts[text], " ",
      make("span", { class: "times" }, times(value))))));
  card.append(make("h4", {}, "It goes together with"), make("p", {}, ...pairs(experts.partners[expert])
    .map(([other, value]) => expertButton(other, ` (correlation ${(value / 100).toFixed(2)})`))));
  card.append(make("details", {}, make("summary", {}, "What it does on the way through a text"),
    make("p", {}, "Words and texts above are of the routing at the end of the prompt around a text, which embeddings " +
      "read. Inside a text it may be another one: there, the expert lights up most at these pieces." +
      (share === null ? "" : ` It is chosen for ${(share / 10).toFixed(1)}% of all pieces; if all experts were chosen ` +
        `alike, it would be ${(100 * data.chosen / count).toFixed(1)}%.`)), chips(experts.tokens[expert])));
}

// how many of its texts have one of its words
function clarity(expert) {
  const share = experts.withWords[expert] / Math.max(1, experts.texts[expert].length / 2);
  return share >= 0.75 ? "a clear topic" : share >= 0.5 ? "a mixed topic" : "no clear topic";
}
const strength = experts.words.map((words) => pairs(words).reduce((sum, [, value]) => sum + value, 0));
const clearest = [...strength.keys()]
  .sort((a, b) => experts.withWords[b] - experts.withWords[a] || strength[b] - strength[a]).slice(0, 10);
find("clearest").append(...clearest.map((expert) => expertButton(expert, `: ${firstWords(expert, 2)}`)));

// where words begin with what is typed; in the words of an expert this counts before in its texts
const beginsWith = (wanted) => {
  const pattern = new RegExp(`(^|[^\\p{L}\\p{N}])${wanted.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}`, "u");
  return (string) => pattern.test(string);
};
const lower = (strings) => strings.map((string) => string.toLowerCase());
const lowerWords = lower(data.words), lowerTexts = lower(data.texts), lowerMap = lower(data.map.texts);
find("find-expert").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  const place = /^(\d+)\D+(\d+)$/.exec(wanted), row = place ? data.layers.indexOf(Number(place[1])) : -1;
  const named = row >= 0 && Number(place[2]) < count ? row * count + Number(place[2]) : -1;
  const has = beginsWith(wanted);
  const words = new Set(lowerWords.flatMap((word, index) => has(word) ? [index] : []));
  const texts = new Set(lowerTexts.flatMap((text, index) => has(text) ? [index] : []));
  const found = [];
  squares.forEach((square, expert) => {
    const valuesOf = (flat, chosen) => pairs(flat).filter(([index]) => chosen.has(index)).map(([, value]) => value);
    const byWord = valuesOf([...experts.words[expert], ...experts.tokens[expert]], words);
    const byText = valuesOf(experts.texts[expert], texts);
    const matches = named >= 0 ? expert === named : wanted !== "" && byWord.length + byText.length > 0;
    square.classList.toggle("match", matches);
    if (matches) found.push([byWord.length > 0, Math.max(...byWord, ...byText), expert]);
  });
  find("grid").classList.toggle("searching", wanted !== "");
  found.sort((a, b) => b[0] - a[0] || b[1] - a[1]);
  find("found").replaceChildren();
  if (wanted !== "") {
    const inWords = found.filter(([byWord]) => byWord).length, more = found.length > 6 ? "; the first six: " : " ";
    const counted = found.length === 1 ? "1 expert" : `${numbers(found.length)} experts`;
    find("found").append(named >= 0 ? "" : `${counted}, ${numbers(inWords)} by its words, the others by their texts${more}`,
      ...found.slice(0, 6).map(([, , expert]) => expertButton(expert)));
  }
  if (found.length) select(found[0][2]);
});
select(clearest[0]);

data.expertGroups.forEach((group, number) => {
  const card = make("section", { class: "card" }, make("h3", {}, mark(number, "square"), `Group ${letter(number)}`));
  card.append(make("p", {}, ...wordsOf(group).map((word) => chip(word))));
  card.append(make("h4", {}, "Texts at which they light up"), make("ul", {},
    ...group.points.map((point) => make("li", {}, data.map.texts[point]))));
  const list = make("details", {}, make("summary", {}, group.experts.length === 1 ? "1 expert" : `${numbers(group.experts.length)} experts`));
  list.addEventListener("toggle", () => {  // thousands of buttons only when they are asked for
    if (list.open && list.childElementCount === 1) list.append(...group.experts.map((expert) => expertButton(expert)));
  });
  card.append(list);
  find("team-list").append(card);
});
