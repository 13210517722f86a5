"use strict";
// The parts of the page that are made of one snapshot, or of two: tiles, tables, and the card of an arm.

function tile(name, value, note, kind) {
  const said = make("dd", {class: kind ?? ""}, value, make("small", {}, note ?? ""));
  return make("div", {}, make("dt", {}, name), said);
}

function pairs(entries) {
  return make("dl", {}, ...entries.filter(([, value]) => value !== null).flatMap(
    ([name, value]) => [make("dt", {}, name), make("dd", {}, value)],
  ));
}

// The first `words` columns are text, the others are numbers.
function table(node, words, heads, rows, nothing) {
  if (!rows.length) {
    node.replaceChildren(make("tbody", {}, make("tr", {}, make("td", {class: "quiet"}, nothing))));
    return;
  }
  const kind = place => place < words ? {} : {class: "number"};
  const head = make("tr", {}, ...heads.map((text, place) => make("th", {scope: "col", ...kind(place)}, text)));
  const body = rows.map(row => make("tr", {}, ...row.map((text, place) => make("td", kind(place), text))));
  node.replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
}

function describeFeedback(feedback) {
  if (!feedback) return "no feedback yet";
  const evidence = `${whole(feedback.clicks)} clicks of ${whole(feedback.impressions)} impressions`;
  return `${ratio(feedback.pcoc.value)} (${within(feedback.pcoc)}), ${evidence}`;
}

function describeLive(live) {
  if (!live) return "off";
  const pcoc = live.pcoc.bundle === null ? "no clicks judged yet"
    : `PCOC ${ratio(live.pcoc.bundle)} → ${ratio(live.pcoc.live)} on ${whole(live.clicks)} clicks`
      + (live.dispersion > 1.05 ? `, dispersion ${digits(live.dispersion, 2)}` : "");
  const change = `intercept ${live.intercept.toFixed(3)}, slope ${live.slope.toFixed(3)}`;
  return `${live.mode}, revision ${live.revision}: ${change}; ${pcoc}`;
}

function describeCatalogue(catalogue, at) {
  if (!catalogue) return null;
  const read = catalogue.read_at ? `read ${age(at - catalogue.read_at)} ago` : "not read yet";
  return `${whole(catalogue.ads)} ads, ${read}`;
}

function describeQualities(now, before) {
  const entries = Object.entries(now).map(([name, count]) => [name, count - (before?.[name] ?? 0)]);
  const total = sum(entries.map(([, count]) => count));
  if (total <= 0) return "no answers";
  const answered = entries.filter(([, count]) => count > 0);
  return answered.map(([name, count]) => `${name} ${percent(count / total)}`).join(", ");
}

function describeShare({share, weight, is_killed, shadow}) {
  if (shadow) return `scores ${percent(shadow.share)} of the keys of ${shadow.of}, and answers nothing`;
  const said = `${percent(share)} of requests, weight ${digits(weight, 3)}`;
  return is_killed ? `${said}, which it does not answer` : said;
}

function describeShadow(shadow) {
  if (!shadow) return null;
  const dropped = sum(Object.values(shadow.dropped));
  const {arm, shadow: own} = shadow.mean_pctr, higher = shadow.mean_log_odds_difference;
  return `${whole(shadow.requests)} requests scored, ${whole(dropped)} dropped; ` +
    `mean pCTR ${decimal(own, 5)} (${shadow.of}: ${decimal(arm, 5)}), log-odds ` +
    `${decimal(higher && Math.abs(higher), 3)} ${higher < 0 ? "lower" : "higher"}; same best in ${percentOf(shadow.same_best)}, pairs alike ` +
    percentOf(shadow.rank_agreement);
}

const percentOf = value => value === null ? "–" : percent(value);

// Of the impressions of the arm that it follows.
function describeShadowFeedback(shadow) {
  if (!shadow.feedback.impressions) return "no feedback yet";
  const {impressions, clicks, arm, shadow: own} = shadow.feedback;
  return `${ratio(own.pcoc)} (${shadow.of}: ${ratio(arm.pcoc)}), LogLoss ${decimal(own.logloss, 4)} ` +
    `(${decimal(arm.logloss, 4)}), ${whole(clicks)} clicks of its ${whole(impressions)} impressions`;
}

function describeCanary(canary) {
  if (!canary) return "None is under way.";
  const {arm, control, share, step} = canary;
  return `${arm} has ${percent(share)} of the traffic that it and ${control} have, step ${whole(step)}.`;
}

function card(arm, number, first, last, wide) {
  const {rate: requests, latency, pctr} = between(first, last, arm.name);
  const at = share => milliseconds(quantile(share, latency, last.latency_bounds));
  const head = make("header", {}, make("h3", {}, arm.name),
    arm.name === last.control_arm ? make("span", {class: "badge"}, "control") : null,
    arm.is_killed ? make("span", {class: "badge bad"}, "killed") : null,
    arm.shadow ? make("span", {class: "badge"}, "shadow") : null,
    make("span", {class: "quiet"}, describeShare(arm)));
  const known = pairs([
    ...arm.shadow ? [
      ["compared", describeShadow(arm.shadow)],
      ["PCOC", describeShadowFeedback(arm.shadow)],
    ] : [
      ["requests", requests === null ? "–" : `${rate(requests)} / s`],
      ["p50, p99", `${at(0.5)}, ${at(0.99)}`],
      ["answers", describeQualities(arm.qualities, first && armOf(first, arm.name)?.qualities)],
      ["PCOC", describeFeedback(arm.feedback)],
    ],
    ["live calibration", describeLive(arm.live_calibration)],
    ["catalogue", describeCatalogue(arm.catalogue, last.at)],
    ["waiting rows", whole(arm.queued_rows)],
    ["bundle", `${arm.bundle}, of ${arm.created_at.slice(0, 16).replace("T", " ")}`],
    ["model", `${arm.model}, ${arm.variant}, ${arm.provider}`],
  ]);
  const chart = make("div", {class: "chart"}, make("div", {class: "quiet"}, "pCTR, share of candidates by size"),
    sum(pctr) ? histogramOf(pctr, last.pctr_bounds, wide) : make("p", {class: "quiet"}, "no candidates"));
  return make("article", {class: `card arm-${number % COLOURS}`}, head, shareBar(arm.share), known, chart);
}
