// Requests of the console to the API. The key is in this module's memory and nowhere else.

let key = null;

export class Problem extends Error {
  constructor(document) {
    super(document.detail ?? "the service did not answer as expected");
    this.code = document.code;
    this.status = document.status;
  }
}

export const signIn = (text) => { key = text; };
export const signOut = () => { key = null; };

export async function ask(method, path, { json, body, type, accept = "application/json" } = {}) {
  const headers = { Accept: accept, Authorization: `Bearer ${key}` };
  if (json !== undefined) { headers["Content-Type"] = "application/json"; body = JSON.stringify(json); }
  else if (type) headers["Content-Type"] = type;
  let answer;
  try {
    answer = await fetch(path, { method, headers, body, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch {
    throw new Problem({ detail: "the service cannot be reached" });
  }
  if (!answer.ok) {
    let document = { detail: `the service answered ${answer.status}`, status: answer.status };
    try { document = await answer.json(); } catch { /* not a problem document: the status says it */ }
    throw new Problem(document);
  }
  if (answer.status === 204) return null;
  return accept === "application/json" ? answer.json() : answer.blob();
}

export const galleryPath = (name) => `/v1/galleries/${name.split("/").map(encodeURIComponent).join("/")}`;
