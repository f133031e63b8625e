// One gallery: search by photo, enroll, identities, error rates, removal.

import { Problem, ask, galleryPath } from "./api.js";
import { byId, bytes, cell, complain, count, doing, element, number, row, say } from "./page.js";
import { Pictures } from "./pictures.js";

const CANDIDATES = 20;
let shown = null;
let photo = null;
let chosen = 0;
let found = [];
let calibration = null;
let nextIdentity = null;
const pictures = new Set();
const thumbnails = new Pictures();

export async function showGallery(name) {
  shown = name;
  byId("gallery-name").textContent = name;
  byId("confirm-name").value = "";
  forgetPhoto();
  await doing("Reading the gallery…", async () => {
    await showFacts();
    await showIdentities("");
    await showCalibration();
  });
}

async function showFacts() {
  const size = await ask("GET", galleryPath(shown));
  const facts = {
    Faces: count(size.templates), Dimension: size.dim, Shards: size.shards, Replicas: `${size.in_sync} of ${size.replicas}`,
    Memory: bytes(size.code_bytes), Disk: bytes(size.disk_bytes), Embedder: size.embedder ?? "made elsewhere",
  };
  byId("gallery-facts").replaceChildren(...Object.entries(facts).map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, String(value)))));
}

// Photos

function forgetPhoto() {
  photo = null;
  found = [];
  byId("photo-area").hidden = true;
  byId("photo").value = "";
  byId("boxes").replaceChildren();
  showCandidates();
}

byId("photo").addEventListener("change", () => { if (byId("photo").files[0]) usePhoto(byId("photo").files[0]); });
const drop = byId("drop");
drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files[0]) usePhoto(event.dataTransfer.files[0]);
});

async function usePhoto(file) {
  forgetPhoto(); // nothing may be done with the photo before, while the new one is looked at
  await doing("Looking for faces…", async () => {
    const { faces } = await ask("POST", "/v1/detect", { body: file, type: file.type || "image/jpeg" });
    photo = file;
    await showPhoto(file, faces);
    say(faces.length === 1 ? "One face was found." : `${faces.length} faces were found.`);
  });
}

async function showPhoto(file, faces) {
  const image = byId("photo-shown");
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  byId("photo-area").hidden = false;
  await image.decode();
  byId("faces-found").textContent = faces.length ? "Choose the face to search for." : "There is no face in this photo.";
  byId("search").disabled = faces.length === 0;
  chosen = 0;
  byId("boxes").replaceChildren(...faces.map((face, index) => box(face, index, image)));
  choose(0);
}

function box(face, index, image) {
  const percent = (part, whole) => `${(100 * part) / whole}%`;
  const note = face.is_usable ? "" : `, would not be enrolled: ${face.reason}`;
  const made = element("button", { type: "button", "aria-label": `Face ${index + 1}${note}`, "aria-pressed": "false", onclick: () => choose(index) },
    element("span", { "aria-hidden": "true" }, String(index + 1)));
  if (!face.is_usable) made.classList.add("unusable");
  made.style.left = percent(face.box.x, image.naturalWidth);
  made.style.top = percent(face.box.y, image.naturalHeight);
  made.style.width = percent(face.box.width, image.naturalWidth);
  made.style.height = percent(face.box.height, image.naturalHeight);
  return made;
}

function choose(index) {
  chosen = index;
  [...byId("boxes").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === index)));
}

async function base64(file) {
  const data = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let i = 0; i < data.length; i += 32768) text += String.fromCharCode(...data.subarray(i, i + 32768));
  return btoa(text);
}

byId("search").addEventListener("click", () => doing("Searching…", async () => {
  const body = { image: await base64(photo), face: chosen, k: CANDIDATES };
  const answer = await ask("POST", `${galleryPath(shown)}/search/image`, { json: body });
  found = answer.candidates;
  showCandidates();
  const { answered, asked } = answer.coverage;
  say(`${found.length} candidates${answered < asked ? ` from ${answered} of ${asked} shards` : ""}.`);
  byId("results-title").focus();
}));

// Candidates and the threshold

function showCandidates() {
  thumbnails.forget();
  for (const url of pictures) URL.revokeObjectURL(url);
  pictures.clear();
  byId("results-title").hidden = found.length === 0;
  byId("candidates").replaceChildren(...found.map(candidate));
  showThreshold();
}

function candidate(entry) {
  const item = element("li", {}, element("div", {},
    element("strong", {}, entry.identity ?? "no identity"), `score ${entry.score.toFixed(3)}`));
  item.dataset.score = entry.score;
  showThumbnail(item, entry);
  return item;
}

async function showThumbnail(item, entry) {
  try {
    const picture = await thumbnails.of(shown, entry.template_id, `Enrolled face of ${entry.identity ?? "no identity"}`);
    if (picture) item.prepend(picture);
  } catch (error) {
    complain(error);
  }
}

byId("threshold").addEventListener("input", showThreshold);

function showThreshold() {
  const threshold = Number(byId("threshold").value);
  byId("threshold-value").textContent = threshold.toFixed(3);
  let above = 0;
  for (const item of byId("candidates").children) {
    const is_above = Number(item.dataset.score) >= threshold;
    above += is_above;
    item.classList.toggle("below", !is_above);
    item.setAttribute("aria-label", is_above ? "at or above the threshold" : "below the threshold");
  }
  byId("fpir").textContent = `${found.length ? `${above} of ${found.length} candidates reach it. ` : ""}${fpirText(threshold)}`;
}

function fpirText(threshold) {
  if (!calibration) return "How many strangers would reach it is not known: the gallery's error rates were not measured.";
  const { thresholds, fpir, gallery_size: size } = calibration;
  let i = thresholds.findIndex((value) => value >= threshold);
  if (i < 0) i = thresholds.length - 1;
  return `Of people who are not enrolled, ${(100 * fpir[i]).toPrecision(2)} % would find somebody here (FPIR at ${count(size)} faces).`;
}

byId("enroll").addEventListener("submit", async (event) => {
  event.preventDefault();
  await doing("Enrolling…", async () => {
    const item = { data: await base64(photo) };
    if (byId("identity").value) item.identity = byId("identity").value;
    const answer = await ask("POST", `${galleryPath(shown)}/images`, { json: { images: [item] } });
    const [result] = answer.results;
    if (result.reason) throw new Error(`Refused (${result.reason}): ${result.message}`);
    await showFacts();
    await showIdentities("");
    byId("identity").value = "";
    say(result.is_new ? "Enrolled." : "This photo was enrolled already.");
  });
});

// Identities

async function showIdentities(start) {
  const query = new URLSearchParams({ start, limit: "50" });
  const page = await ask("GET", `${galleryPath(shown)}/identities?${query}`);
  const rows = page.identities.map(({ identity, templates }) => row(cell(identity), number(count(templates)),
    cell(element("button", { type: "button", onclick: () => remove(identity, templates) }, `Delete ${identity}`))));
  if (start) byId("identity-rows").append(...rows); else byId("identity-rows").replaceChildren(...rows);
  nextIdentity = page.next;
  byId("more-identities").hidden = nextIdentity === null;
}

byId("more-identities").addEventListener("click", () => doing("Reading identities…", () => showIdentities(nextIdentity)));

async function remove(identity, templates) {
  if (!window.confirm(`Delete ${identity} and ${templates === 1 ? "the one face" : `all ${templates} faces`} of it?`)) return;
  await doing("Deleting…", async () => {
    const { deleted } = await ask("POST", `${galleryPath(shown)}/faces/delete`, { json: { identities: [identity] } });
    await showFacts();
    await showIdentities("");
    say(`${deleted} faces of ${identity} are deleted.`);
  });
}

// Error rates

async function showCalibration() {
  calibration = null;
  const place = byId("calibration");
  try {
    calibration = await ask("GET", `${galleryPath(shown)}/calibration`);
  } catch (error) {
    if (!(error instanceof Problem) || error.code !== "not_enough_data") throw error;
    place.replaceChildren(element("p", {}, "Not measured yet."));
    showThreshold();
    return;
  }
  const picture = URL.createObjectURL(await ask("GET", `${galleryPath(shown)}/calibration.svg`, { accept: "image/svg+xml" }));
  pictures.add(picture);
  const text = `Equal error rate ${(100 * calibration.eer).toPrecision(2)} % at ${calibration.eer_threshold.toFixed(3)}, from `
    + `${count(calibration.genuine)} pairs of one person and ${count(calibration.impostors)} of two.`;
  place.replaceChildren(element("p", {}, text), element("img", { src: picture, alt: `Error rates over the threshold. ${text}` }),
    calibration.stale_reason ? element("p", {}, `Out of date: ${calibration.stale_reason}`) : null ?? "");
  byId("threshold").value = String(calibration.eer_threshold);
  showThreshold();
}

byId("calibrate").addEventListener("click", () => doing("Measuring error rates…", async () => {
  await ask("POST", `${galleryPath(shown)}/calibration`, { json: {} });
  await showCalibration();
  say("Measured.");
}));

byId("drop-gallery").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (byId("confirm-name").value !== shown) { complain(new Error(`Type ${shown} to confirm.`)); return; }
  await doing("Removing the gallery…", async () => {
    await ask("DELETE", galleryPath(shown));
    const name = shown;
    location.hash = "#galleries";
    say(`${name} is removed.`);
  });
});
