"use strict";
// Numbers of the service as text, and what came between two of its snapshots. It knows no page.

const WINDOW_SECONDS = 60;
const sum = numbers => numbers.reduce((total, each) => total + each, 0);

const digits = (value, most) => value.toLocaleString("en", {maximumFractionDigits: most});
const whole = value => digits(value, 0);
const rate = value => value === null ? "–" : digits(value, value < 10 ? 2 : value < 100 ? 1 : 0);
const percent = value => `${digits(100 * value, 100 * value < 10 ? 2 : 1)} %`;
const milliseconds = seconds =>
  seconds === null ? "–" : `${digits(1000 * seconds, seconds < 0.01 ? 2 : seconds < 0.1 ? 1 : 0)} ms`;
const decimal = (value, places) => value === null ? "–" : value.toFixed(places);
const ratio = value => decimal(value, 3);
const within = ({low, high}) => `95 % ${ratio(low)} – ${high === null ? "∞" : ratio(high)}`;
const clock = seconds =>
  new Date(1000 * seconds).toLocaleString("en-GB", {dateStyle: "medium", timeStyle: "medium"});
function age(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60]];
  for (const [unit, size] of units) if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${unit}`;
  return `${Math.max(0, Math.round(seconds))} s`;
}

const added = (now, before) => now.map((count, place) => Math.max(0, count - (before[place] ?? 0)));
const armOf = (sample, name) => sample.arms.find(arm => arm.name === name);

// The snapshot with which the last one is compared; null until there is one.
function start(samples) {
  const last = samples[samples.length - 1];
  return samples.find(sample => last.at - sample.at <= WINDOW_SECONDS && sample !== last) ?? null;
}

// Requests of an arm, their latencies and its pCTRs between two snapshots; since the start without the first.
function between(first, last, name) {
  const now = armOf(last, name), before = first && armOf(first, name);
  const counts = histogram => added(now[histogram].counts, before ? before[histogram].counts : []);
  const seconds = before ? last.at - first.at : 0;
  const requests = sum(Object.values(now.outcomes)) - (before ? sum(Object.values(before.outcomes)) : 0);
  return {
    rate: seconds > 0 ? Math.max(0, requests) / seconds : null,
    latency: counts("latency"), pctr: counts("pctr"),
  };
}

// A quantile of a histogram, between the bounds of its bucket in proportion, as Prometheus does it.
function quantile(share, counts, bounds) {
  const rank = share * sum(counts);
  if (!rank) return null;
  let below = 0;
  for (const [place, count] of counts.entries()) {
    if (count && below + count >= rank) {
      if (place >= bounds.length) return bounds[bounds.length - 1];
      const low = place ? bounds[place - 1] : 0;
      return low + (bounds[place] - low) * (rank - below) / count;
    }
    below += count;
  }
  return bounds[bounds.length - 1];
}
