// Jobs: a list that follows them, one of them with its files and log, and a form that starts one.

import { ask } from "./api.js";
import { byId, bytes, cell, count, doing, element, number, row, say, time } from "./page.js";

const LOOK_MS = 1500;
const PAGE = 50;
const ENDED = new Set(["succeeded", "failed", "cancelled"]);
let timer = null;
let cursor = null;
let shown = null;
const rows = new Map(); // job id to the parts of its row

export const jobPath = (id) => `/v1/jobs/${encodeURIComponent(id)}`;

export async function showJobs() {
  leaveJobs();
  await doing("Reading jobs…", async () => {
    rows.clear();
    byId("job-rows").replaceChildren();
    cursor = null;
    await readPage();
    const { galleries } = await ask("GET", "/v1/galleries");
    byId("dedup-galleries").replaceChildren(...galleries.map(({ name }) => element("option", { value: name })));
  });
  follow();
}

export function leaveJobs() {
  clearTimeout(timer);
  timer = null;
  shown = null;
  byId("job-shown").hidden = true;
}

async function readPage() {
  const query = new URLSearchParams({ limit: String(PAGE), ...(cursor ? { cursor } : {}) });
  const page = await ask("GET", `/v1/jobs?${query}`);
  for (const job of page.jobs) place(job, "append");
  cursor = page.cursor;
  byId("more-jobs").hidden = cursor === null;
  byId("no-jobs").hidden = rows.size > 0;
}

byId("more-jobs").addEventListener("click", () => doing("Reading jobs…", readPage));

// Ask again while the page is looked at; rows are changed in place, so that nobody loses the button that they are at.
function follow() {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    if (byId("view-jobs").hidden) return;
    if (!document.hidden) {
      try {
        const { jobs } = await ask("GET", `/v1/jobs?limit=${PAGE}`);
        if (byId("view-jobs").hidden) return;
        for (const job of [...jobs].reverse()) place(job, "prepend");
        byId("no-jobs").hidden = rows.size > 0;
        if (shown && rows.has(shown.job_id)) await followShown(rows.get(shown.job_id).job);
      } catch { /* the next look tells; what a user does says by itself what is wrong */ }
    }
    follow();
  }, LOOK_MS);
}

function place(job, where) {
  let parts = rows.get(job.job_id);
  if (!parts) {
    const bar = element("progress", { "aria-label": `Progress of ${job.kind} of ${job.gallery}` });
    parts = { state: cell(), bar, said: element("span"), left: cell(), actions: element("div", { class: "buttons" }) };
    rows.set(job.job_id, parts);
    const about = cell(element("strong", {}, job.kind), ` ${job.gallery}`, element("span", { class: "hint block" }, `${time(job.created_at)} UTC`));
    const made = row(about, parts.state, cell(bar, parts.said), parts.left, cell(parts.actions));
    made.setAttribute("role", "row"); // on a phone it is shown as a block, and is a row all the same
    for (const one of made.children) one.setAttribute("role", "cell");
    byId("job-rows")[where](made);
  }
  const before = parts.job;
  parts.job = job;
  if (before?.state !== job.state) parts.actions.replaceChildren(...actions(job));
  parts.state.textContent = job.state;
  parts.state.className = job.state === "failed" ? "bad" : job.state === "succeeded" ? "good" : "";
  const { bar } = parts;
  bar.hidden = job.state === "queued" || (ENDED.has(job.state) && job.total === 0);
  bar.max = job.total || 1;
  if (job.total) bar.value = job.done; else bar.removeAttribute("value");
  parts.said.textContent = progressText(job);
  parts.left.textContent = ENDED.has(job.state) || job.eta_s === null ? "" : `${duration(job.eta_s)} left`;
}

function progressText(job) {
  if (!job.unit) return "";
  const amount = `${job.phase}: ${count(job.done)}${job.total ? ` of ${count(job.total)}` : ""} ${job.unit}`;
  return ENDED.has(job.state) || job.rate === null ? amount : `${amount}, ${job.rate.toPrecision(2)}/s`;
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

function actions(job) {
  const about = `${job.kind} of ${job.gallery}`;
  const button = (text, work, needs) => {
    const made = element("button", { type: "button", "aria-label": `${text}: ${about}`, onclick: work }, text);
    if (needs) made.hidden = byId("find-duplicates").hidden; // who may not write sees no such buttons
    return made;
  };
  const found = [button("Show", () => show(job.job_id))];
  if (job.state === "queued" || job.state === "running") found.push(button("Cancel", () => change(job, "cancel"), true));
  if (job.state === "failed" || job.state === "cancelled") found.push(button("Resume", () => change(job, "resume"), true));
  if (job.state === "succeeded" && job.kind === "dedup" && !job.parameters.analyse) {
    found.push(element("a", { class: "button", href: `#duplicates/${encodeURIComponent(job.job_id)}` }, "Review"));
  }
  return found;
}

async function change(job, verb) {
  const changed = await doing(verb === "cancel" ? "Cancelling…" : "Resuming…", () => ask("POST", `${jobPath(job.job_id)}/${verb}`));
  if (!changed) return;
  place(changed, "prepend");
  say(`The job is ${changed.state}.`);
}

// One job

async function show(id) {
  await doing("Reading the job…", async () => {
    shown = { job_id: id, state: null, lines: 0 };
    byId("job-log").textContent = "";
    await followShown(await ask("GET", jobPath(id)));
    byId("job-shown").hidden = false;
    byId("job-title").focus();
  });
}

async function followShown(job) {
  const at = shown;
  byId("job-title").textContent = `${job.kind} of ${job.gallery}`;
  byId("job-error").hidden = job.error === null;
  byId("job-error").textContent = job.error === null ? "" : `${job.error_code}: ${job.error}`;
  const { entries, next } = await ask("GET", `${jobPath(job.job_id)}/logs?start=${at.lines}`);
  if (shown !== at) return;
  byId("job-log").append(...entries.map((entry) => `${line(entry)}\n`));
  at.lines = next;
  if (at.state === job.state) return;
  at.state = job.state;
  byId("delete-job").disabled = !ENDED.has(job.state);
  const facts = { Id: job.job_id, State: job.state, Attempts: job.attempts, Began: time(job.started_at), Ended: job.finished_at === null ? "–" : time(job.finished_at) };
  for (const [name, value] of Object.entries(job.parameters)) {
    if (value !== null && value !== false && typeof value !== "object") facts[name.replaceAll("_", " ")] = value;
  }
  byId("job-facts").replaceChildren(...Object.entries(facts).map(([name, value]) => fact(name, String(value))));
  await showFiles(job);
}

async function showFiles(job) {
  const has = job.state === "succeeded";
  byId("job-files-title").hidden = !has;
  byId("job-files").replaceChildren();
  byId("job-analysis").hidden = true;
  if (!has) return;
  const { files, summary } = await ask("GET", `${jobPath(job.job_id)}/result`);
  showAnalysis(summary.analysis);
  byId("job-files").replaceChildren(...files.map((file) => element("li", {},
    element("button", { type: "button", onclick: () => download(job.job_id, file.name) }, `Download ${file.name}`), ` ${bytes(file.size)}`)));
}

function showAnalysis(analysis) {
  byId("job-analysis").hidden = !analysis;
  if (!analysis) return;
  const { suggestion, thresholds } = analysis;
  byId("suggestion").textContent = suggestion ? `Suggested: ${suggestion.threshold}, the ${suggestion.because}.` : "";
  byId("threshold-rows").replaceChildren(...thresholds.map((one) => row(number(one.threshold.toFixed(2)), number(count(one.pairs)),
    number(count(one.groups)), number(count(one.faces)), number(count(one.largest)))));
  if (suggestion) byId("dedup-threshold").value = String(suggestion.threshold);
}

function line({ at, message, ...rest }) {
  const fields = Object.entries(rest).filter(([, value]) => value !== null).map(([name, value]) => `${name}=${value}`);
  return [new Date(at * 1000).toISOString().slice(11, 19), message, ...fields].join(" ");
}

export const fact = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, value));

// The key is in no URL, so a file is fetched here and handed to the browser.
async function download(id, name) {
  await doing(`Downloading ${name}…`, async () => {
    const path = name.split("/").map(encodeURIComponent).join("/");
    const file = await ask("GET", `${jobPath(id)}/result/${path}`, { accept: "application/octet-stream" });
    const url = URL.createObjectURL(file);
    element("a", { href: url, download: name.split("/").pop() }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    say(`${name} is downloaded.`);
  });
}

byId("delete-job").addEventListener("click", async () => {
  if (!window.confirm("Delete this job and its files? What was applied can be taken back no more.")) return;
  const id = shown.job_id;
  const done = await doing("Deleting the job…", async () => { await ask("DELETE", jobPath(id)); return true; });
  if (done) { await showJobs(); say("The job is deleted."); }
});

byId("find-duplicates").addEventListener("submit", async (event) => {
  event.preventDefault();
  const parameters = { threshold: Number(byId("dedup-threshold").value), mode: byId("dedup-mode").value };
  if (byId("dedup-other").value) parameters.other = byId("dedup-other").value;
  if (byId("dedup-analyse").checked) parameters.analyse = true;
  const body = { kind: "dedup", gallery: byId("dedup-gallery").value, parameters };
  const made = await doing("Submitting the job…", () => ask("POST", "/v1/jobs", { json: body }));
  if (made) { place(made, "prepend"); byId("no-jobs").hidden = true; say("The job waits for its turn."); }
});
