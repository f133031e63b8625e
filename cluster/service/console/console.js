// The console: who is signed in, which view is shown, and the views that are tables.

import { Problem, ask, signIn, signOut } from "./api.js";
import { leaveDuplicates, showDuplicates } from "./duplicates.js";
import { showGallery } from "./gallery.js";
import { leaveJobs, showJobs } from "./jobs.js";
import { byId, bytes, cell, count, doing, element, number, row, say, time } from "./page.js";

let who = null;

const may = {
  operator: () => who.tenant === null && who.scopes.includes("admin"),
  admin: () => who.scopes.includes("admin"),
  write: () => who.scopes.includes("admin") || who.scopes.includes("write"),
};

const views = { galleries: showGalleries, gallery: (name) => showGallery(name, say), jobs: showJobs, duplicates: showDuplicates, keys: showKeys, cluster: showCluster };
const leave = { jobs: leaveJobs, duplicates: leaveDuplicates };
let shownView = null;

byId("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  signIn(byId("key").value.trim());
  const found = await doing("Signing in…", () => ask("GET", "/v1/whoami"));
  if (!found) { signOut(); return; }
  byId("key").value = "";
  who = found;
  byId("who-text").textContent = `${who.name} of ${who.tenant ?? "the operator"}`;
  for (const id of ["nav", "who"]) byId(id).hidden = false;
  for (const part of document.querySelectorAll("[data-needs]")) part.hidden = !may[part.dataset.needs]();
  byId("sign-in").hidden = true;
  await show();
});

byId("sign-out").addEventListener("click", () => {
  signOut();
  who = null;
  for (const left of Object.values(leave)) left();
  byId("job-log").textContent = "";
  for (const id of ["nav", "who", "view-galleries", "view-gallery", "view-jobs", "view-duplicates", "view-keys", "view-cluster"]) byId(id).hidden = true;
  for (const id of ["gallery-rows", "identity-rows", "candidates", "key-rows", "host-rows", "shard-rows", "job-rows", "job-files", "job-facts", "threshold-rows", "groups", "review-job", "review-facts", "change-rows", "dedup-galleries"]) byId(id).replaceChildren();
  byId("new-key").hidden = true;
  byId("sign-in").hidden = false;
  location.hash = "";
  say("Signed out.");
  byId("key").focus();
});

window.addEventListener("hashchange", show);

async function show() {
  if (!who) return;
  const [name, ...rest] = (location.hash.slice(1) || "galleries").split("/");
  const view = views[name] ? name : "galleries";
  if (shownView !== view) leave[shownView]?.();
  shownView = view;
  for (const other of Object.keys(views)) byId(`view-${other}`).hidden = other !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  byId("main").focus();
  await views[view](rest.map(decodeURIComponent).join("/"));
}

async function showGalleries() {
  await doing("Reading galleries…", async () => {
    const { galleries } = await ask("GET", "/v1/galleries");
    const shown = await Promise.all(galleries.map(sized));
    byId("gallery-rows").replaceChildren(...shown);
    byId("no-galleries").hidden = galleries.length > 0;
  });
}

async function sized({ name, heat }) {
  const link = element("a", { href: `#gallery/${name.split("/").map(encodeURIComponent).join("/")}` }, name);
  try {
    const size = await ask("GET", `/v1/galleries/${name}`);
    return row(cell(link), number(count(size.templates)), number(bytes(size.code_bytes)), number(bytes(size.disk_bytes)), cell(`${state(size)}, ${heat}`));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return row(cell(link), number("–"), number("–"), number("–"), cell(error.message));
  }
}

function state(size) {
  if (size.in_sync < size.replicas) return `${size.in_sync} of ${size.replicas} replicas in sync`;
  return size.model_id === null ? "ready, exact search" : "ready";
}

byId("create-gallery").addEventListener("submit", async (event) => {
  event.preventDefault();
  const wanted = { name: byId("new-name").value, embedder: byId("new-embedder").value, shards: Number(byId("new-shards").value) };
  const made = await doing("Creating the gallery…", () => ask("POST", "/v1/galleries", { json: wanted }));
  if (made) { byId("new-name").value = ""; await showGalleries(); say(`${made.name} is ready.`); }
});

const tenantShown = () => who.tenant ?? byId("tenant").value;

async function showKeys() {
  byId("new-key").hidden = true;
  if (!tenantShown()) { byId("key-rows").replaceChildren(); return; }
  await doing("Reading keys…", async () => {
    const { keys } = await ask("GET", `/v1/tenants/${encodeURIComponent(tenantShown())}/keys`);
    byId("key-rows").replaceChildren(...keys.map((key) => row(
      cell(key.name), cell(element("code", {}, key.key_id)), cell(key.scopes.join(", ")), cell(key.galleries.join(", ") || "all"),
      cell(time(key.expires_at)), cell(key.revoked_at === null ? "in use" : "revoked"),
      cell(key.revoked_at === null ? element("button", { type: "button", onclick: () => revoke(key) }, `Revoke ${key.name}`) : ""),
    )));
  });
}

async function revoke(key) {
  const path = `/v1/tenants/${encodeURIComponent(tenantShown())}/keys/${key.key_id}`;
  const done = await doing("Revoking the key…", () => ask("DELETE", path));
  if (done) { await showKeys(); say(`${key.name} is revoked.`); }
}

byId("choose-tenant").addEventListener("submit", (event) => { event.preventDefault(); showKeys(); });

byId("create-key").addEventListener("submit", async (event) => {
  event.preventDefault();
  const wanted = { name: byId("key-name").value, scopes: [byId("key-scope").value] };
  const path = `/v1/tenants/${encodeURIComponent(tenantShown())}/keys`;
  const made = await doing("Creating the key…", () => ask("POST", path, { json: wanted }));
  if (!made) return;
  await showKeys();
  byId("new-key-text").textContent = made.secret;
  byId("new-key").hidden = false;
  say("The key is made. It is shown this once.");
});

async function showCluster() {
  await doing("Reading the cluster's state…", async () => {
    const [{ hosts }, { shards }] = await Promise.all([ask("GET", "/v1/cluster/hosts"), ask("GET", "/v1/cluster/shards")]);
    byId("host-rows").replaceChildren(...hosts.map((host) => row(
      cell(host.host), cell(host.state), number(host.replicas), number(host.primaries),
      number(host.p95_ms === null ? "–" : `${host.p95_ms.toFixed(1)} ms`), cell(host.breaker ?? "–"),
    )));
    byId("shard-rows").replaceChildren(...shards.map((shard) => row(
      cell(shard.gallery), number(shard.shard), cell(shard.primary), cell(shard.in_sync.join(", ")),
      cell(shard.joining.join(", ") || "–"), number(shard.missing),
    )));
  });
}
