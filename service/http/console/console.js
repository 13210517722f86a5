"use strict";
// Asks the service for snapshots, shows them, and says how old they are.
// The service keeps nothing of its viewers: each page has its own snapshots, and shows their differences.

const PERIOD_MS = 3000, TIMEOUT_MS = 8000, STALE_MS = 6000;
const KEPT_SECONDS = 600;
const FIRST_WIDTH = 330; // of a chart in a card, until one is shown

const samples = []; // the oldest first
let points = []; // what the two charts over time show
let receivedAt = 0, trouble = "";

const byId = id => document.getElementById(id);

function showTiles(first, last) {
  const each = last.arms.map(arm => between(first, last, arm.name));
  const latency = each.map(one => one.latency).reduce(
    (all, one) => one.map((count, place) => count + (all[place] ?? 0)), [],
  );
  const total = first ? sum(each.map(one => one.rate ?? 0)) : null;
  const refused = sum(Object.values(last.refusals)), before = first ? sum(Object.values(first.refusals)) : 0;
  const perSecond = first ? Math.max(0, refused - before) / (last.at - first.at) : null;
  const {serving, set} = last.workers;
  const at = share => milliseconds(quantile(share, latency, last.latency_bounds));
  byId("tiles").replaceChildren(
    tile("requests / s", rate(total), "of all arms"),
    tile("p50", at(0.5), "from the head to the answer"),
    tile("p99", at(0.99), "from the head to the answer"),
    tile("refused / s", rate(perSecond), `${whole(refused)} with 429 in all`, perSecond > 0 ? "warn" : ""),
    tile("waiting", whole(last.waiting_requests), `the oldest for ${milliseconds(last.oldest_wait_seconds)}`),
    tile("workers", `${whole(serving)} of ${set}`, `core: ${last.core}`, serving < set ? "bad" : ""),
  );
}

function showTables(first, last) {
  const before = arm => (first && armOf(first, arm.name)?.outcomes) ?? {};
  const outcomes = [
    ...last.arms.map(arm => [arm.name, arm.outcomes, before(arm)]),
    ["no arm", last.without_arm, first?.without_arm ?? {}],
  ];
  const seconds = first ? last.at - first.at : null;
  const perSecond = (now, before) => rate(seconds ? Math.max(0, now - (before ?? 0)) / seconds : null);
  table(byId("outcomes"), 2, ["arm", "outcome", "/ s", "in all"], outcomes.flatMap(([arm, now, before]) =>
    Object.entries(now).map(([name, count]) => [arm, name, perSecond(count, before[name]), whole(count)])),
  "no request yet");
  const ago = at => at ? `${age(last.at - at)} ago` : "–";
  table(byId("refusals"), 1, ["reason", "/ s", "in all", "last"], Object.entries(last.refusals).map(([name, count]) =>
    [name, perSecond(count, first?.refusals[name]), whole(count), ago(last.last_refusals[name])]), "none");
  table(byId("reloads"), 1, ["outcome", "in all", "last"], Object.entries(last.reloads).map(
    ([name, {count, last_at}]) => [name, whole(count), ago(last_at)]), "none");
}

function showCanary({under_way, verdicts}) {
  byId("canary").hidden = !under_way && !verdicts.length;
  byId("canary-now").textContent = describeCanary(under_way);
  const gates = Object.entries(under_way?.gates ?? {}).map(([name, level]) => [name, percent(level)]);
  byId("gates").hidden = !under_way;
  table(byId("gates"), 1, ["gate", "used up"], gates, "no gate knows enough yet");
  const rows = verdicts.map(({arm, verdict, gate, count}) =>
    [arm, verdict.replace("_", " "), gate || "–", whole(count)]);
  table(byId("verdicts"), 3, ["arm", "verdict", "gate", "in all"], rows, "no verdict yet");
}

// Between neighbours, so that the charts follow what happens now.
function note(first, last) {
  const arms = {};
  for (const {name} of last.arms) {
    const {rate, latency} = between(first, last, name);
    const tail = first && quantile(0.99, latency, last.latency_bounds);
    arms[name] = {rate, tail: tail === null ? null : 1000 * tail};
  }
  points.push({at: last.at, arms});
  points = points.filter(point => last.at - point.at <= KEPT_SECONDS);
}

function showCharts(last) {
  const names = last.arms.map(arm => arm.name), times = points.map(point => point.at);
  const lines = part => names.map(name => points.map(point => point.arms[name]?.[part] ?? null));
  const wide = byId("rates").clientWidth;
  byId("rates").replaceChildren(linesOf("Requests per second by arm", times, lines("rate"), rate, wide));
  const inMilliseconds = value => digits(value, 2);
  const tails = linesOf("99th percentile by arm, in ms", times, lines("tail"), inMilliseconds, wide);
  byId("tails").replaceChildren(tails);
  const keys = names.map((name, number) => make("li", {class: `arm-${number % COLOURS}`}, name));
  byId("legend").replaceChildren(...keys);
}

function show() {
  const last = samples[samples.length - 1], first = start(samples);
  showTiles(first, last);
  const wide = document.querySelector(".card .chart")?.clientWidth ?? FIRST_WIDTH;
  byId("arms").replaceChildren(...last.arms.map((arm, number) => card(arm, number, first, last, wide)));
  showFeedback(byId("feedback"), last);
  showCharts(last);
  showCanary(last.canary);
  showTables(first, last);
  const period = first ? `rates of the last ${age(last.at - first.at)}` : "all since the start";
  byId("when").textContent = `${clock(last.at)}, ${period}`;
}

function showState() {
  const silent = Date.now() - receivedAt, isStale = receivedAt > 0 && silent > STALE_MS;
  document.body.classList.toggle("stale", isStale || (trouble !== "" && receivedAt > 0));
  const [text, kind] = trouble ? ["unreachable", "bad"]
    : isStale ? ["stale", "bad"] : receivedAt ? ["live", "good"] : ["waiting for numbers", "warn"];
  byId("state").textContent = text;
  byId("state").className = `chip ${kind}`;
  const since = receivedAt ? ` The numbers below are ${age(silent / 1000)} old.` : "";
  byId("trouble").textContent = (trouble || "The service has not answered for a while.") + since;
  byId("trouble").hidden = !trouble && !isStale;
}

// A service that has started again counts from 0: what was before is no start for a difference.
const counted = sample => sum(sample.arms.flatMap(arm => Object.values(arm.outcomes)));
const names = sample => sample.arms.map(arm => arm.name).join();
function keep(sample) {
  const before = samples[samples.length - 1];
  const isAnother = before && (names(before) !== names(sample) || counted(sample) < counted(before));
  if (isAnother || sample.at <= before?.at) samples.length = 0;
  note(samples[samples.length - 1] ?? null, sample);
  samples.push(sample);
  while (sample.at - samples[0].at > 2 * WINDOW_SECONDS) samples.shift();
}

class Refused extends Error {}

function describeTrouble(error) {
  if (error instanceof Refused) return error.message;
  return error.name === "TimeoutError" ? "The service does not answer." : "The service cannot be reached.";
}

async function read() {
  const answer = await fetch("console.json", {cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS)});
  if (!answer.ok) throw new Refused(`The service answers ${answer.status}.`);
  return answer.json();
}

async function step() {
  let sample = null;
  try {
    sample = await read();
    trouble = "";
  } catch (error) {
    trouble = describeTrouble(error);
  }
  if (sample) {
    receivedAt = Date.now();
    keep(sample);
    show();
    document.body.dataset.samples = Number(document.body.dataset.samples ?? 0) + 1;
  }
  showState();
  setTimeout(step, PERIOD_MS);
}

setInterval(showState, 1000);
step();
