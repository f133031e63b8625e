// What is done to a gallery by the groups of a dedup job: said first, done when somebody confirms, and taken back.

import { ask } from "./api.js";
import { fact, jobPath } from "./jobs.js";
import { byId, cell, count, doing, row, say, time } from "./page.js";

const ROWS = 20;
const DOES = { tag: "tagged", merge: "given another identity", delete: "deleted" };
const WHY = {
  needs_review: "wait for review", rejected: "rejected", split_off: "split off alone", several_identities: "of several identities",
  deleted: "deleted meanwhile", enrolled_again: "enrolled anew meanwhile", identity_changed: "renamed meanwhile",
  metadata_changed: "changed meanwhile", keep_changed: "the kept face has changed", done_already: "done already", there_again: "there again",
};
let job = null;
let told = null; // what the last dry run was of
let changed = null;

export function showApply(shown, whenChanged) {
  job = shown;
  changed = whenChanged;
  forget();
}

function forget() {
  told = null;
  byId("do-apply").disabled = true;
  byId("apply-report").hidden = true;
}

const wanted = () => ({ action: document.querySelector("#apply input[name=action]:checked").value, accept_all: byId("accept-all").checked });

byId("apply").addEventListener("change", forget);

byId("apply").addEventListener("submit", async (event) => {
  event.preventDefault();
  const asked = wanted();
  await doing("Looking at the groups…", async () => {
    const report = await ask("POST", `${jobPath(job.job_id)}/apply`, { json: { ...asked, dry_run: true } });
    showReport(report, `${count(report.templates)} faces of ${count(report.groups)} groups would be ${DOES[report.action]}`);
    told = { ...asked, templates: report.templates };
    byId("do-apply").disabled = report.templates === 0;
  });
});

byId("do-apply").addEventListener("click", async () => {
  if (!told || !window.confirm(`${count(told.templates)} faces of ${job.gallery} will be ${DOES[told.action]}. Do it?`)) return;
  const { templates, ...asked } = told;
  await doing("Applying…", async () => {
    const report = await ask("POST", `${jobPath(job.job_id)}/apply`, { json: { ...asked, dry_run: false } });
    forget();
    await changed();
    showReport(report, `${count(report.templates)} faces are ${DOES[report.action]}`);
    say(`${count(report.templates)} faces are ${DOES[report.action]}.`);
  });
});

byId("undo").addEventListener("click", async () => {
  const last = await doing("Looking at what was done…", () => ask("POST", `${jobPath(job.job_id)}/undo`, { json: { dry_run: true } }));
  if (!last || !window.confirm(`${count(last.templates)} faces of ${job.gallery} were ${DOES[last.action]}. Take that back?`)) return;
  await doing("Taking it back…", async () => {
    const report = await ask("POST", `${jobPath(job.job_id)}/undo`, { json: { dry_run: false } });
    forget();
    await changed();
    showReport(report, `${count(report.templates)} faces are as they were`);
    say(`${count(report.templates)} faces are as they were.`);
  });
});

function showReport(report, title) {
  byId("apply-report").hidden = false;
  byId("apply-title").textContent = title;
  const facts = [];
  for (const [why, number] of Object.entries(report.left_out)) facts.push(fact(`Left out, ${WHY[why] ?? why}`, count(number)));
  for (const [why, number] of Object.entries(report.skipped)) facts.push(fact(`Skipped, ${WHY[why] ?? why}`, count(number)));
  if (report.undo_until !== null) facts.push(fact("Can be taken back until", `${time(report.undo_until)} UTC`));
  byId("apply-facts").replaceChildren(...facts);
  const rows = report.changes.slice(0, ROWS);
  byId("changes-table").hidden = rows.length === 0;
  byId("change-rows").replaceChildren(...rows.map((change) => row(cell(change.template_id), cell(change.group), cell(change.identity ?? "–"),
    cell(becomes(report.action, change)), cell(change.keep?.template_id ?? "–"))));
  const more = report.dry_run ? report.templates - rows.length : 0;
  byId("more-changes").textContent = more > 0 ? `And ${count(more)} more.` : "";
  byId("apply-title").focus();
}

function becomes(action, change) {
  if (action === "delete") return "deleted";
  return action === "merge" ? change.identity_after ?? "–" : "tagged";
}
