"use strict";
// Nodes of the page: elements with text, and small charts. It knows no arm.

const SVG = "http://www.w3.org/2000/svg", COLOURS = 6;

// Names come from operators and bundles: they become text, and never markup.
function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  const given = children.filter(child => child !== null);
  node.append(...given.map(child => child instanceof Node ? child : String(child)));
  return node;
}
function draw(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// Pixels below and above the axis. A chart is drawn as wide as it is shown, so that its words keep their size.
const LOW = 20, HIGH = 100;

function figure(label, wide, high = HIGH + LOW) {
  const node = draw("svg", {viewBox: `0 0 ${wide} ${high}`, role: "img"});
  node.append(draw("title", {}, label));
  return node;
}

function histogramOf(counts, bounds, wide) {
  const total = sum(counts), most = Math.max(...counts, 1);
  const node = figure(`Distribution of ${whole(total)} pCTRs`, wide);
  const step = wide / counts.length;
  for (const [place, count] of counts.entries()) {
    const height = count && Math.max(1, (HIGH - 14) * count / most);
    const at = {x: place * step + 1, width: step - 2, y: HIGH - height, height};
    const bar = draw("rect", {class: "bar", ...at});
    const upTo = place < bounds.length ? `up to ${bounds[place]}` : `above ${bounds[bounds.length - 1]}`;
    bar.append(draw("title", {}, `${upTo}: ${percent(total ? count / total : 0)}`));
    node.append(bar);
    if (place < bounds.length && place % 3 === 0) {
      node.append(draw("text", {x: (place + 1) * step, y: HIGH + 14, "text-anchor": "middle"}, bounds[place]));
    }
  }
  node.append(draw("line", {class: "axis", x1: 0, x2: wide, y1: HIGH, y2: HIGH}));
  return node;
}

// One line an arm: `lines` are lists of values, null where there is none, as long as `times`.
function linesOf(label, times, lines, text, wide) {
  const node = figure(label, wide);
  const most = Math.max(...lines.flat().filter(value => value !== null), 0) || 1;
  const first = times[0], span = Math.max(times[times.length - 1] - first, 30);
  const x = time => 2 + (wide - 4) * (time - first) / span, y = value => HIGH - (HIGH - 18) * value / most;
  node.append(draw("line", {class: "axis", x1: 0, x2: wide, y1: HIGH, y2: HIGH}));
  node.append(draw("line", {class: "axis", x1: 0, x2: wide, y1: y(most), y2: y(most)}));
  node.append(draw("text", {x: 0, y: 12}, text(most)));
  node.append(draw("text", {x: 0, y: HIGH + 14}, clock(first).split(", ")[1]));
  node.append(draw("text", {x: wide, y: HIGH + 14, "text-anchor": "end"}, `+ ${age(span)}`));
  for (const [number, line] of lines.entries()) {
    const colour = `arm-${number % COLOURS}`;
    let path = "", isOn = false, dot = null;
    for (const [place, value] of line.entries()) {
      if (value !== null) {
        dot = {cx: x(times[place]), cy: y(value)};
        path += `${isOn ? "L" : "M"}${dot.cx.toFixed(1)} ${dot.cy.toFixed(1)}`;
      }
      isOn = value !== null;
    }
    if (!dot) continue;
    node.append(draw("path", {class: `line ${colour}`, d: path}));
    node.append(draw("circle", {class: `dot ${colour}`, r: 2.5, ...dot}));
  }
  return node;
}

function shareBar(share) {
  const node = draw("svg", {viewBox: "0 0 100 4", height: 7, preserveAspectRatio: "none", role: "img"});
  node.append(draw("title", {}, `${percent(share)} of requests`));
  node.append(draw("rect", {class: "bar", width: 100 * share, height: 4}));
  return make("div", {class: "share"}, node);
}
