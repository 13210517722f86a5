"use strict";
// What came back of each arm: PCOC by the hour, and the reliability of its pCTRs, as charts. It knows no service.

const HOUR_SECONDS = 3600, LEFT = 40, TALL = 190;
const share = value => percent(value).replace(".00 ", " ");

// A scale on which equal ratios are equally far, from `low` to `high`; what lies beyond is at the edge.
function ratios(low, high, from, to) {
  const span = Math.log(high / low);
  return value => value <= low ? from : from + (to - from) * Math.min(1, Math.log(value / low) / span);
}

// An interval from `low` to `high`; what lies beyond the chart ends at its edge.
const interval = (x, y, low, high) => draw("line", {class: "interval", x1: x, x2: x, y1: y(low), y2: y(high)});

// PCOC of each of the last hours with its interval, and 1 as the line on which the points should lie.
function hoursOf({of, each}, at, wide) {
  const node = figure(`PCOC of the last ${of} hours`, wide);
  const seen = each.filter(hasPoint);
  // So far that no point is beyond, and no further for an interval of few clicks.
  const values = seen.map(({pcoc}) => pcoc.value);
  const most = 1.1 * Math.max(1.25, ...values), least = Math.min(0.8, ...values) / 1.1;
  const end = HOUR_SECONDS * Math.floor(at / HOUR_SECONDS), first = end - (of - 1) * HOUR_SECONDS;
  const step = (wide - LEFT) / of;
  const x = hour => LEFT + step * ((hour - first) / HOUR_SECONDS + 0.5), y = ratios(least, most, HIGH, 4);
  for (const value of [least, most]) {
    node.append(draw("line", {class: "axis", x1: LEFT, x2: wide, y1: y(value), y2: y(value)}));
  }
  for (const value of [1.1 * least, 1, most / 1.1]) {
    if (value !== 1 && Math.abs(y(value) - y(1)) < 12) continue; // one label would lie on the other
    node.append(draw("text", {x: LEFT - 6, y: y(value) + 4, "text-anchor": "end"}, value.toFixed(2)));
  }
  node.append(draw("line", {class: "ideal", x1: LEFT, x2: wide, y1: y(1), y2: y(1)}));
  const before = hours => x(end - hours * HOUR_SECONDS);
  for (const hours of [of - 1, of / 2]) {
    const anchor = hours === of - 1 ? "start" : "middle";
    node.append(draw("text", {x: before(hours), y: HIGH + 14, "text-anchor": anchor}, `${hours} h ago`));
  }
  node.append(draw("text", {x: wide, y: HIGH + 14, "text-anchor": "end"}, "now"));
  for (const hour of seen) {
    const {value, low, high} = hour.pcoc, place = x(hour.at);
    const group = draw("g", {class: "hour"});
    group.append(draw("title", {}, describeHour(hour)));
    group.append(interval(place, y, low, high ?? most));
    const kind = hour.at === end ? "dot open" : "dot"; // clicks of this hour are still to come
    group.append(draw("circle", {class: kind, r: 3, cx: place, cy: y(value)}));
    node.append(group);
  }
  return node;
}

// An hour without a click has no PCOC, and one whose impressions were not reported a PCOC of 0.
const hasPoint = hour => hour.pcoc.value > 0;

function describeHour({at, impressions, clicks, pcoc}) {
  const until = clock(at + HOUR_SECONDS).split(", ")[1].slice(0, 5);
  const said = `PCOC ${ratio(pcoc.value)}, ${within(pcoc)}`;
  return `${clock(at).slice(0, -3)} – ${until}: ${said}; ${whole(clicks)} clicks of ${whole(impressions)}`;
}

// 1, 2 and 5 times powers of ten between two numbers.
function ticks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const digit of [1, 2, 5]) found.push(digit * 10 ** power);
  }
  return found.filter(value => value >= low && value <= high);
}

// The click rate at each pCTR with its interval, and the diagonal on which the points should lie.
function reliabilityOf({of, points}, wide) {
  const node = figure(`Click rate by pCTR, of the last ${of} hours`, wide, TALL + 2 * LOW);
  const values = points.flatMap(({pctr, rate, high}) => [pctr, rate || pctr, Math.min(high, 4 * Math.max(rate, pctr))]);
  const low = Math.min(...values) / 1.3, high = Math.min(1, Math.max(...values) * 1.3);
  const x = ratios(low, high, LEFT, wide - 4), y = ratios(low, high, TALL, 4);
  const many = ticks(low, high), shown = many.length > 7 ? many.filter(value => /^1/.test(value.toExponential())) : many;
  for (const value of shown) {
    node.append(draw("line", {class: "axis", x1: LEFT, x2: wide, y1: y(value), y2: y(value)}));
    node.append(draw("line", {class: "axis", x1: x(value), x2: x(value), y1: 4, y2: TALL}));
    node.append(draw("text", {x: LEFT - 6, y: y(value) + 4, "text-anchor": "end"}, share(value)));
    const anchor = x(value) > wide - 24 ? "end" : "middle";
    node.append(draw("text", {x: x(value), y: TALL + 14, "text-anchor": anchor}, share(value)));
  }
  node.append(draw("text", {x: wide, y: TALL + 30, "text-anchor": "end"}, "mean pCTR →"));
  node.append(draw("text", {x: LEFT, y: TALL + 30}, "↑ click rate"));
  node.append(draw("line", {class: "ideal", x1: x(low), x2: x(high), y1: y(low), y2: y(high)}));
  for (const point of points) {
    const place = x(point.pctr), group = draw("g", {class: "point"});
    group.append(draw("title", {}, describePoint(point)));
    group.append(interval(place, y, point.low, point.high));
    group.append(draw("circle", {class: "dot", r: 3, cx: place, cy: y(point.rate)}));
    node.append(group);
  }
  return node;
}

function describePoint({pctr, rate, low, high, clicks, impressions}) {
  const said = `clicked ${percent(rate)}, 95 % ${percent(low)} – ${percent(high)}`;
  return `mean pCTR ${percent(pctr)}: ${said}; ${whole(clicks)} clicks of ${whole(impressions)}`;
}

// The card of an arm, or what says why it has none.
function feedbackCard(arm, number, at, wide) {
  const {hours, reliability} = arm;
  const part = (text, isThere, chart, nothing) => make("figure", {},
    make("figcaption", {}, text), isThere ? make("div", {class: "chart"}, chart()) : make("p", {class: "quiet"}, nothing));
  const clicked = hours.each.some(hasPoint);
  return make("article", {class: `feedback arm-${number % COLOURS}`}, make("h3", {}, arm.name),
    part(`PCOC by the hour of the impression, ${hours.of} hours`, clicked,
      () => hoursOf(hours, at, wide), `no click of the last ${hours.of} hours`),
    part(`Click rate by pCTR, ${reliability.of} hours`, reliability.points.length > 0,
      () => reliabilityOf(reliability, wide), `no impression of the last ${reliability.of} hours`));
}

function showFeedback(node, last) {
  if (last.arms.every(arm => arm.hours === null)) {
    node.replaceChildren(make("p", {class: "quiet"}, "Nothing comes back: the service has no --feedback-keys."));
    return;
  }
  const wide = node.querySelector("figure .chart")?.clientWidth ?? FIRST_WIDTH;
  // To a shadow nothing comes back; what it had before stays.
  node.replaceChildren(...last.arms.flatMap((arm, number) => arm.shadow && !arm.hours.each.length ? []
    : feedbackCard(arm, number, last.at, wide)));
}
