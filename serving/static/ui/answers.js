// What an answer says, and the files that people take away.

/** The most likely class of an image, with its score; undefined without an answer. */
export const best = (item) => item.answer?.predictions[0];

/** Whether the model itself says that it may be wrong: several classes are possible, none is, or the image is a stranger. */
export function isUnsure({ answer }) {
  if (!answer) return false;
  return answer.known === false || (answer.prediction_set !== undefined && answer.prediction_set.length !== 1);
}

/** Milliseconds that the server spent on an image; undefined where it did not tell. */
export function serverMs({ times }) {
  return times?.engine === undefined ? undefined : times.decode + times.wait + times.engine;
}

/** The answers as JSON, in the shape of POST /classify/batch. */
export function toJSON(items, topK) {
  const { model, version } = items.find((item) => item.answer)?.answer ?? {};
  const results = items.map(({ name, answer, error }) => {
    if (!answer) return { name, error: { code: error?.code ?? "not_classified", message: error?.message ?? "not classified" } };
    const { model: _, version: __, predictions, ...rest } = answer;
    return { name, predictions: predictions.slice(0, topK), ...rest };
  });
  return JSON.stringify({ model, version, results }, null, 1);
}

/** The answers as CSV (RFC 4180): one line an image. */
export function toCSV(items, topK) {
  const count = Math.max(1, ...items.map((item) => Math.min(item.answer?.predictions.length ?? 0, topK)));
  const classes = Array.from({ length: count }, (_, index) => (index ? [`label_${index + 1}`, `score_${index + 1}`] : ["label", "score"]));
  const header = ["name", ...classes.flat(), "prediction_set", "prediction_set_note", "known", "p_known", "decode_ms", "wait_ms", "engine_ms", "error"];
  const lines = items.map(({ name, answer, times, error }) => [
    name,
    ...classes.flatMap((_, index) => [answer?.predictions[index]?.label, answer?.predictions[index]?.score]),
    answer?.prediction_set?.join(" | "),
    answer?.prediction_set_note,
    answer?.known,
    answer?.p_known,
    times?.decode,
    times?.wait,
    times?.engine,
    error?.message,
  ]);
  return [header, ...lines].map((line) => line.map(toCell).join(",")).join("\r\n") + "\r\n";
}

/** A cell; text that a spreadsheet would run as a formula begins with an apostrophe. */
function toCell(value) {
  if (value === undefined || value === null) return "";
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Has the browser save a text as a file. */
export function download(text, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
