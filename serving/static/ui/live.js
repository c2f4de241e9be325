// Live figures, from GET /metrics: over the last minute where images came in it, else since the server's start.

import { byId, count, make, milliseconds } from "./elements.js";
import { ask } from "./server.js";

const EVERY_MS = 3000;
const SAMPLES = 20;

const samples = [];

/** Reads the metrics every few seconds while the page is seen. */
export async function watchMetrics() {
  for (;;) {
    if (!document.hidden) {
      try {
        samples.push({ at: performance.now(), values: parseMetrics(await (await ask("metrics")).text()) });
        if (samples.length > SAMPLES) samples.shift();
        show();
      } catch (error) {
        byId("live-card").hidden = error.status === 404; // a proxy in front of several servers may keep it from clients
        if (error.status === 404) return;
        byId("live").replaceChildren(make("p", { className: "hint", textContent: error.message }));
      }
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

/** Sums of Prometheus's text by name, over all labels; requests also by whether they failed. */
function parseMetrics(text) {
  const values = {};
  for (const [, name, labels, value] of text.matchAll(/^(dhvt_\w+)(\{.*\})? ([\d.e+-]+)$/gm)) {
    const keys = name === "dhvt_requests_total" && /status="[45]/.test(labels) ? [name, "failed"] : [name];
    for (const key of keys) values[key] = (values[key] ?? 0) + Number(value);
  }
  return values;
}

function show() {
  const last = samples.at(-1);
  const since = (name) => (last.values[name] ?? 0) - (samples[0].values[name] ?? 0);
  const total = (name) => last.values[name] ?? 0;
  const mean = (name) => {
    const of = since(`${name}_count`) > 0 ? since : total;
    return of(`${name}_count`) > 0 ? of(`${name}_sum`) / of(`${name}_count`) : undefined;
  };
  const ms = (seconds) => (seconds === undefined ? "–" : milliseconds(1000 * seconds));
  const [decode, queue] = [mean("dhvt_decode_duration_seconds"), mean("dhvt_queue_duration_seconds")];
  const rates = imageRates();
  const perCall = mean("dhvt_batch_size");
  const tiles = [
    ["Images per second", rates.length ? rates.at(-1).toFixed(1) : "–"],
    ["Images so far", count(total("dhvt_images_total"))],
    ["Requests in flight", count(total("dhvt_requests_in_flight"))],
    ["Requests failed", count(total("failed"))],
    ["Decoding", ms(decode)],
    ["Waiting", ms(queue === undefined ? undefined : Math.max(queue - (decode ?? 0), 0))],
    ["Engine call", ms(mean("dhvt_engine_duration_seconds"))],
    ["Images per call", perCall === undefined ? "–" : perCall.toFixed(1)],
  ];
  byId("live").replaceChildren(
    ...tiles.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))),
  );
  drawSpark(rates);
}

function imageRates() {
  return samples.slice(1).map(({ at, values }, index) => {
    const before = samples[index];
    const images = (values.dhvt_images_total ?? 0) - (before.values.dhvt_images_total ?? 0);
    return Math.max((1000 * images) / (at - before.at), 0);
  });
}

/** The images per second of the last minute, as a filled line. */
function drawSpark(rates) {
  const top = Math.max(...rates, 1);
  const step = 120 / (SAMPLES - 2);
  const start = 120 - step * (rates.length - 1);
  const points = rates.map((rate, index) => `${(start + index * step).toFixed(1)},${(27 - (25 * rate) / top).toFixed(1)}`);
  byId("spark").firstElementChild.setAttribute("d", points.length > 1 ? `M${start.toFixed(1)},28L${points.join("L")}L120,28Z` : "");
}
