// Images that people bring: dropped, pasted, picked, photographed; and their thumbnails.

import { byId } from "./elements.js";

const IMAGE = /\.(jpe?g|png|webp|bmp|gif|tiff?|avif|hei[cf])$/i;
const THUMBNAIL = 96; // twice the size on the screen

/** Calls `take` with [name, file] pairs whenever images are brought. */
export function watchFiles(take) {
  pick("choose", "files", take);
  pick("choose-folder", "folder", (pairs) => take(pairs.filter(isImage)));
  pick("photograph", "photo", take);
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    take(files.map((file) => [file.name, file]));
  });
  watchDrops(take);
  offerCamera(take);
}

function pick(button, input, take) {
  byId(button).addEventListener("click", () => byId(input).click());
  byId(input).addEventListener("change", ({ target }) => {
    take([...target.files].map((file) => [file.webkitRelativePath || file.name, file]));
    target.value = ""; // so that the same file can be picked again
  });
}

const isImage = ([name]) => IMAGE.test(name) && !/(^|\/)\./.test(name);

function watchDrops(take) {
  let depth = 0;
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const show = (change) => {
    depth = Math.max(depth + change, 0);
    byId("veil").hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => hasFiles(event) && show(1));
  addEventListener("dragleave", (event) => hasFiles(event) && show(-1));
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    show(-depth);
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (entries.length) take((await Promise.all(entries.map(readEntry))).flat());
    else take([...event.dataTransfer.files].map((file) => [file.name, file]));
  });
}

/** [name, file] of a dropped file, and of each image in a dropped folder. */
async function readEntry(entry) {
  if (entry.isFile) return [[entry.fullPath.slice(1), await new Promise((...done) => entry.file(...done))]];
  const reader = entry.createReader();
  const pairs = [];
  for (;;) {
    const entries = await new Promise((...done) => reader.readEntries(...done)); // a hundred at a time
    if (!entries.length) return pairs.filter(isImage);
    for (const inner of entries) pairs.push(...(await readEntry(inner)));
  }
}

/** A phone's own camera application where there is one; else a window with the camera's picture. */
function offerCamera(take) {
  const button = byId("photograph");
  if (matchMedia("(pointer: coarse)").matches) {
    button.hidden = false;
    return;
  }
  if (!navigator.mediaDevices?.getUserMedia) return; // not without HTTPS or localhost
  button.hidden = false;
  button.addEventListener("click", openCamera, { capture: true });
  byId("close-camera").addEventListener("click", () => byId("camera").close());
  byId("camera").addEventListener("close", () => {
    for (const track of byId("viewfinder").srcObject?.getTracks() ?? []) track.stop();
  });
  byId("shoot").addEventListener("click", async () => {
    take([["photo.jpg", await grab(byId("viewfinder"))]]);
    byId("camera").close();
  });
}

async function openCamera(event) {
  event.stopImmediatePropagation(); // the file picker is for phones
  try {
    byId("viewfinder").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    byId("camera").showModal();
  } catch {
    byId("message").textContent = "The camera cannot be used: there is none, or this page may not use it.";
  }
}

async function grab(video) {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new File([await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 })], "photo.jpg", { type: "image/jpeg" });
}

/** A small JPEG of a file as a URL, and its size; null where the browser cannot show the format. */
export async function makeThumbnail(file) {
  try {
    const bitmap = await createImageBitmap(file); // applies the EXIF orientation
    const scale = Math.min(THUMBNAIL / Math.max(bitmap.width, bitmap.height), 1);
    const canvas = new OffscreenCanvas(Math.ceil(bitmap.width * scale), Math.ceil(bitmap.height * scale));
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const size = [bitmap.width, bitmap.height];
    bitmap.close();
    return { url: URL.createObjectURL(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 })), size };
  } catch {
    return null;
  }
}
