// What every view of the console uses to show things. Text goes into text nodes only, never into markup.

export const byId = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [property, value] of Object.entries(properties)) {
    if (property === "class") made.className = value;
    else if (property.startsWith("on")) made.addEventListener(property.slice(2), value);
    else if (property.includes("-") || property === "scope") made.setAttribute(property, value);
    else made[property] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export const row = (...cells) => element("tr", {}, ...cells);
export const cell = (...children) => element("td", {}, ...children);
export const number = (text) => element("td", { class: "number" }, String(text));

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit ? value.toFixed(1) : value} ${units[unit]}`;
}

export const count = (value) => value.toLocaleString("en");
export const time = (seconds) => (seconds === null ? "never" : new Date(seconds * 1000).toISOString().replace("T", " ").slice(0, 16));

export function say(text) { byId("problem").textContent = ""; byId("status").textContent = text; }
export function complain(error) {
  byId("status").textContent = "";
  byId("problem").textContent = error.message;
}

// Runs what a user asked for: says what is being done, and what went wrong. What was said before stays, if it is news.
export async function doing(text, work) {
  const before = byId("status").textContent;
  say(text);
  try {
    const result = await work();
    if (byId("status").textContent === text) say(before.endsWith("…") ? "" : before);
    return result;
  } catch (error) {
    complain(error);
    return undefined;
  }
}
