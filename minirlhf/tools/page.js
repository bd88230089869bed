// What moves on the page: the reading of a chart under the mouse, and the microscope.
// Texts come into the page by textContent alone: markup in them stays text.
"use strict";

function make(parent, tag, text = "", kind = "") {
  const node = document.createElement(tag);
  node.textContent = text;
  node.className = kind;
  return parent.appendChild(node);
}

function digits(number) {
  if (number === null || number === undefined) return "null";
  const size = Math.abs(number);
  if (size > 0 && size < 1e-3) return number.toExponential(1);
  return size >= 100 || Number.isInteger(number) ? number.toFixed(0) : number.toPrecision(3);
}

// ---- charts: the value of every line at the place that is nearest to the mouse

for (const chart of document.querySelectorAll(".chart")) {
  const { lines, scales } = JSON.parse(chart.dataset.chart);
  if (!scales.length) continue;
  const [low, high, start, stop] = scales[0];
  const reading = chart.querySelector(".reading"), cursor = chart.querySelector(".cursor");
  chart.addEventListener("mousemove", (event) => {
    const box = chart.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
    const x = low + ((place - start) / (stop - start)) * (high - low);
    const nearest = (points) => points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
    const texts = lines.map(([name, points]) => `${name} ${digits(nearest(points)[1])}`);
    const at = nearest(lines[0][1])[0];
    reading.textContent = `at ${digits(at)}: ${texts.join(", ")}`;
    reading.setAttribute("x", chart.viewBox.baseVal.width - 10);
    reading.setAttribute("y", chart.viewBox.baseVal.height - 4);
    cursor.setAttribute("d", `M${start + ((at - low) / (high - low)) * (stop - start)} 34V176`);
  });
}

// ---- the microscope

const COLUMNS = {  // heading -> [name in microscope.jsonl, explanation]
  "log p": ["logprobs", "log-probability under the policy that sampled"],
  "reference": ["ref_logprobs", "log-probability under the SFT model"],
  "KL": ["kl", "log p - reference, in nats"],
  "reward": ["rewards", "penalty on the KL, and at the last token the score"],
  "value": ["values", "what the value function expected before the token"],
  "advantage": ["raw_advantages", "return - value"],
  "whitened": ["advantages", "the advantage that the loss has"],
  "ratio": ["ratios", "probability after the update / before"],
};

function visible(token) {  // white space that stands alone, and what shows nothing, get a sign
  return token === "" ? "⟨end⟩" : token.replace(/\n/g, "⏎\n");
}

function color(number, scale) {  // blue above, orange below
  const share = Math.min(Math.abs(number) / (scale || 1), 1);
  return `rgba(${number < 0 ? "214,96,32" : "40,120,200"},${(0.65 * share).toFixed(2)})`;
}

function microscope(box) {
  const views = JSON.parse(box.querySelector("script").textContent);
  const controls = make(box, "div", "", "controls");
  const label = make(controls, "label");
  const slider = make(controls, "input");
  Object.assign(slider, { type: "range", min: 0, max: views.length - 1, value: views.length - 1 });
  const choice = make(controls, "select");
  for (const heading of Object.keys(COLUMNS)) make(choice, "option", heading);
  choice.value = "whitened";
  const buttons = make(controls, "span");
  const body = make(box, "div");
  let row = 0;

  function draw() {
    const view = views[slider.value], name = COLUMNS[choice.value][0];
    row = Math.min(row, view.responses.length - 1);
    label.textContent = `update ${view.step}`;
    buttons.textContent = "";
    view.responses.forEach((_, i) => {
      const button = make(buttons, "button", `response ${i + 1}`, i === row ? "chosen" : "");
      button.onclick = () => { row = i; draw(); };
    });
    body.textContent = "";
    const response = view.responses[row];
    make(body, "div", response.prompt, "prompt");
    const strip = make(body, "div", "", "response");
    const holder = make(body, "div", "", "table");
    const table = make(holder, "table");
    const head = make(table, "tr");
    make(head, "th", "token");
    for (const [heading, [, text]] of Object.entries(COLUMNS)) make(head, "th", heading).title = text;
    make(head, "th", "clipped").title = `ratio outside 1 ± ${view.clip}, in the advantage's direction`;
    // Log-probabilities and ratios are colored by their distance from 0 and from 1.
    const centre = name === "ratios" ? 1 : 0;
    const scale = Math.max(...response[name].map((x) => Math.abs((x ?? centre) - centre)));
    response.tokens.forEach((token, i) => {
      const kind = response.clipped[i] ? "clipped" : "";
      const span = make(strip, "span", visible(token), kind), line = make(table, "tr");
      span.style.background = color((response[name][i] ?? centre) - centre, scale);
      span.title = `${choice.value} ${digits(response[name][i])}`;
      make(line, "td", visible(token).replace(/ /g, "·"));
      for (const [column] of Object.values(COLUMNS)) make(line, "td", digits(response[column][i]));
      make(line, "td", response.clipped[i] ? "clipped" : "");
      for (const node of [span, line]) {
        node.onmouseenter = () => [span, line].forEach((x) => x.classList.add("chosen"));
        node.onmouseleave = () => [span, line].forEach((x) => x.classList.remove("chosen"));
      }
    });
    if (!response.ended) make(strip, "em", " (cut off)");
  }
  slider.oninput = draw;
  choice.onchange = draw;
  draw();
}

document.querySelectorAll(".microscope").forEach(microscope);
