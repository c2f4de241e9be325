// The model card: what GET /info says.

import { byId, count, make, plural } from "./elements.js";

const FEW_CLASSES = 12;

/** Shows the model card. */
export function showModel(info) {
  const { engine, preprocess, limits } = info;
  byId("served").replaceChildren(
    make("strong", { textContent: info.model }),
    make("span", { textContent: ` ${engine.name} ${engine.precision}` }),
  );
  byId("model").textContent = `${info.model} ${info.version}`;
  byId("tagline").textContent = `${info.model} tells ${plural(info.classes.length, "class", "classes")} apart: ${shorten(info.classes)}.`;
  byId("accepted").textContent =
    `JPEG, PNG, WebP, AVIF, HEIC, TIFF, BMP or GIF, up to ${Math.floor(limits.max_upload_bytes / 1e6)} MB each. ` +
    "They go to this server and nowhere else.";
  const facts = [
    ["Architecture", info.architecture],
    ["Input", preprocess.size.join(" × ") + " pixels"],
    ["Classes", describeClasses(info.classes)],
    ["Accuracy", describeAccuracy(info.metrics)],
    ["Calibration", describeCalibration(info.metrics)],
    ["Coverage", describeCoverage(info.reference)],
    ["Engine", `${engine.name} in ${engine.precision}${describeChoice(engine.candidates)}`],
    ["Digest", make("code", { textContent: info.digest.slice(0, 16), title: info.digest })],
  ];
  byId("card").replaceChildren(
    ...facts.filter(([, value]) => value).map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", {}, value))),
  );
  showEngines(engine.candidates);
}

function shorten(classes) {
  const shown = classes.slice(0, 5).join(", ");
  return classes.length > 5 ? `${shown} and ${count(classes.length - 5)} more` : shown;
}

function describeClasses(classes) {
  const names = make("span", { className: "chips" }, ...classes.map((name) => make("span", { className: "chip", textContent: name })));
  if (classes.length <= FEW_CLASSES) return names;
  return make("details", {}, make("summary", { textContent: count(classes.length) }), names);
}

/** The test split's figure where `dhvt evaluate` recorded one; else that of the validation split, which chose the weights. */
function describeAccuracy({ test, val_top1, val_images }) {
  if (test) return `${test.top1.toFixed(1)} % right of ${plural(test.images, "test image")}`;
  if (val_top1 === undefined) return "not measured";
  return `${val_top1.toFixed(1)} % right${val_images ? ` of ${plural(val_images, "validation image")}` : " in validation"}`;
}

function describeCalibration({ test, val_ece }) {
  const error = test?.ece ?? val_ece;
  return error === undefined ? "not measured" : `scores are off by ${error.toFixed(1)} points on average`;
}

function describeCoverage(reference) {
  if (!reference) return "no prediction sets: the model has no reference images (dhvt calibrate adds some)";
  const coverage = (Math.floor(10_000 * reference.largest_coverage) / 100).toFixed(2); // rounded down: 100 % is never possible
  return `prediction sets up to ${coverage} %, from ${plural(reference.images, "reference image")}`;
}

function describeChoice(candidates) {
  const chosen = candidates.find((candidate) => candidate.chosen);
  return chosen?.reason ? `: ${chosen.reason}` : "";
}

function showEngines(candidates) {
  byId("engines").hidden = !candidates.length;
  byId("engines").querySelector("ul").replaceChildren(
    ...candidates.map(({ engine, precision, chosen, reason, images_per_s, latency_ms, top1_loss }) => {
      const figures = [
        images_per_s && `${count(Math.round(images_per_s))} images/s`,
        latency_ms && `${latency_ms.toFixed(1)} ms alone`,
        top1_loss !== null && `${top1_loss.toFixed(2)} points of accuracy lost`,
      ];
      return make(
        "li",
        { className: chosen ? "chosen" : "" },
        make("strong", { textContent: `${engine} ${precision}`.trim() }),
        chosen ? make("span", { className: "chip on", textContent: "serves" }) : null,
        make("p", { textContent: [reason, ...figures].filter(Boolean).join(" · ") }),
      );
    }),
  );
}
