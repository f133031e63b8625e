// Duplicates: the groups of a dedup job that somebody has to look at, and what is decided about each.

import { ask } from "./api.js";
import { showApply } from "./apply.js";
import { fact, jobPath } from "./jobs.js";
import { byId, complain, count, doing, element, say, time } from "./page.js";
import { Pictures } from "./pictures.js";

const PAGE = 20;
const FIRST = 12; // faces of a group that are shown before somebody asks for all
const WHY = {
  split: "part of a larger group that did not hold together", too_large: "it would have been larger than a group may be",
  two_faces_of_one_photo: "two faces of one photo were linked to it", different_identities: "faces of different identities are in it",
};
let job = null;
let version = 0;
let after = null;
const pictures = new Pictures();
const chosen = new Set(); // numbers of groups to merge

export async function showDuplicates(id) {
  pictures.forget();
  await doing("Reading jobs…", async () => {
    const { jobs } = await ask("GET", "/v1/jobs?kind=dedup&state=succeeded&limit=200");
    const found = jobs.filter((one) => !one.parameters.analyse);
    byId("review-job").replaceChildren(...found.map((one) => element("option", { value: one.job_id }, `${one.gallery}, ${time(one.finished_at)} UTC`)));
    byId("no-duplicates").hidden = found.length > 0;
    byId("review").hidden = found.length === 0;
    job = found.find((one) => one.job_id === id) ?? found[0] ?? null;
    if (!job) return;
    byId("review-job").value = job.job_id;
    showApply(job, reload);
    await reload();
  });
}

export function leaveDuplicates() {
  pictures.forget();
  byId("groups").replaceChildren();
}

byId("review-job").addEventListener("change", () => { location.hash = `#duplicates/${encodeURIComponent(byId("review-job").value)}`; });
byId("review-state").addEventListener("change", () => doing("Reading groups…", reload));
byId("more-groups").addEventListener("click", () => doing("Reading groups…", readPage));

async function reload() {
  pictures.forget();
  chosen.clear();
  after = -1;
  byId("groups").replaceChildren();
  const { summary } = await ask("GET", `${jobPath(job.job_id)}/result`);
  byId("review-facts").replaceChildren(fact("Gallery", job.gallery), fact("Threshold", String(summary.threshold ?? "–")),
    fact("Groups", count(summary.counts?.groups ?? 0)), fact("Pairs", count(summary.counts?.pairs ?? 0)),
    fact("To review", "–"), fact("Decided", "–"));
  await readPage();
}

async function readPage() {
  const query = new URLSearchParams({ state: byId("review-state").value, after: String(after), limit: String(PAGE) });
  const page = await ask("GET", `${jobPath(job.job_id)}/review?${query}`);
  version = page.version;
  after = page.after ?? after;
  byId("more-groups").hidden = page.after === null;
  const facts = byId("review-facts").querySelectorAll("dd");
  facts[4].textContent = count(page.open);
  facts[5].textContent = count(page.decided);
  byId("groups").append(...page.groups.map(group));
  byId("no-groups").hidden = byId("groups").children.length > 0;
  showChosen();
}

function group(item) {
  const title = `Group ${item.group}`;
  const heading = element("h3", { id: `group-${item.group}`, tabIndex: -1 }, title);
  const why = [];
  const reasons = item.reason ? item.reason.split(", ").map((reason) => WHY[reason] ?? reason.replaceAll("_", " ")) : [];
  if (reasons.length) why.push(`To review: ${reasons.join("; ")}.`);
  if (item.decision) why.push(`${decided(item.decision)}, by ${item.decision.by}.`);
  const faces = element("ul", { class: "candidates faces" });
  const made = element("li", { class: "group", "aria-labelledby": heading.id }, heading, element("p", { class: "hint" }, why.join(" ")), faces);
  const show = (members) => faces.append(...members.map((member) => face(item, member)));
  show(item.members.slice(0, FIRST));
  if (item.members.length > FIRST) {
    const more = element("button", { type: "button", onclick: () => { more.remove(); show(item.members.slice(FIRST)); } },
      `Show all ${count(item.members.length)} faces of group ${item.group}`);
    made.append(more);
  }
  if (!byId("apply").hidden) made.append(buttons(item, faces));
  return made;
}

function decided({ action, groups }) {
  const said = { accept: "Accepted", reject: "Rejected", split: "Split", merge: `Merged, ${groups.join(" and ")}` };
  return said[action] ?? action;
}

function face(item, member) {
  const name = member.identity ?? "no identity";
  const role = member.role === "keep" ? "would be kept" : "duplicate";
  const id = `face-${item.group}-${item.members.indexOf(member)}`;
  const box = element("input", { type: "checkbox", id, value: String(item.members.indexOf(member)) });
  const quality = member.quality === null ? "" : `, quality ${member.quality.toFixed(2)}`;
  const made = element("li", { class: member.role }, element("div", {},
    element("label", { htmlFor: id }, box, element("span", {}, ` ${name}`)),
    element("span", { class: "block" }, member.is_medoid ? `the middle of the group${quality}` : `score ${member.medoid_score.toFixed(3)}${quality}`),
    element("span", { class: "block hint" }, `${role}; ${member.template_id}`)));
  if (member.is_medoid) made.classList.add("medoid");
  pictures.of(member.gallery, member.template_id, `Enrolled face ${member.template_id}`)
    .then((picture) => made.prepend(picture ?? element("span", { class: "nothing", "aria-hidden": "true" })), complain);
  return made;
}

function buttons(item, faces) {
  const decide = (text, body) => element("button", { type: "button", onclick: () => { const wanted = body(); if (wanted) send(item, wanted); } }, `${text} ${item.group}`);
  const merge = element("label", { class: "inline" }, element("input", { type: "checkbox", onchange: (event) => choose(item.group, event.target.checked) }), ` Choose group ${item.group} to be merged`);
  const made = element("div", { class: "buttons" });
  made.append(decide("Accept group", () => ({ action: "accept" })), decide("Reject group", () => ({ action: "reject" })),
    decide("Split off the chosen faces of group", () => parts(item, faces)));
  if (item.decision) made.append(decide("Reopen group", () => ({ action: "reopen" })));
  made.append(merge);
  return made;
}

// The chosen faces are one person, the others another.
function parts(item, faces) {
  const picked = new Set([...faces.querySelectorAll("input:checked")].map((box) => Number(box.value)));
  if (picked.size === 0 || picked.size === item.members.length) {
    complain(new Error("Choose some of the faces, not all: those are split off, the others stay together."));
    return null;
  }
  const name = ({ gallery, template_id }) => ({ gallery, template_id });
  return { action: "split", parts: [item.members.filter((_, i) => picked.has(i)).map(name), item.members.filter((_, i) => !picked.has(i)).map(name)] };
}

async function send(item, wanted) {
  const place = [...byId("groups").children].findIndex((made) => made.firstChild.id === `group-${item.group}`);
  await decideOn({ ...wanted, groups: [item.group] });
  // On with the next group, where the one that was decided has gone.
  const next = byId("groups").children[Math.min(place, byId("groups").children.length - 1)];
  (next?.firstChild ?? byId("review-state")).focus();
}

async function decideOn(body) {
  const done = await doing("Deciding…", () => ask("POST", `${jobPath(job.job_id)}/review`, { json: { ...body, version } }));
  if (!done) return;
  await doing("Reading groups…", reload);
  say(`${decided({ action: done.decision.action, groups: done.decision.groups }) } (decision ${done.version}).`);
}

function choose(number, isChosen) {
  if (isChosen) chosen.add(number); else chosen.delete(number);
  showChosen();
}

function showChosen() {
  byId("merge-groups").disabled = chosen.size < 2;
  byId("merge-groups").textContent = chosen.size < 2 ? "Merge the chosen groups" : `Merge groups ${[...chosen].sort((a, b) => a - b).join(", ")}`;
}

byId("merge-groups").addEventListener("click", () => decideOn({ action: "merge", groups: [...chosen] }));
